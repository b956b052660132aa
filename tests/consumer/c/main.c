/* main.c - a program of a user of the installed library: is its malloc hakmem? */
#include <hakmem/hakmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BLOCKS = 2000, BLOCK_BYTES = 1000 };

static struct hak_stats read_stats(void)
{
    struct hak_stats stats;
    memset(&stats, 0, sizeof stats);
    if (hak_stats_get(&stats, sizeof stats) != 0) {
        fputs("hak_stats_get fails\n", stderr);
        exit(1);
    }
    return stats;
}

int main(void)
{
    static char *volatile block[N_BLOCKS];
    char version[32];
    struct hak_stats before, during, after;

    snprintf(version, sizeof version, "%d.%d.%d", HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH);
    if (strcmp(version, hak_version()) != 0) {
        fprintf(stderr, "the header is %s, the library %s\n", version, hak_version());
        return 1;
    }

    puts("output allocates its buffer before the count begins");
    before = read_stats();
    for (int i = 0; i < N_BLOCKS; i++) {
        block[i] = malloc(BLOCK_BYTES);
        if (block[i] == NULL)
            return 1;
        block[i][0] = 1;
    }
    during = read_stats();
    for (int i = 0; i < N_BLOCKS; i++)
        free(block[i]);
    after = read_stats();

    /* Either interface takes the other's blocks. */
    free(hak_malloc(100));
    hak_free(malloc(100));
    hak_free(strdup("libc's own functions allocate here too"));

    if (during.live_bytes < before.live_bytes + (uint64_t)N_BLOCKS * BLOCK_BYTES ||
        after.live_bytes + (uint64_t)N_BLOCKS * BLOCK_BYTES > during.live_bytes) {
        fprintf(stderr, "malloc is not hakmem: %llu live bytes, then %llu, then %llu\n",
                (unsigned long long)before.live_bytes, (unsigned long long)during.live_bytes,
                (unsigned long long)after.live_bytes);
        return 1;
    }
    printf("C: %llu live bytes, %llu more with %d blocks\n", (unsigned long long)before.live_bytes,
           (unsigned long long)(during.live_bytes - before.live_bytes), N_BLOCKS);
    return 0;
}
