/* large_tls.c - a process with more thread-local storage than our thread's stack was meant for: the thread still runs, and gives back what
 * was freed while the program sleeps. (glibc counts that storage to the stack.)
 */
#include "check.h"

#define N (32 * CHECK_KIB)

static __thread char storage[252000] = {1};

int main(void)
{
    static char *blocks[N];
    check_on_hakmem();
    size_t before_bytes = check_resident_bytes();
    for (size_t i = 0; i < N; i++) {
        blocks[i] = malloc(2000);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], storage[i % sizeof storage], 2000);
    }
    for (size_t i = 0; i < N; i++)
        free(blocks[i]);
    check_await_resident("what was freed", before_bytes + 8 * CHECK_MIB);
    return check_status();
}
