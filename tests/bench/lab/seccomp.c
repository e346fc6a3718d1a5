/* What seccomp costs: libseccomp compiles and loads rules, and system calls are timed under a given program.
 *
 *   seccomp load RULES TREE               prints the seconds from seccomp_init to the end of seccomp_load
 *   seccomp export RULES TREE FILE        writes the program
 *   seccomp calls PROGRAM PASSES COUNT    loads it, "-" for none, and prints for each kind of call the seconds that one
 *                                         takes, of the fastest pass of COUNT calls, and its result
 *
 * RULES has lines: the default action, "arch TOKEN", and NAME ACTION then for each condition INDEX OPERATOR VALUE VALUE.
 * They are read before the time begins. TREE is SCMP_FLTATR_CTL_OPTIMIZE: 1 a list, 2 a tree. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct rule {
    char name[64];
    uint32_t action;
    unsigned count;
    struct scmp_arg_cmp conditions[6];
};

static struct rule rules[4096];
static size_t rule_count;
static uint32_t archs[16], arch_count, default_action;

static void need(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "seccomp: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void read_rules(const char *path) {
    char line[1024];
    FILE *file = fopen(path, "r");
    need(file != NULL, path);
    need(fscanf(file, "%" SCNu32 "\n", &default_action) == 1, "default action");
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "arch %" SCNu32, &archs[arch_count]) == 1) {
            arch_count++;
            continue;
        }
        struct rule *rule = &rules[rule_count++];
        int used;
        need(sscanf(line, "%63s %" SCNu32 "%n", rule->name, &rule->action, &used) == 2, line);
        unsigned index, operator;
        uint64_t a, b;
        for (char *rest = line + used;
             sscanf(rest, "%u %u %" SCNu64 " %" SCNu64 "%n", &index, &operator, &a, &b, &used) == 4; rest += used)
            rule->conditions[rule->count++] =
                (struct scmp_arg_cmp){ .arg = index, .op = operator, .datum_a = a, .datum_b = b };
    }
    fclose(file);
}

static scmp_filter_ctx compiled(uint32_t optimize) {
    scmp_filter_ctx filter = seccomp_init(default_action);
    need(filter != NULL, "seccomp_init");
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0);
    need(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, optimize) == 0, "optimize");
    for (size_t at = 0; at < arch_count; at++) {
        int error = seccomp_arch_add(filter, archs[at]);
        need(error == 0 || error == -EEXIST, "seccomp_arch_add");
    }
    for (struct rule *rule = rules; rule < rules + rule_count; rule++) {
        int number = seccomp_syscall_resolve_name(rule->name);
        if (number == __NR_SCMP_ERROR) continue;
        int error = seccomp_rule_add_array(filter, rule->action, number, rule->count, rule->conditions);
        need(error == 0, rule->name);
    }
    return filter;
}

static void load(uint32_t optimize) {
    double start = now();
    scmp_filter_ctx filter = compiled(optimize);
    need(seccomp_load(filter) == 0, "seccomp_load");
    printf("%.9f\n", now() - start);
}

static void export(uint32_t optimize, const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    need(fd >= 0 && seccomp_export_bpf(compiled(optimize), fd) == 0, path);
}

static void take(const char *path) {
    static struct sock_filter program[4096];
    FILE *file = fopen(path, "r");
    need(file != NULL, path);
    struct sock_fprog filter = { .filter = program };
    filter.len = fread(program, sizeof *program, 4096, file);
    fclose(file);
    need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0, "seccomp(2)");
}

static void time_calls(const char *what, int passes, int count, long nr, long a, long b, long c) {
    double best = 1e9;
    long result = 0;
    for (int pass = 0; pass < passes; pass++) {
        double start = now();
        for (int at = 0; at < count; at++) result = syscall(nr, a, b, c);
        double each = (now() - start) / count;
        if (each < best) best = each;
    }
    printf("%s %.12f %ld\n", what, best, result < 0 ? -(long)errno : result);
}

static void calls(int passes, int count) {
    time_calls("getppid", passes, count, SYS_getppid, 0, 0, 0);
    time_calls("read", passes, count, SYS_read, open("/dev/null", O_RDONLY), 0, 0);
    /* What the kernel's cache of allowed calls cannot hold: a decision by arguments, and one that denies. */
    time_calls("personality", passes, count, SYS_personality, 0xffffffff, 0, 0);
    time_calls("unknown", passes, count, 1000, 0, 0, 0);
}

int main(int given, char **words) {
    need(given >= 4, "too few words");
    if (!strcmp(words[1], "calls")) {
        if (strcmp(words[2], "-")) take(words[2]);
        calls(atoi(words[3]), atoi(words[4]));
        return 0;
    }
    read_rules(words[2]);
    if (!strcmp(words[1], "load")) load(atoi(words[3]));
    if (!strcmp(words[1], "export")) export(atoi(words[3]), words[4]);
    return 0;
}
