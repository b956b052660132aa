/* fork_pool.pml - a SuperSlab, its slots and its pages, in the child of a fork that comes at any instant.
 * Stands for
 *   src/pool/repair.c: shared_pool_fork_child rebuild_superslab
 *   src/pool/slots.c: pool_lock_inherited pool_add_superslab pool_detach_superslab pool_take_slots_out pool_put_slots
 *   src/pool/purge.c: purge_empty_slots
 *   src/pool/dirty.c: superslab_forget_slots superslab_extend_dirty superslab_is_clean
 *   src/pool/huge_pages.c: superslab_choose_pages
 *   src/pool/release.c: release_untouched release_row release_forget
 *   src/pool/lru.c: lru_push lru_take lru_forget
 *   src/pool/span.c: span_claim put_slots_and_unlock
 *   src/pool/run.c: mark_run unmark_run put_superslabs_and_unlock
 *   src/meta/arena.c: mark_taken arena_put
 * Proves, of the child, when its fork handler is done and after whatever it does then
 *   P1  what counts as clean reads as zero: UNUSED slots, and SuperSlabs outside the pool with nothing dirty. calloc
 *       relies on it
 *   P2  the masks of slots agree with the slots' own words, and their number with the count of EMPTY ones
 *   P3  memory that the program has is not free
 *   P4  the lock is free; if another thread had it, no SuperSlab is left in the hands of a thread that is gone
 * Abstracted away
 *   The instant: see fork_cache.pml. One SuperSlab of two slots, which is also a run of one. One other thread that
 *   does what there is to do with it, and a third that may hold the lock for something else. Each slot has one page.
 *   Lists: they are built anew from what is modelled here, and taken as they are when the lock was free. Slabs: a
 *   slot in use is a span's; what is in slabs is in fork_cache.pml. The child, being alone, takes no step beside
 *   another. Addresses lost to the child (a record that says ABSENT while the arena's bit says taken) are lost, no
 *   more. SPIN assumes sequential consistency; the stores to `state`, ctl and `tier` are atomic ones of that order or
 *   release.
 * Broken variants
 *   BROKEN_pooled_first       a SuperSlab is marked POOLED before its slots' records tell which pages are dirty
 *   BROKEN_unused_before_gone a purged slot is filed as UNUSED before its pages are gone
 *   BROKEN_hands_by_record    of a SuperSlab that was in the hands of a thread that is gone, slots are forgotten only
 *                             if its record says that they tell what is dirty
 *   BROKEN_hands_not_dirty    such a SuperSlab is filed with what its record says is dirty
 *   BROKEN_taken_kept         the child leaves slots TAKEN by a thread that is gone
 *   BROKEN_empty_not_counted  the child does not count the EMPTY slots anew
 */
#define ALL 3

mtype = { ABSENT, MAPPING, POOLED, CACHED, RUN, LEAVING };
mtype = { UNUSED, EMPTY, TAKEN, SPAN };

/* The SuperSlab's record, and those of its slots. */
mtype state = ABSENT;
mtype ctl[2] = UNUSED;
bool dirty[2];           /* dirty_pages */
byte unused_slots, empty_slots;      /* masks */
bool dirty_by_slab;
byte prefix;             /* dirty_prefix_bytes, in slots */
byte n_empty_slots;      /* the pool's */
byte lock;

bool written[2];         /* the page does not read as zero */
byte spans;              /* slots that the program has */
bool run_held;           /* the program has the run */
bool forked;

#define DO(statement) atomic { statement }
#define is_clean() (!dirty_by_slab && prefix == 0)
#define count(mask) (((mask) & 1) + (((mask) >> 1) & 1))
#define BIT(i) (1 << (i))

inline take_lock() { DO(lock == 0 -> lock = 1) }
inline drop_lock() { DO(lock = 0) }

inline forget_slots(gone)
{
    i = 0;
    new_prefix = prefix;
    do
    :: i < 2 && dirty_by_slab ->
        if
        :: ctl[i] != UNUSED ->
            if
            :: dirty[i] -> new_prefix = i + 1
            :: else
            fi;
            DO(dirty[i] = false);
            DO(ctl[i] = UNUSED)
        :: else
        fi;
        i++
    :: else -> break
    od;
    if
    :: gone -> new_prefix = 0
    :: else
    fi;
    DO(dirty_by_slab = false);
    DO(prefix = new_prefix; i = 0; new_prefix = 0)
}

