/* packed.pml - pages of one slot are claimed for packed spans, returned, kept by threads, given again, resized and purged.
 * Stands for
 *   src/pool/packed_pages.c: packed_take_pages packed_put_pages packed_take_behind packed_purge count_pages
 *   src/pool/packed.c: make_block put begins_at packed_return packed_hold packed_give packed_put_held packed_resize claim_locked
 * Proves
 *   P1  no page is in two blocks
 *   P2  whoever frees a block finds it to be one, unless the program has freed it twice
 *   P3  who frees what is free already takes no other block's pages: what he takes begins where he said
 *   P4  no page of a block is purged, whoever has the block
 *   P5  whenever the lock is free, the pages that count as used are those of the heads, and no two heads share one: so the child of a
 *       fork, which has the heads alone to go by, loses no block
 *   P6  nobody waits for ever: there is no invalid end state
 * Abstracted away
 *   A slot of 4 pages alone, blocks of 2 or 3 of them, a head for each half; where a block reaches into further slots, their pages are
 *   changed under the same lock. The slot stays PACKED when it has no block: superslab.pml has slots that come and go. A thread that
 *   frees what another has freed already does so at any time, once. Lists of SuperSlabs, signal handlers (a block that waits is
 *   one that is held). SPIN assumes sequential consistency; a word's release store publishes the pages that were taken before it.
 * Broken variants
 *   BROKEN_hold_store         a block is taken out of the program's hands by a load and a store
 *   BROKEN_any_page           a return looks at the head's state, not at where its block begins
 *   BROKEN_early_state        a return looks at the head before the lock, and not again
 *   BROKEN_put_unlocked       pages are put back without the lock
 *   BROKEN_grow_blind         a block that grows does not look at the page behind it
 *   BROKEN_purge_early        which pages are free is read before the lock is taken
 *   BROKEN_shrink_word        a block that shrinks puts its page back and leaves its head as it was
 */
mtype = { NONE, LIVE, HELD };

#define ALL 15
#define row(page, n) (((1 << (n)) - 1) << (page))
#define half(page) ((page) >> 1)
#define NOWHERE 9

mtype state[2] = NONE;          /* the heads: a word each */
byte begins[2];
byte length[2];
byte used;                      /* packed_pages */
byte in_memory;
byte lock;                      /* who has it; 0: nobody */
byte theirs;                    /* pages of blocks from their claim to the call that frees them, and of those that are kept */
byte told = NOWHERE;            /* the address of a block that is freed twice */
bool spoiled;                   /* it was, by who had no right to */

inline take_lock() { atomic { lock == 0 -> lock = _pid + 1 } }
inline drop_lock()
{
    atomic {
        assert(((state[0] != NONE -> row(begins[0], length[0]) : 0) & (state[1] != NONE -> row(begins[1], length[1]) : 0)) == 0);
        assert(used == ((state[0] != NONE -> row(begins[0], length[0]) : 0) | (state[1] != NONE -> row(begins[1], length[1]) : 0)));
        lock = 0
    }
}

/* Two steps each, as in the code: nobody else may be at it between them. */
inline take_pages(mask)
{
    now = used;
    used = now | (mask)
}

inline put_pages(mask)
{
    now = used;
    used = now & ~(mask)
}

/* ok: there was room. */
inline claim()
{
    ok = false;
    take_lock();
    if
    :: (used & row(0, n)) == 0 -> at = 0; ok = true
    :: (used & row(1, n)) == 0 -> at = 1; ok = true
    :: n == 2 && (used & row(2, 2)) == 0 -> at = 2; ok = true
    :: else -> skip
    fi;
    if
    :: ok ->
        take_pages(row(at, n));
        atomic {
            assert((theirs & row(at, n)) == 0);
            theirs = theirs | row(at, n);
            state[half(at)] = LIVE;
            begins[half(at)] = at;
            length[half(at)] = n
        }
    :: else -> skip
    fi;
    drop_lock()
}

