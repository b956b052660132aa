/* slab.pml - one slab: its bits, its ctl word, its place in the class's list, in the list of idle slabs and in its
 * slot.
 * Stands for
 *   src/superslab/slab.c: slab_open slab_claim slab_return_bits slab_return_count slab_counts_as_full
 *     slab_disown slab_own slab_unretire slab_unfill
 *   src/pool/shared_pool.c: own_listed shared_pool_acquire_slab open_slot list_slab let_wait shared_pool_retire
 *     let_wait_locked disown shared_pool_disown_slabs shared_pool_list_spare
 *   src/pool/shared_pool.c: shared_pool_disown_slab shared_pool_return_blocks shared_pool_return_count
 *     check_release shared_pool_release_slab
 *   src/pool/slots.c: pool_evaluate_tier pool_reopen_superslab list_slabs pool_take_slots_out pool_put_slots
 *   src/pool/idle.c: idle_push idle_pop idle_remove
 *   src/front/flush.c: send_word send_count
 * Proves
 *   P1  no block has two holders, and none is held while its slab is released
 *   P2  no free is lost: when no call is in progress, the bits and `used` agree with the blocks that are held
 *   P3  when no call is in progress, a slab that is nobody's is FULL with too few free blocks to be listed, or
 *       PARTIAL and listed (if its SuperSlab is not DRAINING), or its slot is free; none stays RETIRING or TAKEN
 *   P4  a slot that is free does not wait as an idle slab
 *   P5  nobody waits for ever: there is no invalid end state
 * Abstracted away
 *   The tree of the class set: one bit, which a thread may also overlook (class_set.pml). The slab is the only one,
 *   and has two blocks; the threshold of slab_counts_as_full is no free block or one, chosen at the start. More slabs
 *   add no race: each has a ctl word of its own, and what they share is under the pool lock.
 *   A compare-exchange in a loop is one step: those that fail change nothing. The cursor: a claim may take any free
 *   blocks. Whether an empty slab waits is chosen each time, and so is whether a release meets a pin.
 *   SPIN assumes sequential consistency; the edges R1 to R4 that the C code relies on are argued in slab.c.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_count_before_bits  a return lowers `used` before it sets the bits
 *   BROKEN_state_by_stale_ctl a return stores what it computed from a ctl that it read before (no compare-exchange)
 *   BROKEN_used_after_out     a claim counts its blocks only when its caller has them
 *   BROKEN_wait_unlocked      let_wait lists the slab and enters it in the idle list without the lock
 *   BROKEN_reopen_lists_first a SuperSlab that reopens lists its slabs before it is HOT
 *   BROKEN_tier_read_first    list_slab goes by a tier that was read before the slab became PARTIAL
 */
#ifndef N_BLOCKS
#define N_BLOCKS 2
#endif
#define ALL ((1 << N_BLOCKS) - 1)

mtype = { UNUSED, EMPTY, TAKEN, OWNED, PARTIAL, FULL, RETIRING };
mtype = { NOTHING, LISTABLE, GONE_EMPTY };

mtype state = EMPTY; /* ctl: changes together with `used` */
byte used;
byte bits;           /* set: free */
bool listed, idle, draining;
byte slack;          /* free blocks that are too few to be listed */
byte lock;           /* the holder's number */
byte held;           /* blocks that somebody has: callers, magazines, a claim or a return in progress */
byte out;            /* of those, the ones that may be returned */
byte n_calls, n_owners;

#define count(mask) ((mask & 1) + ((mask >> 1) & 1) + ((mask >> 2) & 1))
#define counts_as_full(n) (n + slack >= N_BLOCKS)

inline take_lock() { atomic { lock == 0 -> lock = _pid } }
inline drop_lock() { lock = 0 }

