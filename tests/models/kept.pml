/* kept.pml - the record of a thread that has ended, which keeps its slabs for the next thread: the exit that leaves it, the thread that gets
 * it, a tick and a trim that take the slabs away when nobody does, and forks meanwhile.
 * Stands for
 *   src/front/thread.c: on_thread_exit keep_slabs thread_empty end_keeping thread_release find_free_record claim_record
 *   src/front/thread.c: take_keeper thread_empty_kept thread_forget_free thread_keep_all
 *   src/front/sleepers.c: empty_free_record
 *   src/front/magazine.c: magazine_forget_arrays magazine_purge_arrays
 *   src/pool/shared_pool.c: shared_pool_disown_slabs
 *   src/front/fork.c: mend_child mend_record mend_others
 * Proves
 *   P1  one is at the record: its thread, or who takes away what it keeps
 *   P2  it is in the list of free ones once, or somebody is at it; so it is not lost, and not two threads'
 *   P3  its slab is in one place: with the record, in somebody's hands, or the pool's
 *   P4  no more records keep slabs than may, and when nobody is at one their number is right
 *   P5  no page of its arrays goes back while they are in use
 *   P6  nobody waits for ever
 *   P7  in the child of a fork it is free and keeps nothing, or all that it had if its thread was in no call, and its slab is not lost,
 *       unless somebody else had it in hand
 * Abstracted away
 *   One record with one slab; another one that may keep slabs in its stead. Two threads that begin and end, without end; a tick and a trim.
 *   What is in magazines is for sleepers.pml and fork_cache.pml; here the record's arrays are in use, or not. So are claims: that of a
 *   record that has a thread, and the mark by which a tick or a trim tells the child of a fork that it empties one that has none.
 *   Two kinds of fork: by a thread that has nothing to do with all this, and by a signal handler that interrupts the tick at any of its
 *   instructions; then the tick goes on in the child. The child mends itself in one step, for it has no other thread.
 *   What a child of the handler may lose: a record that the tick has filed while it still is its tls_other, and, if the tick has the lock,
 *   one that another thread was at. In any child the number of keepers is one too high for each thread that had counted itself and kept
 *   nothing yet, or not counted itself off. Each needs a fork between two or three instructions.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_taken_without_lock   the list is looked at, and the record taken out of it, without the lock
 *   BROKEN_lock_kept            or with it, and it stays taken where the record is not to be had
 *   BROKEN_emptied_in_list      the record is emptied where it is, in the list
 *   BROKEN_keeping_not_ended    who gets the record does not end its keeping
 *   BROKEN_ended_before_use     or ends it before the record is in use
 *   BROKEN_kept_after_release   an exit says that the record keeps slabs when it is in the list already
 *   BROKEN_counted_after_look   an exit looks at the number of keepers first, and counts itself later
 *   BROKEN_purged_without_look  the arrays' pages go back without a look whether the record is free
 *   BROKEN_purged_without_lock  or with one, but without the lock
 *   BROKEN_slab_forgotten_late  the slab is the pool's before the record has forgotten it
 *   BROKEN_child_takes_other    a child takes what its own thread is at for a record that is free
 *   BROKEN_child_keeps_locked   a child leaves the cache in a record that it cannot file, because its own thread has the lock
 *   BROKEN_child_keeps_list     a child files the record in the list that it found
 */
#define TICK 2 /* behind the threads */
#define TRIM 3
#define NOBODY 7
#ifdef BROKEN_keeping_not_ended
#define KEEPERS_MAX 2 /* or its thread's exit would find one too many, and end it */
#else
#define KEEPERS_MAX 1
#endif

/* The record. */
byte n_listed = 1;           /* how often it is in the list */
byte n_at;                   /* who are at it */
bool in_use;
bool working;                /* its thread is in no call */
bool kept;                   /* kept_bytes is not 0 */
bool current;                /* it has its slab */
bool in_hand, pooled = true; /* else somebody has that, or the pool */
bool slots_used, pages_used; /* of its arrays */

