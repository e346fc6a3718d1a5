/* Runs commands one after the other, and says how much memory the largest process of them had.

   turns COMMAND... [, COMMAND...]...

   The words of each command are separated from the next by a comma of its own. Prints one line: the largest resident set of
   any process that ended, in KiB. This program is small: what a command inherits of who starts it would count. Ends with 1,
   and what the command said, if one does not end with 0. */

#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int words, char **word) {
    long most = 0;
    for (int first = 1; first < words;) {
        int next = first;
        while (next < words && strcmp(word[next], ",")) next++;
        word[next] = NULL;
        pid_t child = vfork();
        if (child == 0) {
            execv(word[first], word + first);
            _exit(127);
        }
        int status;
        struct rusage usage;
        if (child < 0 || wait4(child, &status, 0, &usage) < 0) return 1;
        if (status) {
            fprintf(stderr, "turns: %s %s ended with wait status %d\n", word[first], next > first + 1 ? word[first + 1] : "", status);
            return 1;
        }
        if (usage.ru_maxrss > most) most = usage.ru_maxrss;
        first = next + 1;
    }
    printf("%ld\n", most);
    return 0;
}
