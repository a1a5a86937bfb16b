/* hwbench_runner <PLAN: times ONNX models on a target, through ONNX Runtime's C API.
 * It executes the plan line by line as the lines arrive, and answers each with exactly one JSON line on standard output: over
 * a pipe it is a server, with a file a batch job. README.md has both languages; plan.h has all that is not about ONNX Runtime,
 * which is opened with dlopen. None of its headers is needed: this builds for every target. */
typedef const void *P;
typedef void *Out, *Handle;
typedef struct { Handle session, binding; } Session;
#include "plan.h"

/* ---- ONNX Runtime's C API: a table of function pointers that only ever grows at its end, so the index of a function
 * (its position in struct OrtApi of onnxruntime_c_api.h) never changes. All of these exist since version 5 of the API.
 * F(index, result, name, parameters): P is any pointer, Out one to a result; a P returned is a status, NULL if well. */
enum { API_VERSION = 5, LOG_WARNING = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };
#define ORT_FUNCTIONS(F) \
  F(2, P, GetErrorMessage, P) F(3, P, CreateEnv, int, P, Out) F(7, P, CreateSession, P, P, P, Out) \
  F(8, P, CreateSessionFromArray, P, P, size_t, P, Out) \
  F(10, P, CreateSessionOptions, Out) F(11, P, SetOptimizedModelFilePath, P, P) F(14, P, EnableProfiling, P, P) \
  F(24, P, SetIntraOpNumThreads, P, int) F(30, P, SessionGetInputCount, P, Out) F(31, P, SessionGetOutputCount, P, Out) \
  F(33, P, SessionGetInputTypeInfo, P, size_t, Out) F(36, P, SessionGetInputName, P, size_t, P, Out) \
  F(37, P, SessionGetOutputName, P, size_t, P, Out) F(48, P, CreateTensorAsOrtValue, P, P, size_t, int, Out) \
  F(51, P, GetTensorMutableData, P, Out) F(55, P, CastTypeInfoToTensorInfo, P, Out) F(60, P, GetTensorElementType, P, Out) \
  F(61, P, GetDimensionsCount, P, Out) F(62, P, GetDimensions, P, Out, size_t) F(65, P, GetTensorTypeAndShape, P, Out) \
  F(69, P, CreateCpuMemoryInfo, int, int, Out) F(76, P, AllocatorFree, P, P) F(78, P, GetAllocatorWithDefaultOptions, Out) \
  F(95, void, ReleaseSession, P) F(96, void, ReleaseValue, P) F(98, void, ReleaseTypeInfo, P) \
  F(99, void, ReleaseTensorTypeAndShapeInfo, P) F(100, void, ReleaseSessionOptions, P) \
  F(110, P, SessionEndProfiling, P, P, Out) F(130, P, AddSessionConfigEntry, P, P, P) F(133, P, RunWithBinding, P, P, P) \
  F(134, P, CreateIoBinding, P, Out) F(135, void, ReleaseIoBinding, P) F(136, P, BindInput, P, P, P) \
  F(138, P, BindOutputToDevice, P, P, P) F(140, P, GetBoundOutputValues, P, P, Out, Out)
#define DECLARE(index, result, name, ...) result (*name)(__VA_ARGS__);
#define FETCH(index, result, name, ...) ort.name = (result (*)(__VA_ARGS__))table[index];
static struct { ORT_FUNCTIONS(DECLARE) } ort;

static Handle env, allocator, memory; /* once the library is open */
static char weights[4096]; /* folder of the files that large weights are in; empty: they are in the model */

#define ORT(function, ...) check(ort.function(__VA_ARGS__), #function)
static void check(P status, const char *function) {
  if (status != NULL) fail(EXIT_MODEL, "%s: %s", function, (const char *)ort.GetErrorMessage(status));
}

