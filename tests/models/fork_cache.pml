/* fork_cache.pml - what a thread has in its cache, in the child of a fork that comes at any instant.
 * Stands for
 *   src/front/fork.c: fork_mend mend_child mend_record mend_own mend_others on_fork_child
 *   src/front/thread.c: thread_empty thread_keep_all thread_empty_kept thread_release
 *   src/front/magazine.h: cache_pop cache_push
 *   src/front/refill.c: refill choose_slab
 *   src/front/thread.h: thread_leave_slab
 *   src/front/flush.c: flush_oldest
 *   src/front/magazine.c: magazine_grow exchange_array
 *   src/pool/repair.c: shared_pool_fork_child rebuild_superslab
 *   src/superslab/slab.c: slab_recount slab_open slab_claim slab_return_bits slab_return_count slab_disown slab_own slab_unretire
 *   src/pool/shared_pool.c: own_listed let_wait shared_pool_release_slab shared_pool_retire
 *   src/pool/idle.c: idle_push idle_pop idle_forget
 * Proves, of the child, when its fork handler is done and then when the program has returned every block that it had
 *   P1  a block that the program has is neither in a magazine nor free in its slab
 *   P2  a slab is not released, and no slot is filed as free, while the program has a block of it
 *   P3  if no other thread was on a slow path, at most one block is lost; if none was in a call at all, none is, and
 *       every slab can be found again
 *   P4  the lock is free, and no free slot waits as an idle slab
 * Abstracted away
 *   A fork is one instant, after which the other threads stand still. The system copies page by page while they run,
 *   but what a thread writes is seen by the child up to some point and not after it: the first write to a page that
 *   was copied already waits for the end of the copy, or else reaches the page that both share. So the child sees
 *   each thread stopped at a point of its own, and nothing that came of what it does not see: an instant of some
 *   other run.
 *   One class, one slab of three blocks, one record with a magazine for one block, whose thread runs against another
 *   that returns blocks and retires and owns slabs as a tick does. The thread that forks is in no call: none of them,
 *   or the one whose cache a tick empties. (A fork in a signal handler that interrupted the allocator leaves alone
 *   what is in anybody's hands.) Free slots, lists and the LRU cache: fork_pool.pml. The class set: one bit.
 *   What a thread's exit and a tick that empties its cache do is the same, but for the mark that tells the child.
 *   SPIN assumes sequential consistency; that stores become visible in order is argued in magazine.h and flush.c.
 * Broken variants
 *   BROKEN_not_recounted        the slab of a thread that was on a slow path keeps its count
 *   BROKEN_magazine_kept        the magazine of a thread that was on a slow path is taken for whole
 *   BROKEN_emptying_not_marked  the child does not ask whether a tick was emptying the cache
 *   BROKEN_max_forgotten        a thread whose cache was being emptied when it woke up and forked has magazines
 *                               without a maximum in the child
 *   BROKEN_top_raised_first     a push raises top before it writes the block
 *   BROKEN_current_cleared_last the thread forgets its slab only after it has let go of it
 *   BROKEN_lock_not_reset       the child leaves the lock with a thread that is gone
 *   BROKEN_idle_not_forgotten   the child keeps the list of idle slabs
 *   BROKEN_kept_for_good        nobody takes apart the cache that a thread has left to the child
 */
#define N_BLOCKS 3
#define ALL 7

mtype = { EMPTY, TAKEN, OWNED, PARTIAL, FULL, RETIRING };
mtype = { NOTHING, LISTABLE, GONE_EMPTY };

mtype state = EMPTY; /* ctl, with `used` */
byte used, bits;
bool listed, idle;
byte lock;
byte held;           /* blocks that the program has */

/* The record. */
byte slot, top;      /* a magazine for one block: a mask */
bool torn;           /* of the magazine's base, top and limit some have changed and some have not */
bool no_max;         /* the magazine has lost the maximum that the thread's first call has set, and can hold nothing */
bool busy, emptying, current;

bool forked;
byte n_calls;        /* in progress */
bool n_slow;         /* the tick is in one; the other thread's are told by busy and emptying */

#define count(mask) ((mask & 1) + ((mask >> 1) & 1) + ((mask >> 2) & 1))
#define lowest(mask) ((mask) & (8 - (mask)))

#define RUN(statement) atomic { statement }

/* ---- The slab, as in slab.pml ---- */

