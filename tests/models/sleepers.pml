/* sleepers.pml - a thread's record: hit paths, slow paths, signal handlers, the thread's exit, the next thread that
 * gets the record, a tick that empties the cache of a thread that sleeps, and who calls all threads by closing their doors.
 * Stands for
 *   src/front/magazine.h: cache_pop cache_push magazine_pop magazine_push
 *   src/front/thread.h: thread_take thread_let_go thread_close_door thread_enter thread_leave
 *   src/front/thread.c: thread_empty claim_record thread_release on_thread_exit create thread_claim_other thread_end_claim
 *   src/front/thread.c: all_are_called
 *   src/front/sleepers.c: sleeps_outside_of_us empty_if_asleep
 *   src/front/refill.c: claim_from_pool pop_at_hand refill claim_class
 *   src/front/flush.c: flush_oldest flush_located
 *   src/front/free.c: return_to_magazine
 * Proves
 *   P1  a block is in one place: with the program, in the magazine, or in the pool; so nobody gets it twice
 *   P2  no free is lost: when no call is in progress, the three places together have every block
 *   P3  a door is closed only of a thread that exists
 *   P4  nobody waits for ever: there is no invalid end state; an exiting thread waits for a tick, never a tick for it. So that
 *       such a state is seen as one, handlers, ticks and the second thread may stop at any time, outside of calls
 * Abstracted away
 *   One record, two threads that want it one after the other (create waits where the C code makes a second record),
 *   two blocks of one class, a magazine for one. The pool is a set of blocks: slab.pml is about that.
 *   A signal handler interrupts the first thread at any instruction. It sleeps, or calls malloc or free; the latter
 *   not when it interrupts a hit, which nobody may do. Handlers that interrupt handlers add a level of what there is
 *   already.
 *   What the system tells of a thread is a flag, and so is what its stack tells: whether it was interrupted on a hit
 *   path. That holds although the stack is read later: while the thread goes on with that hit it overwrites nothing
 *   there.
 *   The first look of empty_if_asleep is left out, as it only saves work; and so are the open words of open_word.h,
 *   which are touched with busy set, as the magazine is on slow paths.
 *   SPIN assumes sequential consistency. thread_take has no fence between its store and its load; that the system's
 *   answer about a sleeping thread is as good as one is argued in thread.h and sleepers.c.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_release_ignores_claim a thread's exit files the record for the next thread while a tick has it claimed
 *   BROKEN_exit_ignores_claim    a thread's exit does not wait until its cache is emptied
 *   BROKEN_looks_before_claim    a tick looks whether the thread sleeps before it claims the record, and not again
 *   BROKEN_door_not_looked_at    a tick does not ask whether a slow path that was under way has opened the door again
 *   BROKEN_called_while_claimed  who calls the thread closes its door while a tick looks at that
 *   BROKEN_stack_not_looked_at   a tick does not ask whether a hit path was interrupted
 *   BROKEN_busy_not_looked_at    a tick does not ask whether a slow path was interrupted
 *   BROKEN_waits_for_busy        a tick that has the record claimed waits until no slow path is under way
 *   BROKEN_claim_read_first      thread_take reads the claim before it sets busy
 *   BROKEN_door_closed_first     thread_enter closes the door before it sets busy
 */
#define N_THREADS 2
#define ALL 3       /* the blocks: bits 0 and 1 */
#define CAPACITY 1

mtype = { NONE, RECORD, NO_RECORD };           /* tls_thread */
mtype = { UNCLAIMED, CLAIMED, EMPTYING };

byte pool = ALL, held; /* blocks in slabs, and those that the program has */
byte n_calls;          /* in progress */
byte lock;

/* The record. */
byte slot, top, capacity; /* a magazine for one block */
bool busy, in_use;
mtype claimed = UNCLAIMED;
byte thread_id; /* whose tls_slot it knows, too */

/* The threads. */
bool door_open[N_THREADS]; /* tls_cache is the record's */
bool alive[N_THREADS];
mtype tls[N_THREADS] = NONE;
bool asleep[N_THREADS];    /* waits in the system, or its handler does */
bool in_hit[N_THREADS];    /* was interrupted on a hit path */
bool gone;                 /* the first thread has left the record */
bool in_handler;           /* of the first thread, which stands still meanwhile */

/* One instruction of a thread: it does not run while its handler does. */
#define STEP_IF(condition, statement) atomic { (is_handler || me != 0 || !in_handler) && (condition) -> statement }
#define STEP(statement) STEP_IF(true, statement)

#define magazine_mask() (top != 0 -> slot : 0)