inline add_superslab()
{
#ifdef BROKEN_pooled_first
    DO(state = POOLED);
#endif
    DO(unused_slots = ALL);
    DO(empty_slots = 0);
    i = 0;
    do
    :: i < 2 && !is_clean() ->
        if
        :: !dirty_by_slab -> DO(dirty[i] = (prefix > i))
        :: else
        fi;
        DO(ctl[i] = (dirty[i] -> EMPTY : UNUSED));
        if
        :: dirty[i] -> DO(empty_slots = empty_slots | BIT(i))
        :: else
        fi;
        i++
    :: else -> break
    od;
    DO(unused_slots = ALL & ~empty_slots);
    DO(dirty_by_slab = false);
    DO(prefix = 0);
    DO(n_empty_slots = n_empty_slots + count(empty_slots); i = 0);
#ifndef BROKEN_pooled_first
    DO(state = POOLED)
#endif
}

inline detach_superslab()
{
    DO(n_empty_slots = n_empty_slots - count(empty_slots));
    DO(state = LEAVING);
    DO(dirty_by_slab = (empty_slots != 0))
}

inline take_slots_out(mask)
{
    DO(n_empty_slots = n_empty_slots - count(empty_slots & (mask)));
    DO(unused_slots = unused_slots & ~(mask));
    DO(empty_slots = empty_slots & ~(mask));
    i = 0;
    do
    :: i < 2 ->
        if
        :: ((mask) & BIT(i)) != 0 -> DO(ctl[i] = TAKEN)
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od
}

/* A slot to the program, which writes to it. */
inline claim_span(slot)
{
    take_slots_out(BIT(slot));
    DO(ctl[slot] = SPAN);
    DO(assert(dirty[slot] || !written[slot]); dirty[slot] = true);
    drop_lock();
    DO(spans = spans | BIT(slot); written[slot] = true)
}

inline release_row()
{
    if
    :: DO(written[0] = false; written[1] = false) -> gone = true
    :: gone = false /* the system refuses */
    fi;
    forget_slots(gone);
    if
    :: gone -> DO(ctl[0] = UNUSED; ctl[1] = UNUSED; dirty[0] = false; dirty[1] = false) /* arena_purge_records */
    :: true /* which may fail, or not be tried */
    fi;
    gone = false;
    take_lock();
    DO(state = ABSENT);
    drop_lock()
}

/* Detached and empty: at once to the system, or into the cache. Lock held; returns without it. */
inline leave_pool()
{
    if
    :: drop_lock(); release_row()
    :: DO(state = CACHED); drop_lock()
    fi
}

inline return_span(slot)
{
    DO(spans = spans & ~BIT(slot));
    take_lock();
    DO(ctl[slot] = EMPTY);
    DO(empty_slots = empty_slots | BIT(slot));
    DO(n_empty_slots = n_empty_slots + 1);
    if
    :: (unused_slots | empty_slots) == ALL -> detach_superslab(); leave_pool()
    :: else -> drop_lock()
    fi
}

/* The EMPTY slots; the system may refuse. */
inline purge_empty()
{
    aged = empty_slots;
    take_slots_out(aged);
    drop_lock();
    if
    :: DO(written[0] = written[0] && (aged & 1) == 0; written[1] = written[1] && (aged & 2) == 0) -> gone = true
    :: gone = false
    fi;
    take_lock();
    i = 0;
    do
    :: i < 2 ->
        if
        :: (aged & BIT(i)) != 0 ->
#ifdef BROKEN_unused_before_gone
            DO(ctl[i] = UNUSED);
            if
            :: !gone -> DO(ctl[i] = EMPTY)
            :: gone -> DO(dirty[i] = false)
            fi
#else
            if
            :: gone -> DO(dirty[i] = false)
            :: else
            fi;
            DO(ctl[i] = (gone -> UNUSED : EMPTY))
#endif
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od;
    if
    :: gone -> DO(unused_slots = unused_slots | aged)
    :: else -> DO(empty_slots = empty_slots | aged); DO(n_empty_slots = n_empty_slots + count(aged))
    fi;
    gone = false;
    aged = 0;
    if
    :: (unused_slots | empty_slots) == ALL -> detach_superslab(); leave_pool()
    :: else -> drop_lock()
    fi
}

/* MAPPING, in our hands: huge pages may be chosen, for which old small ones go. */
inline choose_pages()
{
    if
    :: !is_clean() -> DO(written[0] = false; written[1] = false); forget_slots(true)
    :: true
    fi
}

/* LEAVING, in our hands: purged if hardly anything is in memory. */
inline release_untouched()
{
    if
    :: DO(written[0] = false; written[1] = false) -> forget_slots(true)
    :: true
    fi
}

