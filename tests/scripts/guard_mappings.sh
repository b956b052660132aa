#!/bin/bash
# guard_mappings.sh - hardened mode leaves a program the mappings that it needs for itself, however many blocks it holds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc

# Holds N blocks of SIZE bytes and prints how many mappings the process has; then starts threads and maps files, which need some.
cat > holder.c << 'EOF'
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static void *live(void *unused) { return unused; }
int main(int argc, char **argv)
{
    (void)argc;
    size_t size = strtoul(argv[1], NULL, 10), n = strtoul(argv[2], NULL, 10);
    char **block = malloc(n * sizeof *block);
    for (size_t i = 0; i < n; i++) {
        block[i] = malloc(size);
        if (block[i] == NULL) { printf("NULL at %zu\n", i); return 1; }
        block[i][0] = block[i][size - 1] = 1;
    }
    static char text[65536];
    int maps = 0, file = open("/proc/self/maps", O_RDONLY);
    for (ssize_t got; (got = read(file, text, sizeof text)) > 0;)
        for (ssize_t k = 0; k < got; k++) maps += text[k] == '\n';
    close(file);
    pthread_t thread[50];
    for (int i = 0; i < 50; i++)
        if (pthread_create(&thread[i], NULL, live, NULL) != 0) { puts("no thread"); return 1; }
    for (int i = 0; i < 50; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 50; i++)
        if (mmap(NULL, 4096 * (1 + i % 2), i % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
            puts("no mapping");
            return 1;
        }
    for (size_t i = 0; i < n; i++) free(block[i]);
    printf("%d\n", maps);
    return 0;
}
EOF
gcc -O1 -o holder holder.c -lpthread
for what in "4096 20000" "33000 20000" "100000 8000" "5000000 100"; do
    step "blocks of ${what% *} bytes, ${what#* } of them"
    # shellcheck disable=SC2086 # two words
    HAKMEM_SECURE=1 on_hakmem ./holder $what > out || fail "$(cat out)"
    echo "   $(cat out) mappings"
    [[ $(cat out) -lt 40000 ]] || fail "more than 40,000 of 65,530 mappings"
done

step "the same where every block is to have guards"
HAKMEM_SECURE=max on_hakmem ./holder 4096 20000 > out || fail "$(cat out)"
[[ $(cat out) -gt 30000 && $(cat out) -lt 40000 ]] || fail "$(cat out) mappings for 20,000 blocks in mode max"

step "there are guards: two mappings for a block"
HAKMEM_SECURE=1 on_hakmem ./holder 4096 1000 > out
[[ $(cat out) -gt 2000 && $(cat out) -lt 2400 ]] || fail "$(cat out) mappings for 1,000 blocks"

# Blocks that come and go, one after the other: a write behind the last one's end must be found, or not.
cat > churn.c << 'EOF'
#include <stdlib.h>
int main(int argc, char **argv)
{
    (void)argc;
    for (long i = strtol(argv[1], NULL, 10); i > 0; i--) {
        volatile char *block = malloc(5000);
        block[0] = 1;
        if (i == 1) (void)block[8192]; /* a read: only an inaccessible page stops it */
        free((void *)block);
    }
    return 0;
}
EOF
gcc -O0 -o churn churn.c
step "guards come one after the other, and in mode max without end"
for n in 1 1000; do
    if HAKMEM_SECURE=1 on_hakmem ./churn $n 2> err; then fail "no guard after $n blocks"; fi
done
if HAKMEM_SECURE=max on_hakmem ./churn 40000 2> err; then fail "no guard after 40,000 blocks in mode max"; fi
grep -q "behind the end of the block of 5000 bytes" err || fail "mode max says: $(cat err)"

# Of blocks above 32 KiB that found no guard: what is written to one after its release is found when it has waited. The pipe
# tells whether a block is accessible without touching it.
cat > late.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
    int ends[2];
    if (pipe(ends) != 0) return 1;
    for (int tries = 0; tries < 100; tries++) {
        for (int i = 0; i < 3000; i++) free(malloc(5000));
        char *block = malloc(50000);
        memset(block, 1, 50000);
        free(block);
        if (write(ends[1], block, 1) != 1) continue; /* It had a guard, and is inaccessible. */
        if (*block != 0) { puts("a free block is not clear"); return 0; }
        ((volatile char *)block)[49152] = 1;
        for (int i = 0; i < 100000; i++) {
            for (int k = 0; k < 8; k++) free(malloc(5000)); /* take what guards there are again */
            free(malloc(50000));
        }
        puts("not found");
        return 0;
    }
    puts("every block has guards");
    return 0;
}
EOF
gcc -O0 -o late late.c
step "without a guard, a write after free is found when the block leaves quarantine"
if HAKMEM_SECURE=1 on_hakmem ./late > out 2> err; then fail "$(cat out err)"; fi
grep -qE "(malloc|free): a free block was written to: 0x[0-9a-f]+ \\(bytes 53248\\)" err || fail "it says: $(cat out err)"

# A block that realloc made longer has room, of which more is used when the block has waited and is taken again.
cat > room.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *block[4000];
int main(void)
{
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 3000; i++) free(malloc(5000)); /* no guards are left */
        for (int i = 0; i < 4000; i++) memset(block[i] = malloc(3000), 0x55, 3000);
        for (int i = 0; i < 4000; i++) free(block[i]);
        for (int i = 0; i < 100; i++) {
            char *grown = realloc(memset(malloc(34000), 7, 34000), 40000);
            free(memset(grown, 7, 40000));
            for (size_t size = 40000; size < 64000; size += 1000) {
                char *zeroed = calloc(1, size);
                for (size_t k = 0; k < size; k++)
                    if (zeroed[k] != 0) { printf("byte %zu of %zu is not zero\n", k, size); return 1; }
                free(memset(zeroed, 9, size));
            }
        }
    }
    return 0;
}
EOF
gcc -O1 -o room room.c
step "calloc is clear whatever lay there"
for mode in 1 quarantine,guard zero,guard,quarantine; do
    HAKMEM_SECURE=$mode on_hakmem ./room > out || fail "mode $mode: $(cat out)"
done