/* Ends a call, and checks what is true when there is none. */
inline leave()
{
    d_step {
        n_calls--;
        n = 0; mask = 0; result = 0; free = 0;
#if defined(BROKEN_tier_read_first)
        seen_draining = false;
#endif
#if defined(BROKEN_state_by_stale_ctl)
        seen_used = 0; seen_state = 0;
#endif
        if
        :: n_calls == 0 ->
            assert(held == out && lock == 0);
            assert(state == OWNED || state == PARTIAL || state == FULL || state == EMPTY);
            assert(state == EMPTY || (used == count(held) && bits == (ALL & ~held)));
            assert(state != EMPTY || (held == 0 && !idle));
            assert(state != FULL || (counts_as_full(used) && used != 0));
            assert(state != PARTIAL || listed || draining);
            assert((state == OWNED) == (n_owners == 1))
        :: else
        fi
    }
}

/* The slab is PARTIAL, by us, and may be anybody's by now. */
inline list_slab()
{
#ifdef BROKEN_tier_read_first
    if
    :: !seen_draining -> listed = true
    :: else
    fi
#else
    if
    :: !draining -> listed = true
    :: else
    fi
#endif
}

inline look_at_tier()
{
#ifdef BROKEN_tier_read_first
    seen_draining = draining
#else
    skip
#endif
}

/* Held is checked twice: all bits are set, and nobody knows a block. */
inline put_slot()
{
    d_step {
        assert(state == RETIRING && used == 0 && bits == ALL && held == 0);
        state = EMPTY;
        idle = false
    }
}

inline release_slab()
{
    if
    :: atomic { lock == 0 -> put_slot() }
    :: atomic { take_lock(); assert(state == RETIRING); look_at_tier(); state = PARTIAL }; /* pinned */
       list_slab();
       drop_lock()
    fi
}

inline let_wait()
{
    if
    :: release_slab() /* no delay, or the SuperSlab is DRAINING */
    :: !draining ->
#ifdef BROKEN_wait_unlocked
        look_at_tier();
        state = PARTIAL;
        list_slab();
        idle = true
#else
        atomic { take_lock(); look_at_tier(); state = PARTIAL };
        list_slab();
        d_step { idle = true; lock = 0 }
#endif
    fi
}

inline disown()
{
    look_at_tier();
    d_step {
        assert(state == OWNED);
        n_owners--;
        if
        :: used == 0 -> state = RETIRING; result = GONE_EMPTY
        :: used != 0 && counts_as_full(used) -> state = FULL; result = NOTHING
        :: else -> state = PARTIAL; result = LISTABLE
        fi
    }
}

inline disown_slab()
{
    disown();
    if
    :: result == LISTABLE -> list_slab()
    :: result == GONE_EMPTY -> let_wait()
    :: else
    fi
}

inline own()
{
    d_step {
        if
        :: state == PARTIAL -> state = OWNED; n_owners++; n = 1; assert(n_owners == 1)
        :: else -> n = 0
        fi
    }
}

inline drop_from_class_set()
{
    listed = false;
    if
    :: state == PARTIAL -> listed = true
    :: else
    fi
}

/* Leaves n = 1 if the slab is ours. */
inline acquire()
{
    if
    :: listed -> /* stage 1 */
        own();
        drop_from_class_set();
        if
        :: n == 1 && draining -> disown_slab(); n = 0
        :: else
        fi
    :: n = 0; /* stage 2; it has overlooked the listed slab, maybe */
        atomic {
            lock == 0;
            if
            :: state == EMPTY -> assert(!idle); state = TAKEN; n = 1
            :: else
            fi
        };
        if
        :: d_step { n == 1 -> bits = ALL; used = 0; state = OWNED; n_owners++; assert(n_owners == 1 && held == 0) }
        :: n == 0
        fi
    fi
}

/* Some free blocks of one word. Only the owner clears bits, so those that it saw are still there. */
inline claim()
{
    atomic {
        free = bits;
        select(mask : 0 .. ALL);
        mask = mask & free;
        free = 0
    };
    d_step {
        assert((bits & mask) == mask && (held & mask) == 0);
        bits = bits & ~mask;
        held = held | mask
    };
#ifdef BROKEN_used_after_out
    out = out | mask;
    used = used + count(mask)
#else
    d_step { used = used + count(mask); out = out | mask }
#endif
}

inline set_bits(part)
{
    d_step {
        assert((bits & (part)) == 0 && (held & (part)) == (part));
        bits = bits | (part);
        held = held & ~(part)
    }
}

