/* test_stats_text.c - the statistics as text: each figure stands beside its own words.
 * The figures of a line differ from one another, so that none could stand for its neighbour, and are those of hak_stats_get.
 * Threads  one, and nothing happens by itself: what is printed is what was read before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/introspect.h"
#include "api/printing.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "service/config.h"
#include "service/stats.h"
#include "look.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char printed[64 * KIB];

/* Has the statistics written, and reads them: one space where there are several, so that columns make no difference. */
static void print(void)
{
    static char buffer[64 * KIB];
    size_t len = 0;
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    assert_non_null(file);
    assert_true(saved >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    printing_text(buffer, sizeof buffer);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    for (int c; (c = fgetc(file)) != EOF && len < sizeof printed - 1;)
        if (c != ' ' || len == 0 || printed[len - 1] != ' ')
            printed[len++] = (char)c;
    printed[len] = 0;
    fclose(file);
}

/* Whether a line reads so, each # being the next of these figures. */
static void assert_line(const char *words, unsigned n, const uint64_t *figures)
{
    char line[512] = "\n";
    size_t len = strlen(line);
    unsigned used = 0;
    for (; *words != 0; words++)
        if (*words == '#') {
            assert_true(used < n);
            len += (size_t)snprintf(line + len, sizeof line - len, "%llu", (unsigned long long)figures[used++]);
        } else {
            line[len++] = *words;
            line[len] = 0;
        }
    assert_int_equal(used, n);
    snprintf(line + len, sizeof line - len, "\n");
    if (strstr(printed, line) == NULL)
        fail_msg("there is no line%sin%s", line, printed);
}

static void assert_figures(const char *words, unsigned n, const uint64_t *figures)
{
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < i; k++)
            if (figures[i] == figures[k])
                fail_msg("figures %u and %u of \"%s\" are both %llu: either could stand for the other", k, i, words,
                         (unsigned long long)figures[i]);
    assert_line(words, n, figures);
}

#define ASSERT_FIGURES(words, ...)                                                                                     \
    assert_figures(words, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), (uint64_t[]){__VA_ARGS__})

/* Every counter another number, far from those of the others. */
static void tell_counters_apart(void)
{
    struct stats_counters *c = &stats_counters;
    _Atomic uint64_t *counters[] = {
        &c->superslabs_mapped_total,
        &c->superslabs_released_total,
        &c->superslabs_evicted_total,
        &c->slot_reuses_other_class,
        &c->stage_class_list,
        &c->stage_slot,
        &c->stage_reopen,
        &c->stage_lru,
        &c->stage_os,
        &c->gap_blocks_total,
        &c->tier_hot_to_draining,
        &c->tier_draining_to_hot,
        &c->tier_to_free,
        &c->lock_contended,
    };
    for (unsigned i = 0; i < sizeof counters / sizeof counters[0]; i++)
        stats_add(counters[i], 100000 * (i + 1));
    stats_add(&c->purged_bytes, 1000 * MIB);
    stats_add(&c->peak_committed_bytes, 2000 * MIB);
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        stats_add(&c->lock_acquisitions[i], 3000000 * (i + 1));
    tls_thread->refills += 5000000;
    tls_thread->flushes += 6000000;
}

enum { N_SMALL = 150000, N_SPANS = 7, N_RUNS = 3 };
static void *small[N_SMALL], *spans[N_SPANS], *runs[N_RUNS];

/* Something of everything: blocks that live, that a thread has, and that are free; spans and runs; what is cached. */
static void fill(void)
{
    for (unsigned i = 0; i < N_SMALL; i++)
        memset(small[i] = hak_malloc(64), 1, 64);
    for (unsigned i = 0; i < N_SMALL; i++)
        if (i % 10 < 3)
            hak_free(small[i]);
    for (unsigned i = 0; i < N_SPANS; i++)
        assert_non_null(spans[i] = hak_malloc(200 * KIB + i * 10 * KIB));
    for (unsigned i = 0; i < N_RUNS; i++)
        assert_non_null(runs[i] = hak_malloc(3 * MIB + i * MIB));
    hak_free(runs[0]);
    hak_free(spans[3]);
}

