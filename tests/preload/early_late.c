/* early_late.c - allocation at the edges of a process's and a thread's life: in constructors before main, in 8192
 * atexit handlers, in destructors after them, in destructors of thread-specific data, and as the first call of a
 * new thread. The process runs itself once more, and what that child writes at its very end shows that all of it
 * was run.
 */
#include "check.h"

#include <pthread.h>

#define N_HANDLERS 8192
#define N_KEYS 100 /* the first 32 lie in the thread's descriptor, the others in a block that libc allocates */

static const size_t first_sizes[] = {0,     1,     8,     9,      16,      24,      64,      100,     128,    200,
                                     500,   1024,  1025,  2000,   4096,    5000,    8192,    9000,    16384,  20000,
                                     32768, 32769, 65536, 100000, 1048576, 1048577, 2031616, 2031617, 5000000};

static void *early[64];
static unsigned n_handlers_run, n_constructors;
static int inner; /* this is the child */

/* One allocation of every kind, and an honest use of it. */
static void exercise(const char *when)
{
    for (size_t i = 0; i < CHECK_COUNT(first_sizes); i++) {
        size_t n = first_sizes[i];
        void *a = malloc(n), *b = calloc(1, n), *c = aligned_alloc(64, n);
        CHECK_THAT(a != NULL && b != NULL && c != NULL, "%s: no memory for %zu bytes", when, n);
        CHECK_THAT(check_zero(b, n), "%s: calloc of %zu bytes is not zero", when, n);
        check_fill(a, n, n + 1);
        check_fill(c, n, n + 2);
        a = realloc(a, n + 1000);
        CHECK_THAT(a != NULL && check_filled(c, n, n + 2), "%s: contents of %zu bytes are lost", when, n);
        free(a);
        free(b);
        free(c);
    }
}

static void handler(void)
{
    void *block = malloc(n_handlers_run % 2000);
    CHECK(block != NULL);
    free(block);
    if (n_handlers_run == 0 || n_handlers_run == N_HANDLERS - 1)
        exercise("in an atexit handler");
    n_handlers_run++;
}

/* Its first act is 8192 registrations, for which libc allocates before anything else does. */
__attribute__((constructor(101))) static void construct_first(void)
{
    for (unsigned i = 0; i < N_HANDLERS; i++)
        CHECK(atexit(handler) == 0);
    for (unsigned i = 0; i < CHECK_COUNT(early); i++) {
        early[i] = malloc(i * 1000);
        CHECK(early[i] != NULL);
        check_fill(early[i], i * 1000, i);
    }
    exercise("in the first constructor");
    n_constructors++;
}

__attribute__((constructor)) static void construct_later(void)
{
    exercise("in a later constructor");
    n_constructors++;
}

/* The last code of the program: after main's handlers, and after this file's other destructors. */
__attribute__((destructor(101))) static void destruct_last(void)
{
    exercise("in the last destructor");
    CHECK_THAT(n_handlers_run == N_HANDLERS, "%u of %d atexit handlers ran", n_handlers_run, N_HANDLERS);
    for (unsigned i = 0; i < CHECK_COUNT(early); i++) {
        CHECK_THAT(check_filled(early[i], i * 1000, i), "a block of %u bytes from before main has changed", i * 1000);
        free(early[i]);
    }
    if (inner) {
        static const char done[] = "done\n";
        CHECK(write(STDOUT_FILENO, done, sizeof done - 1) == sizeof done - 1);
    }
    if (check_n_failures != 0)
        _exit(1);
}

__attribute__((destructor)) static void destruct(void)
{
    exercise("in a destructor");
}

/* ---- Thread-specific data ---------------------------------------------------------------------------------------- */

static pthread_key_t keys[N_KEYS];
static unsigned n_key_destructors;

struct specific {
    unsigned key, rounds;
    char payload[200];
};

/* Sets its key again until the last round, so that most rounds run after the allocator's own destructor. */
static void destroy_specific(void *data)
{
    struct specific *specific = data;
    __atomic_add_fetch(&n_key_destructors, 1, __ATOMIC_RELAXED);
    CHECK(check_filled(specific->payload, sizeof specific->payload, specific->key));
    void *block = malloc(specific->key * 37 % 5000), *large = malloc(50000 + specific->key * 1000);
    CHECK(block != NULL && large != NULL);
    check_fill(large, 50000, 9);
    free(block);
    CHECK(check_filled(large, 50000, 9));
    free(large);
    if (++specific->rounds < 4) {
        struct specific *again = realloc(specific, sizeof *specific + specific->rounds * 300);
        CHECK(again != NULL);
        pthread_setspecific(keys[again->key], again);
    } else {
        free(specific);
    }
}