inline release_slab()
{
    RUN(lock == 0 -> lock = 1);
    RUN(assert(state == RETIRING && used == 0 && bits == ALL && held == 0); idle = false);
    RUN(state = EMPTY);
    RUN(lock = 0)
}

inline let_wait()
{
    if
    :: release_slab()
    :: RUN(lock == 0 -> lock = 1);
       RUN(state = PARTIAL);
       RUN(listed = true);
       RUN(idle = true);
       RUN(lock = 0)
    fi
}

inline act_on_result()
{
    if
    :: result == LISTABLE -> RUN(listed = true)
    :: result == GONE_EMPTY -> let_wait()
    :: else
    fi
}

inline disown_slab()
{
    RUN(
        assert(state == OWNED);
        if
        :: used == 0 -> state = RETIRING; result = GONE_EMPTY
        :: used >= N_BLOCKS -> state = FULL; result = NOTHING
        :: used > 0 && used < N_BLOCKS -> state = PARTIAL; result = LISTABLE
        fi);
    act_on_result()
}

inline return_blocks()
{
    RUN(assert((bits & mask) == 0); bits = bits | mask);
    RUN(
        assert(used >= count(mask));
        used = used - count(mask);
        if
        :: (state == FULL || state == PARTIAL) && used == 0 -> state = RETIRING; result = GONE_EMPTY
        :: state == FULL && used != 0 && used < N_BLOCKS -> state = PARTIAL; result = LISTABLE
        :: else -> result = NOTHING
        fi;
        mask = 0);
    act_on_result()
}

/* Leaves owned. */
inline own_listed()
{
    RUN(
        owned = (state == PARTIAL);
        if
        :: owned -> state = OWNED
        :: !owned
        fi);
    RUN(listed = false);
    if
    :: state == PARTIAL -> RUN(listed = true)
    :: else
    fi
}

/* ---- A thread and its record ---- */

inline acquire()
{
    if
    :: RUN(listed) -> own_listed()
    :: RUN(lock == 0 -> lock = 1);
       if
       :: state == EMPTY ->
           RUN(state = TAKEN);
           RUN(lock = 0);
           RUN(bits = ALL);
           RUN(used = 0; state = OWNED);
           owned = true
       :: else -> RUN(lock = 0)
       fi
    fi
}

inline let_go()
{
#ifdef BROKEN_current_cleared_last
    disown_slab();
    RUN(current = false)
#else
    RUN(current = false);
    disown_slab()
#endif
}

inline flush()
{
    RUN(mask = slot; top = 0);
    return_blocks()
}

/* One block to the program, and one to the magazine. */
inline refill()
{
    if
    :: !current ->
        acquire();
        if
        :: owned -> RUN(current = true; owned = false)
        :: else
        fi
    :: else
    fi;
    if
    :: current && bits != 0 ->
        RUN(mask = lowest(bits));
        if
        :: RUN(bits != mask -> mask = mask | lowest((bits & ~mask)))
        :: RUN(true)
        fi;
        RUN(bits = bits & ~mask);
        RUN(used = used + count(mask));
        RUN(block = lowest(mask));
        if
        :: mask != block ->
            RUN(slot = mask & ~block);
            RUN(top = 1);
            RUN(torn = true); /* grows */
            RUN(torn = false)
        :: else
        fi;
        mask = 0
    :: current && bits == 0 -> let_go()
    :: !current
    fi
}

inline empty_cache()
{
    assert(!torn);
    if
    :: top != 0 -> flush()
    :: else
    fi;
    RUN(torn = true); /* closed */
    RUN(torn = false);
    if
    :: current -> let_go()
    :: else
    fi
}

inline leave_call() { RUN(n_calls--; mask = 0; block = 0; result = 0; owned = false) }

proctype thread()
{
    byte mask, block;
    mtype result;
    bool owned;
    {
end:
    do
    :: RUN(top != 0 -> n_calls++; block = slot) -> /* hit_malloc */
        RUN(top = 0; held = held | block);
        leave_call()
    :: RUN(top == 0 && held != ALL -> n_calls++) -> /* malloc's slow path */
        RUN(busy = true);
        refill();
        RUN(busy = false; held = held | block);
        leave_call()
    :: RUN(held != 0 && top == 0 -> n_calls++; block = lowest(held); held = held & ~block) -> /* hit_free */
#ifdef BROKEN_top_raised_first
        RUN(top = 1);
        RUN(slot = block);
#else
        RUN(slot = block);
        RUN(top = 1);
#endif
        leave_call()
    :: RUN(held != 0 && top != 0 -> n_calls++; block = lowest(held); held = held & ~block) -> /* free's slow path */
        RUN(busy = true);
        flush();
        RUN(slot = block);
        RUN(top = 1);
        RUN(busy = false);
        leave_call()
    :: RUN(n_calls++) -> /* It exits, or sleeps and its cache is emptied; then another has the record. */
        if
        :: RUN(busy = true)
        :: RUN(emptying = true)
        fi;
        empty_cache();
        RUN(busy = false; emptying = false);
        leave_call()
    od
    } unless { forked }
}

