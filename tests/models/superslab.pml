/* superslab.pml - SuperSlabs from the arena into the pool, its tiers, the LRU cache and back; slots, pins, the
 * release guard.
 * Stands for
 *   src/pool/slots.c: pool_add_superslab pool_detach_superslab pool_link_superslab unlink_superslab
 *     pool_evaluate_tier
 *   src/pool/slots.c: pool_reopen_superslab pool_reopen pool_take_slot pool_take_slots pool_take_slots_out
 *     pool_put_slots
 *   src/pool/shared_pool.c: shared_pool_acquire_slab take_superslab_and_unlock acquire_from_new open_slot let_wait shared_pool_retire
 *     check_release
 *   src/pool/shared_pool.c: shared_pool_release_slab shared_pool_pin shared_pool_unpin
 *   src/pool/release.c: release_guard_agrees release_later release_superslab release_row give_back
 *   src/pool/release.c: superslab_map
 *   src/pool/dirty.c: superslab_forget_slots
 *   src/pool/lru.c: lru_push lru_take_for_pool take_expired
 *   src/pool/purge.c: purge_empty_slots
 *   src/pool/idle.c: idle_push idle_pop idle_remove
 *   src/pool/span.c: span_claim put_slots_and_unlock
 *   src/meta/arena.c: arena_take arena_put
 * Proves
 *   P1  no memory in use goes back to the system, and no SuperSlab that somebody refers to
 *   P2  a slot has one holder; whenever the lock is free, masks, slots and the count of EMPTY ones agree, and a
 *       SuperSlab is in a list of the pool exactly when it is POOLED
 *   P3  when no call is in progress, every SuperSlab is absent, cached or pooled, and a pooled one has a slot in use
 *       or waiting
 *   P4  an empty slab whose release was refused is released when the last reference goes
 *   P5  nobody waits for ever: there is no invalid end state
 * Abstracted away
 *   One SuperSlab of two slots; others share with it only what the lock guards. What is done under the lock is one
 *   step, as nobody looks at it meanwhile, but for slabs that are owned without it (slab.pml). A slab is in use, or
 *   RETIRING by one thread, or empty and waiting for its next owner. Which of several that would do is taken: any.
 *   When a SuperSlab drains: at any time. Whether the cache is full: it may be. Rows of the cache, and runs: their
 *   lists are touched under the lock alone, and tests/unit/test_lru.c walks them. Refusals of the system: purge.pml,
 *   and tests/unit/test_faults.c.
 *   SPIN assumes sequential consistency; `pins` and ctl are read under the lock that those who matter have written
 *   them under.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_guard_ignores_pins the release guard does not look at the references
 *   BROKEN_cache_ignores_pins the cache hands out, and gives back, what somebody refers to
 *   BROKEN_pin_any            a reference is given to a SuperSlab that is not in the pool
 *   BROKEN_refused_unlocked   a refused release takes the slab back only after it has dropped the lock
 *   BROKEN_unpin_forgets      the last reference goes without a look at what was refused meanwhile
 *   BROKEN_detach_later       a SuperSlab found empty is detached only when the lock was dropped and taken again
 *   BROKEN_put_first          a SuperSlab is back in the arena before its slots are forgotten
 */
#ifndef N_SUPERSLABS
#define N_SUPERSLABS 1
#endif
#define N_SLOTS (2 * N_SUPERSLABS)
#define FREE(ss) (unused_slots[ss] | empty_slots[ss])
#define ALL 3
#define BIT(slot) (1 << (slot))
#define count(mask) (((mask) & 1) + (((mask) >> 1) & 1))
#ifdef BROKEN_guard_ignores_pins
#define guard_agrees(ss) true
#else
#define guard_agrees(ss) (pins[ss] == 0)
#endif

mtype = { ABSENT, MAPPING, POOLED, CACHED, LEAVING };
mtype = { UNUSED, EMPTY, TAKEN, IN_USE, WAITING, RETIRING };

mtype state[N_SUPERSLABS] = ABSENT;
mtype ctl[N_SLOTS] = UNUSED;       /* slot k of SuperSlab s is 2 s + k */
byte unused_slots[N_SUPERSLABS], empty_slots[N_SUPERSLABS];
bool draining[N_SUPERSLABS], linked[N_SUPERSLABS];
byte pins[N_SUPERSLABS];
byte idle;                         /* a bit for each slot */
byte n_empty_slots;
byte i, n;                         /* of the checks */
bool lock;
byte n_calls;

/* What is always so while the lock is free. */
inline check_lists(ss)
{
    assert(linked[ss] == (state[ss] == POOLED));
    assert(state[ss] != POOLED || (ctl[2 * ss] == UNUSED) == ((unused_slots[ss] & 1) != 0));
    assert(state[ss] != POOLED || (ctl[2 * ss + 1] == UNUSED) == ((unused_slots[ss] & 2) != 0));
    assert(state[ss] != POOLED || (ctl[2 * ss] == EMPTY) == ((empty_slots[ss] & 1) != 0));
    assert(state[ss] != POOLED || (ctl[2 * ss + 1] == EMPTY) == ((empty_slots[ss] & 2) != 0))
}

