/* test_debug_log.c - HAKMEM_DEBUG=1: in debug builds one line per event of the shared pool, with SuperSlab, slab, class and counts;
 * in release builds one line that says it has no effect, and no event.
 * The variable is read once, when the library is loaded. So each scene is played by a child that executes this program anew, with
 * its standard error on a pipe; what the child knows about its scene it leaves in a shared file without a name.
 * Checked: which lines come, in which order, and the numbers in them against the child's own records.
 * Threads  one in each process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/event.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_MAX_BYTES 65536
#define EVENT_MARK "hakmem: event: "
#define SCENE_ARGUMENT "--play"
#define NO_EFFECT "hakmem: HAKMEM_DEBUG=1 has no effect"

/* What the child says about its scene. */
struct scene {
    void *superslab; /* the address of its memory, as in the log */
    unsigned slot, other_slot, class_id, other_class_id;
    bool over; /* it came to its end */
};
static struct scene *scene;
static int scene_fd;

static char text[TEXT_MAX_BYTES];

static bool map_scene_file(void)
{
    void *at = mmap(NULL, sizeof *scene, PROT_READ | PROT_WRITE, MAP_SHARED, scene_fd, 0);
    scene = at;
    return at != MAP_FAILED;
}

static int make_scene(void **state)
{
    (void)state;
    scene_fd = memfd_create("scene", 0); /* open across exec */
    return scene_fd >= 0 && ftruncate(scene_fd, sizeof *scene) == 0 && map_scene_file() ? 0 : -1;
}

/* Has a child play a scene; its standard error ends up in `text`. debug is the variable's value, NULL for none. */
static void play(const char *name, const char *debug)
{
    int ends[2];
    char fd_text[16];
    snprintf(fd_text, sizeof fd_text, "%d", scene_fd);
    memset(scene, 0, sizeof *scene);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (debug != NULL)
            setenv("HAKMEM_DEBUG", debug, 1);
        else
            unsetenv("HAKMEM_DEBUG");
        execl("/proc/self/exe", "test_debug_log", SCENE_ARGUMENT, name, fd_text, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<sizeof text - 1; len += n> 0 ? (size_t)n : 0)
        n = read(ends[0], text + len, sizeof text - 1 - len);
    text[len] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!scene->over || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child ended with status %x and said:\n%s", (unsigned)status, text);
}

static unsigned count_lines(const char *needle)
{
    unsigned n = 0;
    for (const char *at = strstr(text, needle); at != NULL; at = strstr(at + 1, needle))
        n++;
    return n;
}

/* The place of one whole line at or behind `from`; fails when there is none. Returns where it ends. */
static const char *assert_line(const char *from, const char *format, ...)
{
    char line[400];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    assert_true(len > 0 && (size_t)len < sizeof line - 1);
    line[len] = '\n';
    line[len + 1] = 0;
    const char *at = strstr(from, line);
    if (at == NULL || (at != text && at[-1] != '\n'))
        fail_msg("no line \"%.*s\" here:\n%s", len, line, from);
    return at + len;
}

/* ---- Scenes; all in the child ---- */

static struct slab *enter_scene(unsigned class_id)
{
    struct slab *slab = shared_pool_acquire_slab(class_id);
    if (slab == NULL)
        _exit(2);
    scene->superslab = superslab_memory(slab->superslab);
    scene->class_id = class_id;
    scene->slot = superslab_slot_of(slab->superslab, slab);
    return slab;
}

/* Uses a block, returns it and lets go. */
static void use_and_release(struct slab *slab)
{
    void *block;
    if (slab_claim(slab, 1, 1, &block) != 1)
        _exit(3);
    memset(block, 1, class_table[CTL_CLASS(slab_ctl_read(slab))].bytes);
    shared_pool_return_blocks(slab, 0, 1);
    shared_pool_disown_slab(slab);
}

/* Two slabs of two classes; they go one after the other. */
static void release_two(void)
{
    struct slab *slab = enter_scene(class_of(256)), *other = shared_pool_acquire_slab(class_of(4096));
    if (other == NULL || other->superslab != slab->superslab)
        _exit(4);
    scene->other_class_id = class_of(4096);
    scene->other_slot = superslab_slot_of(other->superslab, other);
    use_and_release(slab);
    use_and_release(other);
}

/* The release meets a pin, and happens when that goes. */
static void release_pinned(void)
{
    struct slab *slab = enter_scene(class_of(1024));
    struct superslab *ss = slab->superslab;
    if (!shared_pool_pin(ss))
        _exit(5);
    use_and_release(slab);
    shared_pool_unpin(ss);
}

/* With something in the LRU cache, past which the SuperSlab goes. */
static void release_past_the_cache(void)
{
    struct slab *slab = enter_scene(class_of(64));
    hak_free(hak_malloc(2 * SUPERSLAB_BYTES));
    if (lru_count() != 2)
        _exit(6);
    use_and_release(slab);
    if (lru_count() != 2)
        _exit(7);
}

static void allocate_a_little(void)
{
    for (size_t n = 1; n < 100000; n = n * 3 + 1)
        hak_free(hak_malloc(n));
    hak_trim(HAK_TRIM_PAGES);
}

static const struct {
    const char *name;
    void (*act)(void);
} scenes[] = {
    {"release_two", release_two},
    {"release_pinned", release_pinned},
    {"release_past_the_cache", release_past_the_cache},
    {"allocate_a_little", allocate_a_little},
};

