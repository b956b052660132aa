/* spans.pml - what a thread keeps for blocks above 32 KiB: its slow paths and doors, a signal handler, its exit, and a tick that takes all
 * of it though the thread may be awake.
 * Stands for
 *   src/front/thread.h: thread_take thread_let_go
 *   src/front/span_cache.c: span_cache_claim_again span_cache_keep span_cache_empty
 *   src/front/sleepers.c: empty_spans
 *   src/front/thread.c: thread_claim_other thread_end_claim on_thread_exit thread_release
 *   src/os/threads.c: os_barrier_of_all
 * Proves
 *   P1  the slots are in one place: with the program, in the thread's cache, or in the pool
 *   P2  the thread and the tick are never both at the cache
 *   P3  nobody waits for ever
 * Abstracted away
 *   One thread, two slots. thread_take stores busy and reads the claim without a fence between: the store may be seen later. Here it
 *   waits in a buffer, which the thread empties at any time before it goes on to store anything else, or the barrier does.
 * Broken variants
 *   BROKEN_no_barrier            the tick reads busy without the barrier
 *   BROKEN_barrier_before_claim  the barrier comes before the claim
 *   BROKEN_busy_not_read         the tick does not read busy
 *   BROKEN_claim_not_ended       the tick does not end its claim
 *   BROKEN_exit_ignores_claim    the thread's exit does not wait for the end of a claim
 */
bool busy, buffered; /* buffered: busy is stored, and not seen yet */
bool claimed, in_use = true;
byte cache = 3, held, pool; /* slots */
byte n_inside;              /* at the cache */
bool in_handler;

#define STEP_IF(condition, statement) atomic { (is_handler || !in_handler) && (condition) -> statement }
#define STEP(statement) STEP_IF(true, statement)

inline check() { assert((cache | held | pool) == 3 && (cache & held) == 0 && (cache & pool) == 0 && (held & pool) == 0) }

/* What the thread does behind busy: a block out of the cache, or into it, in two steps. */
inline call()
{
    STEP(taken = !busy && !buffered; buffered = buffered || taken);
    if
    :: taken ->
        STEP(taken = !claimed);
        if
        :: taken ->
            STEP(buffered = false; busy = true; n_inside++; assert(n_inside == 1)); /* the next store, at the latest */
            STEP(seen = cache);
            if
            :: STEP_IF(seen != 0, skip) -> STEP(cache = 0; held = held | seen)
            :: STEP_IF(held != 0, skip) -> STEP(cache = seen | held; held = 0)
            :: STEP_IF(seen == 0 && held == 0, skip)
            fi;
            STEP(n_inside--; check());
            STEP(busy = false)
        :: else -> STEP(buffered = false; busy = false)
        fi
    :: else
    fi;
    STEP(seen = 0; taken = false)
}

proctype thread()
{
    byte seen;
    bool taken, is_handler;
end:
    do
    :: call()
    :: STEP_IF(pool != 0, held = held | pool; pool = 0; check()) /* new blocks */
    :: STEP(true) -> break
    od;
    STEP(buffered = false; busy = true); /* on_thread_exit: a fence */
#ifndef BROKEN_exit_ignores_claim
    STEP_IF(!claimed, skip);
#endif
    STEP(n_inside++; assert(n_inside == 1));
    STEP(pool = pool | cache; cache = 0);
    STEP(n_inside--; in_use = false; check())
}

proctype handler()
{
    byte seen;
    bool taken, is_handler = true;
end:
    do
    :: atomic { in_use && !in_handler -> in_handler = true };
       call();
       in_handler = false
    :: break /* or there would be no end state while the thread waits for ever; so in the tick */
    od
}

/* A store that waits is seen at some time. */
proctype memory()
{
end:
    do
    :: atomic { buffered -> buffered = false; busy = true }
    od
}

inline barrier()
{
    atomic {
        if
        :: buffered -> buffered = false; busy = true
        :: else
        fi
    }
}

proctype tick()
{
    bool seen;
end:
    do
    :: in_use ->
#ifdef BROKEN_barrier_before_claim
       barrier();
#endif
end_claim:
       atomic { in_use -> claimed = true }; /* under the pool lock, as is what the exit does with in_use */
#if !defined(BROKEN_barrier_before_claim) && !defined(BROKEN_no_barrier)
       barrier();
#endif
#ifdef BROKEN_busy_not_read
       seen = false;
#else
       seen = busy;
#endif
       if
       :: !seen ->
           atomic { n_inside++; assert(n_inside == 1) };
           atomic { pool = pool | cache; cache = 0 };
           atomic { n_inside--; check() }
       :: else
       fi;
#ifndef BROKEN_claim_not_ended
       claimed = false
#endif
    :: break
    od
}

init {
    atomic {
        run thread();
        run handler();
        run memory();
        run tick()
    }
}
