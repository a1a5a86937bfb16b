/* hwbench_litert <PLAN: times TensorFlow Lite models on a target's CPU, through LiteRT's C API.
 * Plans and events are those of hwbench_runner (README.md); plan.h has all that is not about LiteRT, whose library
 * (libLiteRt.so, 2.1 and later) is opened with dlopen. None of its headers is needed. */
typedef void *Handle;
enum { MAX_TENSORS = 256 };
typedef struct Session Session;
struct Session {
  Handle model, compiled, profiler, inputs[MAX_TENSORS], outputs[MAX_TENSORS];
  unsigned long input_count, output_count;
  int is_unproven; /* whether only a second inference shows that it runs more than once */
  void *log; /* FILE of the profile, NULL if there is none */
  char log_path[4096];
};
#include "plan.h"

/* ---- LiteRT's C API. Every function returns a status, 0 if well, but for those that free something. F(name, parameters). */
enum { CPU = 1, READ = 0, WRITE = 1, SIGNATURE = 0, LAYOUT_DIMS = 8, FAULT_BYTES = 512 };
typedef struct { unsigned bits; int32_t dims[LAYOUT_DIMS]; uint32_t strides[LAYOUT_DIMS]; } Layout; /* bits 0 to 6: the rank */
typedef struct { int type; Layout layout; } RankedType;
typedef struct { /* one entry of a profile; what is not named here is not read */
  const char *tag;
  int kind;
  uint64_t start_us, elapsed_us;
  size_t memory[6];
  uint64_t index, subgraph;
  int source;
} Entry;
#define LITERT_FUNCTIONS(F) \
  F(CreateEnvironment, int, void *, Handle *) F(CreateModelFromFile, Handle, const char *, Handle *) F(CreateOptions, Handle *) \
  F(SetOptionsHardwareAccelerators, Handle, int) F(AddOpaqueOptions, Handle, Handle) \
  F(CreateOpaqueOptions, const char *, void *, void (*)(void *), Handle *) \
  F(CreateCompiledModel, Handle, Handle, Handle, Handle *) F(GetModelSignature, Handle, size_t, Handle *) \
  F(GetNumSignatureInputs, Handle, size_t *) F(GetNumSignatureOutputs, Handle, size_t *) \
  F(GetSignatureInputTensorByIndex, Handle, size_t, Handle *) F(GetSignatureOutputTensorByIndex, Handle, size_t, Handle *) \
  F(GetTensorName, Handle, const char **) F(GetRankedTensorType, Handle, RankedType *) \
  F(GetCompiledModelInputTensorLayout, Handle, size_t, size_t, Layout *) \
  F(GetCompiledModelOutputTensorLayouts, Handle, size_t, size_t, Layout *, _Bool) \
  F(GetCompiledModelInputBufferRequirements, Handle, size_t, size_t, Handle *) \
  F(GetCompiledModelOutputBufferRequirements, Handle, size_t, size_t, Handle *) \
  F(CreateManagedTensorBufferFromRequirements, Handle, const RankedType *, Handle, Handle *) \
  F(GetTensorBufferPackedSize, Handle, size_t *) F(GetTensorBufferTensorType, Handle, RankedType *) \
  F(LockTensorBuffer, Handle, void **, int) F(UnlockTensorBuffer, Handle) \
  F(RunCompiledModel, Handle, size_t, size_t, Handle *, size_t, Handle *) \
  F(CompiledModelGetProfiler, Handle, Handle *) F(StartProfiler, Handle) F(StopProfiler, Handle) F(ResetProfiler, Handle) \
  F(GetNumProfilerEvents, Handle, int *) F(GetProfilerEvents, Handle, int, Entry *)
#define LITERT_FREES(F) \
  F(DestroyModel, Handle) F(DestroyOptions, Handle) F(DestroyCompiledModel, Handle) F(DestroyTensorBuffer, Handle)
#define DECLARE(name, ...) int (*name)(__VA_ARGS__);
#define DECLARE_FREE(name, ...) void (*name)(__VA_ARGS__);
#define FETCH(name, ...) litert.name = (int (*)(__VA_ARGS__))find_symbol(library, "LiteRt" #name);
#define FETCH_FREE(name, ...) litert.name = (void (*)(__VA_ARGS__))find_symbol(library, "LiteRt" #name);
static struct { LITERT_FUNCTIONS(DECLARE) LITERT_FREES(DECLARE_FREE) } litert;

static Handle env;
static int builtin_kernels; /* TensorFlow Lite's own kernels in place of XNNPACK's */
static char fault[FAULT_BYTES]; /* what the library printed of an error */

