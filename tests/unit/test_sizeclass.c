/* test_sizeclass.c - what a request gets: for every request up to 65537 bytes a block that is large enough, aligned, and not
 * too large; and the arithmetic of sizeclass.h against plain division, for every offset of every class.
 * Checked: the tables alone, then real blocks; both by properties that any good set of classes has, not by its rows.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "meta/sizeclass.h"
#include "os/os.h"
#include "pool/shared_pool.h"

#include <string.h>

#define LAST_REQUEST 65537u
#define WASTE_DIVISOR 4 /* at most a quarter of a block lies idle ... */
#define WASTE_FROM 65u  /* ... of requests above 64 bytes */

static void assert_little_waste(size_t size_bytes, size_t block_bytes)
{
    if (size_bytes < WASTE_FROM || os_page_bytes() > 4096) /* larger pages round spans up further */
        return;
    if (block_bytes - size_bytes > block_bytes / WASTE_DIVISOR)
        fail_msg("%zu bytes get a block of %zu", size_bytes, block_bytes);
}

/* ---- The tables ---- */

static void classes_ascend_and_fill_a_slab(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        const struct class_info *class = &class_table[id];
        assert_true(class->bytes > class_table[id - 1].bytes);
        assert_int_equal(class->n_blocks, SLAB_BYTES / class->bytes);
        assert_int_equal(class->n_words, (class->n_blocks + 63) / 64);
        assert_true(class->n_words <= SLAB_MAX_WORDS);
        assert_int_equal(class->bytes % (class->bytes <= 8 ? 8 : 16), 0);
        if (class->bytes != 17664) /* which leaves whole pages of it untouched */
            /* the tail of a slab */
            assert_true(SLAB_BYTES - (size_t) class->n_blocks * class->bytes <= SLAB_BYTES / 8);
    }
    assert_int_equal(class_table[CLASS_END - 1].bytes, CLASS_MAX_BYTES);
    assert_int_equal(class_table[CLASS_FOREIGN].bytes, 0);
    assert_int_equal(class_table[CLASS_SPAN].bytes, 0);
    assert_int_equal(class_table[CLASS_GAPS].bytes, 0);
}

static void ranges_end_at_powers_of_two(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        unsigned range = 0;
        while (range < 8 && class_table[id].bytes > (size_t)8 << range)
            range++;
        assert_int_equal(class_table[id].range, range);
    }
}

static void every_request_has_the_smallest_class(void **state)
{
    (void)state;
    for (size_t n = 0; n <= CLASS_MAX_BYTES; n++) {
        unsigned id = class_of(n);
        assert_in_range(id, CLASS_FIRST, CLASS_END - 1);
        if (class_table[id].bytes < n || (id > CLASS_FIRST && class_table[id - 1].bytes >= n))
            fail_msg("%zu bytes: class of %u", n, class_table[id].bytes);
        if (n > SMALL_MAX_BYTES)
            assert_int_equal(class_of_medium(n), id);
        if (n <= SMALL_MAX_BYTES)
            assert_int_equal(small_class_offset[(n + 7) / 8], id * CLASS_OFFSET_SCALE);
    }
}

static void block_index_is_exact(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++)
        for (size_t offset = 0; offset < SLAB_BYTES; offset++) {
            const struct class_info *class = &class_table[id];
            unsigned index;
            bool begins = class_block_at(class, offset, &index);
            if (class_block_index(class, offset) != offset / class->bytes || index != offset / class->bytes)
                fail_msg("class of %u, offset %zu: %u, %u", class->bytes, offset, class_block_index(class, offset),
                         index);
            if (begins != (offset % class->bytes == 0))
                fail_msg("class of %u, offset %zu: a block %s there", class->bytes, offset, begins ? "begins" : "ends");
        }
}

/* The smallest class that fits and keeps the alignment, by a search that knows nothing of order. */
static unsigned search_aligned(size_t size_bytes, size_t alignment)
{
    unsigned best = 0;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++)
        if (class_table[id].bytes >= size_bytes && class_table[id].bytes % alignment == 0 &&
            (best == 0 || class_table[id].bytes < class_table[best].bytes))
            best = id;
    return best;
}

static void aligned_class_fits_and_is_a_multiple(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= CLASS_MAX_BYTES; alignment *= 2) {
        unsigned expected = 0;
        for (size_t n = 0; n <= CLASS_MAX_BYTES; n++) {
            if (n == 0 ||
                (expected != 0 && class_table[expected].bytes < n)) /* else the same class is still the smallest */
                expected = search_aligned(n, alignment);
            unsigned id = class_of_aligned(n, alignment);
            if (id != expected || id == 0 || class_table[id].bytes < n || class_table[id].bytes % alignment != 0)
                fail_msg("%zu bytes on multiples of %zu: class %u instead of %u", n, alignment, id, expected);
        }
        assert_int_equal(class_of_aligned(CLASS_MAX_BYTES + 1, alignment), 0);
    }
    assert_int_equal(class_of_aligned(1, CLASS_MAX_BYTES * 2), 0);
    assert_int_equal(class_of_aligned(SIZE_MAX, 16), 0);
}