static void each_figure_stands_beside_its_words(void **state)
{
    (void)state;
    start_without_ticks();
    assert_int_equal(hak_profile_start(4096), 0);
    fill();
    tell_counters_apart();
    struct hak_stats s = read_stats();
    print();
    uint64_t locks = 0;
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        locks += s.lock_acquisitions[i];
    ASSERT_FIGURES(" live # KiB in # blocks", s.live_bytes / KIB, s.live_blocks);
    ASSERT_FIGURES(" cached # KiB in # blocks, # threads", s.cached_bytes / KIB, s.cached_blocks, s.threads);
    ASSERT_FIGURES(" committed # KiB, at most #; mapped #, records #", s.committed_bytes / KIB,
                   s.peak_committed_bytes / KIB, s.mapped_bytes / KIB, s.metadata_bytes / KIB);
    struct hak_resident resident;
    const char *in_memory = strstr(printed, "\n in memory ");
    unsigned long long resident_kib = 0, huge_kib = 0;
    assert_int_equal(hak_resident_get(&resident), 0);
    assert_non_null(in_memory);
    assert_int_equal(sscanf(in_memory, " in memory %llu KiB, %llu of them in huge pages\n", &resident_kib, &huge_kib),
                     2);
    assert_true(resident_kib * KIB >= N_SMALL / 2 * 64 && resident_kib >= huge_kib);
    assert_true(resident_kib <= s.committed_bytes / KIB);
    ASSERT_FIGURES(" fragmented # KiB committed without a block, # of them in empty slots; # were purged",
                   s.fragmentation_bytes / KIB, s.empty_bytes / KIB, s.purged_bytes / KIB);
    ASSERT_FIGURES(" rounding # KiB of #, estimated by # blocks of the heap profile", s.rounding_bytes / KIB,
                   s.rounding_of_bytes / KIB, s.rounding_samples);
    ASSERT_FIGURES(" SuperSlabs # hot, # draining, # cached; # mapped, # released, # evicted", s.superslabs_hot,
                   s.superslabs_draining, s.superslabs_cached, s.superslabs_mapped_total, s.superslabs_released_total,
                   s.superslabs_evicted_total);
    ASSERT_FIGURES(" slots # active, # empty, # unused; # reused by another class", s.slots_active, s.slots_empty,
                   s.slots_unused, s.slot_reuses_other_class);
    ASSERT_FIGURES(" large # spans of # KiB, # runs of # KiB", s.spans, s.span_bytes / KIB, s.runs, s.run_bytes / KIB);
    ASSERT_FIGURES(" acquired # from class lists, # slots, # reopened, # cached, # from the system", s.stage_class_list,
                   s.stage_slot, s.stage_reopen, s.stage_lru, s.stage_os);
    ASSERT_FIGURES(" gaps # slabs have some open, # larger blocks were placed in them", s.gap_slabs,
                   s.gap_blocks_total);
    ASSERT_FIGURES(" tiers # to draining, # reopened, # to free", s.tier_hot_to_draining, s.tier_draining_to_hot,
                   s.tier_to_free);
    ASSERT_FIGURES(" batches # refills, # flushes; lock taken # times, # after a wait", s.refills, s.flushes, locks,
                   s.lock_contended);
    assert_line(" hot # # # # # # # # # #", HAK_STATS_TENTHS, s.hot_by_fullness);
    assert_line(" draining # # # # # # # # # #", HAK_STATS_TENTHS, s.draining_by_fullness);
    hak_profile_stop();
}

/* Of each class that has slabs there is a row, which has the census's figures in the order of the headings. */
static void each_class_has_its_row(void **state)
{
    struct census c;
    (void)state;
    introspect_census(&c);
    print();
    assert_non_null(strstr(printed, "\n class slabs live cached free dirty KiB\n"));
    unsigned n_rows = 0, n_lines = 0;
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c.classes[i];
        char words[64];
        if (class->slabs == 0)
            continue;
        if (i < CLASS_END)
            snprintf(words, sizeof words, " %u # # # # #", (unsigned)class->block_bytes);
        else
            snprintf(words, sizeof words, " %s # # # # #", i == CENSUS_SPANS ? "spans" : "runs");
        const uint64_t figures[] = {class->slabs, class->live_blocks, class->cached_blocks, class->free_blocks,
                                    class->dirty_bytes / KIB};
        if (class->block_bytes == 64)
            assert_figures(words, 5, figures);
        else
            assert_line(words, 5, figures);
        n_rows++;
    }
    for (const char *at = strstr(printed, "dirty KiB\n") + 10; *at != 0; at++)
        n_lines += *at == '\n';
    assert_int_equal(n_lines, n_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_figure_stands_beside_its_words),
        cmocka_unit_test(each_class_has_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
