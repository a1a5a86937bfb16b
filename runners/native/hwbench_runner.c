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
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL = 1, MAX_DIMS = 16, MAX_NAME = 64, MAX_THREADS = 1024, MAX_LOOPS = 1000000000, MAX_LIMIT_S = 1000000 };
enum { EXIT_OUTPUT = 1, EXIT_PLAN = 2, EXIT_TARGET = 3, EXIT_MODEL = 4, EXIT_LIMIT = 5 };

/* ---- ONNX Runtime's C API: a table of function pointers that only ever grows at its end, so that the index of a function
 * (its position in struct OrtApi of onnxruntime_c_api.h) never changes. All of these exist since version 5 of the API. */

/* clang-format off */
typedef struct Status Status; typedef struct Env Env; typedef struct Options Options; typedef struct Session Session;
typedef struct Binding Binding; typedef struct Value Value; typedef struct Memory Memory; typedef struct Type Type;
typedef struct Allocator Allocator; typedef struct Info Info;
enum { API_VERSION = 5, LOG_WARNING = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };

#define ORT_FUNCTIONS(F) /* index, result, name, parameters */ \
  F(2, const char *, GetErrorMessage, const Status *) \
  F(3, Status *, CreateEnv, int, const char *, Env **) \
  F(7, Status *, CreateSession, const Env *, const char *, const Options *, Session **) \
  F(10, Status *, CreateSessionOptions, Options **) F(14, Status *, EnableProfiling, Options *, const char *) \
  F(24, Status *, SetIntraOpNumThreads, Options *, int) \
  F(30, Status *, SessionGetInputCount, const Session *, size_t *) \
  F(31, Status *, SessionGetOutputCount, const Session *, size_t *) \
  F(33, Status *, SessionGetInputTypeInfo, const Session *, size_t, Type **) \
  F(36, Status *, SessionGetInputName, const Session *, size_t, Allocator *, char **) \
  F(37, Status *, SessionGetOutputName, const Session *, size_t, Allocator *, char **) \
  F(48, Status *, CreateTensorAsOrtValue, Allocator *, const int64_t *, size_t, int, Value **) \
  F(51, Status *, GetTensorMutableData, Value *, void **) \
  F(55, Status *, CastTypeInfoToTensorInfo, const Type *, const Info **) \
  F(60, Status *, GetTensorElementType, const Info *, int *) F(61, Status *, GetDimensionsCount, const Info *, size_t *) \
  F(62, Status *, GetDimensions, const Info *, int64_t *, size_t) \
  F(64, Status *, GetTensorShapeElementCount, const Info *, size_t *) \
  F(65, Status *, GetTensorTypeAndShape, const Value *, Info **) \
  F(69, Status *, CreateCpuMemoryInfo, int, int, Memory **) F(76, Status *, AllocatorFree, Allocator *, void *) \
  F(78, Status *, GetAllocatorWithDefaultOptions, Allocator **) \
  F(95, void, ReleaseSession, Session *) F(96, void, ReleaseValue, Value *) F(98, void, ReleaseTypeInfo, Type *) \
  F(99, void, ReleaseTensorTypeAndShapeInfo, Info *) F(100, void, ReleaseSessionOptions, Options *) \
  F(110, Status *, SessionEndProfiling, Session *, Allocator *, char **) \
  F(130, Status *, AddSessionConfigEntry, Options *, const char *, const char *) \
  F(133, Status *, RunWithBinding, Session *, const void *, const Binding *) \
  F(134, Status *, CreateIoBinding, Session *, Binding **) F(135, void, ReleaseIoBinding, Binding *) \
  F(136, Status *, BindInput, Binding *, const char *, const Value *) \
  F(137, Status *, BindOutput, Binding *, const char *, const Value *) \
  F(138, Status *, BindOutputToDevice, Binding *, const char *, const Memory *) \
  F(140, Status *, GetBoundOutputValues, const Binding *, Allocator *, Value ***, size_t *)

#define DECLARE(index, result, name, ...) result (*name)(__VA_ARGS__);
#define FETCH(index, result, name, ...) ort.name = (result (*)(__VA_ARGS__))table[index];
static struct { ORT_FUNCTIONS(DECLARE) } ort;