/* Of one word, or of two: both before the count that serves them. */
inline return_bits()
{
    if
    :: set_bits(mask)
    :: count(mask) > 1 -> set_bits(mask & 1); set_bits(mask & ~1)
    fi
}

/* Inside a step of the caller's. */
inline lower_used()
{
    used = used - count(mask);
    if
    :: (state == FULL || state == PARTIAL) && used == 0 -> state = RETIRING; result = GONE_EMPTY
    :: state == FULL && used != 0 && !counts_as_full(used) -> state = PARTIAL; result = LISTABLE
    :: else -> result = NOTHING
    fi
}

/* Blocks that no other thread is returning. */
inline return_blocks()
{
    atomic {
        select(mask : 1 .. ALL);
        mask = mask & out;
        out = out & ~mask
    };
    if
    :: mask != 0 ->
        look_at_tier();
#if defined(BROKEN_count_before_bits)
        d_step { assert(used >= count(mask)); lower_used() };
        return_bits();
#elif defined(BROKEN_state_by_stale_ctl)
        return_bits();
        d_step { seen_used = used; seen_state = state };
        d_step { used = seen_used; state = seen_state; lower_used() };
#else
        return_bits();
        d_step { assert(used >= count(mask)); lower_used() };
#endif
        if
        :: result == LISTABLE -> list_slab()
        :: result == GONE_EMPTY -> let_wait()
        :: else
        fi
    :: else
    fi
}

proctype thread()
{
    bool mine; /* a slab of ours, from one call to the next */
    byte n, mask, free;
    mtype result;
#ifdef BROKEN_tier_read_first
    bool seen_draining;
#endif
#ifdef BROKEN_state_by_stale_ctl
    byte seen_used;
    mtype seen_state;
#endif
end:
    do
    :: atomic { !mine && out != ALL -> n_calls++ } -> acquire(); mine = (n == 1); leave()
    :: atomic { mine -> n_calls++ } -> claim(); leave()
    :: atomic { mine -> n_calls++; mine = false } -> disown_slab(); leave()
    :: atomic { out != 0 -> n_calls++ } -> return_blocks(); leave()
    od
}

/* What time brings: the tier changes, and an idle slab is retired. And exhausted memory: slabs that count as full are listed. */
proctype tick()
{
    byte n, mask, free;
    mtype result;
#ifdef BROKEN_tier_read_first
    bool seen_draining;
#endif
#ifdef BROKEN_state_by_stale_ctl
    byte seen_used;
    mtype seen_state;
#endif
end:
    do
    :: atomic { !draining -> n_calls++ } -> /* pool_evaluate_tier */
        atomic { take_lock(); draining = true };
        if
        :: state == PARTIAL -> listed = false
        :: else
        fi;
        drop_lock();
        leave()
    :: atomic { draining -> n_calls++ } -> /* pool_reopen_superslab */
        take_lock();
#ifdef BROKEN_reopen_lists_first
        if
        :: state == PARTIAL -> listed = true
        :: else
        fi;
        draining = false;
#else
        draining = false;
        if
        :: state == PARTIAL -> listed = true
        :: else
        fi;
#endif
        drop_lock();
        leave()
    :: atomic { state == FULL && used < N_BLOCKS -> n_calls++ } -> /* shared_pool_list_spare */
        look_at_tier();
        d_step {
            if
            :: state == FULL && used < N_BLOCKS -> state = PARTIAL; n = 1
            :: else -> n = 0
            fi
        };
        if
        :: n == 1 -> list_slab()
        :: else
        fi;
        leave()
    :: atomic { idle -> n_calls++ } -> /* shared_pool_retire_idle, shared_pool_retire */
        atomic { lock == 0 -> n = idle; idle = false };
        if
        :: n == 1 && state == PARTIAL && used == 0 -> own()
        :: else -> n = 0
        fi;
        if
        :: n == 1 ->
            drop_from_class_set();
            disown();
            if
            :: result == LISTABLE -> list_slab()
            :: result == GONE_EMPTY -> release_slab()
            :: else
            fi
        :: else
        fi;
        leave()
    od
}

init {
    atomic {
        if
        :: slack = 0
        :: slack = 1
        fi;
        run thread();
        run thread();
        run tick()
    }
}
