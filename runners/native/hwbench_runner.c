/* hwbench_runner [--plan FILE]: times ONNX models on a target, through ONNX Runtime's C API.
 *
 * It executes a plan (by default from standard input) line by line as the lines arrive, and answers each with exactly one
 * JSON line on standard output: over a pipe it is a server, with a file a batch job. README.md describes both languages.
 * The library is opened with dlopen and none of its headers is needed, so this one file builds for every target. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL = 1, MAX_MODELS = 1024, MAX_NAME = 64, MAX_DIMS = 16, MAX_THREADS = 1024, MAX_ROUNDS = 100000 };
enum { MAX_SECONDS = 1000000, MAX_LOOPS = 1000000000, EVENT_BYTES = 1 << 22 /* more than any event needs */ };
enum { EXIT_OUTPUT = 1, EXIT_PLAN = 2, EXIT_TARGET = 3, EXIT_MODEL = 4, EXIT_LIMIT = 5 };

/* ---- ONNX Runtime's C API: a table of function pointers that only ever grows at its end, so the index of a function
 * (its position in struct OrtApi of onnxruntime_c_api.h) never changes. All of these exist since version 5 of the API.
 * S(index, name, parameters) returns a status, NULL if all is well; V returns nothing. P is a pointer, Z a size_t. */

/* clang-format off */
enum { API_VERSION = 5, LOG_WARNING = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };
typedef const void *P;
typedef size_t Z;
typedef void *Handle;
#define ORT_FUNCTIONS(S, V) \
  S(2, GetErrorMessage, P) S(3, CreateEnv, int, P, P) S(7, CreateSession, P, P, P, P) S(10, CreateSessionOptions, P) \
  S(14, EnableProfiling, P, P) S(24, SetIntraOpNumThreads, P, int) S(30, SessionGetInputCount, P, P) \
  S(31, SessionGetOutputCount, P, P) S(33, SessionGetInputTypeInfo, P, Z, P) S(36, SessionGetInputName, P, Z, P, P) \
  S(37, SessionGetOutputName, P, Z, P, P) S(48, CreateTensorAsOrtValue, P, P, Z, int, P) \
  S(51, GetTensorMutableData, P, P) S(55, CastTypeInfoToTensorInfo, P, P) S(60, GetTensorElementType, P, P) \
  S(61, GetDimensionsCount, P, P) S(62, GetDimensions, P, P, Z) S(65, GetTensorTypeAndShape, P, P) \
  S(69, CreateCpuMemoryInfo, int, int, P) S(76, AllocatorFree, P, P) S(78, GetAllocatorWithDefaultOptions, P) \
  V(95, ReleaseSession, P) V(96, ReleaseValue, P) V(98, ReleaseTypeInfo, P) V(99, ReleaseTensorTypeAndShapeInfo, P) \
  V(100, ReleaseSessionOptions, P) S(110, SessionEndProfiling, P, P, P) S(130, AddSessionConfigEntry, P, P, P) \
  S(133, RunWithBinding, P, P, P) S(134, CreateIoBinding, P, P) V(135, ReleaseIoBinding, P) S(136, BindInput, P, P, P) \
  S(138, BindOutputToDevice, P, P, P) S(140, GetBoundOutputValues, P, P, P, P)
#define DECLARE_S(index, name, ...) P (*name)(__VA_ARGS__);
#define DECLARE_V(index, name, ...) void (*name)(__VA_ARGS__);
#define FETCH_S(index, name, ...) ort.name = (P (*)(__VA_ARGS__))table[index];
#define FETCH_V(index, name, ...) ort.name = (void (*)(__VA_ARGS__))table[index];
static struct { ORT_FUNCTIONS(DECLARE_S, DECLARE_V) } ort;

