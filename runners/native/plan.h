/* What the native runners of all runtimes share: the language of plans and events (README.md), and everything that is done the
 * same way whatever runs the models. A runner is one C file, which says what a session of its runtime holds (`Session`),
 * includes this one, and defines the functions declared below: so each still builds with one call of a C compiler. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

enum { MAX_MODELS = 1024, MAX_DIMS = 16, MAX_THREADS = 1024, MAX_ROUNDS = 100000, EVENT_BYTES = 1 << 22 };
enum { EXIT_OUTPUT = 1, EXIT_PLAN = 2, EXIT_TARGET = 3, EXIT_MODEL = 4, EXIT_LIMIT = 5 };

enum { FLOAT32 = 1, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL = 9, FLOAT16, FLOAT64, UINT32, UINT64, BFLOAT16 = 16, TYPES };
static const struct { const char *name; size_t size; } types[TYPES] = { /* by ONNXTensorElementDataType */
  [FLOAT32] = {"float32", 4}, [FLOAT16] = {"float16", 2}, [FLOAT64] = {"float64", 8}, [INT8] = {"int8", 1}, [BOOL] = {"bool", 1},
  [UINT8] = {"uint8", 1}, [INT16] = {"int16", 2}, [UINT16] = {"uint16", 2}, [INT32] = {"int32", 4}, [UINT32] = {"uint32", 4},
  [INT64] = {"int64", 8}, [UINT64] = {"uint64", 8}, [BFLOAT16] = {"bfloat16", 2}};

/* ---- What is loaded, and the settings for what will be. */
typedef struct { int type; size_t dims, count; int64_t shape[MAX_DIMS]; } Tensor;
typedef struct { char name[65]; int profiled; Session its; } Model; /* without a name: a free place */
static Model models[MAX_MODELS];
static int is_open; /* whether there is a library */
static int64_t threads = 1, spin, seed, cpus[CPU_SETSIZE], cpu_count; /* no CPUs: not pinned */
static char profile[4096], graph[4096]; /* prefix of profiles, file for executed graphs; empty: none are written */
static char inputs_file[4096]; /* the values of all inputs, one after the other; empty: they are drawn */
static unsigned char block[1 << 26]; /* of a file; the kernel gives it memory as far as it is used */

/* ---- What the file of a runtime defines. */
static void open_library(const char *path); /* and answer with the event `library` */
static void open_session(Model *model, const char *path); /* which is what `load_ns` tells the time of */
static void bind_inputs(const Model *model, int64_t inputs_seed, int exponent); /* and list them in the event at hand */
static void bind_outputs(const Model *model);
static int64_t time_round(const Model *model, int64_t loops);
static void dump_outputs(const Model *model, const char *folder); /* and list them in the event at hand */
static void close_session(Model *model); /* and answer with the event `unloaded` */
static int set_option(const char *option, const char *value); /* of the runtime alone; 0 if it has none of that name */

static char event_buffer[EVENT_BYTES]; /* larger than any event: one is sent whole, or not at all */
static FILE *events; /* a private copy of standard output: whatever else is printed there lands on standard error */
static const char *command = "plan"; /* at hand, for error events */
static volatile sig_atomic_t writing;

static void put_string(FILE *file, const char *text) {
  putc('"', file);
  for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++)
    fprintf(file, *s < 0x20 ? "\\u%04x" : strchr("\"\\", *s) ? "\\%c" : "%c", *s);
  putc('"', file);
}

/* Add to the event at hand: %s a JSON string, %d an int64_t, ' a double quote. A newline completes and sends it. */
static void put(const char *format, ...) {
  va_list values;
  va_start(values, format);
  for (const char *f = format; *f != '\0'; f++) {
    if (*f != '%') putc(*f == '\'' ? '"' : *f, events);
    else if (*++f == 's') put_string(events, va_arg(values, const char *));
    else fprintf(events, "%" PRId64, va_arg(values, int64_t));
  }
  va_end(values);
  writing = strchr(format, '\n') != NULL;
  if (writing && fflush(events) != 0) _exit(EXIT_OUTPUT);
  writing = 0;
}

