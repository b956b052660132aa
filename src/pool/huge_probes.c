/* huge_probes.c - see huge_probes.h.
 * Owns     the probes, and how long they are trusted.     Called by  huge_runs.c     Calls  os.h; config.h
 * Threads  any; the probes are written under the pool lock, the system is asked without it.
 */
#include "pool/huge_probes.h"

#include "os/os.h"
#include "service/config.h"

bool probes_page_is_in_memory(const char *address)
{
    size_t page_bytes = os_page_bytes();
    /* NOLINT: that block's */
    return os_resident_bytes((const void *)((uintptr_t)address & ~(page_bytes - 1)), page_bytes) != 0;
}

/* Where a run is looked at: a touch brings a whole huge page, so there must be two at least, or small ones behind the only one. In
 * hardened mode what lies behind the data is inaccessible, for an unknown length. */
bool probes_run_is_filled(const struct superslab *ss, size_t run_bytes)
{
    const char *memory = superslab_memory(ss);
    size_t last = run_bytes < 2 * SUPERSLAB_BYTES ? run_bytes - 1 : (run_bytes & ~(SUPERSLAB_BYTES - 1)) - 1;
    if (run_bytes == SUPERSLAB_BYTES || (config.secure != 0 && run_bytes < 2 * SUPERSLAB_BYTES))
        return false;
    return probes_page_is_in_memory(memory) && probes_page_is_in_memory(memory + run_bytes / 2) &&
           (config.secure != 0 || probes_page_is_in_memory(memory + last));
}

/* Of a run of one huge page nothing can be seen; but of those as long with small pages, the newest that there are. If all of them have been
 * filled, the others count as filled, once: then the oldest is no probe any more, so that there will be another. (By one alone, 1,000 blocks of
 * 2 MiB of which 20 are filled, the others one byte, took 1,279 MiB; 55 would do.)
 * A longer run tells itself that it is filled, but not how densely. So of some the last SuperSlab has small pages, where half of what may be
 * unfilled is. What they tell holds for as many times UNFILLED_BYTES as all before them, up to TRUST_MAX. (64 blocks of 8 MiB of which every
 * tenth page is used: 513 MiB without, 115 so.) */
#define TRUST_MAX 8

struct probes {
    struct superslab *_Atomic of[N_PROBES]; /* Written under the pool lock. NULL: none */
    _Atomic unsigned next;                  /* the oldest one's place. Likewise */
};

static struct probes singles, longer, heads;
static _Atomic unsigned trust, trust_left; /* of the longer ones. Written under the pool lock */

/* So many runs after a look at heads nobody looks again. */
#define HEADS_TRUST 64
static _Atomic unsigned heads_trust; /* Likewise */

/* The last SuperSlab that a run fills. */
static const struct superslab *last_whole(const struct superslab *ss, size_t run_bytes)
{
    return &ss[(run_bytes >> SUPERSLAB_SHIFT) - 1];
}

static bool is_probe_of(const struct probes *probes, const struct superslab *ss)
{
    if (ss->state != SUPERSLAB_RUN || ss->run_bytes < SUPERSLAB_BYTES || ss->run_bytes > HUGE_RUN_MAX_BYTES)
        return false;
    if (probes == &heads)
        return !ss->huge;
    return (ss->run_bytes == SUPERSLAB_BYTES) == (probes == &singles) && !last_whole(ss, ss->run_bytes)->huge;
}

/* The place of one that is gone stays NULL. */
static void copy_of(const struct probes *probes, struct probes_seen *seen)
{
    for (unsigned i = 0; i < N_PROBES; i++) {
        struct superslab *ss = probes->of[i];
        bool is = ss != NULL && is_probe_of(probes, ss);
        seen->of[i] = is ? ss : NULL;
        seen->run_bytes[i] = is ? ss->run_bytes : 0;
    }
}

void probes_copy(struct probes_copy *copy)
{
    copy_of(&singles, &copy->singles);
    copy_of(&longer, &copy->longer);
    copy_of(&heads, &copy->heads);
    copy->longer_are_trusted = trust_left != 0;
    copy->heads_are_trusted = heads_trust != 0;
}

