/* Stand-in for libcuda.so.1 and libnvidia-ml.so.1: the calls hwbench makes, with NVIDIA's signatures; what they say is in the environment. */
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) {
    (void)flags;
    if (number("STUB_HANG", 0)) pause();
    if (number("STUB_CRASH", 0)) raise(SIGSEGV);
    return number("STUB_INIT", 0);
}
int cuDriverGetVersion(int *version) { *version = number("STUB_CUDA", 13000); return 0; }
int cuGetErrorName(int code, const char **text) { *text = "CUDA_ERROR_OF_THE_STUB"; return code == 77777; }
int cuDeviceGetCount(int *count) { *count = number("STUB_GPUS", 2); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device ? "Stub Two" : "Stub One", length);
    return 0;
}
int cuDeviceGetUuid(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = 16 * device + i;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(141 + device) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
    return 0;
}

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } process;
static int refused(void) { return number("STUB_NVML_REFUSES", 0) ? 3 /* NVML_ERROR_NOT_SUPPORTED */ : 0; }

int nvmlInit_v2(void) { return number("STUB_NVML_INIT", 0); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    *handle = (void *)0x1234;
    return strncmp(uuid, "GPU-", 4) ? 6 /* NVML_ERROR_NOT_FOUND */ : 0;
}
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "580.65.06", length); return refused(); }
static int tell(void *handle, unsigned *value, unsigned found) {
    if (handle != (void *)0x1234) return 2; /* NVML_ERROR_INVALID_ARGUMENT */
    *value = found;
    return refused();
}
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *value) { return tell(handle, value, 700000); }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *value) { return tell(handle, value, 123400); }
int nvmlDeviceGetPersistenceMode(void *handle, unsigned *value) { return tell(handle, value, number("STUB_PERSISTENCE", 1)); }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *value) { return tell(handle, value, sensor ? 0 : 41); }
int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned *value) { return tell(handle, value, kind == 0 ? 1980 : kind == 2 ? 3201 : 1); }
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) { *pending = 0; return tell(handle, current, number("STUB_MIG", 0)); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *bits) {
    *bits = number("STUB_REASONS", 0);
    return handle == (void *)0x1234 ? refused() : 2;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process *list) {
    unsigned there = number("STUB_PROCESSES", 0), room = *count;
    if (handle != (void *)0x1234 || refused()) return 3;
    *count = there;
    if (there > room) return 7; /* NVML_ERROR_INSUFFICIENT_SIZE */
    for (unsigned i = 0; i < there; i++)
        list[i] = (process){i == 0 && number("STUB_LISTS_US", 0) ? (unsigned)getpid() : 900000 + i, 1 << 20, ~0u, ~0u};
    return 0;
}