/* End with an error event. The runtime may be in any state, so the kernel cleans up. */
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

/* The watchdog. If an event is being written, or cannot be, its reader has stalled: the exit code has to do. */
static void on_limit(int number) {
  static const char text[] = "{\"event\":\"error\",\"code\":5,\"where\":\"limit\",\"message\":\"time limit over\"}\n";
  struct pollfd room = {.fd = fileno(events), .events = POLLOUT};
  if (number == SIGALRM && !writing && poll(&room, 1, 0) == 1) (void)!write(room.fd, text, sizeof text - 1);
  _exit(EXIT_LIMIT);
}

/* The end of whoever sends the plan, seen in the middle of a long run too: nobody waits for its answer any more. */
static void on_input(int number) {
  struct pollfd input = {.fd = STDIN_FILENO};
  if (number == SIGIO && poll(&input, 1, 0) == 1 && (input.revents & (POLLHUP | POLLERR))) _exit(0);
}

/* Ask the kernel for a signal whenever the state of standard input changes, which is a pipe or a socket. */
static void attach(void) {
  signal(SIGIO, on_input);
  if (fcntl(STDIN_FILENO, F_SETOWN, getpid()) != 0 || fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_ASYNC) != 0)
    fail(EXIT_TARGET, "cannot watch the standard input: %s", strerror(errno));
}

/* Add a tensor to the event at hand, its elements counted. */
static void put_tensor(size_t index, const char *name, Tensor *tensor) {
  put(index == 0 ? "{'name':%s,'type':%s,'shape':[" : ",{'name':%s,'type':%s,'shape':[", name, types[tensor->type].name);
  tensor->count = 1;
  for (size_t k = 0; k < tensor->dims; k++) {
    if (tensor->shape[k] < 0) fail(EXIT_MODEL, "dimension %zu of '%s' is dynamic; give it a fixed size", k, name);
    tensor->count *= (size_t)tensor->shape[k];
    put(k == 0 ? "%d" : ",%d", tensor->shape[k]);
  }
  put("]}");
}

/* Fixed random values, equal for equal seeds on every target; README.md says which. They come from a linear congruential
 * generator (the constants are those of Knuth's MMIX), of whose state only the upper bits are random enough to use. No float
 * is subnormal, which some CPUs compute slowly. Wider integers are 0 or 1, as most are masks, or indices into tables of two
 * rows or more. Floats are multiplied by 2^exponent. */