static const int known_types[] = { /* by LiteRtElementType; 0 for those that are not supported */
  [1] = FLOAT32, [2] = INT32, [3] = UINT8, [4] = INT64, [6] = BOOL, [7] = INT16, [9] = INT8, [10] = FLOAT16, [11] = FLOAT64,
  [13] = UINT64, [16] = UINT32, [17] = UINT16, [19] = BFLOAT16};

#define LITERT(function, ...) check(litert.function(__VA_ARGS__), #function)
static void check(int status, const char *function) {
  static const char *const meanings[] = {"", "an invalid argument", "no memory", "a failure of the runtime", "an input is missing",
                                         "unsupported", "not found", "out of time", "a wrong version", "unknown"};
  if (status == 0) return;
  const char *meaning = status > 0 && status < 10 ? meanings[status] : "see LiteRtStatus";
  fail(EXIT_MODEL, "%s: status %d, %s%s%s", function, status, meaning, *fault == '\0' ? "" : ": ", fault);
}

/* The library says on standard error alone what is wrong with a model: this puts a file in its place meanwhile. */
static FILE *catch_errors(int *standard_error) {
  FILE *file = tmpfile();
  *standard_error = file == NULL ? -1 : dup(STDERR_FILENO);
  if (*standard_error >= 0) dup2(fileno(file), STDERR_FILENO);
  return file;
}

/* End that, and keep the lines that tell of an error. */
static void release_errors(FILE *file, int standard_error) {
  char line[FAULT_BYTES];
  if (file == NULL) return;
  if (standard_error >= 0) dup2(standard_error, STDERR_FILENO), close(standard_error);
  rewind(file);
  size_t end = 0;
  *fault = '\0';
  while (fgets(line, sizeof line, file) != NULL) {
    fputs(line, stderr);
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "ERROR: ", 7) == 0 && end < sizeof fault)
      end += (size_t)snprintf(fault + end, sizeof fault - end, "%s%s", end == 0 ? "" : "; ", line + 7);
  }
  fclose(file);
}

static void *find_symbol(void *library, const char *name) {
  void *symbol = dlsym(library, name);
  if (symbol == NULL) fail(EXIT_TARGET, "the library is not LiteRT of 2.1 or later: it has no %s", name);
  return symbol;
}

static void open_library(const char *path) {
  if (is_open) fail(EXIT_PLAN, "a library is open already");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fail(EXIT_TARGET, "%s", dlerror());
  LITERT_FUNCTIONS(FETCH)
  LITERT_FREES(FETCH_FREE)
  LITERT(CreateEnvironment, 0, NULL, &env);
  is_open = 1;
  put("{'event':'library','version':%s}\n", "LiteRT");
}

static void add_option(Handle options, const char *group, const char *text) {
  Handle option;
  char *copy = strdup(text);
  if (copy == NULL) fail(EXIT_TARGET, "no memory");
  LITERT(CreateOpaqueOptions, group, copy, free, &option);
  LITERT(AddOpaqueOptions, options, option);
}

/* All threads share the CPUs: the pool's threads inherit our own mask, and cannot be told apart. */
static void pin(void) {
  cpu_set_t mine = {{0}};
  if (cpu_count < threads) fail(EXIT_PLAN, "%d threads need as many CPUs, not %d", (int)threads, (int)cpu_count);
  for (int64_t i = 0; i < cpu_count; i++) CPU_SET((size_t)cpus[i], &mine);
  if (sched_setaffinity(0, sizeof mine, &mine) != 0) fail(EXIT_TARGET, "cannot pin to the CPUs: %s", strerror(errno));
}