enum { FLOAT32 = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, BOOL = 9, FLOAT16 = 10, FLOAT64 = 11, TYPES };
static const struct { const char *name; size_t size; } types[TYPES] = { /* by ONNXTensorElementDataType */
  [FLOAT32] = {"float32", 4}, [FLOAT16] = {"float16", 2}, [FLOAT64] = {"float64", 8}, [INT8] = {"int8", 1},
  [UINT8] = {"uint8", 1}, [INT32] = {"int32", 4}, [INT64] = {"int64", 8}, [BOOL] = {"bool", 1}};
/* clang-format on */

/* ---- What is loaded, and the settings for what will be. */

typedef struct Model {
  char name[MAX_NAME + 1]; /* empty: a free place */
  int profiled;
  Handle session, binding;
} Model;
static Model models[MAX_MODELS];
static Handle env, allocator, memory; /* NULL until a library is open */
static int64_t threads = 1, spin, seed;
static int64_t cpus[CPU_SETSIZE], cpu_count; /* none: not pinned */
static char *profile;                        /* prefix of the profile files, or NULL */

/* ---- Events. */

static FILE *events; /* a private copy of standard output: whatever else is printed there lands on standard error */
static const char *command = "start";
static volatile sig_atomic_t writing;

static void put_string(const char *text) {
  putc('"', events);
  for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
    if (*s < 0x20 || *s == 0x7F) fprintf(events, "\\u%04x", *s);
    else fprintf(events, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
  }
  putc('"', events);
}

/* Add to the event at hand: %s a JSON string, %d an int64_t, ' a double quote. A newline completes and sends it. */
static void put(const char *format, ...) {
  va_list values;
  va_start(values, format);
  for (const char *f = format; *f != '\0'; f++) {
    if (*f != '%') putc(*f == '\'' ? '"' : *f, events);
    else if (*++f == 's') put_string(va_arg(values, const char *));
    else fprintf(events, "%" PRId64, va_arg(values, int64_t));
  }
  va_end(values);
  if (strchr(format, '\n') == NULL) return;
  writing = 1;
  if (fflush(events) != 0) _exit(EXIT_OUTPUT);
  writing = 0;
}

/* End with an error event. ONNX Runtime may be in any state, so the kernel cleans up. */
__attribute__((noreturn, format(printf, 2, 3))) static void fail(int code, const char *format, ...) {
  char message[4096];
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  __fpurge(events); /* the event that this interrupts */
  put("{'event':'error','code':%d,'where':%s,'message':%s}\n", (int64_t)code, command, message);
  _exit(code);
}

#define ORT(function, ...) check(ort.function(__VA_ARGS__), #function)
static void check(P status, const char *function) {
  if (status != NULL) fail(EXIT_MODEL, "%s: %s", function, (const char *)ort.GetErrorMessage(status));
}

/* The watchdog. If an event is being written, or cannot be, its reader has stalled: the exit code has to do. */
static void on_limit(int number) {
  static const char event[] = "{\"event\":\"error\",\"code\":5,\"where\":\"limit\",\"message\":\"time limit passed\"}\n";
  struct pollfd room = {.fd = fileno(events), .events = POLLOUT};
  if (number == SIGALRM && !writing && poll(&room, 1, 0) == 1) (void)!write(room.fd, event, sizeof event - 1);
  _exit(EXIT_LIMIT);
}

/* ---- Models. */

typedef struct Tensor {
  int type;
  size_t dims, count;
  int64_t shape[MAX_DIMS];
} Tensor;

/* Add a tensor to the event at hand. */
static Tensor put_tensor(size_t index, const char *name, Handle info) {
  Tensor tensor = {.count = 1};
  ORT(GetTensorElementType, info, &tensor.type);
  if (tensor.type < 0 || tensor.type >= TYPES || types[tensor.type].name == NULL) {
    fail(EXIT_MODEL, "'%s' has ONNX element type %d, which is not supported", name, tensor.type);
  }
  ORT(GetDimensionsCount, info, &tensor.dims);
  if (tensor.dims > MAX_DIMS) fail(EXIT_MODEL, "'%s' has %zu dimensions, above %d", name, tensor.dims, MAX_DIMS);
  ORT(GetDimensions, info, tensor.shape, tensor.dims);
  put(index == 0 ? "{'name':%s,'type':%s,'shape':[" : ",{'name':%s,'type':%s,'shape':[", name, types[tensor.type].name);
  for (size_t k = 0; k < tensor.dims; k++) {
    if (tensor.shape[k] < 0) fail(EXIT_MODEL, "dimension %zu of '%s' is dynamic; fix it in the model", k, name);
    tensor.count *= (size_t)tensor.shape[k];
    put(k == 0 ? "%d" : ",%d", tensor.shape[k]);
  }
  put("]}");
  return tensor;
}

