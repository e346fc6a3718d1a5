/* Runs a program one instruction at a time, with all of its children, and says which of its code they executed.

   step FIRST LAST OUT PROGRAM ARGUMENTS...

   FIRST and LAST are the addresses in hexadecimal between which the program's code lies: it is linked at a fixed address. To OUT
   goes a line for each piece of 16 bytes that was executed, its address, in the order of the first time. Ends when the program
   does, and as it does; children that it leaves are left alone. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int words, char **word) {
    if (words < 5) return 2;
    unsigned long first = strtoul(word[1], NULL, 16), last = strtoul(word[2], NULL, 16);
    unsigned char *seen = calloc((last - first) / 16 + 1, 1);
    FILE *out = fopen(word[3], "a");
    pid_t program = fork();
    if (program == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(word[4], word + 4);
        _exit(127);
    }
    int status, end = 1;
    if (!seen || !out || waitpid(program, &status, 0) < 0) return 1;
    ptrace(PTRACE_SETOPTIONS, program, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC);
    ptrace(PTRACE_SINGLESTEP, program, 0, 0);
    for (pid_t who; (who = waitpid(-1, &status, __WALL)) > 0;) {
        if (!WIFSTOPPED(status)) {
            if (who != program) continue;
            end = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            break;
        }
        struct user_regs_struct registers;
        if (!ptrace(PTRACE_GETREGS, who, 0, &registers) && registers.rip >= first && registers.rip < last) {
            unsigned long piece = (registers.rip - first) / 16;
            if (!seen[piece]) fprintf(out, "%lx\n", first + piece * 16);
            seen[piece] = 1;
        }
        int signal = WSTOPSIG(status);
        if (signal == SIGTRAP || signal == SIGSTOP || status >> 16) signal = 0;
        ptrace(PTRACE_SINGLESTEP, who, 0, signal);
    }
    return fclose(out) || end;
}