bool other_keeps;
byte n_kept;
byte lock = NOBODY; /* its holder */
bool is_other;      /* the record is the tick's tls_other */
bool has_filed;     /* which has let go of it already */
bool forked;        /* nobody goes on, but the tick if it was its handler who forked */
bool tick_goes_on;

#define STEP(statement) atomic { statement }
#define STOPS_AT_FORK unless { forked && !(tick_goes_on && me == TICK) }

inline check()
{
    d_step {
        assert(n_at + n_listed == 1);
        assert(current + in_hand + pooled == 1);
        assert(kept + other_keeps <= KEEPERS_MAX);
        if
        :: !forked && n_at == 0 && !other_keeps && lock == NOBODY -> assert(n_kept == kept || n_counting != 0)
        :: else
        fi
    }
}

inline take_lock() { STEP(lock == NOBODY -> lock = me) }
inline try_lock() { STEP(done = (lock == NOBODY); lock = (done -> me : lock)) }
inline drop_lock() { STEP(assert(lock == me); lock = NOBODY) }

inline end_keeping()
{
    STEP(seen = kept; kept = false);
    if
    :: seen -> STEP(assert(n_kept != 0); n_kept--; seen = false)
    :: else
    fi
}

inline disown_slabs()
{
#ifdef BROKEN_slab_forgotten_late
    STEP(seen = current);
    if
    :: seen -> STEP(assert(!pooled); pooled = true); STEP(current = false; seen = false)
    :: else
    fi
#else
    STEP(seen = current; current = false; in_hand = in_hand || seen);
    if
    :: seen -> STEP(in_hand = false; pooled = true; seen = false)
    :: else
    fi
#endif
}

inline thread_empty()
{
    STEP(slots_used = false; working = false);
    disown_slabs();
    end_keeping()
}

inline thread_release()
{
    take_lock();
    STEP(in_use = false);
    STEP(n_listed++; n_at--; has_filed = has_filed || me == TICK);
    STEP(assert(lock == me); lock = NOBODY; check())
}

/* Leaves done = whether it is one too many. */
byte n_counting;
inline count_keeper()
{
#ifdef BROKEN_counted_after_look
    STEP(done = (n_kept >= KEEPERS_MAX); n_counting++);
    if
    :: !done -> STEP(n_kept++)
    :: else -> STEP(n_counting--)
    fi
#else
    STEP(done = (n_kept >= KEEPERS_MAX); n_kept++; n_counting++);
    if
    :: done -> STEP(n_kept--; n_counting--)
    :: else
    fi
#endif
}

proctype thread(byte me)
{
    bool done, seen;
    {
again:
    do
    :: take_lock(); /* claim_record */
       if
       :: STEP(n_listed == 0 -> lock = NOBODY); goto again /* it makes another one */
       :: STEP(n_listed != 0 -> n_listed--; n_at++; check())
       fi;
#ifdef BROKEN_ended_before_use
       end_keeping();
       STEP(in_use = true);
#else
       STEP(in_use = true);
#ifndef BROKEN_keeping_not_ended
       end_keeping();
#endif
#endif
       drop_lock();
       STEP(current = current || pooled; pooled = false; slots_used = true; pages_used = true; working = true; check());
       STEP(working = false); /* on_thread_exit */
       count_keeper(); /* keep_slabs */
       if
       :: done -> STEP(done = false); thread_empty()
       :: else ->
           STEP(slots_used = false);
#ifdef BROKEN_kept_after_release
           thread_release();
           STEP(kept = true; n_counting--; check());
           goto again
#else
           STEP(kept = true; n_counting--; check())
#endif
       fi;
       thread_release()
    od
    } STOPS_AT_FORK
}

/* Another record that keeps slabs for a while. It ends at some time, so that a state in which all others wait is seen as one. */
proctype keeper(byte me)
{
    bool done;
    {
end:
    do
    :: count_keeper();
       if
       :: done -> STEP(done = false)
       :: else ->
           STEP(other_keeps = true; n_counting--; check());
           STEP(other_keeps = false; assert(n_kept != 0); n_kept--)
       fi
    :: break
    od
    } STOPS_AT_FORK
}

/* ---- The child ---- */

bool record_may_be_lost, slab_may_be_lost;