/* Whatever there is to do with the SuperSlab. The lock is free, or held by somebody who drops it. */
inline work()
{
    if
    :: run_held ->
        DO(run_held = false);
        take_lock();
        DO(ctl[0] = UNUSED);
        if
        :: DO(state = CACHED) -> drop_lock()
        :: DO(state = LEAVING) -> drop_lock(); release_row()
        :: DO(state = LEAVING) -> drop_lock(); release_untouched(); take_lock(); DO(state = CACHED); drop_lock()
        fi
    :: spans != 0 ->
        if
        :: (spans & 1) != 0 -> return_span(0)
        :: (spans & 2) != 0 -> return_span(1)
        fi
    :: state == ABSENT || state == CACHED ->
        take_lock();
        DO(state = MAPPING); /* arena_take or lru_take */
        if
        :: drop_lock();
           choose_pages();
           take_lock();
           if
           :: add_superslab(); drop_lock()
           :: forget_slots(false);
              DO(prefix = (prefix == 0 -> 1 : prefix));
              DO(state = RUN);
              DO(ctl[0] = SPAN);
              drop_lock();
              DO(run_held = true; written[0] = true)
           fi
        :: add_superslab(); drop_lock()
        fi
    :: state == CACHED ->
        take_lock();
        DO(state = LEAVING);
        drop_lock();
        release_row()
    :: state == POOLED && ((unused_slots | empty_slots) & 1) != 0 -> take_lock(); claim_span(0)
    :: state == POOLED && ((unused_slots | empty_slots) & 2) != 0 -> take_lock(); claim_span(1)
    :: state == POOLED && empty_slots != 0 -> take_lock(); purge_empty()
    fi
}

proctype thread()
{
    byte i, new_prefix, aged;
    bool gone;
    {
end:
        do
        :: work()
        od
    } unless { forked }
}

/* Another, at something else. */
proctype other()
{
    {
end:
        do
        :: DO(lock == 0 -> lock = 2); DO(lock = 0)
        od
    } unless { forked }
}

inline check()
{
    assert(lock == 0);
    assert(state != POOLED || (ctl[0] == UNUSED) == ((unused_slots & 1) != 0));
    assert(state != POOLED || (ctl[1] == UNUSED) == ((unused_slots & 2) != 0));
    assert(state != POOLED || (ctl[0] == EMPTY) == ((empty_slots & 1) != 0));
    assert(state != POOLED || (ctl[1] == EMPTY) == ((empty_slots & 2) != 0));
    assert(n_empty_slots == (state == POOLED -> count(empty_slots) : 0));
    assert(state != POOLED || !written[0] || dirty[0]);
    assert(state != POOLED || !written[1] || dirty[1]);
    assert(!(state == ABSENT || state == CACHED) || !is_clean() || (!written[0] && !written[1]));
    assert(!run_held || state == RUN);
    assert(spans == 0 || (state == POOLED && (spans & (unused_slots | empty_slots)) == 0));
    assert(!was_locked || (state != MAPPING && state != LEAVING));
    assert(state != POOLED || !was_locked || (ctl[0] != TAKEN && ctl[1] != TAKEN))
}

proctype child()
{
    byte i, new_prefix, aged;
    bool gone, was_locked;
    atomic {
        forked = true;
        was_locked = (lock != 0);
        if
        :: was_locked ->
            lock = 0;
#ifndef BROKEN_empty_not_counted
            n_empty_slots = 0;
#endif
            if
            :: state == CACHED -> add_superslab()
            :: state == MAPPING || state == LEAVING ->
#ifndef BROKEN_hands_by_record
                dirty_by_slab = true; /* All slots are looked at: the record may be half written. */
#endif
                forget_slots(false);
#ifndef BROKEN_hands_not_dirty
                prefix = 2;
#endif
                state = ABSENT
            :: state == POOLED ->
                unused_slots = 0;
                empty_slots = 0;
                do
                :: i < 2 ->
#ifndef BROKEN_taken_kept
                    if
                    :: ctl[i] == TAKEN -> ctl[i] = EMPTY
                    :: else
                    fi;
#endif
                    if
                    :: ctl[i] == UNUSED -> unused_slots = unused_slots | BIT(i)
                    :: ctl[i] == EMPTY -> empty_slots = empty_slots | BIT(i)
                    :: else
                    fi;
                    i++
                :: else -> i = 0; break
                od;
                n_empty_slots = n_empty_slots + count(empty_slots)
            :: else
            fi
        :: else
        fi;
        check()
    };
end:
    do
    :: atomic { work(); check() }
    od
}

init {
    atomic {
        run thread();
        run other();
        run child()
    }
}
