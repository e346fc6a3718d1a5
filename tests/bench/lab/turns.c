/* Runs commands one after the other, and says what they cost.

   turns COMMAND... [, COMMAND...]...

   The words of each command are separated from the next by a comma of its own. Prints one line: the largest resident set of
   any process that ended, in KiB, and the sums of user, system and elapsed time in microseconds, without this program's own.
   It is small: what a command inherits of who starts it would count. Ends with 1, and what the command said, if one does not
   end with 0. */

#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static double microseconds(struct timeval time) {
    return time.tv_sec * 1e6 + time.tv_usec;
}

int main(int words, char **word) {
    long most = 0;
    double user = 0, sys = 0, wall = 0;
    for (int first = 1; first < words;) {
        int next = first;
        while (next < words && strcmp(word[next], ",")) next++;
        word[next] = NULL;
        double began = now();
        pid_t child = vfork();
        if (child == 0) {
            execv(word[first], word + first);
            _exit(127);
        }
        int status;
        struct rusage usage;
        if (child < 0 || wait4(child, &status, 0, &usage) < 0) return 1;
        wall += now() - began;
        user += microseconds(usage.ru_utime);
        sys += microseconds(usage.ru_stime);
        if (status) {
            fprintf(stderr, "turns: %s %s ended with wait status %d\n", word[first], next > first + 1 ? word[first + 1] : "", status);
            return 1;
        }
        if (usage.ru_maxrss > most) most = usage.ru_maxrss;
        first = next + 1;
    }
    printf("%ld %.0f %.0f %.0f\n", most, user, sys, wall);
    return 0;
}