static void open_session(Model *model, const char *path) {
  Session *session = &model->its;
  Handle options, signature;
  char text[64];
  int standard_error;
  memset(session, 0, sizeof *session);
  if (*graph != '\0') fail(EXIT_PLAN, "LiteRT writes no graph");
  if (model->profiled) {
    const int end = snprintf(session->log_path, sizeof session->log_path, "%s-%s.json", profile, model->name);
    session->log = end < (int)sizeof session->log_path ? fopen(session->log_path, "w") : NULL;
    if (session->log == NULL) fail(EXIT_TARGET, "cannot write %s: %s", session->log_path, strerror(errno));
  }
  if (cpu_count > 0) pin();
  FILE *printed = catch_errors(&standard_error);
  int status = litert.CreateModelFromFile(env, path, &session->model);
  const char *function = "CreateModelFromFile";
  if (status == 0) {
    LITERT(CreateOptions, &options);
    LITERT(SetOptionsHardwareAccelerators, options, CPU);
    if (model->profiled) add_option(options, "runtime_options_string", "enable_profiling = true\n");
    snprintf(text, sizeof text, "kernel_mode = \"%s\"\nnum_threads = %d\n", builtin_kernels ? "builtin" : "delegate", (int)threads);
    add_option(options, "xnnpack", text);
    status = litert.CreateCompiledModel(env, session->model, options, &session->compiled);
    function = "CreateCompiledModel";
    litert.DestroyOptions(options);
  }
  release_errors(printed, standard_error);
  check(status, function);
  LITERT(GetModelSignature, session->model, SIGNATURE, &signature);
  LITERT(GetNumSignatureInputs, signature, &session->input_count);
  LITERT(GetNumSignatureOutputs, signature, &session->output_count);
  if (session->input_count > MAX_TENSORS || session->output_count > MAX_TENSORS)
    fail(EXIT_MODEL, "more than %d inputs or outputs", MAX_TENSORS);
  if (model->profiled) {
    LITERT(CompiledModelGetProfiler, session->compiled, &session->profiler);
    LITERT(StartProfiler, session->profiler);
  }
}

/* What the C API says of a tensor, in the terms of plans. */
static Tensor describe(const RankedType *ranked, const char *name) {
  Tensor tensor = {.dims = ranked->layout.bits & 127, .count = 1};
  const int count = sizeof known_types / sizeof *known_types;
  tensor.type = ranked->type >= 0 && ranked->type < count ? known_types[ranked->type] : 0;
  if (tensor.type == 0) fail(EXIT_MODEL, "'%s' has LiteRT element type %d, which is not supported", name, ranked->type);
  if (tensor.dims > LAYOUT_DIMS) fail(EXIT_MODEL, "'%s' has %zu dimensions, above %d", name, tensor.dims, LAYOUT_DIMS);
  for (size_t k = 0; k < tensor.dims; k++) tensor.shape[k] = ranked->layout.dims[k];
  return tensor;
}

/* Sizes that the file leaves open are those that the compiled model has taken for them. */
static int is_dynamic(const Layout *layout) {
  for (unsigned k = 0; k < (layout->bits & 127) && k < LAYOUT_DIMS; k++)
    if (layout->dims[k] < 0) return 1;
  return 0;
}

static void bind_inputs(const Model *model, int64_t inputs_seed, int exponent) {
  Session *session = (Session *)&model->its;
  Handle signature, tensor, needs;
  const char *name;
  void *data;
  size_t bytes;
  FILE *file = open_inputs();
  LITERT(GetModelSignature, session->model, SIGNATURE, &signature);
  for (size_t i = 0; i < session->input_count; i++) {
    RankedType ranked = {0};
    LITERT(GetSignatureInputTensorByIndex, signature, i, &tensor);
    LITERT(GetTensorName, tensor, &name);
    LITERT(GetRankedTensorType, tensor, &ranked);
    if (is_dynamic(&ranked.layout))
      LITERT(GetCompiledModelInputTensorLayout, session->compiled, SIGNATURE, i, &ranked.layout);
    Tensor described = describe(&ranked, name);
    put_tensor(i, name, &described);
    if (session->inputs[i] == NULL) {
      LITERT(GetCompiledModelInputBufferRequirements, session->compiled, SIGNATURE, i, &needs);
      LITERT(CreateManagedTensorBufferFromRequirements, env, &ranked, needs, &session->inputs[i]);
    }
    LITERT(GetTensorBufferPackedSize, session->inputs[i], &bytes);
    if (bytes != described.count * types[described.type].size) fail(EXIT_MODEL, "'%s' has %zu bytes, not its own size", name, bytes);
    LITERT(LockTensorBuffer, session->inputs[i], &data, WRITE);
    fill_input(data, &described, name, file, (uint64_t)inputs_seed << 32 | i, exponent);
    LITERT(UnlockTensorBuffer, session->inputs[i]);
  }
  if (file != NULL) fclose(file);
}