static bool single_is_filled(const struct superslab *ss)
{
    const char *memory = superslab_memory(ss);
    return probes_page_is_in_memory(memory) && probes_page_is_in_memory(memory + SUPERSLAB_BYTES / 2) &&
           (config.secure != 0 || probes_page_is_in_memory(memory + SUPERSLAB_BYTES - 1));
}

/* There are as many as there can be, and all are filled. */
bool probes_tell_filled(const struct probes_copy *copy)
{
    for (unsigned i = 0; i < N_PROBES; i++)
        if (copy->singles.of[i] == NULL || !single_is_filled(copy->singles.of[i]))
            return false;
    return true;
}

static bool is_dense(const struct superslab *ss, size_t run_bytes)
{
    return os_resident_bytes(superslab_memory(last_whole(ss, run_bytes)), SUPERSLAB_BYTES) >= SUPERSLAB_BYTES / 8 * 7;
}

/* There are filled ones, and all of them are dense. */
bool probes_tell_dense(const struct probes_copy *copy)
{
    bool any = false;
    if (copy->longer_are_trusted)
        return true;
    for (unsigned i = 0; i < N_PROBES; i++) {
        const struct superslab *ss = copy->longer.of[i];
        size_t run_bytes = copy->longer.run_bytes[i];
        if (ss == NULL || !probes_run_is_filled(ss, run_bytes))
            continue;
        if (!is_dense(ss, run_bytes))
            return false;
        any = true;
    }
    return any;
}

/* Of a head nothing is known before it is touched, nor while it may be being filled. But where none of as many as there can be is touched,
 * the runs are not used from their beginnings. */
enum probes_heads probes_tell_heads(const struct probes_copy *copy)
{
    enum probes_heads heads_are = HEADS_UNKNOWN;
    unsigned n_untouched = 0;
    for (unsigned i = 0; i < N_PROBES; i++) {
        if (copy->heads.of[i] == NULL)
            continue;
        size_t used_bytes = os_resident_bytes(superslab_memory(copy->heads.of[i]), SUPERSLAB_BYTES);
        if (used_bytes != 0 && used_bytes < SUPERSLAB_BYTES / 2)
            return HEADS_SPARSE;
        if (used_bytes >= SUPERSLAB_BYTES / 8 * 7)
            heads_are = HEADS_DENSE;
        n_untouched += used_bytes == 0;
    }
    return n_untouched == N_PROBES ? HEADS_SPARSE : heads_are;
}

void probes_used_heads(bool looked_at)
{
    heads_trust = looked_at ? HEADS_TRUST : heads_trust != 0 ? heads_trust - 1 : 0;
}

bool probes_want(const struct probes_copy *copy, size_t len_bytes)
{
    bool any = copy->longer_are_trusted;
    for (unsigned i = 0; i < N_PROBES; i++)
        any |= copy->longer.of[i] != NULL;
    return len_bytes >= 2 * SUPERSLAB_BYTES && !any;
}

static struct probes *probes_for(size_t len_bytes)
{
    return len_bytes == SUPERSLAB_BYTES ? &singles : &longer;
}

bool probes_lack_one(size_t len_bytes)
{
    const struct probes *probes = probes_for(len_bytes);
    return atomic_load(&probes->of[atomic_load(&probes->next)]) == NULL;
}

static void note(struct probes *probes, struct superslab *ss)
{
    if (!is_probe_of(probes, ss))
        return;
    for (unsigned i = 0; i < N_PROBES; i++)
        if (probes->of[i] == ss)
            return;
    probes->of[probes->next] = ss;
    probes->next = (probes->next + 1) % N_PROBES;
}

void probes_note(struct superslab *ss)
{
    note(probes_for(ss->run_bytes), ss);
    note(&heads, ss);
}

static void forget(struct probes *probes)
{
    for (unsigned i = 0; i < N_PROBES; i++)
        atomic_store(&probes->of[i], NULL);
}

void probes_used_singles(void)
{
    singles.of[singles.next] = NULL;
}

void probes_used_longer(void)
{
    if (trust_left != 0) {
        trust_left--;
        return;
    }
    trust = trust == 0 ? 1 : trust < TRUST_MAX ? trust * 2 : TRUST_MAX;
    trust_left = trust - 1;
    forget(&longer);
}

void probes_forget(void)
{
    forget(&singles);
    forget(&longer);
    forget(&heads);
}