inline check()
{
    d_step {
        n = 0;
        for (i : 0 .. N_SUPERSLABS - 1) {
            check_lists(i);
            n = n + (state[i] == POOLED -> count(empty_slots[i]) : 0)
        }
        assert(n_empty_slots == n);
        i = 0;
        n = 0
    }
}

inline check_waiting(k)
{
    assert(ctl[k] != TAKEN && ctl[k] != RETIRING);
    assert(ctl[k] != WAITING || (idle & BIT(k)) != 0 || pins[(k) / 2] != 0);
    assert((idle & BIT(k)) == 0 || ctl[k] == WAITING || ctl[k] == IN_USE)
}

inline leave()
{
    d_step {
        n_calls--;
        ss = 0; k = 0; result = 0; eager = false;
        if
        :: n_calls == 0 ->
            assert(!lock);
            for (i : 0 .. N_SUPERSLABS - 1) {
                assert(state[i] == ABSENT || state[i] == CACHED || (state[i] == POOLED && FREE(i) != ALL))
            }
            for (i : 0 .. N_SLOTS - 1) { check_waiting(i) }
            i = 0
        :: else
        fi
    }
}

/* ---- Under the lock ---- */

inline add_superslab()
{
    assert(state[ss] == MAPPING && !linked[ss]);
    state[ss] = POOLED;
    draining[ss] = false;
    empty_slots[ss] = (ctl[2 * ss] == EMPTY -> 1 : 0) | (ctl[2 * ss + 1] == EMPTY -> 2 : 0);
    unused_slots[ss] = ALL & ~empty_slots[ss];
    n_empty_slots = n_empty_slots + count(empty_slots[ss]);
    linked[ss] = true
}

inline detach_superslab()
{
    assert(state[ss] == POOLED && linked[ss]);
    linked[ss] = false;
    n_empty_slots = n_empty_slots - count(empty_slots[ss]);
    draining[ss] = false;
    state[ss] = LEAVING
}

inline take_slot()
{
    assert(ctl[k] == UNUSED || ctl[k] == EMPTY);
    n_empty_slots = n_empty_slots - (ctl[k] == EMPTY -> 1 : 0);
    unused_slots[ss] = unused_slots[ss] & ~BIT(k % 2);
    empty_slots[ss] = empty_slots[ss] & ~BIT(k % 2);
    ctl[k] = TAKEN
}

/* An empty SuperSlab has been detached: it goes back at once if `eager`, else into the cache, which may be full. */
inline leave_pool()
{
    if
    :: !eager -> state[ss] = CACHED
    :: !eager && pins[ss] == 0 -> eager = true /* as release_later: state LEAVING */
    :: eager
    fi
}

/* The slot k of ss becomes EMPTY. Leaves eager: ss is ours to give back. */
inline put_slot(to_cache)
{
    ctl[k] = EMPTY;
    idle = idle & ~BIT(k);
    empty_slots[ss] = empty_slots[ss] | BIT(k % 2);
    n_empty_slots++;
    eager = false;
#ifndef BROKEN_detach_later
    if
    :: FREE(ss) == ALL ->
        detach_superslab();
        eager = !(to_cache) && guard_agrees(ss);
        leave_pool()
    :: else
    fi
#else
    eager = (FREE(ss) == ALL)
#endif
}

/* ---- Without it ---- */

inline release_row()
{
#ifdef BROKEN_detach_later
    atomic { !lock -> detach_superslab() };
#endif
    d_step {
        assert(state[ss] == LEAVING && pins[ss] == 0); /* The pages go. */
        assert(ctl[2 * ss] == EMPTY || ctl[2 * ss] == UNUSED);
        assert(ctl[2 * ss + 1] == EMPTY || ctl[2 * ss + 1] == UNUSED)
    };
#ifdef BROKEN_put_first
    atomic { !lock -> state[ss] = ABSENT; check() };
    d_step { ctl[2 * ss] = UNUSED; ctl[2 * ss + 1] = UNUSED }
#else
    d_step { ctl[2 * ss] = UNUSED; ctl[2 * ss + 1] = UNUSED };
    atomic { !lock -> state[ss] = ABSENT; check() }
#endif
}

inline release_row_if_eager()
{
    if
    :: eager -> eager = false; release_row()
    :: else
    fi
}

/* The slab k of ss is RETIRING, by us. */
inline release_slab()
{
    atomic {
        !lock -> assert(state[ss] == POOLED && ctl[k] == RETIRING);
        if
        :: pins[ss] != 0 ->
#ifdef BROKEN_refused_unlocked
            result = 1
#else
            ctl[k] = WAITING
#endif
        :: else -> put_slot(false)
        fi;
        check()
    };
#ifdef BROKEN_refused_unlocked
    if
    :: result == 1 -> ctl[k] = WAITING; result = 0
    :: else
    fi;
#endif
    release_row_if_eager()
}