static void fill(void *data, const Tensor *tensor, uint64_t random, int exponent) {
  const uint16_t half = (uint16_t)((exponent < -13 ? 1 : exponent > 15 ? 29 : 14 + exponent) << 10); /* of a normal number */
  const uint16_t bits = (uint16_t)((exponent < -125 ? 1 : exponent > 127 ? 253 : 126 + exponent) << 7); /* of a bfloat16 */
  double unit = 0x1p-23; /* of which floats are whole multiples */
  for (int i = 0; i < exponent; i++) unit *= 2;
  for (int i = 0; i > exponent; i--) unit /= 2;
  for (size_t k = 0; k < tensor->count; k++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const int32_t fraction = (int32_t)(random >> 40) - (1 << 23);
    switch (tensor->type) {
    case FLOAT32: ((float *)data)[k] = (float)(fraction * unit); break;
    case FLOAT64: ((double *)data)[k] = fraction * unit; break;
    case FLOAT16: ((uint16_t *)data)[k] = (uint16_t)((random >> 63) << 15 | half | (random >> 53 & 0x3FF)); break;
    case BFLOAT16: ((uint16_t *)data)[k] = (uint16_t)((random >> 63) << 15 | bits | (random >> 56 & 0x7F)); break;
    case UINT16: case INT16: ((uint16_t *)data)[k] = (uint16_t)(random >> 63); break;
    case UINT32: case INT32: ((uint32_t *)data)[k] = (uint32_t)(random >> 63); break;
    case UINT64: case INT64: ((uint64_t *)data)[k] = random >> 63; break;
    default: ((uint8_t *)data)[k] = (uint8_t)(random >> (tensor->type == BOOL ? 63 : 57));
    }
  }
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t whole(const char *text, int64_t least, int64_t most) {
  char *end;
  const int64_t number = strtoll(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || number < least || number > most)
    fail(EXIT_PLAN, "expected a whole number from %" PRId64 " to %" PRId64 ", not '%s'", least, most, text);
  return number;
}

/* The place of the model of that name, or NULL; the name "" finds a free one. */
static Model *place_of(const char *name) {
  for (Model *model = models; model < models + MAX_MODELS; model++)
    if (strcmp(model->name, name) == 0) return model;
  return NULL;
}

static Model *loaded(const char *name) {
  Model *model = name == NULL || *name == '\0' ? NULL : place_of(name);
  if (model == NULL) fail(EXIT_PLAN, "no model '%s' is loaded", name == NULL ? "" : name);
  return model;
}

/* The file that the values of inputs come from, or NULL where they are drawn. */
static FILE *open_inputs(void) {
  FILE *file = *inputs_file == '\0' ? NULL : fopen(inputs_file, "rb");
  if (*inputs_file != '\0' && file == NULL) fail(EXIT_TARGET, "cannot read %s: %s", inputs_file, strerror(errno));
  return file;
}

/* Give input i of a model its values: those of the file at hand, or random ones. */
static void fill_input(void *data, const Tensor *tensor, const char *name, FILE *file, uint64_t random, int exponent) {
  if (file == NULL) fill(data, tensor, random, exponent);
  else if (fread(data, types[tensor->type].size, tensor->count, file) != tensor->count)
    fail(EXIT_PLAN, "%s is too short for input '%s'", inputs_file, name);
}

/* Write the values of output i of a model to FOLDER/MODEL.i.bin, raw. */
static void write_output(const Model *model, const char *folder, size_t i, const Tensor *tensor, const void *data) {
  char path[4096];
  const int end = snprintf(path, sizeof path, "%s/%s.%zu.bin", folder, model->name, i);
  FILE *file = end < (int)sizeof path ? fopen(path, "wb") : NULL;
  if (file == NULL || fwrite(data, types[tensor->type].size, tensor->count, file) != tensor->count || fclose(file) != 0)
    fail(EXIT_TARGET, "cannot write %s: %s", path, strerror(errno));
}

/* CPUs as in 0,2-3, in ascending order. Pinning to each in turn shows which of them cannot be had. */
static void set_cpus(char *list) {
  cpu_count = 0;
  for (char *part = strsep(&list, ","); part != NULL; part = strsep(&list, ",")) {
    int64_t cpu = whole(strsep(&part, "-"), cpu_count == 0 ? 0 : cpus[cpu_count - 1] + 1, CPU_SETSIZE - 1);
    const int64_t last = part == NULL ? cpu : whole(part, cpu, CPU_SETSIZE - 1);
    for (; cpu <= last; cpus[cpu_count++] = cpu++) {
      cpu_set_t one = {{0}};
      CPU_SET((size_t)cpu, &one);
      if (sched_setaffinity(0, sizeof one, &one) != 0) fail(EXIT_TARGET, "CPU %d: %s", (int)cpu, strerror(errno));
    }
  }
}

static void load(char *path) {
  const char *name = strsep(&path, " ");
  Model *model = place_of("");
  int end = 0;
  if (!is_open || path == NULL || model == NULL)
    fail(EXIT_PLAN, "expected: load NAME PATH, after: lib PATH, and at most %d at a time", MAX_MODELS);
  if (place_of(name) != NULL || sscanf(name, "%64[A-Za-z0-9_.-]%n", model->name, &end) != 1 || name[end] != '\0')
    fail(EXIT_PLAN, "'%s' is loaded already, or is no name: 1 to 64 letters, digits, '_', '.' or '-'", name);
  model->profiled = *profile != '\0';
  const int64_t start = now_ns();
  open_session(model, path);
  const int64_t load_ns = now_ns() - start;
  put("{'event':'loaded','name':%s,'inputs':[", name);
  bind_inputs(model, seed, 0);
  bind_outputs(model);
  put("],'load_ns':%d,'first_run_ns':%d}\n", load_ns, time_round(model, 1));
}

/* Give a model other inputs: floats of other sizes too. */
static void draw(char *arguments) {
  const Model *model = loaded(strsep(&arguments, " "));
  char *number = strsep(&arguments, " ");
  if (number == NULL || arguments == NULL) fail(EXIT_PLAN, "expected: draw NAME SEED EXPONENT");
  const int64_t inputs_seed = whole(number, 0, INT32_MAX);
  const int exponent = *arguments == '-' ? -(int)whole(arguments + 1, 0, 100) : (int)whole(arguments, 0, 100);
  put("{'event':'drawn','name':%s,'inputs':[", model->name);
  bind_inputs(model, inputs_seed, exponent);
  put("]}\n");
}

static void unload(Model *model) {
  close_session(model);
  *model->name = '\0';
}

/* Write output i of a model to FOLDER/MODEL.i.bin, raw. */
static void dump(char *folder) {
  const Model *model = loaded(strsep(&folder, " "));
  if (folder == NULL) fail(EXIT_PLAN, "expected: dump NAME FOLDER");
  put("{'event':'dumped','name':%s,'outputs':[", model->name);
  dump_outputs(model, folder);
  put("]}\n");
}

static void run(char *arguments) {
  static const Model *order[MAX_ROUNDS];
  static int64_t ns[MAX_ROUNDS];
  size_t rounds = 0;
  const int64_t loops = whole(strsep(&arguments, " "), 1, 1000000000);
  do order[rounds++] = loaded(strsep(&arguments, " ")); while (arguments != NULL && rounds < MAX_ROUNDS);
  if (arguments != NULL) fail(EXIT_PLAN, "more than %d rounds in one line", MAX_ROUNDS);
  for (size_t i = 0; i < rounds; i++) ns[i] = time_round(order[i], loops);
  put("{'event':'samples','clock':'CLOCK_MONOTONIC','loops':%d,'ns':[%d", loops, ns[0]);
  for (size_t i = 1; i < rounds; i++) put(",%d", ns[i]);
  put("]}\n");
}

/* Write the bytes that follow in the plan to a file. It gets its own name only when all bytes are on the disk and have the
 * Adler-32 (RFC 1950) that the plan gives: a connection that breaks leaves no half file behind that could be taken for a
 * whole one. */
static void put_file(char *path) {
  char part[4096];
  int64_t left = whole(strsep(&path, " "), 0, INT64_MAX - 1), low = 1, high = 0;
  const int64_t sum = path == NULL ? 0 : whole(strsep(&path, " "), 0, UINT32_MAX);
  FILE *file = path != NULL && snprintf(part, sizeof part, "%s.part", path) < (int)sizeof part ? fopen(part, "wb") : NULL;
  for (size_t got = 1; file != NULL && left > 0 && got > 0; left -= (int64_t)got) {
    got = fread(block, 1, left < 1 << 16 ? (size_t)left : 1 << 16, stdin);
    for (size_t i = 0; i < got; i++) low = (low + block[i]) % 65521, high = (high + low) % 65521;
    if (fwrite(block, 1, got, file) != got) break;
  }
  if (file != NULL && left == 0 && (high << 16 | low) != sum) fail(EXIT_TARGET, "%s arrived damaged; send it again", path);
  if (file == NULL || left > 0 || fflush(file) != 0 || fsync(fileno(file)) != 0 || fclose(file) != 0 || rename(part, path) != 0)
    fail(feof(stdin) || path == NULL ? EXIT_PLAN : EXIT_TARGET, "cannot write %s: %s", path == NULL ? "a file" : path, strerror(errno));
}

/* Send a file: an event with its length, and then its bytes; none of those if they do not all fit into the block. */
static void get_file(const char *path) {
  FILE *file = fopen(path, "rb");
  const size_t length = file == NULL ? 0 : fread(block, 1, sizeof block, file);
  if (file == NULL || ferror(file) || fclose(file) != 0) fail(EXIT_TARGET, "cannot read %s: %s", path, strerror(errno));
  put("{'event':'file','bytes':%d}\n", (int64_t)length);
  if (length == sizeof block) return;
  writing = 1;
  if (fwrite(block, 1, length, events) != length || fflush(events) != 0) _exit(EXIT_OUTPUT);
  writing = 0;
}

static void execute(char *value) {
  command = strsep(&value, " ");
#define IS(word) (strcmp(command, word) == 0 && value != NULL)
  if (IS("lib")) return open_library(value);
  if (IS("load")) return load(value);
  if (IS("unload")) return unload(loaded(value));
  if (IS("run")) return run(value);
  if (IS("dump")) return dump(value);
  if (IS("draw")) return draw(value);
  if (IS("get")) return get_file(value);
  if (IS("put")) put_file(value);
  else if (IS("threads")) threads = whole(value, 1, MAX_THREADS);
  else if (IS("cpus")) set_cpus(value);
  else if (IS("spin")) spin = whole(value, 0, 1);
  else if (IS("seed")) seed = whole(value, 0, INT32_MAX);
  else if (IS("attached") && whole(value, 1, 1)) attach();
  else if (IS("limit")) alarm((unsigned)whole(value, 1, 1000000));
  else if (IS("profile") && strlen(value) < sizeof profile) strcpy(profile, strcmp(value, "-") == 0 ? "" : value);
  else if (IS("inputs") && strlen(value) < sizeof inputs_file) strcpy(inputs_file, strcmp(value, "-") == 0 ? "" : value);
  else if (IS("graph") && strlen(value) < sizeof graph) strcpy(graph, strcmp(value, "-") == 0 ? "" : value);
  else if (IS("delete")) remove(value);
  else if (value == NULL || !set_option(command, value)) fail(EXIT_PLAN, "unknown command, or not with this value");
  put("{'event':'set','name':%s}\n", command);
}

int main(int argc, char **argv) {
  char *line = NULL; size_t capacity = 0;
  struct utsname os;
  signal(SIGPIPE, SIG_IGN), signal(SIGALRM, on_limit);
  events = fdopen(dup(STDOUT_FILENO), "w");
  if (events == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || setvbuf(events, event_buffer, _IOFBF, EVENT_BYTES) != 0)
    return EXIT_OUTPUT;
  if (argc != 1) fail(EXIT_PLAN, "usage: %s <PLAN", argv[0]);
  uname(&os);
  put("{'event':'hello','protocol':2,'pid':%d,'machine':%s,'kernel':%s}\n", (int64_t)getpid(), os.machine, os.release);
  for (ssize_t length; (length = getline(&line, &capacity, stdin)) > 0; command = "plan") {
    if (line[length - 1] != '\n' || strlen(line) != (size_t)length) fail(EXIT_PLAN, "a line is cut, or has a NUL byte");
    line[length - 1] = '\0';
    if (strcmp(line, "quit") == 0) break;
    execute(line);
  }
  if (ferror(stdin)) fail(EXIT_PLAN, "cannot read the plan: %s", strerror(errno));
  put("{'event':'bye'}\n");
  _exit(0);
}