/* Add a tensor to the event at hand. */
static Tensor put_info(size_t index, const char *name, Handle info) {
  Tensor tensor = {0};
  ORT(GetTensorElementType, info, &tensor.type);
  if (tensor.type < 0 || tensor.type >= TYPES || types[tensor.type].name == NULL)
    fail(EXIT_MODEL, "'%s' has ONNX element type %d, which is not supported", name, tensor.type);
  ORT(GetDimensionsCount, info, &tensor.dims);
  if (tensor.dims > MAX_DIMS) fail(EXIT_MODEL, "'%s' has %zu dimensions, above %d", name, tensor.dims, MAX_DIMS);
  ORT(GetDimensions, info, tensor.shape, tensor.dims);
  put_tensor(index, name, &tensor);
  return tensor;
}

/* Bind random inputs, or those of a file, listed in the event at hand, in place of those that were bound before. */
static void bind_inputs(const Model *model, int64_t inputs_seed, int exponent) {
  size_t inputs; Handle name, type, info, value, data;
  FILE *file = open_inputs();
  ORT(SessionGetInputCount, model->its.session, &inputs);
  for (size_t i = 0; i < inputs; i++) {
    ORT(SessionGetInputName, model->its.session, i, allocator, &name);
    ORT(SessionGetInputTypeInfo, model->its.session, i, &type);
    ORT(CastTypeInfoToTensorInfo, type, &info);
    if (info == NULL) fail(EXIT_MODEL, "input '%s' is not a tensor", (char *)name);
    const Tensor tensor = put_info(i, name, info);
    ORT(CreateTensorAsOrtValue, allocator, tensor.shape, tensor.dims, tensor.type, &value);
    ORT(GetTensorMutableData, value, &data);
    fill_input(data, &tensor, name, file, (uint64_t)inputs_seed << 32 | i, exponent);
    ORT(BindInput, model->its.binding, name, value);
    ort.ReleaseValue(value), ort.ReleaseTypeInfo(type); /* the binding keeps the value */
    ORT(AllocatorFree, allocator, name);
  }
  if (file != NULL) fclose(file);
}

/* Bind outputs, which the first inference allocates for all others: so no timed round copies inputs or allocates memory. */
static void bind_outputs(const Model *model) {
  size_t outputs; Handle name;
  ORT(SessionGetOutputCount, model->its.session, &outputs);
  for (size_t i = 0; i < outputs; i++) {
    ORT(SessionGetOutputName, model->its.session, i, allocator, &name);
    ORT(BindOutputToDevice, model->its.binding, name, memory);
    ORT(AllocatorFree, allocator, name);
  }
}

/* One round: nanoseconds of `loops` inferences back to back. Nothing else happens between the two readings of the clock; an
 * error ends the loop and is looked at afterwards. */
static int64_t time_round(const Model *model, int64_t loops) {
  P status = NULL;
  const int64_t start = now_ns();
  for (int64_t i = 0; i < loops && !status; i++) status = ort.RunWithBinding(model->its.session, NULL, model->its.binding);
  const int64_t elapsed = now_ns() - start;
  check(status, "RunWithBinding");
  return elapsed;
}

/* As many CPUs as threads: one each. More: each thread may use them all, as the pool's threads inherit our own mask. */
static void pin(Handle options) {
  char workers[8 * MAX_THREADS] = "";
  size_t end = 0;
  cpu_set_t mine = {{0}};
  if (cpu_count < threads) fail(EXIT_PLAN, "%d threads need as many CPUs, not %d", (int)threads, (int)cpu_count);
  for (int64_t i = 0; i < cpu_count; i++) {
    /* This thread is the pool's first, and ours to pin. For the others ONNX Runtime counts CPUs from 1. */
    if (i == 0 || cpu_count > threads) CPU_SET((size_t)cpus[i], &mine);
    else end += (size_t)sprintf(workers + end, "%s%d", end == 0 ? "" : ";", (int)cpus[i] + 1);
  }
  if (end > 0) ORT(AddSessionConfigEntry, options, "session.intra_op_thread_affinities", workers);
  if (sched_setaffinity(0, sizeof mine, &mine) != 0) fail(EXIT_TARGET, "cannot pin to the CPUs: %s", strerror(errno));
}