/* Another thread, without a record. */
proctype tick()
{
    byte mask, block;
    mtype result;
    bool owned;
    {
end:
    do
    :: RUN( /* all blocks but one, or the only one */
           held != 0 -> n_calls++;
           n_slow = true;
           mask = (held == lowest(held) -> held : held & ~lowest(held));
           held = held & ~mask) ->
        return_blocks();
        RUN(n_slow = false);
        leave_call()
    :: RUN(state == PARTIAL -> n_calls++; n_slow = true) -> /* shared_pool_retire, purge_slab */
        RUN(lock == 0 -> lock = 2);
        RUN(idle = false);
        RUN(lock = 0);
        own_listed();
        if
        :: owned -> disown_slab()
        :: else
        fi;
        RUN(n_slow = false);
        leave_call()
    od
    } unless { forked }
}

/* ---- The child ---- */

inline check_held()
{
    assert(lock == 0);
    assert((held & bits) == 0 || state == EMPTY || state == TAKEN);
    assert(held == 0 || (state != EMPTY && state != TAKEN && state != RETIRING));
    assert(top == 0 || (slot & held) == 0);
    assert(state != EMPTY || !idle)
}

proctype child()
{
    byte mask, block, n_lost;
    mtype result;
    bool owned, was_quiet, was_slow, kept;
    atomic { /* It is alone: no other order is possible. */
        forked = true;
        was_quiet = (n_calls == 0);
        was_slow = (busy || emptying || n_slow);
        /* shared_pool_fork_child */
        if
        :: lock != 0 ->
#ifndef BROKEN_lock_not_reset
            lock = 0;
#endif
#ifndef BROKEN_idle_not_forgotten
            idle = false;
#endif
            if
            :: state == RETIRING || state == TAKEN -> state = EMPTY
            :: else
            fi
        :: else
        fi;
        /* on_fork_child */
        if
#ifdef BROKEN_emptying_not_marked
        :: busy ->
#else
        :: busy || emptying ->
#endif
#ifndef BROKEN_magazine_kept
            top = 0;
            torn = false;
#endif
#ifdef BROKEN_max_forgotten
            no_max = true;
#endif
            if
            :: current ->
#ifndef BROKEN_not_recounted
                used = N_BLOCKS - count(bits)
#else
                skip
#endif
            :: else
            fi
        :: else
        fi;
        if
        /* It is this very thread, which woke up meanwhile, forked, and goes on with its record. */
        :: emptying -> assert(!no_max)
        :: true -> empty_cache(); no_max = false /* The next thread sets it. */
        :: !busy && !emptying -> kept = true /* thread_keep_all */
        fi;
        busy = false;
        emptying = false;
        check_held();
        /* What is lost is neither with the program nor can it be claimed. */
        mask = (kept && top != 0 -> slot : 0);
        n_lost = (state == EMPTY || state == TAKEN -> 0 : count((ALL & ~(bits | held | mask))));
        assert(was_slow || n_lost <= 1);
        assert(!was_quiet || (n_lost == 0 && (state == EMPTY || state == FULL || listed || (kept && current))));
        do
        :: kept && top != 0 -> /* The next thread has the record, and hits. */
            held = held | slot;
            top = 0;
            check_held()
#ifdef BROKEN_kept_for_good
        :: kept -> kept = false
#else
        :: kept -> /* Nobody has taken it, or its thread has ended. */
            empty_cache();
            kept = false;
            check_held()
#endif
        :: held != 0 ->
            mask = lowest(held);
            held = held & ~mask;
            return_blocks();
            check_held()
        :: held == 0 && !kept -> break
        od;
        assert(!was_quiet || state == EMPTY || (state == PARTIAL && listed && bits == ALL && used == 0))
    }
}

init {
    atomic {
        run thread();
        run tick();
        run child()
    }
}