/* Fixed random values, equal for equal seeds on every target (Knuth's 64-bit linear congruential generator, from MMIX).
 * Floats are uniform in [-1, 1), half floats in +-[0.5, 1): never subnormal, which some CPUs compute slowly. Wide integers
 * are 0 or 1, as most are masks, or indices into tables of two rows or more; bytes, mostly activations, are 0 to 127. */
static void fill(void *data, const Tensor *tensor, uint64_t random) {
  for (size_t k = 0; k < tensor->count; k++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const int32_t fraction = (int32_t)(random >> 40) - (1 << 23);
    switch (tensor->type) {
    case FLOAT32: ((float *)data)[k] = (float)fraction * 0x1p-23f; break;
    case FLOAT64: ((double *)data)[k] = fraction * 0x1p-23; break;
    case FLOAT16: ((uint16_t *)data)[k] = (uint16_t)((random >> 63) << 15 | 0x3800 | (random >> 53 & 0x3FF)); break;
    case INT32: ((int32_t *)data)[k] = (int32_t)(random >> 63); break;
    case INT64: ((int64_t *)data)[k] = (int64_t)(random >> 63); break;
    case BOOL: ((uint8_t *)data)[k] = (uint8_t)(random >> 63); break;
    default: ((uint8_t *)data)[k] = (uint8_t)(random >> 57);
    }
  }
}

static void bind_inputs(const Model *model) {
  size_t count;
  ORT(SessionGetInputCount, model->session, &count);
  for (size_t i = 0; i < count; i++) {
    Handle name, type, info, value, data;
    ORT(SessionGetInputName, model->session, i, allocator, &name);
    ORT(SessionGetInputTypeInfo, model->session, i, &type);
    ORT(CastTypeInfoToTensorInfo, type, &info);
    if (info == NULL) fail(EXIT_MODEL, "input '%s' is not a tensor", (char *)name);
    const Tensor tensor = put_tensor(i, name, info);
    ORT(CreateTensorAsOrtValue, allocator, tensor.shape, tensor.dims, tensor.type, &value);
    ORT(GetTensorMutableData, value, &data);
    fill(data, &tensor, (uint64_t)seed << 32 | i);
    ORT(BindInput, model->binding, name, value);
    ort.ReleaseValue(value); /* the binding keeps it */
    ort.ReleaseTypeInfo(type);
    ORT(AllocatorFree, allocator, name);
  }
}

/* The first inference allocates the outputs; the binding keeps them, so all later ones write to the same place. */
static void bind_outputs(const Model *model) {
  size_t count;
  ORT(SessionGetOutputCount, model->session, &count);
  for (size_t i = 0; i < count; i++) {
    Handle name;
    ORT(SessionGetOutputName, model->session, i, allocator, &name);
    ORT(BindOutputToDevice, model->binding, name, memory);
    ORT(AllocatorFree, allocator, name);
  }
}

static void write_file(const char *folder, const char *name, size_t index, const void *data, size_t size) {
  char path[4096];
  const int length = snprintf(path, sizeof path, "%s/%s.%zu.bin", folder, name, index);
  FILE *file = length < (int)sizeof path ? fopen(path, "wb") : NULL;
  const size_t written = file == NULL ? 0 : fwrite(data, 1, size, file);
  if (file == NULL || fclose(file) != 0 || written != size) fail(EXIT_TARGET, "cannot write %s: %s", path, strerror(errno));
}

