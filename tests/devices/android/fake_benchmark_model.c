/* A stand-in for TensorFlow Lite's benchmark_model: what it prints, refuses and ignores, without TensorFlow Lite.
 *
 * The wording, the streams and the treatment of flags follow tensorflow/lite/tools (benchmark_model.cc, command_line_flags.cc,
 * logging.h, tensorflow/core/util/stats_calculator.cc; Apache-2.0; read, not copied) and logs that people published, of two
 * ages: -DFORM=2019 and -DFORM=2024. An inference sleeps SLEEP_US and is timed, so numbers are true.
 *
 * `--benchmark_name`, which the real one only echoes, asks for a fault: hang, crash, sigsys, cut, fewer.
 */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef FORM
#define FORM 2024
#endif
#ifndef SLEEP_US
#define SLEEP_US 2000
#endif
#define NEW (FORM >= 2024)
#define MOST_RUNS 100000
#define ROWS 5

enum level { INFO, WARN, ERROR };
enum kind { INT, FLOAT, BOOL, STRING };

struct flag {
  const char *name, *label; /* label: how its value is echoed; NULL if it is not */
  enum kind kind;
  const char *value;
  int since, set;
};

static struct flag flags[] = {
    {"num_runs", "Min num runs", INT, "50", 2019, 0},
    {"min_secs", "Min runs duration (seconds)", FLOAT, "1", 2019, 0},
    {"max_secs", "Max runs duration (seconds)", FLOAT, "150", 2024, 0},
    {"run_delay", "Inter-run delay (seconds)", FLOAT, "-1", 2019, 0},
    {"run_frequency", "Number of prorated runs per second", FLOAT, "-1", 2024, 0},
    {"num_threads", "Num threads", INT, NEW ? "-1" : "1", 2019, 0},
    {"use_caching", "Use caching", BOOL, "0", 2024, 0},
    {"benchmark_name", "Benchmark name", STRING, "", 2019, 0},
    {"output_prefix", "Output prefix", STRING, "", 2019, 0},
    {"warmup_runs", "Min warmup runs", INT, "1", 2019, 0},
    {"warmup_min_secs", "Min warmup runs duration (seconds)", FLOAT, "0.5", 2019, 0},
    {"verbose", NULL, BOOL, "0", 2024, 0},
    {"dry_run", "Run w/o invoking kernels", BOOL, "0", 2024, 0},
    {"graph", "Graph", STRING, "", 2019, 0},
    {"input_layer", "Input layers", STRING, "", 2019, 0},
    {"input_layer_shape", "Input shapes", STRING, "", 2019, 0},
    {"use_nnapi", "Use nnapi ", BOOL, "0", 2019, 0},
    {"use_legacy_nnapi", "Use legacy nnapi ", BOOL, "0", 2019, 0},
    {"use_gpu", "Use gpu ", BOOL, "0", 2019, 0},
    {"use_xnnpack", "Use xnnpack", BOOL, "0", 2024, 0},
    {"allow_fp16", "Allow fp16 ", BOOL, "0", 2019, 0},
    {"enable_op_profiling", "Enable op profiling", BOOL, "0", 2019, 0},
    {"help", NULL, BOOL, "0", 2024, 0},
};
#define FLAGS (sizeof flags / sizeof *flags)

/* Old versions wrote everything to stderr; later ones put a severity before it and only errors there. */
static void say(enum level level, const char *format, ...) {
  FILE *to = NEW && level != ERROR ? stdout : stderr;
  va_list arguments;
  va_start(arguments, format);
  if (NEW) fputs(level == INFO ? "INFO: " : level == WARN ? "WARN: " : "ERROR: ", to);
  vfprintf(to, format, arguments);
  fputc('\n', to);
  fflush(to);
  va_end(arguments);
}

static struct flag *find(const char *name) {
  for (size_t i = 0; i < FLAGS; i++)
    if (!strcmp(flags[i].name, name) && flags[i].since <= FORM) return &flags[i];
  return NULL;
}

static const char *text(const char *name) {
  struct flag *flag = find(name);
  return flag ? flag->value : "";
}

static double number(const char *name) { return atof(text(name)); }

static int on(const char *name) { return !strcmp(text(name), "1") || !strcmp(text(name), "true"); }

static int fits(enum kind kind, const char *value) {
  char *end;
  if (kind == STRING) return 1;
  if (kind == BOOL) return !strcmp(value, "true") || !strcmp(value, "false") || !strcmp(value, "0") || !strcmp(value, "1");
  if (kind == INT) (void)strtol(value, &end, 10);
  else (void)strtod(value, &end);
  return end != value && !*end;
}