/* mend_child. The lock's holder is gone, if it is not the caller: who may be about to change the list then. */
inline mend()
{
    if
    :: lock != TICK || !tick_goes_on ->
        lock = NOBODY;
#ifndef BROKEN_child_keeps_list
        record_may_be_lost = (is_other && has_filed);
        n_listed = 0
#endif
    :: else
    fi;
    if
    :: other_keeps -> other_keeps = false; assert(n_kept != 0); n_kept--
    :: else
    fi;
    if
#ifndef BROKEN_child_takes_other
    :: tick_goes_on && is_other
#endif
    :: else ->
        slab_may_be_lost = in_hand;
        if
#ifdef BROKEN_child_keeps_locked
        :: working -> kept = true; n_kept++
#else
        :: working && lock == NOBODY -> kept = true; n_kept++ /* thread_keep_all */
#endif
        :: else -> working = false
        fi;
        if
        :: !working && (in_use || kept) && current -> assert(!pooled); current = false; pooled = true
        :: else
        fi;
        if
        :: !working && kept -> assert(n_kept != 0); n_kept--; kept = false
        :: else
        fi;
        slots_used = slots_used && (working || !in_use);
        if
        :: lock == NOBODY -> in_use = false; n_at = 0; n_listed++
        :: else -> record_may_be_lost = (n_listed == 0); assert(!kept && !current) /* ours: thread_release does nothing */
        fi
    fi
}

inline check_child()
{
    assert(lock == NOBODY);
    assert(n_listed == 1 || (n_listed == 0 && record_may_be_lost));
    if
    :: n_listed == 1 ->
        assert(!in_use && n_at == 0 && kept == working && current == working && slots_used == working);
        assert(pooled + in_hand + current == 1 && (!in_hand || slab_may_be_lost))
    :: else
    fi
}

/* At any time, once or never. */
proctype forker()
{
    if
    :: atomic { true -> forked = true; mend(); check_child() }
    :: atomic { true -> forked = true; tick_goes_on = true; mend() }
    :: true
    fi
}

/* ---- Who takes away what is kept ---- */

/* Leaves done = whether the record is the caller's now. */
inline take_keeper()
{
#ifdef BROKEN_taken_without_lock
    STEP(done = (n_listed != 0 && kept));
    if
    :: done -> STEP(n_listed = (n_listed == 0 -> 0 : n_listed - 1); n_at++; is_other = is_other || me == TICK; check())
    :: else
    fi
#else
    try_lock();
    if
    :: done ->
        STEP(done = (n_listed != 0 && kept));
        if
        :: done ->
#ifdef BROKEN_emptied_in_list
            STEP(n_at++);
#else
            STEP(n_listed--; n_at++);
#endif
            STEP(is_other = is_other || me == TICK; check())
        :: else
        fi;
#ifdef BROKEN_lock_kept
        if
        :: done -> drop_lock()
        :: else
        fi
#else
        drop_lock()
#endif
    :: else
    fi
#endif
}

inline empty_free_record()
{
    take_keeper();
    if
    :: done ->
        thread_empty();
        thread_release();
        STEP(if :: me == TICK -> is_other = false; has_filed = false :: else fi)
    :: else
    fi;
#ifdef BROKEN_purged_without_lock
    STEP(done = true);
#else
    try_lock();
#endif
    if
    :: done ->
#ifndef BROKEN_purged_without_look
        STEP(done = !in_use);
#endif
        if
        :: done && pages_used && !slots_used -> STEP(assert(!slots_used); pages_used = false)
        :: else
        fi;
#ifndef BROKEN_purged_without_lock
        drop_lock()
#endif
    :: else
    fi;
    STEP(done = false)
}

proctype taker(byte me)
{
    bool done, seen;
    {
end:
    do
    :: STEP(!forked && !in_use && (pages_used || kept)); empty_free_record()
    :: STEP(forked -> check_child()); break
    od
    } STOPS_AT_FORK
}

init {
    atomic {
        run thread(0);
        run thread(1);
        run keeper(NOBODY);
        run taker(TICK);
        run taker(TRIM);
        run forker()
    }
}