static void dump(const Model *model, const char *folder) {
  size_t count;
  Handle *values;
  ORT(GetBoundOutputValues, model->binding, allocator, &values, &count);
  put("{'event':'dumped','name':%s,'outputs':[", model->name);
  for (size_t i = 0; i < count; i++) {
    Handle name, info, data;
    ORT(SessionGetOutputName, model->session, i, allocator, &name);
    ORT(GetTensorTypeAndShape, values[i], &info);
    const Tensor tensor = put_tensor(i, name, info);
    ORT(GetTensorMutableData, values[i], &data);
    write_file(folder, model->name, i, data, tensor.count * types[tensor.type].size);
    ort.ReleaseTensorTypeAndShapeInfo(info);
    ort.ReleaseValue(values[i]);
    ORT(AllocatorFree, allocator, name);
  }
  ORT(AllocatorFree, allocator, values);
  put("]}\n");
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* One round: nanoseconds of `loops` inferences back to back. */
static int64_t time_round(const Model *model, int64_t loops) {
  P status = NULL;
  const int64_t start = now_ns();
  for (int64_t i = 0; i < loops && status == NULL; i++) status = ort.RunWithBinding(model->session, NULL, model->binding);
  const int64_t elapsed = now_ns() - start;
  check(status, "RunWithBinding");
  return elapsed;
}

/* As many CPUs as threads: one each. More: each thread may use them all, as the pool's threads inherit our own mask. */
static void pin(Handle options) {
  char workers[8 * MAX_THREADS] = "";
  size_t end = 0;
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (cpu_count < threads) fail(EXIT_PLAN, "%d threads need as many CPUs, not %d", (int)threads, (int)cpu_count);
  for (int64_t i = 0; i < cpu_count; i++) {
    /* This thread is the pool's first, and ours to pin. For the others ONNX Runtime counts CPUs from 1. */
    if (i == 0 || cpu_count > threads) CPU_SET((size_t)cpus[i], &mine);
    else end += (size_t)sprintf(workers + end, "%s%d", end == 0 ? "" : ";", (int)cpus[i] + 1);
  }
  if (end > 0) ORT(AddSessionConfigEntry, options, "session.intra_op_thread_affinities", workers);
  if (sched_setaffinity(0, sizeof mine, &mine) != 0) fail(EXIT_TARGET, "cannot pin to the CPUs: %s", strerror(errno));
}

static Handle create_session(const char *path) {
  Handle session, options;
  ORT(CreateSessionOptions, &options);
  ORT(SetIntraOpNumThreads, options, (int)threads);
  ORT(AddSessionConfigEntry, options, "session.intra_op.allow_spinning", spin ? "1" : "0");
  if (profile != NULL) ORT(EnableProfiling, options, profile);
  if (cpu_count > 0) pin(options);
  ORT(CreateSession, env, path, options, &session);
  ort.ReleaseSessionOptions(options);
  return session;
}

/* ---- Lines of the plan. */

static int64_t whole(const char *text, int64_t least, int64_t most) {
  char *end = NULL;
  errno = 0;
  const int64_t number = text != NULL && *text >= '0' && *text <= '9' ? strtoll(text, &end, 10) : 0;
  if (end != NULL && *end == '\0' && errno == 0 && number >= least && number <= most) return number;
  fail(EXIT_PLAN, "expected a whole number from %" PRId64 " to %" PRId64 ", not '%s'", least, most, text ? text : "");
}

static Model *find(const char *name) {
  for (Model *model = models; name != NULL && *name != '\0' && model < models + MAX_MODELS; model++) {
    if (strcmp(model->name, name) == 0) return model;
  }
  fail(EXIT_PLAN, "no model '%s' is loaded", name == NULL ? "" : name);
}

static Model *new_model(const char *name) {
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  const size_t length = strlen(name);
  Model *model = models;
  if (length == 0 || length > MAX_NAME || strspn(name, allowed) != length) fail(EXIT_PLAN, "not a name: '%s'", name);
  for (Model *m = models; m < models + MAX_MODELS; m++) {
    if (strcmp(m->name, name) == 0) fail(EXIT_PLAN, "a model '%s' is loaded already", name);
    if (*model->name != '\0') model = m;
  }
  if (*model->name != '\0') fail(EXIT_PLAN, "more than %d models", MAX_MODELS);
  strcpy(model->name, name);
  return model;
}

static void open_library(const char *path) {
  if (env != NULL) fail(EXIT_PLAN, "a library is open already");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(EXIT_TARGET, "%s", dlerror());
  typedef struct { P *(*get_api)(uint32_t); const char *(*get_version)(void); } Base;
  const Base *(*get_base)(void) = (const Base *(*)(void))dlsym(library, "OrtGetApiBase");
  P *table = get_base == NULL ? NULL : get_base()->get_api(API_VERSION);
  if (table == NULL) fail(EXIT_TARGET, "%s is not ONNX Runtime with version %d of its C API", path, API_VERSION);
  ORT_FUNCTIONS(FETCH_S, FETCH_V)
  ORT(CreateEnv, LOG_WARNING, "hwbench", &env);
  ORT(GetAllocatorWithDefaultOptions, &allocator);
  ORT(CreateCpuMemoryInfo, DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory);
  put("{'event':'library','version':%s}\n", get_base()->get_version());
}

/* CPUs as in 0,2-3, in ascending order. Pinning to each in turn shows which of them cannot be had. */
static void set_cpus(char *list) {
  cpu_count = 0;
  for (char *part = strsep(&list, ","); part != NULL; part = strsep(&list, ",")) {
    const char *first = strsep(&part, "-");
    int64_t cpu = whole(first, cpu_count == 0 ? 0 : cpus[cpu_count - 1] + 1, CPU_SETSIZE - 1);
    const int64_t last = part == NULL ? cpu : whole(part, cpu, CPU_SETSIZE - 1);
    for (; cpu <= last; cpu++) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET((size_t)cpu, &one);
      if (sched_setaffinity(0, sizeof one, &one) != 0) fail(EXIT_TARGET, "CPU %d: %s", (int)cpu, strerror(errno));
      cpus[cpu_count++] = cpu;
    }
  }
}

