/* Ends with 0, and nothing else: what a C library does when it starts would count for whoever runs this. */

#include <unistd.h>

void _start(void) {
    _exit(0);
}
