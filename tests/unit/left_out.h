/* left_out.h - a test that this machine has not what it takes for is skipped, and what was left out is no pass: the program's status says so
 * (77), where cmocka's alone would be 0. What a kind of build leaves out, or a mode that is on, is not meant: it lacks nothing.
 * Included by  tests/unit/test_*.c     Threads  the test's own
 */
#ifndef HAKMEM_TESTS_UNIT_LEFT_OUT_H
#define HAKMEM_TESTS_UNIT_LEFT_OUT_H

#include "pool/release.h"

#include <stdbool.h>

static bool any_left_out;

/* Instead of skip(). */
#define leave_out() (any_left_out = true, skip())

/* At a test's beginning: it rests on what is in memory being asked about, which is not done under a filter of system calls. */
#define leave_out_where_nobody_may_ask() (release_may_ask(1) ? (void)0 : leave_out())

/* What main returns, of the number of tests that failed. */
static inline int status_with_left_out(int n_failed)
{
    return n_failed == 0 && any_left_out ? 77 : n_failed;
}

#endif
