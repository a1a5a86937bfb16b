/* The plainest loop there is over ONNX Runtime's C API, against which the driver is held: c_loop LIBRARY MODEL CPU LOOPS.
 * For every byte on standard input it runs the model LOOPS times and prints the nanoseconds of all of them together.
 * One float input; no binding, no protocol, nothing shared with the native runner. Errors end it with a line on stderr. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Places in struct OrtApi (onnxruntime_c_api.h), whose order is append-only. */
enum { ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10, INTRA_THREADS = 24, INPUT_INFO = 33,
       INPUT_NAME = 36, OUTPUT_NAME = 37, CREATE_TENSOR = 49, TENSOR_INFO = 55, DIM_COUNT = 61, DIMS = 62, CPU_MEMORY = 69,
       DEFAULT_ALLOCATOR = 78 };

static void *const *api;
#define CALL(place, types, ...) check(((void *(*) types)api[place])(__VA_ARGS__))

static void die(const char *why) {
  fprintf(stderr, "c_loop: %s\n", why);
  exit(1);
}

static void check(void *status) {
  if (status) die(((const char *(*)(void *))api[ERROR_MESSAGE])(status));
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 5) die("usage: c_loop LIBRARY MODEL CPU LOOPS");
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(atoi(argv[3]), &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus)) die("cannot pin");
  void *library = dlopen(argv[1], RTLD_NOW);
  if (!library) die(dlerror());
  struct { const void *(*get)(uint32_t); } const *(*base)(void);
  *(void **)&base = dlsym(library, "OrtGetApiBase");
  if (!base || !(api = base()->get(17))) die("no C API of version 17");

  void *env, *options, *session, *info, *memory, *allocator, *input, *output = NULL;
  const void *shape;
  char *in, *out;
  size_t rank, count = 1;
  int64_t dims[16];
  CALL(CREATE_ENV, (int, const char *, void **), 3, "c_loop", &env);
  CALL(CREATE_OPTIONS, (void **), &options);
  CALL(INTRA_THREADS, (void *, int), options, 1);
  CALL(CREATE_SESSION, (void *, const char *, void *, void **), env, argv[2], options, &session);
  CALL(DEFAULT_ALLOCATOR, (void **), &allocator);
  CALL(INPUT_NAME, (void *, size_t, void *, char **), session, 0, allocator, &in);
  CALL(OUTPUT_NAME, (void *, size_t, void *, char **), session, 0, allocator, &out);
  CALL(INPUT_INFO, (void *, size_t, void **), session, 0, &info);
  CALL(TENSOR_INFO, (void *, const void **), info, &shape);
  CALL(DIM_COUNT, (const void *, size_t *), shape, &rank);
  if (rank > 16) die("more than 16 dimensions");
  CALL(DIMS, (const void *, int64_t *, size_t), shape, dims, rank);
  for (size_t i = 0; i < rank; i++) count *= (size_t)dims[i];
  float *values = malloc(count * sizeof *values);
  if (!values) die("out of memory");
  for (size_t i = 0; i < count; i++) values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  CALL(CPU_MEMORY, (int, int, void **), 1, 0, &memory);
  CALL(CREATE_TENSOR, (void *, void *, size_t, int64_t *, size_t, int, void **), memory, values, count * sizeof *values, dims, rank, 1,
       &input);

  int loops = atoi(argv[4]);
  while (getchar() != EOF) {
    int64_t start = now();
    for (int i = 0; i < loops; i++)
      CALL(RUN, (void *, void *, char **, void **, size_t, char **, size_t, void **), session, NULL, &in, &input, 1, &out, 1, &output);
    printf("%" PRId64 "\n", now() - start);
    fflush(stdout);
  }
  return 0;
}