/* The child's main. */
static int play_here(const char *name, const char *fd_text)
{
    scene_fd = (int)strtol(fd_text, NULL, 10);
    if (!map_scene_file())
        return 9;
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++)
        if (strcmp(name, scenes[i].name) == 0) {
            scenes[i].act();
            scene->over = true;
        }
    return pool_check() == NULL ? 0 : 1;
}

/* ---- Debug builds ---- */

static void only_in_debug_builds(void)
{
    if (!EVENT_LOG_BUILT)
        skip();
}

static void a_release_is_logged_step_by_step(void **state)
{
    (void)state;
    only_in_debug_builds();
    play("release_two", "1");
    const char *at = assert_line(text, EVENT_MARK "slab release ss=%p slab=%u class=%u empty=%u", scene->superslab,
                                 scene->slot, scene->class_id, SUPERSLAB_SLABS - 1u);
    at = assert_line(at, EVENT_MARK "free-list push ss=%p slab=%u empties=%u", scene->superslab, scene->slot, 1u);
    at = assert_line(at, EVENT_MARK "slab release ss=%p slab=%u class=%u empty=%u", scene->superslab, scene->other_slot,
                     scene->other_class_id, (unsigned)SUPERSLAB_SLABS);
    assert_line(at, EVENT_MARK "superslab empty ss=%p unused=%u empty=%u", scene->superslab, SUPERSLAB_SLABS - 2u, 2u);
    at = assert_line(at, EVENT_MARK "free-list push ss=%p slab=%u empties=%u", scene->superslab, scene->other_slot, 0u);
    assert_line(at, EVENT_MARK "superslab eager free ss=%p cached=%u", scene->superslab, 0u);
    assert_int_equal(count_lines(EVENT_MARK "slab release "), 2);
    assert_int_equal(count_lines(EVENT_MARK "free-list push "), 2);
    assert_int_equal(count_lines(EVENT_MARK "superslab empty "), 1);
    assert_int_equal(count_lines(EVENT_MARK "superslab eager free "), 1);
    assert_int_equal(count_lines(EVENT_MARK "slab skip, pinned "), 0);
}

static void a_pin_is_logged_as_the_reason_to_skip(void **state)
{
    (void)state;
    only_in_debug_builds();
    play("release_pinned", "1");
    const char *at = assert_line(text, EVENT_MARK "slab skip, pinned ss=%p slab=%u class=%u", scene->superslab,
                                 scene->slot, scene->class_id);
    assert_int_equal(count_lines(EVENT_MARK "slab skip, pinned "), 1);
    assert_int_equal(count_lines(EVENT_MARK "slab release "), 1); /* behind it, by unpin */
    at = assert_line(at, EVENT_MARK "slab release ss=%p slab=%u class=%u empty=%u", scene->superslab, scene->slot,
                     scene->class_id, (unsigned)SUPERSLAB_SLABS);
    assert_line(at, EVENT_MARK "superslab eager free ss=%p cached=%u", scene->superslab, 0u);
}

static void an_eager_free_tells_what_the_cache_holds(void **state)
{
    (void)state;
    only_in_debug_builds();
    play("release_past_the_cache", "1");
    const char *at = assert_line(text, EVENT_MARK "superslab empty ss=%p unused=%u empty=%u", scene->superslab,
                                 SUPERSLAB_SLABS - 1u, 1u);
    assert_line(at, EVENT_MARK "superslab eager free ss=%p cached=%u", scene->superslab, 2u);
}

/* ---- Any build ---- */

static void without_the_variable_nothing_is_said(void **state)
{
    (void)state;
    play("release_pinned", NULL);
    assert_int_equal(count_lines("hakmem:"), 0);
    play("allocate_a_little", "0");
    assert_int_equal(count_lines("hakmem:"), 0);
}

static void a_release_build_says_that_it_has_no_effect(void **state)
{
    (void)state;
    play("release_two", "1");
    assert_int_equal(count_lines(NO_EFFECT), EVENT_LOG_BUILT ? 0 : 1);
    if (EVENT_LOG_BUILT)
        return;
    assert_int_equal(count_lines("hakmem:"), 1);
    assert_int_equal(count_lines("\n"), 1); /* and nothing else at all */
    play("allocate_a_little", "1");
    assert_int_equal(count_lines("\n"), 1);
}

static void every_line_of_the_log_is_whole(void **state)
{
    (void)state;
    play("allocate_a_little", "1");
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); rest != NULL; line = strsep(&rest, "\n")) {
        const char *beginning = EVENT_LOG_BUILT ? EVENT_MARK : NO_EFFECT;
        if (strncmp(line, beginning, strlen(beginning)) != 0 || strchr(line, '%') != NULL)
            fail_msg("not a line of the log: %s", line);
    }
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], SCENE_ARGUMENT) == 0)
        return play_here(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_release_is_logged_step_by_step),
        cmocka_unit_test(a_pin_is_logged_as_the_reason_to_skip),
        cmocka_unit_test(an_eager_free_tells_what_the_cache_holds),
        cmocka_unit_test(without_the_variable_nothing_is_said),
        cmocka_unit_test(a_release_build_says_that_it_has_no_effect),
        cmocka_unit_test(every_line_of_the_log_is_whole),
    };
    return cmocka_run_group_tests(tests, make_scene, NULL);
}