static void *thread_with_specifics(void *blocks)
{
    for (unsigned i = 0; i < N_KEYS; i++) {
        struct specific *specific = malloc(sizeof *specific);
        CHECK(specific != NULL);
        specific->key = i;
        specific->rounds = 0;
        check_fill(specific->payload, sizeof specific->payload, i);
        CHECK(pthread_setspecific(keys[i], specific) == 0);
    }
    void **out = blocks;
    for (unsigned i = 0; i < CHECK_COUNT(first_sizes); i++) {
        out[i] = malloc(first_sizes[i]);
        CHECK(out[i] != NULL);
        check_fill(out[i], first_sizes[i], i + 50);
    }
    return NULL;
}

static void test_specific_data(void)
{
    enum { N_THREADS = 60 };
    void *blocks[CHECK_COUNT(first_sizes)];
    for (unsigned i = 0; i < N_KEYS; i++)
        REQUIRE(pthread_key_create(&keys[i], destroy_specific) == 0);
    for (unsigned t = 0; t < N_THREADS; t++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, thread_with_specifics, blocks) == 0);
        pthread_join(thread, NULL);
        for (unsigned i = 0; i < CHECK_COUNT(first_sizes); i++) {
            CHECK_THAT(check_filled(blocks[i], first_sizes[i], i + 50),
                       "a dead thread's block of %zu bytes has changed", first_sizes[i]);
            free(blocks[i]);
        }
    }
    CHECK_THAT(n_key_destructors == N_THREADS * N_KEYS * 4, "%u destructors ran", n_key_destructors);
    for (unsigned i = 0; i < N_KEYS; i++)
        pthread_key_delete(keys[i]);
}

/* ---- First calls ------------------------------------------------------------------------------------------------- */

enum first_call {
    FIRST_MALLOC,
    FIRST_CALLOC,
    FIRST_REALLOC,
    FIRST_ALIGNED,
    FIRST_FREE,
    FIRST_REALLOC_OF_BLOCK,
    FIRST_USABLE,
    N_FIRST
};

struct first {
    enum first_call call;
    size_t size;
    void *block;
};

size_t malloc_usable_size(void *block);

static void *make_first_call(void *argument)
{
    struct first *first = argument;
    switch (first->call) {
    case FIRST_MALLOC:
        first->block = malloc(first->size);
        break;
    case FIRST_CALLOC:
        first->block = calloc(1, first->size);
        break;
    case FIRST_REALLOC:
        first->block = realloc(NULL, first->size);
        break;
    case FIRST_ALIGNED:
        first->block = aligned_alloc(4096, first->size);
        break;
    case FIRST_FREE:
        free(first->block);
        first->block = malloc(first->size);
        break;
    case FIRST_REALLOC_OF_BLOCK:
        first->block = realloc(first->block, first->size + 1);
        break;
    default:
        CHECK(malloc_usable_size(first->block) >= first->size);
    }
    CHECK_THAT(first->block != NULL, "the first call (kind %d) of a thread fails for %zu bytes", first->call,
               first->size);
    check_fill(first->block, first->size, first->size + 7);
    return NULL;
}

static void test_first_calls(void)
{
    for (unsigned call = 0; call < N_FIRST; call++)
        for (size_t i = 0; i < CHECK_COUNT(first_sizes); i++) {
            struct first first = {(enum first_call)call, first_sizes[i], malloc(first_sizes[i])};
            void *ours = call < FIRST_FREE ? first.block : NULL;
            pthread_t thread;
            REQUIRE(pthread_create(&thread, NULL, make_first_call, &first) == 0);
            pthread_join(thread, NULL);
            CHECK_THAT(check_filled(first.block, first.size, first.size + 7),
                       "a block of %zu bytes of a dead thread has changed", first.size);
            free(first.block);
            free(ours);
        }
}

/* ---- The child --------------------------------------------------------------------------------------------------- */

static void run_inner(const char *name)
{
    int ends[2];
    char text[16] = "";
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", name, "inner", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<sizeof text - 1; len += n> 0 ? (size_t)n : 0)
        n = read(ends[0], text + len, sizeof text - 1 - len);
    close(ends[0]);
    check_wait(pid, "the program that is watched to its end");
    CHECK_THAT(strcmp(text, "done\n") == 0, "the last destructor did not come to its end: \"%s\"", text);
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    inner = argc > 1;
    CHECK(n_constructors == 2);
    exercise("in main");
    if (inner)
        return check_status();
    run_inner(argv[0]);
    test_specific_data();
    test_first_calls();
    return check_status();
}
