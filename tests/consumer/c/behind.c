/* behind.c - a program that never names malloc: another library allocates for it. That library runs on hakmem all the
 * same, which a linker brings about only if it is asked to take the names out of the archive. */
#include <hakmem/hakmem.h>
#include <stdint.h>
#include <stdio.h>

void *other_allocate(size_t size_bytes);
void other_release(void *block);

int main(void)
{
    static struct hak_stats before, during;
    void *block;

    if (hak_stats_get(&before, sizeof before) != 0)
        return 1;
    block = other_allocate(3000000);
    if (block == NULL || hak_stats_get(&during, sizeof during) != 0)
        return 1;
    other_release(block);
    if (during.live_bytes < before.live_bytes + 3000000) {
        fprintf(stderr, "the other library's malloc is not hakmem: %llu live bytes, then %llu\n",
                (unsigned long long)before.live_bytes, (unsigned long long)during.live_bytes);
        return 1;
    }
    puts("C: another library's malloc is hakmem");
    return 0;
}