static void load(const char *name, const char *path) {
  if (env == NULL) fail(EXIT_PLAN, "no library is open yet");
  if (path == NULL) fail(EXIT_PLAN, "expected: load NAME PATH");
  Model *model = new_model(name);
  const int64_t start = now_ns();
  model->session = create_session(path);
  const int64_t load_ns = now_ns() - start;
  model->profiled = profile != NULL;
  ORT(CreateIoBinding, model->session, &model->binding);
  put("{'event':'loaded','name':%s,'inputs':[", name);
  bind_inputs(model);
  bind_outputs(model);
  put("],'load_ns':%d,'first_run_ns':%d}\n", load_ns, time_round(model, 1));
}

static void unload(Model *model) {
  Handle file = NULL;
  if (model->profiled) ORT(SessionEndProfiling, model->session, allocator, &file);
  ort.ReleaseIoBinding(model->binding);
  ort.ReleaseSession(model->session);
  put("{'event':'unloaded','name':%s,'profile':%s}\n", model->name, file == NULL ? "" : file);
  if (file != NULL) ORT(AllocatorFree, allocator, file);
  *model->name = '\0';
}

static void run(char *arguments) {
  static const Model *order[MAX_ROUNDS];
  static int64_t ns[MAX_ROUNDS];
  size_t rounds = 0;
  const int64_t loops = whole(strsep(&arguments, " "), 1, MAX_LOOPS);
  do {
    if (rounds == MAX_ROUNDS) fail(EXIT_PLAN, "more than %d rounds in one line", MAX_ROUNDS);
    order[rounds++] = find(strsep(&arguments, " "));
  } while (arguments != NULL);
  for (size_t i = 0; i < rounds; i++) ns[i] = time_round(order[i], loops);
  put("{'event':'samples','clock':'CLOCK_MONOTONIC','loops':%d,'ns':[%d", loops, ns[0]);
  for (size_t i = 1; i < rounds; i++) put(",%d", ns[i]);
  put("]}\n");
}