/* ---- Real blocks ---- */

static void good_size_fits_and_is_monotone(void **state)
{
    (void)state;
    size_t before_bytes = 0;
    for (size_t n = 0; n <= LAST_REQUEST; n++) {
        size_t good_bytes = hak_good_size(n);
        assert_true(good_bytes >= n && good_bytes > 0);
        assert_true(good_bytes >= before_bytes);
        assert_int_equal(hak_good_size(good_bytes), good_bytes); /* asking for so much costs no more */
        assert_little_waste(n, good_bytes);
        before_bytes = good_bytes;
    }
    assert_int_equal(hak_good_size(SIZE_MAX), 0);
    assert_int_equal(hak_good_size(((size_t)1 << 47) - 1), 0); /* whose last page would end where addresses do */
}

static void assert_block(const void *block, size_t size_bytes)
{
    assert_non_null(block);
    size_t usable_bytes = hak_usable_size(block);
    if (usable_bytes < size_bytes || usable_bytes < hak_good_size(size_bytes))
        fail_msg("%zu bytes: %zu usable", size_bytes, usable_bytes);
    if ((uintptr_t)block % (size_bytes <= 8 ? 8 : 16) != 0)
        fail_msg("%zu bytes: block %p is not aligned", size_bytes, block);
    assert_little_waste(size_bytes, usable_bytes);
}

/* Upwards, so that some blocks are alive beside each one, which is written to its end. */
static void every_request_gets_a_fitting_block(void **state)
{
    (void)state;
    enum { N_ALIVE = 64 };
    static unsigned char *alive[N_ALIVE];
    static size_t usable[N_ALIVE];
    for (size_t n = 0; n <= LAST_REQUEST + N_ALIVE; n++) {
        unsigned char **place = &alive[n % N_ALIVE], mark = (unsigned char)(n / N_ALIVE),
                      old_mark = (unsigned char)(mark - 1);
        size_t *place_usable = &usable[n % N_ALIVE];
        if (*place != NULL) {
            assert_int_equal(hak_usable_size(*place), *place_usable); /* constant over the block's life */
            if ((*place)[0] != old_mark || (*place)[*place_usable - 1] != old_mark)
                fail_msg("a block of %zu bytes was overwritten by another", *place_usable);
            hak_free(*place);
            *place = NULL;
        }
        if (n > LAST_REQUEST)
            continue;
        *place = hak_malloc(n);
        assert_block(*place, n);
        *place_usable = hak_usable_size(*place);
        memset(*place, mark, *place_usable);
    }
    for (size_t i = 0; i < N_ALIVE; i++) {
        hak_free(alive[i]);
        alive[i] = NULL;
    }
    assert_null(pool_check());
}

static void aligned_blocks_are_aligned(void **state)
{
    (void)state;
    enum { N_SIZES = 200 };
    for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 2) {
        void *blocks[N_SIZES];
        for (size_t i = 0; i < N_SIZES; i++) {
            size_t n = i * i; /* 0 to 39601: every kind of class, and spans */
            blocks[i] = alignment > 64 * KIB && i >= 3 ? NULL : hak_aligned_alloc(alignment, n);
            if (blocks[i] == NULL) {
                assert_true(alignment > 64 * KIB && i >= 3); /* so many would need too much address space */
                continue;
            }
            assert_int_equal((uintptr_t)blocks[i] % alignment, 0);
            assert_true(hak_usable_size(blocks[i]) >= n);
            memset(blocks[i], 1, n);
        }
        for (size_t i = 0; i < N_SIZES; i++)
            hak_free(blocks[i]);
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_null(pool_check());
}

/* calloc zeroes what was asked for and not a byte more, whatever way it does so. */
static void calloc_zeroes_exactly(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 700; n++) {
        unsigned char *dirty = hak_malloc(n);
        assert_non_null(dirty);
        size_t usable = hak_usable_size(dirty);
        memset(dirty, 0xa5, usable);
        hak_free(dirty);
        unsigned char *block = hak_calloc(n % 2 == 0 ? 2 : 1, n % 2 == 0 ? n / 2 : n);
        assert_ptr_equal(block, dirty); /* the last that was freed */
        for (size_t i = 0; i < usable; i++)
            if (block[i] != (i < n ? 0 : 0xa5))
                fail_msg("calloc of %zu bytes: byte %zu is %#x", n, i, block[i]);
        hak_free(block);
    }
    assert_null(hak_calloc(SIZE_MAX / 2, 3));
    assert_null(hak_calloc(SIZE_MAX, SIZE_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_ascend_and_fill_a_slab),
        cmocka_unit_test(ranges_end_at_powers_of_two),
        cmocka_unit_test(every_request_has_the_smallest_class),
        cmocka_unit_test(block_index_is_exact),
        cmocka_unit_test(aligned_class_fits_and_is_a_multiple),
        cmocka_unit_test(good_size_fits_and_is_monotone),
        cmocka_unit_test(every_request_gets_a_fitting_block),
        cmocka_unit_test(aligned_blocks_are_aligned),
        cmocka_unit_test(calloc_zeroes_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