/* ---- What is loaded, and the settings for what will be. */

enum { FLOAT32 = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, BOOL = 9, FLOAT16 = 10, FLOAT64 = 11, TYPES };
static const struct { const char *name; size_t size; } types[TYPES] = { /* by ONNXTensorElementDataType */
  [FLOAT32] = {"float32", 4}, [FLOAT16] = {"float16", 2}, [FLOAT64] = {"float64", 8}, [INT8] = {"int8", 1},
  [UINT8] = {"uint8", 1}, [INT32] = {"int32", 4}, [INT64] = {"int64", 8}, [BOOL] = {"bool", 1}};
/* clang-format on */

typedef struct Tensor {
  char *name; /* of ONNX Runtime's allocator */
  int type;
  int64_t shape[MAX_DIMS];
  size_t dims, count;
  Value *value;
  void *data; /* inside `value` */
} Tensor;

typedef struct Model {
  char name[MAX_NAME + 1];
  Session *session;
  Binding *binding;
  Tensor *inputs, *outputs;
  size_t input_count, output_count;
  bool profiled;
  struct Model *next;
} Model;

static Env *env; /* NULL until a library is open */
static Allocator *allocator;
static Memory *memory;
static Model *models;
static long threads = 1, seed;
static bool spin;
static char *profile;  /* prefix of the profile files of the models loaded next, or NULL */
static cpu_set_t cpus; /* empty: not pinned */

/* ---- Events. */

static FILE *events; /* a private copy of standard output: whatever else is printed there lands on standard error */
static const char *command = "start";
static volatile sig_atomic_t in_event;

static void begin_event(const char *name) {
  in_event = 1;
  fprintf(events, "{\"event\":\"%s\"", name);
}

static void end_event(void) {
  fputs("}\n", events);
  if (fflush(events) != 0 || ferror(events)) {
    fprintf(stderr, "hwbench_runner: nobody reads the events (%s)\n", strerror(errno));
    _exit(EXIT_OUTPUT);
  }
  in_event = 0;
}

static void put_text(const char *key, const char *text) {
  fprintf(events, ",\"%s\":\"", key);
  for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
    if (*s < 0x20 || *s == 0x7F) fprintf(events, "\\u%04x", *s);
    else fprintf(events, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
  }
  putc('"', events);
}

static void put_numbers(const char *key, const int64_t *numbers, size_t count) {
  fprintf(events, ",\"%s\":[", key);
  for (size_t i = 0; i < count; i++) fprintf(events, "%s%" PRId64, i == 0 ? "" : ",", numbers[i]);
  putc(']', events);
}

static void put_number(const char *key, int64_t number) { fprintf(events, ",\"%s\":%" PRId64, key, number); }

static void put_tensors(const char *key, const Tensor *tensors, size_t count) {
  fprintf(events, ",\"%s\":[", key);
  for (size_t i = 0; i < count; i++) {
    fprintf(events, "%s{\"type\":\"%s\"", i == 0 ? "" : ",", types[tensors[i].type].name);
    put_text("name", tensors[i].name);
    put_numbers("shape", tensors[i].shape, tensors[i].dims);
    putc('}', events);
  }
  putc(']', events);
}

/* An event with one text. */
static void tell(const char *event, const char *key, const char *text) {
  begin_event(event);
  put_text(key, text);
  end_event();
}

