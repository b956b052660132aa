/* tail.pml - what lies behind the end of a span is purged while threads free the span, make another one of its slot, and resize it.
 * Stands for
 *   src/pool/tail.c: tail_purge purge_span tail_of_span
 *   src/pool/held.h: held_take held_make_again
 *   src/pool/held.c: held_put
 *   src/pool/span.h: span_set_state span_set_bytes
 *   src/pool/span.c: span_hand_out_pages make_span_and_unlock span_resize put_slots_and_unlock span_put_and_unlock
 *   src/pool/large.c: large_return defer put_deferred
 *   src/pool/repair.c: unmark_head
 * Proves
 *   P1  no page that a block needs is purged
 *   P2  whoever frees a block finds it to be one: nobody is told that it was freed twice
 *   P3  a head is marked only while somebody has the pool lock: the child of a fork, which gets the lock of a thread that is gone,
 *       finds every mark
 *   P4  pages that count as clean are not in memory, and the count of committed ones is right whenever the lock is free and nobody is
 *       at work
 *   P5  nobody waits for ever: there is no invalid end state
 * Abstracted away
 *   One slot of two pages; a block needs the first, or both. Longer spans have their tail in their last slot alone, and the others are
 *   not touched. Runs: they are claimed, resized, freed and purged under the lock. EMPTY slots are purged while they are TAKEN:
 *   superslab.pml. When the tail is looked for: at any time. A signal handler frees the block in the midst of a purge, or not at
 *   all; any thread puts it back. What the system refuses is as if nobody had asked. SPIN assumes sequential consistency; a thread
 *   reads a span's length after it has marked the head by a compare-exchange, which acquires what the state's store released.
 * Broken variants
 *   BROKEN_no_mark            the head is not marked
 *   BROKEN_early_length       the length is read before the head is marked
 *   BROKEN_free_marked        a free without the lock takes a marked head as well
 *   BROKEN_unmark_later       the mark is taken back after the lock was dropped
 *   BROKEN_defer_unmarked     a signal handler knows no marked heads
 */
mtype = { EMPTY, TAKEN, HEAD, MARKED, HELD, RETIRING };

mtype ctl = EMPTY;
byte pages = 1;                 /* pages: span_bytes */
byte dirty;                   /* a bit for each page: dirty_pages */
byte in_memory;               /* likewise: what holds what the program wrote */
byte committed;
byte lock;                    /* who has it; 0: nobody */
byte holder;                  /* whose the HELD slot is */
bool out;                     /* the program has the block, and no call on it is in progress */
bool deferred;

#define needed(n) ((n) == 1 -> 1 : 3)
#define count(mask) (((mask) & 1) + (((mask) >> 1) & 1))

inline take_lock() { atomic { lock == 0 -> lock = _pid + 1 } }
inline drop_lock()
{
    atomic {
        assert(ctl != MARKED);
        assert(committed == count(dirty));
        lock = 0
    }
}

inline hand_out()
{
    atomic {
        committed = committed + count(needed(pages) & ~dirty);
        dirty = dirty | needed(pages)
    }
}

/* The program uses the block, whoever has it then. */
inline write()
{
    in_memory = in_memory | needed(pages);
    assert((in_memory & ~dirty) == 0);
    out = true
}

inline look()
{
    atomic {
        assert((in_memory & needed(pages)) == needed(pages));
        in_memory = 0 /* nobody asks for it any more: what is purged of it matters to nobody */
    }
}

inline choose_pages()
{
    if
    :: pages = 1
    :: pages = 2
    fi
}

inline free_under_lock()
{
    take_lock();
    atomic {
        assert(ctl == HEAD);
        ctl = TAKEN
    };
    ctl = EMPTY;
    drop_lock()
}

proctype thread()
{
    bool taken, grown;
end:
    do
    /* large_claim */
    :: atomic { lock == 0 && ctl == EMPTY -> lock = _pid + 1 } ->
        ctl = TAKEN;
        choose_pages();
        hand_out();
        ctl = HEAD;
        drop_lock();
        write()
    /* held_make_again, held_put */
    :: ctl == HELD && holder == _pid + 1 ->
        if
        :: choose_pages();
            hand_out();
            ctl = HEAD;
            write()
        :: take_lock();
            ctl = EMPTY;
            drop_lock()
        fi
    /* free */
    :: atomic { out -> out = false } ->
        look();
        if
        :: atomic {
                taken = ctl == HEAD;
#ifdef BROKEN_free_marked
                taken = taken || ctl == MARKED;
#endif
                if
                :: taken -> ctl = HELD; holder = _pid + 1
                :: else
                fi
            };
            if
            :: taken
            :: else -> free_under_lock()
            fi
        :: free_under_lock()
        fi;
        taken = false
    /* realloc in place */
    :: atomic { out -> out = false } ->
        take_lock();
        assert((in_memory & needed(pages)) == needed(pages));
        grown = pages == 1;
        pages = 3 - pages;
        hand_out();
        drop_lock();
        if
        :: grown -> write()
        :: else -> out = true
        fi;
        grown = false
    /* put_deferred */
    :: atomic { deferred -> deferred = false } ->
        ctl = HEAD;
        free_under_lock()
    od
}

/* A signal handler on the purger's thread: it has interrupted the lock's holder. */
inline maybe_freed_by_handler()
{
    if
    :: atomic { out -> out = false };
        look();
        atomic {
#ifdef BROKEN_defer_unmarked
            assert(ctl == HEAD);
#else
            assert(ctl == HEAD || ctl == MARKED);
#endif
            ctl = RETIRING;
            deferred = true
        }
    :: skip
    fi
}

proctype purger()
{
    byte tail, n;
    bool mine;
end:
    do
    :: take_lock();
#ifdef BROKEN_early_length
        n = pages;
#endif
        atomic {
            mine = ctl == HEAD;
#ifndef BROKEN_no_mark
            if
            :: mine -> ctl = MARKED
            :: else
            fi
#endif
        };
        if
        :: mine ->
#ifndef BROKEN_early_length
            n = pages;
#endif
            maybe_freed_by_handler();
            tail = dirty & ~needed(n);
            in_memory = in_memory & ~tail;
            atomic {
                committed = committed - count(dirty & tail);
                dirty = dirty & ~tail
            };
#ifdef BROKEN_unmark_later
            lock = 0;
#endif
#ifndef BROKEN_no_mark
            atomic {
                if
                :: ctl == MARKED -> ctl = HEAD
                :: else
                fi
            };
#endif
        :: else
        fi;
#ifdef BROKEN_unmark_later
        if
        :: lock == _pid + 1 -> drop_lock()
        :: else
        fi;
#else
        drop_lock();
#endif
        mine = false;
        tail = 0;
        n = 0
    od
}

init {
    atomic {
        run thread();
        run thread();
        run purger()
    }
}
