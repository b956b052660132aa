/* dlopen.c - libraries that come and go. First a plug-in is loaded and unloaded 1,000 times in a process that runs
 * on hakmem, with blocks that outlive it. Then a process that does not run on hakmem loads libhakmem.so itself,
 * uses its native interface beside its own malloc in several threads, closes it, and goes on.
 * Needs  preload_plugin.so in the directory of the program, and the path of libhakmem.so in HAKMEM_LIB or
 * LD_PRELOAD.
 */
#include "check.h"

#include <limits.h>
#include <pthread.h>

/* ---- The plug-in ------------------------------------------------------------------------------------------------- */

struct plugin {
    void *handle;
    void *(*make)(size_t, int);
    void (*take)(void *);
    size_t (*touch)(void);
};

static void get(void *handle, const char *name, void *pointer)
{
    void *symbol = dlsym(handle, name);
    if (symbol == NULL)
        check_say("%s is missing: %s", name, dlerror());
    REQUIRE(symbol != NULL);
    memcpy(pointer, &symbol, sizeof symbol);
}

static void find_plugin(char path[static PATH_MAX])
{
    ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - 40);
    REQUIRE(len > 0);
    path[len] = 0;
    strcpy(strrchr(path, '/') + 1, "preload_plugin.so");
    if (access(path, R_OK) != 0) {
        check_say("there is no plug-in %s", path);
        _exit(1);
    }
}

static struct plugin load_plugin(const char *path)
{
    struct plugin plugin;
    plugin.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (plugin.handle == NULL)
        check_say("%s", dlerror());
    REQUIRE(plugin.handle != NULL);
    get(plugin.handle, "plugin_make", &plugin.make);
    get(plugin.handle, "plugin_take", &plugin.take);
    get(plugin.handle, "plugin_touch", &plugin.touch);
    return plugin;
}

static void *touch_in_thread(void *plugin)
{
    CHECK(((struct plugin *)plugin)->touch() == 12);
    return NULL;
}

static void test_plugin(void)
{
    char path[PATH_MAX];
    char *outliving = NULL;
    find_plugin(path);
    for (unsigned i = 0; i < 1000; i++) {
        struct plugin plugin = load_plugin(path);
        CHECK(plugin.touch() == 12);
        if (i % 20 == 0) {
            pthread_t thread;
            REQUIRE(pthread_create(&thread, NULL, touch_in_thread, &plugin) == 0);
            pthread_join(thread, NULL);
        }
        if (outliving != NULL) { /* a block of a library that has long been unloaded and loaded again */
            CHECK(outliving[0] == (char)(i - 1) && outliving[i] == (char)(i - 1));
            (i % 2 == 0 ? plugin.take : free)(outliving);
        }
        outliving = plugin.make(i + 2, (int)i);
        REQUIRE(outliving != NULL);
        plugin.take(malloc(i * 10));
        CHECK(dlclose(plugin.handle) == 0);
    }
    free(outliving);
}

/* ---- libhakmem.so by dlopen -------------------------------------------------------------------------------------- */

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void (*free)(void *);
    size_t (*usable_size)(const void *);
    size_t (*trim)(int);
    const char *(*version)(void);
    size_t (*stats_json)(char *, size_t);
} hak;

/* Both heaps side by side: what is of one never goes to the other. */
static void *use_both(void *seed)
{
    enum { N = 100 };
    void *theirs[N] = {NULL}, *ours[N] = {NULL};
    size_t sizes[N] = {0};
    uint64_t state = (uintptr_t)seed;
    for (unsigned step = 0; step < 20000; step++) {
        unsigned i = (unsigned)(check_random(&state) % N);
        if (theirs[i] != NULL)
            CHECK(check_filled(theirs[i], sizes[i], i + 1) && check_filled(ours[i], sizes[i], i + 2));
        hak.free(theirs[i]);
        free(ours[i]);
        sizes[i] = check_random_size(&state, step % 40 == 0 ? 18 : 11);
        theirs[i] = step % 3 == 0   ? hak.calloc(1, sizes[i])
                    : step % 3 == 1 ? hak.aligned_alloc(128, sizes[i])
                                    : hak.realloc(hak.malloc(10), sizes[i] + 1);
        ours[i] = malloc(sizes[i]);
        REQUIRE(theirs[i] != NULL && ours[i] != NULL);
        CHECK(hak.usable_size(theirs[i]) >= sizes[i]);
        check_fill(theirs[i], sizes[i], i + 1);
        check_fill(ours[i], sizes[i], i + 2);
    }
    for (unsigned i = 0; i < N; i++) {
        hak.free(theirs[i]);
        free(ours[i]);
    }
    return NULL;
}

