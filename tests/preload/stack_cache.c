/* stack_cache.c - libc keeps the stacks of threads that have ended, and frees what belonged to the oldest, with the lock held that
 * pthread_create takes. A free there that finds much idle must not start the library's thread: it would wait for ever.
 * Each block is sampled, so that each free takes the slow path. The child of a fork has what was idle, no thread of the
 * library's, and as many stacks to keep as its parent had threads.
 * ctest: timeout 600
 */
#include "check.h"

#include <pthread.h>

#define N_THREADS 16 /* of 8 MiB of stack: libc keeps 40 MiB */
#define N_ROUNDS 20
#define CHILD_LIMIT_S 60

static int stop;

static void *sleeper(void *unused)
{
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        usleep(10000);
    return unused;
}

static void *nothing(void *unused)
{
    return unused;
}

/* Many megabytes, in slots of SuperSlabs that stay in use. */
static void make_idle(void)
{
    enum { N = 200 };
    static void *kept[N];
    for (unsigned i = 0; i < N; i++) {
        void *block = check_malloc(100000);
        if (i % 10 == 0)
            free(kept[i]);
        kept[i] = block;
    }
    for (unsigned i = 0; i < N; i++)
        if (i % 10 != 0) {
            free(kept[i]);
            kept[i] = NULL;
        }
}

/* SIGALRM would not end it: all signals are blocked where it would hang. */
static int ends_in_time(pid_t pid)
{
    int status;
    for (unsigned i = 0; i < CHILD_LIMIT_S * 100; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        usleep(10000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return 0;
}

int main(int argc, char **argv)
{
    const char *interval = getenv("HAKMEM_PROFILE_INTERVAL");
    check_on_hakmem();
    if (argc == 1 && getenv("HAKMEM_SECURE") == NULL && getenv("HAKMEM_GUARD_SAMPLE") == NULL &&
        (interval == NULL || strcmp(interval, "1") != 0)) {
        setenv("HAKMEM_PROFILE", "/dev/null", 1);
        setenv("HAKMEM_PROFILE_INTERVAL", "1", 1);
        setenv("HAKMEM_PURGE_DELAY_MS", "250", 1);
        execl("/proc/self/exe", argv[0], "again", (char *)NULL);
        REQUIRE(0);
    }
    pthread_attr_t attributes;
    pthread_t thread, threads[N_THREADS];
    REQUIRE(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 8 * CHECK_MIB) == 0);
    for (unsigned i = 0; i < N_THREADS; i++)
        REQUIRE(pthread_create(&threads[i], &attributes, sleeper, NULL) == 0);
    for (unsigned k = 0; k < N_ROUNDS; k++) {
        make_idle();
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            if (pthread_create(&thread, &attributes, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
                _exit(1);
            _exit(0);
        }
        CHECK_THAT(ends_in_time(pid), "child %u hangs where libc frees what belonged to a stack", k);
        if (check_n_failures != 0)
            break;
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    return check_status();
}
