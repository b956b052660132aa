/* test_report.c - the lines that the library writes: what each kind of value becomes, and that one that is too long is cut, and is a
 * line yet. Each is written to a pipe; and that a handler that interrupts the writing loses nothing of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "os/os.h"
#include "service/report.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#define MOST_BYTES 400 /* LINE_MAX_BYTES of report.c, the newline included */

static int ends[2], saved_stderr;

static void begin(void)
{
    assert_int_equal(pipe(ends), 0);
    saved_stderr = dup(STDERR_FILENO);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[1]);
    errno = 1234;
}

/* What was written since. */
static const char *end(void)
{
    static char text[4096];
    int error = errno;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    text[n < 0 ? 0 : n] = 0;
    assert_int_equal(error, 1234);
    return text;
}

static void values_are_written_as_they_are(void **state)
{
    (void)state;
    begin();
    report_line("%s, %p, %z, %u, %x, 100%%", "text", (void *)(uintptr_t)0xabc0, (size_t)0, 4294967295u, 0x1fu);
    assert_string_equal(end(), "text, 0xabc0, 0, 4294967295, 1f, 100%\n");
    begin();
    report_line("%z", SIZE_MAX);
    assert_string_equal(end(), "18446744073709551615\n");
}

/* Of every length around the most, by one value and by the text that follows it. */
static void a_long_line_is_cut_and_ends(void **state)
{
    char value[2 * MOST_BYTES];
    (void)state;
    for (size_t n = MOST_BYTES - 20; n < sizeof value; n++) {
        memset(value, 'x', n);
        value[n] = 0;
        begin();
        report_line("%s, and %z", value, (size_t)123456);
        const char *line = end();
        size_t whole = n + sizeof ", and 123456" - 1, expected = whole < MOST_BYTES - 1 ? whole : MOST_BYTES - 1;
        assert_int_equal(strlen(line), expected + 1);
        assert_int_equal(line[expected], '\n');
        assert_int_equal(strspn(line, "x"), n < expected ? n : expected);
    }
}

static void a_long_value_is_shown_by_its_beginning(void **state)
{
    char value[301];
    (void)state;
    for (size_t n = 98; n < 300; n++) {
        memset(value, 'v', n);
        value[n] = 0;
        begin();
        report_bad_value("NAME", value, "0|1", "0");
        const char *line = end();
        assert_true(strncmp(line, "hakmem: NAME=", 13) == 0);
        assert_int_equal(strspn(line + 13, "v"), n < 100 ? n : 100);
        assert_string_equal(line + 13 + (n < 100 ? n : 100), n <= 100
                                                                 ? " is not understood (expected 0|1); using 0\n"
                                                                 : "... is not understood (expected 0|1); using 0\n");
    }
}

/* ---- Signals --------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t n_alarms;

static void on_alarm(int number)
{
    n_alarms += number == SIGALRM;
}

#define MANY_BYTES (256 * KIB) /* what no pipe takes at once */
static char written[MANY_BYTES], got[MANY_BYTES + 1];

/* Reads only when what fills the pipe has been interrupted time and again: the first time it may have written a part. */
static void *read_late(void *argument)
{
    int file = *(int *)argument, n_waiting = 0;
    size_t len = 0;
    ssize_t n;
    while (ioctl(file, FIONREAD, &n_waiting) == 0 && n_waiting == 0)
        usleep(1000);
    for (sig_atomic_t first = n_alarms; n_alarms - first < 5;)
        usleep(1000);
    while ((n = read(file, got + len, sizeof got - len)) > 0)
        len += (size_t)n;
    return (void *)len;
}

/* A handler that was installed without SA_RESTART interrupts a write to a pipe that nobody reads from yet. All arrives, once. */
static void a_handler_interrupts_a_write(void **state)
{
    (void)state;
    int ends[2];
    pthread_t reader;
    void *len;
    sigset_t alarm_only;
    struct sigaction action = {.sa_handler = on_alarm}, before;
    const struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    for (size_t i = 0; i < sizeof written; i++)
        written[i] = (char)(i * 7 + i / 1000);
    assert_int_equal(pipe(ends), 0);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    /* for the reader: the signals are the writer's */
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &alarm_only, NULL), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_late, &ends[0]), 0);
    assert_int_equal(pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL), 0);
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    errno = 4321;
    int error = os_write(ends[1], written, sizeof written), errno_after = errno;
    setitimer(ITIMER_REAL, &never, NULL);
    close(ends[1]);
    for (unsigned i = 0; error != 0 && i < 5; i++) /* the reader waits for them */
        n_alarms++;
    assert_int_equal(pthread_join(reader, &len), 0);
    close(ends[0]);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(error, 0);
    assert_int_equal(errno_after, 4321);
    assert_int_equal((size_t)len, sizeof written);
    assert_memory_equal(got, written, sizeof written);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_written_as_they_are),
        cmocka_unit_test(a_long_line_is_cut_and_ends),
        cmocka_unit_test(a_long_value_is_shown_by_its_beginning),
        cmocka_unit_test(a_handler_interrupts_a_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
