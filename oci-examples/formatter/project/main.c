#include <stdio.h>  

int main(void) {	
    puts("built while others format");   
    return 0;
}