/* shared_pool_retire: whoever makes an empty slab RETIRING releases it. */
inline retire()
{
    if
    :: d_step { ctl[k] == WAITING -> ctl[k] = RETIRING }; release_slab()
    :: else
    fi
}

inline choose_superslab()
{
    select(ss : 0 .. N_SUPERSLABS - 1)
}

inline choose_slot()
{
    select(k : 0 .. N_SLOTS - 1);
    ss = k / 2
}

proctype user()
{
    byte ss, k, mine; /* the slot that it has, plus 1 */
    byte result;
    bool eager;
end:
    do
    :: mine == 0 ->
        atomic { n_calls++; choose_slot() };
        if
        :: d_step { ctl[k] == WAITING -> ctl[k] = IN_USE; mine = k + 1 } /* stage 1 */
        :: atomic { /* stage 2 */
               !lock;
               if
               :: state[ss] == POOLED && !draining[ss] && (FREE(ss) & BIT(k % 2)) != 0 -> take_slot(); mine = k + 1
               :: state[ss] == POOLED && draining[ss] && (FREE(ss) & BIT(k % 2)) != 0 -> draining[ss] = false
#ifdef BROKEN_cache_ignores_pins
               :: state[ss] == CACHED ->
#else
               :: state[ss] == CACHED && pins[ss] == 0 ->
#endif
                   state[ss] = MAPPING; result = 1
               :: state[ss] == ABSENT -> state[ss] = MAPPING; result = 1
               :: else
               fi;
               check()
           };
           if
           :: result == 1 -> atomic { !lock -> add_superslab(); take_slot(); mine = k + 1; check() }
           :: else
           fi;
           if
           :: mine != 0 -> d_step { assert(ctl[k] == TAKEN && state[ss] == POOLED); ctl[k] = IN_USE }
           :: else
           fi
        fi;
        leave()
    :: mine != 0 ->
        atomic { n_calls++; k = mine - 1; ss = k / 2; mine = 0 };
        assert(ctl[k] == IN_USE && state[ss] == POOLED);
        if
        :: atomic { !lock -> put_slot(true); check() }; /* a span */
            release_row_if_eager()
        :: ctl[k] = RETIRING; /* a slab */
            if
            :: release_slab()
            :: atomic { !lock -> ctl[k] = WAITING; idle = idle | BIT(k) } /* let_wait */
            fi
        fi;
        leave()
    od
}

proctype tick()
{
    byte ss, k, result;
    bool eager;
end:
    do
    :: atomic { n_calls++; choose_slot() };
        if
        :: atomic { !lock && state[ss] == POOLED -> draining[ss] = true }
        :: atomic { !lock && (idle & BIT(k)) != 0 -> idle = idle & ~BIT(k) };
            retire()
        :: atomic { !lock && state[ss] == POOLED && (empty_slots[ss] & BIT(k % 2)) != 0 -> take_slot(); check() };
            assert(ctl[k] == TAKEN); /* The pages go. */
            atomic {
                !lock -> ctl[k] = UNUSED;
                unused_slots[ss] = unused_slots[ss] | BIT(k % 2);
                if
                :: FREE(ss) == ALL ->
#ifndef BROKEN_detach_later
                    detach_superslab();
#endif
                    eager = guard_agrees(ss);
                    leave_pool()
                :: else
                fi;
                check()
            };
            release_row_if_eager()
#ifdef BROKEN_cache_ignores_pins
        :: atomic { !lock && state[ss] == CACHED -> state[ss] = LEAVING };
#else
        :: atomic { !lock && state[ss] == CACHED && pins[ss] == 0 -> state[ss] = LEAVING };
#endif
            release_row()
        :: true
        fi;
        leave()
    od
}

proctype pinner()
{
    byte ss, k, result, pinned; /* the SuperSlab that it refers to, plus 1 */
    bool eager;
end:
    do
    :: pinned == 0 ->
        atomic {
            n_calls++;
            choose_superslab();
            !lock;
            if
#ifdef BROKEN_pin_any
            :: true -> pins[ss]++; pinned = ss + 1
#else
            :: state[ss] == POOLED -> pins[ss]++; pinned = ss + 1
            :: else
#endif
            fi
        };
        leave()
    :: pinned != 0 ->
        atomic { !lock -> n_calls++; ss = pinned - 1; pinned = 0; pins[ss]--; result = (pins[ss] == 0) };
#ifndef BROKEN_unpin_forgets
        if
        :: result == 1 ->
            result = 0;
            k = 2 * ss;
            retire();
            k = 2 * ss + 1;
            retire()
        :: else
        fi;
#endif
        leave()
    od
}

init {
    atomic {
        run user();
        run user();
        run tick();
        run pinner()
    }
}