/* The high-water mark of this program alone: getrusage's starts at that of the process that called exec. */
static void tell_memory(void) {
  char line[256];
  long kib = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file != NULL && kib == 0 && fgets(line, sizeof line, file) != NULL) sscanf(line, "VmHWM: %ld kB", &kib);
  if (kib <= 0) fail(EXIT_TARGET, "/proc/self/status does not tell VmHWM");
  fclose(file);
  put("{'event':'memory','peak_rss_bytes':%d}\n", (int64_t)kib * 1024);
}

static void set(const char *name, char *value) {
  if (strcmp(name, "threads") == 0) threads = whole(value, 1, MAX_THREADS);
  else if (strcmp(name, "spin") == 0) spin = whole(value, 0, 1);
  else if (strcmp(name, "seed") == 0) seed = whole(value, 0, INT32_MAX);
  else if (strcmp(name, "limit") == 0) alarm((unsigned)whole(value, 1, MAX_SECONDS));
  else if (strcmp(name, "cpus") == 0 && value != NULL) set_cpus(value);
  else if (strcmp(name, "profile") == 0 && value != NULL) {
    free(profile);
    profile = strcmp(value, "-") == 0 ? NULL : strdup(value);
  } else fail(EXIT_PLAN, "unknown command, or one without its value");
  put("{'event':'set','name':%s}\n", name);
}

static void execute(char *rest) {
  command = strsep(&rest, " ");
  const int is_load = strcmp(command, "load") == 0, is_dump = strcmp(command, "dump") == 0;
  const char *name = is_load || is_dump ? strsep(&rest, " ") : NULL;
  if (is_load) load(name == NULL ? "" : name, rest);
  else if (is_dump && rest != NULL) dump(find(name), rest);
  else if (strcmp(command, "lib") == 0) open_library(rest == NULL ? "" : rest);
  else if (strcmp(command, "unload") == 0) unload(find(rest));
  else if (strcmp(command, "run") == 0) run(rest);
  else if (strcmp(command, "memory") == 0 && rest == NULL) tell_memory();
  else set(command, rest);
}

int main(int argc, char **argv) {
  FILE *plan = stdin;
  char *line = NULL;
  size_t capacity = 0;
  struct utsname host;
  setenv("ORT_DISABLE_TELEMETRY", "1", 1); /* before the library is loaded: it would start a thread, write files, upload */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGALRM, on_limit);
  events = fdopen(dup(STDOUT_FILENO), "w");
  if (events == NULL || setvbuf(events, NULL, _IOFBF, EVENT_BYTES) != 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return 1;
  if (argc == 3 && strcmp(argv[1], "--plan") == 0) plan = fopen(argv[2], "r");
  else if (argc > 1) fail(EXIT_PLAN, "expected no arguments, or --plan FILE; not '%s'", argv[1]);
  if (plan == NULL) fail(EXIT_PLAN, "cannot read %s: %s", argv[2], strerror(errno));
  uname(&host);
  put("{'event':'hello','protocol':%d,'pid':%d,'machine':%s,'kernel':%s}\n", (int64_t)PROTOCOL, (int64_t)getpid(),
      host.machine, host.release);
  for (ssize_t length; (length = getline(&line, &capacity, plan)) > 0;) {
    command = "plan";
    if (line[length - 1] != '\n') fail(EXIT_PLAN, "the plan ends in the middle of a line");
    line[length - 1] = '\0';
    if (strlen(line) != (size_t)length - 1) fail(EXIT_PLAN, "the line has a NUL byte in it");
    if (strcmp(line, "quit") == 0) break;
    execute(line);
  }
  if (ferror(plan)) fail(EXIT_PLAN, "cannot read the plan: %s", strerror(errno));
  put("{'event':'bye'}\n");
  _exit(0);
}