/* End the program with an error event. ONNX Runtime may be in any state, so the kernel cleans up. */
__attribute__((noreturn, format(printf, 2, 3))) static void fail(int code, const char *format, ...) {
  char message[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  begin_event("error");
  put_number("code", code);
  put_text("where", command);
  put_text("message", message);
  end_event();
  _exit(code);
}

#define ORT(function, ...) check(ort.function(__VA_ARGS__), #function)
static void check(const Status *status, const char *function) {
  if (status != NULL) fail(EXIT_MODEL, "%s: %s", function, ort.GetErrorMessage(status));
}

static void *allocate(size_t count, size_t size) {
  void *zeros = calloc(count == 0 ? 1 : count, size);
  if (zeros == NULL) fail(EXIT_TARGET, "no memory for %zu x %zu bytes", count, size);
  return zeros;
}

/* The watchdog. If an event is being written, or cannot be, its reader has stalled: the exit code has to do. */
static void on_limit(int signal_number) {
  static const char event[] = "{\"event\":\"error\",\"code\":5,\"where\":\"limit\",\"message\":\"time limit passed\"}\n";
  struct pollfd room = {.fd = fileno(events), .events = POLLOUT, .revents = (short)(signal_number * 0)};
  if (!in_event && poll(&room, 1, 0) == 1 && write(room.fd, event, sizeof event - 1) < 0) _exit(EXIT_OUTPUT);
  _exit(EXIT_LIMIT);
}

/* ---- Inputs: fixed random values, equal for equal seeds on every target. */

/* SplitMix64's finalizer: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. */
static uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* IEEE binary16 of n / 2048 for an odd n between -2048 and 2048: exact, and neither zero nor subnormal. */
static uint16_t half(int n) {
  const unsigned magnitude = (unsigned)abs(n), exponent = 31u - (unsigned)__builtin_clz(magnitude);
  return (uint16_t)((n < 0 ? 0x8000u : 0u) | (exponent + 4) << 10 | ((magnitude << (10 - exponent)) & 0x3FFu));
}

/* Floats are uniform in [-1, 1) on a grid far coarser than the subnormals, which some CPUs compute slowly. Wide integers
 * are 0 or 1, as most are masks, or indices into tables of two rows or more; bytes, mostly activations, are 0 to 127. */
static void fill(const Tensor *tensor, uint64_t stream) {
  for (size_t k = 0; k < tensor->count; k++) {
    const uint64_t bits = mix64(stream + (k + 1) * 0x9E3779B97F4A7C15u);
    const int32_t fraction = (int32_t)(bits >> 40) - (1 << 23);
    switch (tensor->type) {
    case FLOAT32: ((float *)tensor->data)[k] = (float)fraction * 0x1p-23f; break;
    case FLOAT64: ((double *)tensor->data)[k] = fraction * 0x1p-23; break;
    case FLOAT16: ((uint16_t *)tensor->data)[k] = half(2 * (int)(bits >> 53) - 2047); break;
    case INT32: ((int32_t *)tensor->data)[k] = (int32_t)(bits >> 63); break;
    case INT64: ((int64_t *)tensor->data)[k] = (int64_t)(bits >> 63); break;
    case BOOL: ((uint8_t *)tensor->data)[k] = (uint8_t)(bits >> 63); break;
    default: ((uint8_t *)tensor->data)[k] = (uint8_t)(bits >> 57);
    }
  }
}

/* ---- Models. */

static void describe(Tensor *tensor, const Info *info) {
  ORT(GetTensorElementType, info, &tensor->type);
  if (tensor->type < 0 || tensor->type >= TYPES || types[tensor->type].name == NULL) {
    fail(EXIT_MODEL, "'%s' has ONNX element type %d, which is not supported", tensor->name, tensor->type);
  }
  ORT(GetDimensionsCount, info, &tensor->dims);
  if (tensor->dims > MAX_DIMS) fail(EXIT_MODEL, "'%s' has %zu dimensions, above 16", tensor->name, tensor->dims);
  ORT(GetDimensions, info, tensor->shape, tensor->dims);
  for (size_t k = 0; k < tensor->dims; k++) {
    if (tensor->shape[k] < 0) fail(EXIT_MODEL, "dimension %zu of '%s' is dynamic; fix it in the model", k, tensor->name);
  }
  ORT(GetTensorShapeElementCount, info, &tensor->count);
}

static void create_inputs(Model *model) {
  ORT(SessionGetInputCount, model->session, &model->input_count);
  model->inputs = allocate(model->input_count, sizeof *model->inputs);
  for (size_t i = 0; i < model->input_count; i++) {
    Tensor *input = &model->inputs[i];
    Type *type;
    const Info *info;
    ORT(SessionGetInputName, model->session, i, allocator, &input->name);
    ORT(SessionGetInputTypeInfo, model->session, i, &type);
    ORT(CastTypeInfoToTensorInfo, type, &info);
    if (info == NULL) fail(EXIT_MODEL, "input '%s' is not a tensor", input->name);
    describe(input, info);
    ort.ReleaseTypeInfo(type);
    ORT(CreateTensorAsOrtValue, allocator, input->shape, input->dims, input->type, &input->value);
    ORT(GetTensorMutableData, input->value, &input->data);
    fill(input, mix64(mix64((uint64_t)seed) + i));
    ORT(BindInput, model->binding, input->name, input->value);
  }
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* One round: nanoseconds of `loops` inferences back to back. */
static int64_t time_round(const Model *model, long loops) {
  const Status *status = NULL;
  const int64_t start = now_ns();
  for (long i = 0; i < loops && status == NULL; i++) status = ort.RunWithBinding(model->session, NULL, model->binding);
  const int64_t elapsed = now_ns() - start;
  check(status, "RunWithBinding");
  return elapsed;
}

/* The first inference allocates the outputs; all later ones write to the same place. Returns its nanoseconds. */
static int64_t create_outputs(Model *model) {
  Value **values;
  ORT(SessionGetOutputCount, model->session, &model->output_count);
  model->outputs = allocate(model->output_count, sizeof *model->outputs);
  for (size_t i = 0; i < model->output_count; i++) {
    ORT(SessionGetOutputName, model->session, i, allocator, &model->outputs[i].name);
    ORT(BindOutputToDevice, model->binding, model->outputs[i].name, memory);
  }
  const int64_t elapsed = time_round(model, 1);
  ORT(GetBoundOutputValues, model->binding, allocator, &values, &model->output_count);
  for (size_t i = 0; i < model->output_count; i++) {
    Tensor *output = &model->outputs[i];
    Info *info;
    output->value = values[i];
    ORT(GetTensorTypeAndShape, output->value, &info);
    describe(output, info);
    ort.ReleaseTensorTypeAndShapeInfo(info);
    ORT(GetTensorMutableData, output->value, &output->data);
    ORT(BindOutput, model->binding, output->name, output->value);
  }
  ORT(AllocatorFree, allocator, values);
  return elapsed;
}

/* As many CPUs as threads: one each. More: each thread may use them all, as the pool's threads inherit our own mask. */
static void pin(Options *options) {
  const int count = CPU_COUNT(&cpus);
  char workers[8 * MAX_THREADS] = "";
  cpu_set_t mine = cpus;
  if (count == 0) return;
  if (count < threads) fail(EXIT_PLAN, "%ld threads need as many CPUs, the plan names %d", threads, count);
  if (count == threads && count > 1) {
    CPU_ZERO(&mine);
    for (int cpu = 0, used = 0; used < count; cpu++) {
      const size_t end = strlen(workers);
      if (!CPU_ISSET(cpu, &cpus)) continue;
      if (used++ == 0) CPU_SET(cpu, &mine); /* the calling thread is the pool's first, and not ONNX Runtime's to pin */
      else snprintf(workers + end, sizeof workers - end, "%s%d", end == 0 ? "" : ";", cpu + 1); /* which counts from 1 */
    }
    ORT(AddSessionConfigEntry, options, "session.intra_op_thread_affinities", workers);
  }
  if (sched_setaffinity(0, sizeof mine, &mine) != 0) fail(EXIT_TARGET, "cannot pin to the CPUs: %s", strerror(errno));
}

static void create_session(Model *model, const char *path) {
  Options *options;
  ORT(CreateSessionOptions, &options);
  ORT(SetIntraOpNumThreads, options, (int)threads);
  ORT(AddSessionConfigEntry, options, "session.intra_op.allow_spinning", spin ? "1" : "0");
  if (profile != NULL) ORT(EnableProfiling, options, profile);
  pin(options);
  ORT(CreateSession, env, path, options, &model->session);
  ORT(CreateIoBinding, model->session, &model->binding);
  ort.ReleaseSessionOptions(options);
  model->profiled = profile != NULL;
}

static void release_tensors(Tensor *tensors, size_t count) {
  for (size_t i = 0; i < count; i++) {
    ort.ReleaseValue(tensors[i].value);
    ORT(AllocatorFree, allocator, tensors[i].name);
  }
  free(tensors);
}