static void open_library(const char *path) {
  if (is_open) fail(EXIT_PLAN, "a library is open already");
  setenv("ORT_DISABLE_TELEMETRY", "1", 1); /* which would start a thread, keep files, upload */
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(EXIT_TARGET, "%s", dlerror());
  typedef struct { P *(*get_api)(uint32_t); const char *(*get_version)(void); } Base;
  const Base *(*get_base)(void) = (const Base *(*)(void))dlsym(library, "OrtGetApiBase");
  P *table = get_base == NULL ? NULL : get_base()->get_api(API_VERSION);
  if (table == NULL) fail(EXIT_TARGET, "%s is not ONNX Runtime with version %d of its C API", path, API_VERSION);
  ORT_FUNCTIONS(FETCH)
  ORT(CreateEnv, LOG_WARNING, "hwbench", &env);
  ORT(GetAllocatorWithDefaultOptions, &allocator);
  ORT(CreateCpuMemoryInfo, DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory);
  is_open = 1;
  put("{'event':'library','version':%s}\n", get_base()->get_version());
}

static void *read_whole(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail(EXIT_TARGET, "%s: %s", path, strerror(errno));
  const long end = ftell(file);
  rewind(file);
  void *bytes = end < 0 ? NULL : malloc((size_t)end + 1);
  if (bytes == NULL || fread(bytes, 1, (size_t)end, file) != (size_t)end) fail(EXIT_TARGET, "cannot read %s", path);
  fclose(file);
  *size = (size_t)end;
  return bytes;
}

/* Beside a path, ONNX Runtime looks for weights in the model's folder alone; beside bytes, where it is told to. */
static void open_large(Model *model, const char *path, Handle options) {
  size_t size = 0;
  void *bytes = read_whole(path, &size);
  ORT(AddSessionConfigEntry, options, "session.model_external_initializers_file_folder_path", weights);
  ORT(CreateSessionFromArray, env, bytes, size, options, &model->its.session);
  free(bytes);
}

static void open_session(Model *model, const char *path) {
  Handle options;
  ORT(CreateSessionOptions, &options);
  ORT(SetIntraOpNumThreads, options, (int)threads);
  ORT(AddSessionConfigEntry, options, "session.intra_op.allow_spinning", spin ? "1" : "0");
  ORT(AddSessionConfigEntry, options, "session.force_spinning_stop", "1"); /* between runs all threads sleep */
  if (model->profiled) ORT(EnableProfiling, options, profile);
  if (*graph != '\0') ORT(SetOptimizedModelFilePath, options, graph);
  ORT(AddSessionConfigEntry, options, "session.optimized_model_external_initializers_file_name", "hwbench.weights");
  if (cpu_count > 0) pin(options);
  if (*weights == '\0') ORT(CreateSession, env, path, options, &model->its.session);
  else open_large(model, path, options);
  ort.ReleaseSessionOptions(options);
  ORT(CreateIoBinding, model->its.session, &model->its.binding);
}

static void close_session(Model *model) {
  Handle file = NULL;
  if (model->profiled) ORT(SessionEndProfiling, model->its.session, allocator, &file);
  ort.ReleaseIoBinding(model->its.binding);
  ort.ReleaseSession(model->its.session);
  put("{'event':'unloaded','name':%s,'profile':%s}\n", model->name, file == NULL ? "" : file);
  if (file != NULL) ORT(AllocatorFree, allocator, file);
}

static void dump_outputs(const Model *model, const char *folder) {
  size_t count; Handle *values, name, info, data;
  ORT(GetBoundOutputValues, model->its.binding, allocator, &values, &count);
  for (size_t i = 0; i < count; i++) {
    ORT(SessionGetOutputName, model->its.session, i, allocator, &name);
    ORT(GetTensorTypeAndShape, values[i], &info);
    const Tensor tensor = put_info(i, name, info);
    ORT(GetTensorMutableData, values[i], &data);
    write_output(model, folder, i, &tensor, data);
    ort.ReleaseTensorTypeAndShapeInfo(info);
    ort.ReleaseValue(values[i]);
    ORT(AllocatorFree, allocator, name);
  }
  ORT(AllocatorFree, allocator, values);
}

static int set_option(const char *option, const char *value) {
  if (strcmp(option, "weights") != 0 || strlen(value) >= sizeof weights) return 0;
  strcpy(weights, strcmp(value, "-") == 0 ? "" : value);
  return 1;
}
