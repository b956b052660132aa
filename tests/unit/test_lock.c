/* test_lock.c - a lock that knows its owner.
 * Checked: who holds it, and what its holder is told; that who sleeps is woken when it is dropped; that a sleeper gets it though another one
 * was woken in its stead, and does not take it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "os/lock.h"
#include "os/os.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LONG_MS 60000

static struct lock lock;
static _Atomic int32_t sleeper_id;
static _Atomic int n_taken;

/* It could be a signal handler that runs now, in the thread that was woken. */
static void *is_woken_and_does_not_take_it(void *unused)
{
    _Atomic uint32_t *word = (_Atomic uint32_t *)(void *)&lock.word;
    uint32_t seen = atomic_fetch_or(word, 1) | 1; /* sleepers */
    sleeper_id = os_thread_id();
    os_futex_wait_ms(word, seen, LONG_MS);
    return unused;
}

static void *takes_it(void *unused)
{
    sleeper_id = os_thread_id();
    if (lock_take(&lock, lock_self()) == LOCK_TAKEN_AFTER_WAIT) {
        n_taken++;
        lock_drop(&lock);
    }
    return unused;
}

static char state_of(int32_t thread_id)
{
    char name[64], text[256] = {0};
    snprintf(name, sizeof name, "/proc/self/task/%d/stat", (int)thread_id);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    return strrchr(text, ')')[2];
}

static pthread_t start_and_let_sleep(void *(*function)(void *))
{
    pthread_t thread;
    sleeper_id = 0;
    assert_int_equal(pthread_create(&thread, NULL, function, NULL), 0);
    while (sleeper_id == 0 || state_of(sleeper_id) != 'S')
        os_sleep_ms(1);
    return thread;
}

static void test_a_sleeper_does_not_rest_on_being_woken(void **state)
{
    (void)state;
    assert_int_equal(lock_take(&lock, lock_self()), LOCK_TAKEN);
    pthread_t woken = start_and_let_sleep(is_woken_and_does_not_take_it), other = start_and_let_sleep(takes_it);
    lock_drop(&lock);
    uint32_t from_ms = os_now_ms();
    while (n_taken == 0 && os_now_ms() - from_ms < LONG_MS / 2)
        os_sleep_ms(1);
    assert_int_equal(n_taken, 1);
    pthread_join(other, NULL);
    pthread_join(woken, NULL);
}

/* A sleeper looks again by itself after a while, so that a lock which wakes nobody makes no test wait for long: it is but slow. It would look
 * at a moment of its own each time; of so many times, woken, it had the lock at once in one at least, however busy the machine is. */
static void test_a_sleeper_is_woken(void **state)
{
    (void)state;
    enum { ROUNDS = 10, SOON_MS = 50 };
    uint32_t least_ms = UINT32_MAX;
    for (unsigned round = 0; round < ROUNDS; round++) {
        n_taken = 0;
        assert_int_equal(lock_take(&lock, lock_self()), LOCK_TAKEN);
        pthread_t sleeper = start_and_let_sleep(takes_it); /* it has just begun to sleep */
        uint32_t from_ms = os_now_ms();
        lock_drop(&lock);
        pthread_join(sleeper, NULL);
        uint32_t took_ms = os_now_ms() - from_ms;
        assert_int_equal(n_taken, 1);
        least_ms = took_ms < least_ms ? took_ms : least_ms;
    }
    if (least_ms > SOON_MS)
        fail_msg("who sleeps has the lock %u ms after it was dropped, at best", least_ms);
    n_taken = 0;
}

static void test_who_holds_it(void **state)
{
    (void)state;
    assert_int_equal(lock_owner(&lock), 0);
    assert_int_equal(lock_take(&lock, lock_self()), LOCK_TAKEN);
    assert_int_equal(lock_take(&lock, lock_self()), LOCK_SELF);
    assert_int_equal(lock_owner(&lock), lock_self());
    assert_false(lock_try(&lock, lock_self()));
    lock_drop(&lock);
    assert_int_equal(lock_owner(&lock), 0);
    assert_true(lock_try(&lock, lock_self()));
    lock_reset(&lock);
    assert_int_equal(lock_owner(&lock), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_holds_it),
        cmocka_unit_test(test_a_sleeper_is_woken),
        cmocka_unit_test(test_a_sleeper_does_not_rest_on_being_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