static void usage(const char *program) {
  say(ERROR, "usage: %s <flags>\nFlags:", program);
  for (size_t i = 0; i < FLAGS; i++) {
    static const char *const kinds[] = {"int32", "float", "bool", "string"};
    char column[100];
    if (flags[i].since > FORM) continue;
    const char *shown = flags[i].kind == BOOL ? "false" : flags[i].value;
    snprintf(column, sizeof column, "--%s=%s", flags[i].name, shown);
    fprintf(stderr, "\t%-40s\t%s%s\t%s\n", column, kinds[flags[i].kind], NEW ? "\toptional" : "", flags[i].name);
  }
}

/* Returns 0 where the program would go on. */
static int parse(int count, char **words) {
  char unknown[4096] = "";
  int bad = 0, help = 0;
  for (int i = 1; i < count; i++) {
    char name[100] = "";
    const char *equals = strchr(words[i], '=');
    if (equals && !strncmp(words[i], "--", 2)) snprintf(name, sizeof name, "%.*s", (int)(equals - words[i] - 2), words[i] + 2);
    struct flag *flag = find(name);
    if (flag && !flag->set && fits(flag->kind, equals + 1)) {
      flag->value = equals + 1;
      flag->set = 1;
    } else if (flag && !flag->set) {
      say(ERROR, "Failed to parse flag '%s' against argv '%s'", name, words[i]);
      bad = 1;
    } else {
      if (!*unknown) help = !strcmp(words[i], "--help");
      snprintf(unknown + strlen(unknown), sizeof unknown - strlen(unknown), "%s%s", *unknown ? " " : "", words[i]);
    }
  }
  if (bad || help || on("help")) {
    usage(words[0]);
    return 1;
  }
  if (NEW && *unknown) say(WARN, "Unconsumed cmdline flags: %s", unknown); /* old versions do not say a word */
  return 0;
}

static void echo(void) {
  if (NEW) say(INFO, "Log parameter values verbosely: [%d]", on("verbose"));
  for (size_t i = 0; i < FLAGS; i++) {
    const char *value = flags[i].value;
    if (flags[i].since > FORM || !flags[i].label || (NEW && !flags[i].set && strcmp(flags[i].name, "graph"))) continue;
    if (flags[i].kind == BOOL) value = on(flags[i].name) ? "1" : "0";
    say(INFO, "%s: [%s]", flags[i].label, value);
    if (NEW && !strcmp(flags[i].name, "num_threads")) say(INFO, "#threads used for CPU inference: [%s]", value);
  }
}

static long now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static long samples[MOST_RUNS];
static int taken;
static const char *const kinds[ROWS] = {"CONV_2D", "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"};
static const char *const names[ROWS] = {"net/conv0/Relu6", "net/pool", "net/flat", "net/logits/BiasAdd", "net/probs"};
static const double shares[ROWS] = {0.5, 0.1, 0, 0.25, 0.15};

static void nap(long us) {
  struct timespec wait = {us / 1000000, us % 1000000 * 1000};
  while (us > 0 && nanosleep(&wait, &wait)) {
  }
}

static int ascending(const void *a, const void *b) { return (*(const long *)a > *(const long *)b) - (*(const long *)a < *(const long *)b); }

static double mean(void) {
  double sum = 0;
  for (int i = 0; i < taken; i++) sum += samples[i];
  return taken ? sum / taken : 0;
}

/* `Stat::OutputToStream`. */
static void statistics(char *out, size_t size) {
  static long sorted[MOST_RUNS];
  double squares = 0, average = mean();
  memcpy(sorted, samples, sizeof *sorted * (size_t)taken);
  qsort(sorted, (size_t)taken, sizeof *sorted, ascending);
  for (int i = 0; i < taken; i++) squares += (samples[i] - average) * (samples[i] - average);
  if (!taken) snprintf(out, size, "count=0");
  else if (sorted[0] == sorted[taken - 1]) snprintf(out, size, "count=%d curr=%ld%s", taken, samples[taken - 1], taken > 1 ? "(all same)" : "");
  else
    snprintf(out, size, "count=%d first=%ld curr=%ld min=%ld max=%ld avg=%g std=%ld", taken, samples[0], samples[taken - 1],
             sorted[0], sorted[taken - 1], average, (long)sqrt(squares / taken));
  if (NEW && taken)
    snprintf(out + strlen(out), size - strlen(out), " p5=%ld median=%ld p95=%ld", sorted[taken / 20], sorted[taken / 2],
             sorted[taken * 19 / 20]);
}

static void phase(int runs, double seconds, int timed) {
  char line[400];
  const char *fault = timed ? text("benchmark_name") : "";
  if (NEW)
    say(INFO, "Running benchmark for at least %d iterations and at least %g seconds but terminate if exceeding %g seconds.", runs,
        seconds, number("max_secs"));
  else
    say(INFO, "Running benchmark for at least %d iterations and at least %g seconds", runs, seconds);
  if (!strcmp(fault, "hang")) pause();
  if (!strcmp(fault, "crash")) raise(SIGSEGV);
  if (!strcmp(fault, "sigsys")) raise(SIGSYS);
  if (!strcmp(fault, "cut")) exit(0);
  if (!strcmp(fault, "fewer")) runs--;
  long begun = now_us();
  for (taken = 0; taken < MOST_RUNS && (taken < runs || now_us() < begun + (long)(seconds * 1e6)); taken++) {
    long start = now_us();
    for (int row = 0; row < ROWS; row++) nap((long)(SLEEP_US * shares[row]));
    samples[taken] = now_us() - start;
  }
  statistics(line, sizeof line);
  say(INFO, "%s\n", line);
}