inline leave_call()
{
    d_step {
        n_calls--;
        block = 0; seen_top = 0; seen = 0; done = false;
        if
        :: n_calls == 0 ->
            assert((pool | held | magazine_mask()) == ALL);
            assert((pool & held) == 0 && (pool & magazine_mask()) == 0 && (held & magazine_mask()) == 0);
            assert(lock == 0 && claimed == UNCLAIMED)
        :: else
        fi
    }
}

inline give_to_program() { assert(block != 0 && (held & block) == 0 && (pool & block) == 0); held = held | block }
inline give_to_pool(mask) { assert((pool & (mask)) == 0 && (held & (mask)) == 0); pool = pool | (mask) }

/* The lowest block of the pool, or 0. */
inline take_from_pool()
{
    if
    :: (pool & 1) != 0 -> block = 1
    :: (pool & 1) == 0 -> block = pool
    fi;
    pool = pool & ~block
}

/* ---- Slow paths ---- */

/* Leaves done = whether the record may be used. */
inline thread_take()
{
    STEP(seen = (busy -> 1 : 0));
    if
    :: seen == 1 -> done = false
    :: else ->
#ifdef BROKEN_claim_read_first
        STEP(done = (claimed == UNCLAIMED));
        STEP(busy = true);
#else
        STEP(busy = true);
        STEP(done = (claimed == UNCLAIMED));
#endif
        if
        :: !done -> STEP(busy = false)
        :: else
        fi
    fi
}

inline thread_enter()
{
    if
    :: tls[me] == RECORD ->
#ifdef BROKEN_door_closed_first
        STEP(door_open[me] = false);
        thread_take()
#else
        thread_take();
        if
        :: done -> STEP(door_open[me] = false)
        :: else
        fi
#endif
    :: else -> done = false
    fi
}

inline thread_leave()
{
    STEP(door_open[me] = true);
    STEP(busy = false)
}

/* A block to the program: from the magazine, or from the pool with another for the magazine. */
inline claim_with_record()
{
    STEP(seen_top = top);
    if
    :: seen_top != 0 ->
        STEP(block = slot);
        STEP(top = seen_top - 1; give_to_program())
    :: else ->
        STEP(capacity = CAPACITY);
        STEP(take_from_pool());
        if
        :: block != 0 ->
            STEP(slot = block);
            STEP(top = 1);
            STEP(
                take_from_pool();
                if
                :: block != 0 -> give_to_program()
                :: block == 0 -> block = slot; top = 0; give_to_program()
                fi)
        :: else
        fi
    fi
}

/* The magazine's blocks to the pool. */
inline flush_all()
{
    STEP(seen = magazine_mask());
    STEP(top = 0);
    STEP(give_to_pool(seen))
}

inline malloc_slow()
{
    thread_enter();
    if
    :: done -> claim_with_record(); thread_leave()
    :: else ->
        STEP(
            take_from_pool();
            if
            :: block != 0 -> give_to_program()
            :: else
            fi)
    fi
}

inline free_slow()
{
    thread_enter();
    if
    :: done ->
        STEP(seen_top = top);
        if
        :: seen_top == capacity && capacity != 0 -> flush_all(); STEP(seen_top = top)
        :: else
        fi;
        if
        :: seen_top == capacity -> STEP(give_to_pool(block))
        :: else ->
            STEP(slot = block);
            STEP(top = seen_top + 1)
        fi;
        thread_leave()
    :: else -> STEP(give_to_pool(block))
    fi
}

/* ---- Hit paths ---- */

inline begin_hit() { done = door_open[me]; in_hit[me] = in_hit[me] || !is_handler }
inline end_hit() { in_hit[me] = in_hit[me] && is_handler }

inline call_malloc()
{
    STEP(begin_hit());
    if
    :: done ->
        STEP(seen_top = top);
        if
        :: seen_top == 0 -> STEP(end_hit()); done = false
        :: else ->
            STEP(block = slot);
            STEP(top = seen_top - 1; give_to_program(); end_hit())
        fi
    :: else -> STEP(end_hit())
    fi;
    if
    :: !done -> malloc_slow()
    :: else
    fi
}

inline call_free()
{
    STEP(
        if
        :: (held & 1) != 0 -> block = 1
        :: (held & 2) != 0 -> block = 2
        :: held == 0 -> block = 0
        fi;
        held = held & ~block; begin_hit());
    if
    :: block == 0 -> STEP(end_hit()); done = true
    :: block != 0 && done ->
        STEP(seen_top = top);
        if
        :: seen_top == capacity -> STEP(end_hit()); done = false
        :: else ->
            STEP(slot = block);
            STEP(top = seen_top + 1; end_hit())
        fi
    :: else -> STEP(end_hit())
    fi;
    if
    :: !done -> free_slow()
    :: else
    fi
}

