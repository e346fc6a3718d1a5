/* Does one thing to each name of a list, or runs a command, and says how long that took, without the start of a process.

   probe stat PASSES DIRECTORY NAMES               lstat
   probe absent PASSES DIRECTORY NAMES             lstat that must fail with ENOENT
   probe read PASSES DIRECTORY NAMES               open, read 4 KiB, close
   probe whole PASSES DIRECTORY NAMES              open, read to the end, close
   probe resident PASSES DIRECTORY NAMES           mincore: which of its pages are in the page cache
   probe evict PASSES DIRECTORY NAMES              takes the pages of the file system that the name is in out of the page cache
   probe stream PASSES FILE                        reads the file from start to end, 128 KiB at a time
   probe run PASSES LABEL COMMAND...               runs the command

   NAMES is a file with one path per line, relative to DIRECTORY. Prints one line:

   WHAT COUNT VALUE WALL:CPU...

   WHAT is the name of the list, or the label. COUNT: names, or lines that the command printed. VALUE: bytes by size or read, in pages that are there, the number that the
   command's last line starts with, for `absent` 0. WALL:CPU: seconds of each pass, CPU of this
   process and of the command. Any failure ends it with status 1. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long count, value;
static char buffer[128 << 10];

static void fail(const char *what) {
    fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double spent(void) {
    struct timespec own;
    struct rusage command;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own) || getrusage(RUSAGE_CHILDREN, &command)) fail("CPU time");
    return own.tv_sec + own.tv_nsec / 1e9 + command.ru_utime.tv_sec + command.ru_stime.tv_sec +
           (command.ru_utime.tv_usec + command.ru_stime.tv_usec) / 1e6;
}

static void stat_one(const char *name) {
    struct stat stat;
    if (lstat(name, &stat)) fail(name);
    value += stat.st_size;
}

static void read_one(const char *name) {
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(name);
    ssize_t length = read(file, buffer, 4096);
    if (length < 0 || close(file)) fail(name);
    value += length;
}

static void absent_one(const char *name) {
    struct stat stat;
    if (!lstat(name, &stat)) errno = EEXIST;
    if (errno != ENOENT) fail(name);
}

static void whole_one(const char *name) {
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(name);
    for (ssize_t length; (length = read(file, buffer, sizeof buffer));) {
        if (length < 0) fail(name);
        value += length;
    }
    close(file);
}

static void resident_one(const char *name) {
    static unsigned char there[1 << 20];
    struct stat stat;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &stat)) fail(name);
    size_t page = sysconf(_SC_PAGESIZE), pages = (stat.st_size + page - 1) / page;
    if (pages > sizeof there) errno = EFBIG, fail(name);
    void *mapped = mmap(NULL, stat.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED || mincore(mapped, stat.st_size, there)) fail(name);
    for (size_t each = 0; each < pages; each++) value += there[each] & 1 ? page : 0;
    munmap(mapped, stat.st_size);
    close(file);
}

static void evict_one(const char *name) {
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || (errno = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED)) || close(file)) fail(name);
}

static void run(char **command) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) fail("pipe");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        dup2(ends[1], 1);
        execvp(command[0], command);
        fail(command[0]);
    }
    close(ends[1]);
    FILE *said = fdopen(ends[0], "r");
    char *line = NULL;
    size_t room = 0;
    for (; getline(&line, &room, said) >= 0; count++) value = strtol(line, NULL, 10);
    fclose(said);
    free(line);
    int status;
    if (waitpid(child, &status, 0) < 0) fail("waitpid");
    if (status) {
        fprintf(stderr, "probe: %s ended with wait status %d\n", command[0], status);
        exit(1);
    }
}

static char **names_of(const char *path, long *known) {
    FILE *file = fopen(path, "re");
    if (!file) fail(path);
    char **names = NULL, *line = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0; names[(*known)++] = strndup(line, length - 1))
        if (!(*known & 1023)) names = realloc(names, (*known + 1024) * sizeof *names);
    fclose(file);
    return names;
}

int main(int words, char **word) {
    if (words < 4) return 2;
    static const struct { const char *word; void (*one)(const char *); } looks[] = {
        {"stat", stat_one}, {"absent", absent_one}, {"read", read_one}, {"whole", whole_one}, {"resident", resident_one},
        {"evict", evict_one}};
    void (*one)(const char *) = NULL;
    for (size_t each = 0; each < sizeof looks / sizeof *looks; each++)
        if (!strcmp(word[1], looks[each].word)) one = looks[each].one;
    int is_run = !strcmp(word[1], "run"), is_stream = !strcmp(word[1], "stream");
    int passes = atoi(word[2]);
    struct { double wall, cpu; } *took = calloc(passes, sizeof *took);
    char **names = NULL;
    long known = 0;
    if (!is_run && !is_stream) {
        if (!one || words != 5) return 2;
        names = names_of(word[4], &known);
        if (chdir(word[3])) fail(word[3]);
    }
    for (int pass = 0; pass < passes; pass++) {
        count = value = 0;
        double began = now(), before = spent();
        if (is_run) run(word + 4);
        else if (is_stream) whole_one(word[3]), count = 1;
        else for (; count < known; count++) one(names[count]);
        took[pass].wall = now() - began;
        took[pass].cpu = spent() - before;
    }
    const char *label = is_run ? word[3] : is_stream ? word[1] : basename(word[4]);
    printf("%s %ld %ld", label, count, value);
    for (int pass = 0; pass < passes; pass++) printf(" %.9f:%.9f", took[pass].wall, took[pass].cpu);
    puts("");
    return 0;
}