/* One of the tables of `StatsCalculator::GetOutputString`. */
static void rows(FILE *to, const char *title) {
  double below = 0;
  fprintf(to, "============================== %s ==============================\n", title);
  fprintf(to, "\t%24s%s\t%9s\t%9s\t%8s\t%8s\t%10s\t[times called]\t[Name]\n", "[node type]", NEW ? "" : "\t  [start]", "[first]",
          "[avg ms]", "[%]", "[cdf%]", "[mem KB]");
  for (int row = 0; row < ROWS; row++) {
    double ms = mean() / 1e3 * shares[row];
    fprintf(to, "\t%24s", kinds[row]);
    if (!NEW) fprintf(to, "\t%9.3f", below * mean() / 1e3);
    below += shares[row];
    fprintf(to, "\t%9.3f\t%9.3f\t%7.3f%%\t%7.3f%%\t%10.3f\t%9d\t[%s]", samples[0] / 1e3 * shares[row], ms, 100 * shares[row],
            100 * below, 0.0, 1, names[row]);
    if (NEW) fprintf(to, ":%d", row);
    fputc('\n', to);
  }
  fputc('\n', to);
}

static void profile(void) {
  FILE *to = NEW ? stdout : stderr;
  char line[400];
  if (NEW) say(INFO, "Operator-wise Profiling Info for Regular Benchmark Runs:");
  rows(to, "Run Order");
  rows(to, "Top by Computation Time");
  statistics(line, sizeof line);
  fprintf(to, "Number of nodes executed: %d\n", ROWS);
  fprintf(to, "Timings (microseconds): %s\nMemory (bytes): count=0\n%d nodes observed\n\n\n", line, ROWS);
}

static void delegates(void) {
  if (!NEW) return;
  fputs("INFO: Initialized TensorFlow Lite runtime.\n", stderr);
  if (on("use_gpu")) {
    fputs("VERBOSE: Replacing 4 out of 5 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1 partitions for the whole graph.\n", stderr);
    say(INFO, "Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 1 delegate kernels.");
  }
  if (on("use_nnapi")) say(INFO, "Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.");
  if (on("use_xnnpack")) say(INFO, "Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.");
  else if (!find("use_xnnpack")->set) fputs("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n", stderr);
}

/* Returns the size of the model; old versions abort where it cannot be mapped, later ones fail. */
static long load(const char *graph) {
  char head[8] = "";
  FILE *file = fopen(graph, "rb");
  if (!file || fread(head, 1, 8, file) != 8 || memcmp(head + 4, "TFL3", 4)) {
    say(ERROR, "Failed to mmap model %s", graph);
    if (!NEW) abort();
    say(ERROR, "Benchmarking failed.");
    exit(EXIT_FAILURE);
  }
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  fclose(file);
  say(INFO, "Loaded model %s", graph);
  return size;
}

int main(int count, char **words) {
  say(INFO, "STARTING!");
  if (parse(count, words)) {
    if (NEW) say(ERROR, "Benchmarking failed.");
    return EXIT_FAILURE;
  }
  echo();
  if (!*text("graph")) {
    say(ERROR, "Please specify the name of your TF Lite input file with --graph");
    return EXIT_FAILURE;
  }
  long begun = now_us(), size = load(text("graph"));
  if (!NEW) say(INFO, "resolved reporter");
  delegates();
  if (NEW) say(INFO, "The input model file size (MB): %g", size / 1e6);
  long initialized = now_us() - begun;
  say(INFO, NEW ? "Initialized session in %gms." : "Initialized session in %gms", initialized / 1e3);
  phase((int)number("warmup_runs"), number("warmup_min_secs"), 0);
  double warm = mean();
  long first = samples[0];
  phase((int)number("num_runs"), number("min_secs"), 1);
  if (!NEW && on("enable_op_profiling")) profile();
  if (NEW) {
    say(INFO, "Inference timings in us: Init: %ld, First inference: %ld, Warmup (avg): %g, Inference (avg): %g", initialized, first, warm, mean());
    say(INFO, "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory "
              "footprint of the model at runtime. Take the information at your discretion.");
    say(INFO, "Memory footprint delta from the start of the tool (MB): init=1.25 overall=2.5");
  } else {
    say(INFO, "Average inference timings in us: Warmup: %g, Init: %ld, no stats: %g", warm, initialized, mean());
  }
  if (NEW && on("enable_op_profiling")) profile();
  return EXIT_SUCCESS;
}