static void use_in_threads(unsigned n)
{
    pthread_t threads[16];
    for (uintptr_t i = 0; i < n; i++)
        REQUIRE(pthread_create(&threads[i], NULL, use_both, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* A thread that lives across dlclose and ends after it: its record goes back by code that must still be there. */
static pthread_barrier_t closed;

static void *live_across_close(void *unused)
{
    void *block = hak.malloc(100);
    CHECK(block != NULL);
    pthread_barrier_wait(&closed); /* it has allocated */
    pthread_barrier_wait(&closed); /* the library was closed */
    hak.free(block);
    return unused;
}

static int main_dlopen(const char *library)
{
    pthread_t thread;
    static char json[65536];
    CHECK_THAT(dlsym(RTLD_DEFAULT, "hak_version") == NULL, "this part must not run on hakmem");
    free(malloc(100));
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        check_say("%s", dlerror());
    REQUIRE(handle != NULL);
    CHECK_THAT(dlsym(RTLD_DEFAULT, "hak_version") == NULL, "RTLD_LOCAL has no effect");
    get(handle, "hak_malloc", &hak.malloc);
    get(handle, "hak_calloc", &hak.calloc);
    get(handle, "hak_realloc", &hak.realloc);
    get(handle, "hak_aligned_alloc", &hak.aligned_alloc);
    get(handle, "hak_free", &hak.free);
    get(handle, "hak_usable_size", &hak.usable_size);
    get(handle, "hak_trim", &hak.trim);
    get(handle, "hak_version", &hak.version);
    get(handle, "hak_stats_json", &hak.stats_json);
    CHECK_THAT(!check_same_library((const void *)(uintptr_t)hak.version, dlsym(RTLD_DEFAULT, "malloc")),
               "the program's malloc has become hakmem's");
    use_both((void *)99);
    use_in_threads(6);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        alarm(60);
        use_in_threads(2);
        _exit(check_n_failures == 0 ? 0 : 1);
    }
    check_wait(pid, "a child of the process that loaded the library");
    void *block = hak.malloc(5000);
    REQUIRE(block != NULL);
    check_fill(block, 5000, 4);
    REQUIRE(pthread_barrier_init(&closed, NULL, 2) == 0);
    REQUIRE(pthread_create(&thread, NULL, live_across_close, NULL) == 0);
    pthread_barrier_wait(&closed);
    CHECK(dlclose(handle) == 0);
    pthread_barrier_wait(&closed);
    pthread_join(thread, NULL);
    /* Blocks outlive the handle, and so do the functions. */
    CHECK(check_filled(block, 5000, 4));
    hak.free(block);
    use_in_threads(4);
    CHECK(hak.stats_json(json, sizeof json) < sizeof json && json[0] == '{');
    (void)hak.trim(2);
    for (unsigned i = 0; i < 100; i++) { /* loaded again, it is the same */
        void *again = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        REQUIRE(again != NULL);
        CHECK(dlsym(again, "hak_version") == (void *)(uintptr_t)hak.version);
        hak.free(hak.malloc(i * 100));
        CHECK(dlclose(again) == 0);
    }
    return check_status();
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return main_dlopen(argv[2]);
    check_on_hakmem();
    test_plugin();
    const char *library = getenv("HAKMEM_LIB") != NULL ? getenv("HAKMEM_LIB") : getenv("LD_PRELOAD");
    REQUIRE(library != NULL);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        unsetenv("LD_PRELOAD");
        execl("/proc/self/exe", argv[0], "dlopen", library, (char *)NULL);
        _exit(127);
    }
    check_wait(pid, "the process that loads the library itself");
    return check_status();
}
