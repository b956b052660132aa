/* test_wipe.c - blocks of every size of a class are cleared and looked at by steps of every width that the processor has:
 * nothing less than the block, and nothing beside it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/wipe.h"
#include "os/os.h"

#include <string.h>

#define MOST_BYTES 32768
#define BESIDE_BYTES 512 /* on either side of the block */
#define FILL 0xa5

static unsigned char memory[BESIDE_BYTES + MOST_BYTES + BESIDE_BYTES] __attribute__((aligned(4096)));
static unsigned char *const block = memory + BESIDE_BYTES;

static const unsigned widths[] = {16, 32, 64};

/* All that are likely to go wrong: each multiple of 16 up to 2048, then the classes' and what is beside them. */
static size_t next_length(size_t len_bytes)
{
    return len_bytes + (len_bytes < 2048 ? 16 : 16 + len_bytes / 8 / 16 * 16);
}

static void expect_all(const unsigned char *from, size_t len_bytes, unsigned char value)
{
    for (size_t i = 0; i < len_bytes; i++)
        assert_int_equal(from[i], value);
}

static void test_clear(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        if (widths[w] > os_vector_bytes())
            continue; /* not on this processor */
        wipe_step_bytes = widths[w];
        for (size_t n = 16; n <= MOST_BYTES; n = next_length(n)) {
            memset(memory, FILL, sizeof memory);
            wipe_clear(block, n);
            expect_all(block, n, 0);
            expect_all(block - BESIDE_BYTES, BESIDE_BYTES, FILL);
            expect_all(block + n, BESIDE_BYTES, FILL);
        }
    }
}

static void test_look(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        if (widths[w] > os_vector_bytes())
            continue;
        wipe_step_bytes = widths[w];
        for (size_t n = 16; n <= MOST_BYTES; n = next_length(n)) {
            memset(memory, FILL, sizeof memory);
            memset(block, 0, n);
            assert_true(wipe_is_clear(block, n)); /* whatever lies beside it */
            for (size_t i = 0; i < n; i++) {
                block[i] = (unsigned char)(1u << (i % 8));
                assert_false(wipe_is_clear(block, n));
                block[i] = 0;
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_clear), cmocka_unit_test(test_look)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
