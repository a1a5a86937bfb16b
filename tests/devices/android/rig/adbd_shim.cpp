// Preloaded into Debian's adbd, which asks nobody: the properties, the address and the framework's socket that a phone would give it.
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

namespace {

using Properties = std::map<std::string, std::string>;

// Lines KEY=VALUE of the file $ADBD_PROPS. Never destroyed: adbd's threads read it until the process ends.
const Properties& properties() {
    static const Properties* const all = [] {
        auto* read = new Properties;
        const char* path = getenv("ADBD_PROPS");
        std::ifstream file(path ? path : "");
        for (std::string line; std::getline(file, line);) {
            const auto sign = line.find('=');
            if (sign != std::string::npos) (*read)[line.substr(0, sign)] = line.substr(sign + 1);
        }
        return read;
    }();
    return *all;
}

// What adbd starts must not be preloaded too.
__attribute__((constructor)) void leave_no_trace() {
    properties();
    unsetenv("LD_PRELOAD");
    unsetenv("ADBD_PROPS");
}

}  // namespace

namespace android::base {

EXPORT std::string GetProperty(const std::string& key, const std::string& fallback) {
    const auto found = properties().find(key);
    return found == properties().end() ? fallback : found->second;
}

}  // namespace android::base

// Wildcard listeners become loopback ones, so that nobody else reaches the phone; vsock has no loopback and is refused.
extern "C" EXPORT int bind(int socket, const sockaddr* address, socklen_t length) {
    static const auto real = reinterpret_cast<int (*)(int, const sockaddr*, socklen_t)>(dlsym(RTLD_NEXT, "bind"));
    if (address->sa_family == AF_VSOCK) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    sockaddr_in6 six;
    sockaddr_in four;
    if (address->sa_family == AF_INET6 && length >= sizeof six) {
        memcpy(&six, address, sizeof six);
        if (IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr)) {
            static const unsigned char loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1};
            memcpy(&six.sin6_addr, loopback, sizeof loopback);  // ::ffff:127.0.0.1, which IPv4 clients reach
            return real(socket, reinterpret_cast<const sockaddr*>(&six), sizeof six);
        }
    } else if (address->sa_family == AF_INET && length >= sizeof four) {
        memcpy(&four, address, sizeof four);
        if (four.sin_addr.s_addr == htonl(INADDR_ANY)) {
            four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            return real(socket, reinterpret_cast<const sockaddr*>(&four), sizeof four);
        }
    }
    return real(socket, address, length);
}

// The framework's socket, over which adbd asks for the dialog "Allow USB debugging?"; on Linux a stub without one.
extern "C" EXPORT int android_get_control_socket(const char* name) {
    const char* descriptor = strcmp(name, "adbd") == 0 ? getenv("ANDROID_SOCKET_adbd") : nullptr;
    return descriptor ? atoi(descriptor) : -1;
}