/* What ends a block's life, in the state that is expected. ok: it was one. */
inline put(expected)
{
#ifndef BROKEN_put_unlocked
    take_lock();
#endif
    atomic { /* the compare-exchange */
#ifdef BROKEN_early_state
        if
        :: seen -> ok = true
        :: else -> ok = false
        fi;
#else
#ifdef BROKEN_any_page
        ok = (state[half(at)] == expected);
#else
        ok = (state[half(at)] == expected && begins[half(at)] == at);
#endif
#endif
        if
        :: ok ->
            assert(begins[half(at)] == at);
            assert(state[half(at)] != NONE);
            n = length[half(at)];
            state[half(at)] = NONE;
            theirs = theirs & ~row(at, n)
        :: else -> skip
        fi
    }
    if
    :: ok -> put_pages(row(at, n))
    :: else -> skip
    fi;
#ifndef BROKEN_put_unlocked
    drop_lock()
#endif
}

/* Without the lock. */
inline hold()
{
#ifdef BROKEN_hold_store
    ok = (state[half(at)] == LIVE && begins[half(at)] == at);
    atomic {
        if
        :: ok -> assert(state[half(at)] == LIVE && begins[half(at)] == at); state[half(at)] = HELD
        :: else -> skip
        fi
    }
#else
    atomic {
        ok = (state[half(at)] == LIVE && begins[half(at)] == at);
        if
        :: ok -> state[half(at)] = HELD
        :: else -> skip
        fi
    }
#endif
}

inline resize()
{
    take_lock();
    if
    :: n == 3 ->
#ifndef BROKEN_shrink_word
        length[half(at)] = 2;
#endif
        atomic { theirs = theirs & ~row(at + 2, 1); in_memory = in_memory & ~row(at + 2, 1) };
        put_pages(row(at + 2, 1));
        n = 2
#ifdef BROKEN_grow_blind
    :: n == 2 && at < 2 ->
#else
    :: n == 2 && at < 2 && (used & row(at + 2, 1)) == 0 ->
#endif
        take_pages(row(at + 2, 1));
        atomic {
            assert((theirs & row(at + 2, 1)) == 0);
            theirs = theirs | row(at + 2, 1);
            length[half(at)] = 3;
            in_memory = in_memory | row(at + 2, 1)
        };
        n = 3
    :: else -> skip
    fi;
    drop_lock()
}

inline free_it()
{
    seen = (state[half(at)] == LIVE && begins[half(at)] == at);
    if
    :: put(LIVE)
    :: hold();
        if
        :: ok ->
            if
            :: n = length[half(at)]; state[half(at)] = LIVE; /* given again: only who holds it writes */
                put(LIVE);
                ok = ok || spoiled || told == at
            :: put(HELD);
                assert(ok)
            fi
        :: else -> skip
        fi
    fi
}

active [2] proctype user()
{
    byte at, n, now, rounds;
    bool ok, seen;
    do
    :: rounds == 2 - _pid -> break /* the second one: once */
    :: rounds < 2 - _pid ->
        rounds++;
        if
        :: n = 2
        :: n = 3
        fi;
        claim();
        if
        :: ok ->
            atomic { in_memory = in_memory | row(at, n) };
            if
            :: atomic { told == NOWHERE -> told = at } /* the other one will free it, too; and it is not resized */
            :: told != at -> resize()
            :: skip
            fi;
            assert((in_memory & row(at, n)) == row(at, n) || told == at || spoiled);
            free_it();
            assert(ok || told == at || spoiled)
        :: else -> skip
        fi
    od
}

/* Frees an address that another thread frees as well. If a new block begins there by then, it is taken for that one, as it must be. */
active proctype misuser()
{
    byte at, n, now;
    bool ok, seen;
    if
    :: told != NOWHERE ->
        at = told;
        spoiled = true;
        free_it()
    :: skip
    fi
}

active proctype purger()
{
    byte free;
#ifdef BROKEN_purge_early
    free = ALL & ~used;
    take_lock();
#else
    take_lock();
    free = ALL & ~used;
#endif
    atomic {
        assert((theirs & free) == 0);
        in_memory = in_memory & ~free
    }
    drop_lock()
}
