/* gives_back.c - what a program has freed goes back though it makes no call any more, in patterns where slabs stay in use: blocks freed
 * that leave each slab more than half used, one of two blocks, a slab's last blocks but one, and the same again after a burst; and by
 * threads that sleep. Each is waited for until it has gone, a minute at most.
 */
#include "check.h"

#include <linux/membarrier.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLAB_BYTES (64 * CHECK_KIB)

static char **blocks;
static size_t n_blocks;

static void fill(size_t size_bytes, size_t sum_bytes)
{
    n_blocks = sum_bytes / size_bytes;
    blocks = calloc(n_blocks, sizeof *blocks);
    REQUIRE(blocks != NULL);
    for (size_t i = 0; i < n_blocks; i++)
        blocks[i] = check_malloc(size_bytes);
}

static void release(size_t i)
{
    free(blocks[i]);
    blocks[i] = NULL;
}

static void release_all(void)
{
    for (size_t i = 0; i < n_blocks; i++)
        free(blocks[i]);
    free(blocks);
    malloc_trim(0);
}

/* Of each slab's worth of blocks the first n_kept stay. */
static void keep_first(size_t per_slab, size_t n_kept)
{
    for (size_t i = 0; i < n_blocks; i++)
        if (i % per_slab >= n_kept && blocks[i] != NULL)
            release(i);
}

static void more_than_half_stays(size_t size_bytes)
{
    size_t sum_bytes = 80 * CHECK_MIB, per_slab = SLAB_BYTES / size_bytes, before_bytes = check_resident_bytes();
    fill(size_bytes, sum_bytes);
    keep_first(per_slab, per_slab / 2 + 1);
    check_await_resident("more than half of each slab", before_bytes + sum_bytes * 3 / 4);
    release_all();
}

static void one_of_two_stays(void)
{
    size_t sum_bytes = 80 * CHECK_MIB, before_bytes = check_resident_bytes();
    fill(SLAB_BYTES / 2, sum_bytes);
    keep_first(2, 1);
    check_await_resident("one of two blocks", before_bytes + sum_bytes * 3 / 4);
    release_all();
}

static void the_last_eighth_goes(void)
{
    size_t sum_bytes = 300 * CHECK_MIB, per_slab = SLAB_BYTES / 512, before_bytes = check_resident_bytes();
    fill(512, sum_bytes);
    keep_first(per_slab, per_slab / 8);
    check_await_resident("an eighth of each slab", before_bytes + sum_bytes / 6);
    keep_first(per_slab, 1);
    /* a page of each, mostly, and what the table takes */
    check_await_resident("one block of each slab", before_bytes + sum_bytes / 9);
    release_all();
}

/* Blocks that stay, and in the slabs that they are in others that come and go. */
static void comes_again(void)
{
    size_t sum_bytes = 80 * CHECK_MIB, before_bytes = check_resident_bytes();
    fill(64, sum_bytes);
    for (size_t i = 0; i < n_blocks; i++)
        if (i % 1000 != 0)
            release(i);
    check_await_resident("one of a thousand", before_bytes + sum_bytes / 3); /* the table included */
    for (unsigned k = 0; k < 2; k++) {
        for (size_t i = 0; i < n_blocks; i++)
            if (blocks[i] == NULL) {
                blocks[i] = malloc(64);
                REQUIRE(blocks[i] != NULL);
                memset(blocks[i], 2, 64);
            }
        for (size_t i = 0; i < n_blocks; i++)
            if (i % 1000 != 0)
                release(i);
        check_await_resident("one of a thousand, after a burst", before_bytes + sum_bytes / 3);
    }
    release_all();
}

/* Threads that sleep and have freed blocks above 32 KiB, in a process that has given up root's rights: nobody may look there whether a thread
 * sleeps, but for those blocks nobody need. */
#define N_SLEEPERS 30

static pthread_barrier_t all_sleep;

static void *free_and_sleep(void *unused)
{
    char *block[6];
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        block[i] = check_malloc(64 * CHECK_KIB);
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        free(block[i]);
    pthread_barrier_wait(&all_sleep);
    pause();
    return unused;
}

/* What threads have freed goes back while they sleep. */
static void goes_back_meanwhile(const char *what, void *(*free_and_sleep_so)(void *), bool with_rights)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        REQUIRE(with_rights || geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
        REQUIRE(with_rights || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
        REQUIRE(pthread_barrier_init(&all_sleep, NULL, N_SLEEPERS + 1) == 0);
        size_t before_bytes = check_resident_bytes();
        for (unsigned i = 0; i < N_SLEEPERS; i++) {
            pthread_t thread;
            REQUIRE(pthread_create(&thread, NULL, free_and_sleep_so, NULL) == 0);
        }
        pthread_barrier_wait(&all_sleep);
        check_await_resident(what, before_bytes + N_SLEEPERS * 64 * CHECK_KIB);
        _exit(check_status());
    }
    check_wait(pid, what);
}

static void threads_sleep(void)
{
    long barriers = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    if (barriers >= 0 && (barriers & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0)
        goes_back_meanwhile("threads that sleep", free_and_sleep, false);
    else
        check_leave_out("this system has no barrier for all threads");
}

/* Threads that sleep with the addresses of these functions on their stacks, as programs keep them, and the dynamic linker leaves them there:
 * that is no sign of a call that is not yet at its end. */
static void *cache_and_sleep(void *unused)
{
    static const char *const names[] = {"malloc", "free", "calloc", "realloc", "_Znwm", "_ZdlPv"};
    void *volatile addresses[CHECK_COUNT(names)];
    char *block[300];
    for (unsigned i = 0; i < CHECK_COUNT(names); i++)
        addresses[i] = dlsym(RTLD_DEFAULT, names[i]);
    for (unsigned i = 0; i < CHECK_COUNT(block); i++) {
        block[i] = check_malloc(1000);
        memset(block[i], 1, 1000);
    }
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        free(block[i]);
    pthread_barrier_wait(&all_sleep);
    pause();
    return addresses[0] == NULL ? NULL : unused;
}

static void addresses_are_no_calls(void)
{
    goes_back_meanwhile("threads with addresses of malloc and free", cache_and_sleep, true);
}

int main(void)
{
    check_on_hakmem();
    threads_sleep();
    addresses_are_no_calls();
    more_than_half_stays(4096);
    more_than_half_stays(2048);
    one_of_two_stays();
    the_last_eighth_goes();
    comes_again();
    return check_status();
}
