/* test_output.c - files that appear whole or not at all.
 */
#include "output.h"
#include "tool.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

void tool_complain(const char *format, ...)
{
    (void)format;
} /* hakmem.c has it; what it says the script tests see */

static char directory[] = "/tmp/hakmem-output.XXXXXX";

static int enter(void **state)
{
    (void)state;
    return mkdtemp(directory) == NULL || chdir(directory) != 0;
}

static int leave(void **state)
{
    (void)state;
    return chdir("/") != 0 || rmdir(directory) != 0; /* fails if a test has left a file */
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void check_text(const char *path, const char *expected)
{
    char text[100] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(text, expected);
}

static unsigned n_files(void)
{
    unsigned n = 0;
    DIR *dir = opendir(".");
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void appears_at_the_end(void **state)
{
    (void)state;
    struct output output;
    const mode_t mask = umask(027);
    put("new", "before");
    chmod("new", 0604);
    assert_int_equal(output_open(&output, "new"), 0);
    fputs("after", output.file);
    fflush(output.file);
    check_text("new", "before");
    assert_int_equal(output_finish(&output), 0);
    check_text("new", "after");
    struct stat there;
    assert_int_equal(stat("new", &there), 0);
    assert_int_equal(there.st_mode & 0777, 0604); /* as it was */
    unlink("new");
    assert_int_equal(output_open(&output, "new"), 0);
    assert_int_equal(output_finish(&output), 0);
    assert_int_equal(stat("new", &there), 0);
    assert_int_equal(there.st_mode & 0777, 0640); /* as the umask says */
    assert_int_equal(n_files(), 1);
    unlink("new");
    umask(mask);
}

static void leaves_nothing_when_abandoned(void **state)
{
    (void)state;
    struct output output;
    put("old", "before");
    assert_int_equal(output_open(&output, "old"), 0);
    fputs("half of", output.file);
    output_abandon(&output);
    check_text("old", "before");
    assert_int_equal(n_files(), 1);
    unlink("old");
}

static void follows_links(void **state)
{
    (void)state;
    struct output output;
    mkdir("there", 0777);
    put("there/file", "before");
    assert_int_equal(symlink("there/file", "link"), 0);
    assert_int_equal(output_open(&output, "link"), 0);
    fputs("after", output.file);
    assert_int_equal(output_finish(&output), 0);
    check_text("there/file", "after");
    struct stat link;
    assert_int_equal(lstat("link", &link), 0);
    assert_true(S_ISLNK(link.st_mode));
    unlink("link");
    unlink("there/file");
    rmdir("there");
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    struct output output;
    char long_path[PATH_MAX + 10];
    memset(long_path, 'a', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    assert_int_equal(output_open(&output, "no-such-directory/file"), -1);
    assert_int_equal(output_open(&output, "."), -1);
    assert_int_equal(output_open(&output, ""), -1);
    assert_int_equal(output_open(&output, long_path), -1);
    assert_int_equal(output_check("no-such-directory/file"), -1);
    assert_int_equal(output_check("file"), 0);
    assert_int_equal(n_files(), 0);
}

/* A device is written to, never replaced. */
static void devices_stay(void **state)
{
    (void)state;
    struct output output;
    struct stat there;
    assert_int_equal(output_open(&output, "/dev/full"), 0);
    fputs("text", output.file);
    assert_int_equal(output_finish(&output), -1);
    assert_int_equal(output_open(&output, "/dev/null"), 0);
    fputs("text", output.file);
    assert_int_equal(output_finish(&output), 0);
    assert_int_equal(stat("/dev/full", &there), 0);
    assert_true(S_ISCHR(there.st_mode));
    assert_int_equal(stat("/dev/null", &there), 0);
    assert_true(S_ISCHR(there.st_mode));
}

static void write_out(const char *path, const char *text)
{
    struct output output;
    assert_int_equal(output_open(&output, path), 0);
    fputs(text, output.file);
    assert_int_equal(output_finish(&output), 0);
}

/* A link to nothing is where a file is to appear, and stays. */
static void makes_what_links_lead_to(void **state)
{
    (void)state;
    struct stat link;
    struct output output;
    mkdir("there", 0777);
    assert_int_equal(symlink("there/second", "first"), 0);
    assert_int_equal(symlink("file", "there/second"), 0);
    write_out("first", "text");
    check_text("there/file", "text");
    assert_int_equal(lstat("first", &link), 0);
    assert_true(S_ISLNK(link.st_mode));
    unlink("there/file");
    unlink("there/second");
    rmdir("there");
    assert_int_equal(output_open(&output, "first"), -1); /* there is no directory any more */
    unlink("first");
    assert_int_equal(symlink("round", "round"), 0);
    assert_int_equal(output_open(&output, "round"), -1);
    unlink("round");
    assert_int_equal(n_files(), 0);
}

/* What is open in this process is written to where it stands, however it is named. */
static void goes_on_in_what_is_open(void **state)
{
    (void)state;
    struct output output;
    char path[64];
    const int fd = open("file", O_WRONLY | O_CREAT, 0666);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "before ", 7), 7);
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    write_out(path, "then ");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    write_out(path, "more ");
    assert_int_equal(symlink(path, "link"), 0);
    write_out("link", "by a link ");
    assert_int_equal(write(fd, "behind", 6), 6);
    check_text("file", "before then more by a link behind");
    close(fd);
    assert_int_equal(output_open(&output, path), -1); /* it is closed */
    const int reading = open("file", O_RDONLY);
    assert_int_equal(reading, fd);
    assert_int_equal(output_open(&output, path), -1);
    close(reading);
    unlink("link");
    unlink("file");
    assert_int_equal(n_files(), 0);
}

/* As long as the system has it, and no longer: which is known before there is something to write. */
static void names_of_any_length(void **state)
{
    (void)state;
    char name[NAME_MAX + 2];
    for (size_t length = NAME_MAX - 10; length <= NAME_MAX; length++) {
        memset(name, 'a', length);
        name[length] = '\0';
        assert_int_equal(output_check(name), 0);
        write_out(name, "text");
        check_text(name, "text");
        unlink(name);
    }
    memset(name, 'a', NAME_MAX + 1);
    name[NAME_MAX + 1] = '\0';
    assert_int_equal(output_check(name), -1);
    assert_int_equal(n_files(), 0);
}

static void at_the_limit_of_file_sizes(void **state)
{
    (void)state;
    struct output output;
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){10, before.rlim_max};
    put("old", "before");
    assert_int_equal(output_open(&output, "old"), 0);
    fputs("more than ten bytes", output.file);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const int result = output_finish(&output);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(result, -1);
    check_text("old", "before");
    assert_int_equal(n_files(), 1);
    unlink("old");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appears_at_the_end),
        cmocka_unit_test(leaves_nothing_when_abandoned),
        cmocka_unit_test(follows_links),
        cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(devices_stay),
        cmocka_unit_test(makes_what_links_lead_to),
        cmocka_unit_test(goes_on_in_what_is_open),
        cmocka_unit_test(names_of_any_length),
        cmocka_unit_test(at_the_limit_of_file_sizes),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