inline sleep()
{
    STEP(asleep[me] = true);
    STEP(asleep[me] = false)
}

/* ---- Threads ---- */

inline thread_empty()
{
    flush_all();
    STEP(capacity = 0)
}

proctype thread(byte me)
{
    byte block, seen_top, seen;
    bool done, is_handler;
    /* Its first slow call: claim_record and create. */
end_wait:
    STEP_IF(!in_use && lock == 0 && (me == 0 || gone),
        n_calls++;
        alive[me] = true;
        busy = true;
        thread_id = me;
        in_use = true);
    STEP(door_open[me] = false; tls[me] = RECORD);
    claim_with_record();
    thread_leave();
    leave_call();
end_run:
    do
    :: STEP(n_calls++) -> call_malloc(); leave_call()
    :: STEP_IF(held != 0, n_calls++) -> call_free(); leave_call()
    :: STEP_IF(me == 0, skip) -> sleep()
    :: STEP_IF(me == 0, n_calls++) -> break /* on_thread_exit */
    :: STEP_IF(me != 0, skip) -> goto end_stays
    od;
    STEP(busy = true);
    STEP(door_open[me] = false);
#ifndef BROKEN_exit_ignores_claim
    STEP_IF(claimed == UNCLAIMED, skip);
#endif
    STEP(tls[me] = NO_RECORD);
    thread_empty();
    /* release_record */
#ifdef BROKEN_release_ignores_claim
    STEP_IF(lock == 0, in_use = false; busy = false; gone = true);
#else
    STEP_IF(lock == 0 && claimed == UNCLAIMED, in_use = false; busy = false; gone = true);
#endif
    leave_call();
    sleep(); /* Other destructors. */
    STEP(alive[me] = false);
    goto end_gone;
end_stays:
    false;
end_gone:
    skip
}

/* Of the first thread, at any instruction. */
proctype handler()
{
    byte me, block, seen_top, seen;
    bool done, is_handler = true;
end:
    do
    :: atomic { alive[me] && !asleep[me] -> in_handler = true; n_calls++ };
       if
       :: !in_hit[0] -> call_malloc()
       :: !in_hit[0] && held != 0 -> call_free()
       :: sleep()
       fi;
       atomic { leave_call(); in_handler = false }
    :: break
    od
}

/* ---- Ticks ---- */

/* Leaves done = whether the record's thread sleeps, outside of us. */
inline look()
{
#ifdef BROKEN_waits_for_busy
    !busy;
#endif
    d_step { seen_id = thread_id; done = asleep[seen_id] };
#ifndef BROKEN_busy_not_looked_at
    if
    :: done -> done = !busy
    :: else
    fi;
#endif
#ifndef BROKEN_stack_not_looked_at
    if
    :: done -> done = !in_hit[seen_id]
    :: else
    fi;
#endif
    seen_id = 0
}

/* It was on a slow path when the door was closed, has opened it again, and sleeps now. */
inline look_at_door()
{
#ifndef BROKEN_door_not_looked_at
    if
    :: d_step { done -> assert(alive[thread_id]); done = !door_open[thread_id] }
    :: !done
    fi
#else
    skip
#endif
}

proctype tick()
{
    byte me = N_THREADS, block, seen_top, seen, seen_id;
    bool done, is_handler;
end:
    do
    :: n_calls++;
#ifdef BROKEN_looks_before_claim
       look();
#else
       done = true;
#endif
       if
       :: done ->
           atomic {
               lock == 0 -> lock = 1;
               done = (in_use && claimed == UNCLAIMED)
           };
           if
           :: done ->
               claimed = CLAIMED;
               d_step { assert(alive[thread_id]); door_open[thread_id] = false };
               lock = 0;
#ifndef BROKEN_looks_before_claim
               look();
#endif
               look_at_door();
               if
               :: done ->
                   claimed = EMPTYING;
                   thread_empty()
               :: else
               fi;
               atomic { claimed = UNCLAIMED; leave_call() }
           :: else -> atomic { lock = 0; leave_call() }
           fi
       :: else -> leave_call()
       fi
    :: break
    od
}

/* Who calls all threads, once: they shall come to a slow path before their next hit. All of it is under the lock, so it is one step. */
proctype caller()
{
end:
    atomic {
        in_use && lock == 0 ->
        if
#ifndef BROKEN_called_while_claimed
        :: claimed != UNCLAIMED -> skip
        :: claimed == UNCLAIMED -> assert(alive[thread_id]); door_open[thread_id] = false
#else
        :: true -> assert(alive[thread_id]); door_open[thread_id] = false
#endif
        fi
    }
}

init {
    atomic {
        run thread(0);
        run thread(1);
        run handler();
        run tick();
        run caller()
    }
}