static void bind_outputs(const Model *model) {
  Session *session = (Session *)&model->its;
  static Layout layouts[MAX_TENSORS];
  Handle signature, tensor, needs;
  int is_known = 0;
  LITERT(GetModelSignature, session->model, SIGNATURE, &signature);
  for (size_t i = 0; i < session->output_count; i++) {
    RankedType ranked = {0};
    LITERT(GetSignatureOutputTensorByIndex, signature, i, &tensor);
    LITERT(GetRankedTensorType, tensor, &ranked);
    if (is_dynamic(&ranked.layout)) {
      if (!is_known)
        LITERT(GetCompiledModelOutputTensorLayouts, session->compiled, SIGNATURE, session->output_count, layouts, 1);
      is_known = session->is_unproven = 1;
      ranked.layout = layouts[i];
    }
    LITERT(GetCompiledModelOutputBufferRequirements, session->compiled, SIGNATURE, i, &needs);
    LITERT(CreateManagedTensorBufferFromRequirements, env, &ranked, needs, &session->outputs[i]);
  }
}

/* Write the profile of the inferences since the last time as one line: [tag, kind, index, subgraph, microseconds] each. */
static void write_profile(const Session *session) {
  int count = 0;
  LITERT(GetNumProfilerEvents, session->profiler, &count);
  Entry *entries = calloc(count > 0 ? (size_t)count : 1, sizeof *entries);
  if (entries == NULL) fail(EXIT_TARGET, "no memory for a profile of %d entries", count);
  LITERT(GetProfilerEvents, session->profiler, count, entries);
  putc('[', session->log);
  for (int i = 0; i < count; i++) {
    fputs(i == 0 ? "[" : ",[", session->log);
    put_string(session->log, entries[i].tag == NULL ? "" : entries[i].tag);
    fprintf(session->log, ",%d,%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]", entries[i].kind, entries[i].index, entries[i].subgraph,
            entries[i].elapsed_us);
  }
  fputs("]\n", session->log);
  free(entries);
  LITERT(ResetProfiler, session->profiler);
  LITERT(StartProfiler, session->profiler);
}

static int run_once(Session *session) {
  return litert.RunCompiledModel(session->compiled, SIGNATURE, session->input_count, session->inputs, session->output_count,
                                 session->outputs);
}

/* One round: nanoseconds of `loops` inferences back to back. Nothing else happens between the two readings of the clock; an
 * error ends the loop and is looked at afterwards. */
static int64_t time_round(const Model *model, int64_t loops) {
  Session *session = (Session *)&model->its;
  int status = 0, standard_error;
  const int64_t start = now_ns();
  for (int64_t i = 0; i < loops && status == 0; i++) status = run_once(session);
  const int64_t elapsed = now_ns() - start;
  if (status == 0 && session->is_unproven) status = run_once(session);
  session->is_unproven = 0;
  if (status != 0) { /* once more, for what it prints */
    FILE *printed = catch_errors(&standard_error);
    run_once(session);
    release_errors(printed, standard_error);
  }
  check(status, "RunCompiledModel");
  if (model->profiled) write_profile(session);
  return elapsed;
}

static void dump_outputs(const Model *model, const char *folder) {
  const Session *session = &model->its;
  Handle signature, tensor;
  const char *name;
  void *data;
  LITERT(GetModelSignature, session->model, SIGNATURE, &signature);
  for (size_t i = 0; i < session->output_count; i++) {
    RankedType ranked = {0};
    LITERT(GetSignatureOutputTensorByIndex, signature, i, &tensor);
    LITERT(GetTensorName, tensor, &name);
    LITERT(GetTensorBufferTensorType, session->outputs[i], &ranked);
    Tensor described = describe(&ranked, name);
    put_tensor(i, name, &described);
    LITERT(LockTensorBuffer, session->outputs[i], &data, READ);
    write_output(model, folder, i, &described, data);
    LITERT(UnlockTensorBuffer, session->outputs[i]);
  }
}

static void close_session(Model *model) {
  Session *session = &model->its;
  for (size_t i = 0; i < session->input_count; i++) litert.DestroyTensorBuffer(session->inputs[i]);
  for (size_t i = 0; i < session->output_count; i++) litert.DestroyTensorBuffer(session->outputs[i]);
  if (session->profiler != NULL) LITERT(StopProfiler, session->profiler);
  litert.DestroyCompiledModel(session->compiled);
  litert.DestroyModel(session->model);
  if (session->log != NULL && fclose(session->log) != 0) fail(EXIT_TARGET, "cannot write %s: %s", session->log_path, strerror(errno));
  put("{'event':'unloaded','name':%s,'profile':%s}\n", model->name, session->log_path);
}

static int set_option(const char *option, const char *value) {
  if (strcmp(option, "kernels") != 0 || (strcmp(value, "delegate") != 0 && strcmp(value, "builtin") != 0)) return 0;
  builtin_kernels = strcmp(value, "builtin") == 0;
  return 1;
}
