/* purge.pml - pages go back to the system while blocks are claimed and returned.
 * Stands for
 *   src/pool/purge.c: purge_slab purge_empty_slots purge_slots shared_pool_purge_empty purge_empty_of
 *   src/superslab/slab.c: slab_purge_free_pages all_free mark_dirty hand_out_pages slab_claim slab_between_holes slab_own
 *   src/superslab/slab.c: slab_disown slab_return_bits slab_return_count slab_open
 *   src/pool/shared_pool.c: own_listed shared_pool_disown_slab shared_pool_release_slab
 *   src/pool/slots.c: pool_take_slots_out pool_put_slots
 * Proves
 *   P1  no page goes back while a block on it is held: claimed, with the program, or on its way back
 *   P2  what is not dirty by the record was not written since it was given back: an UNUSED slot reads as zero
 *   P3  what a recycled claim takes is dirty: it commits nothing
 *   P4  when no call is in progress, the committed bytes are those of dirty pages, and bits and `used` agree
 *   P5  no block has two holders; nobody waits for ever
 * Abstracted away
 *   One slab of two pages and three blocks, the middle one of which lies on both pages: a page with a block of its
 *   own, and a block that two pages share, is all that pages and blocks can have to do with each other.
 *   The idle list, tiers and pins (slab.pml, superslab.pml): an emptied slab is released at once, and nothing drains.
 *   A claim or a return is of one block; for more at a time see slab.pml. The system may refuse to take pages back.
 *   Pages that lie together go back one by one.
 *   SPIN assumes sequential consistency; the edge from a return's bit to all_free is R1 of slab.c.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_not_owned       a slab's pages are purged while it is PARTIAL
 *   BROKEN_edges_forgotten a page counts as free when the blocks that begin on it are
 *   BROKEN_not_taken       EMPTY slots stay in the masks while their pages go
 *   BROKEN_dirty_last      the purge lets go of the slab before it writes what is dirty
 *   BROKEN_refusal_ignored a slot whose pages the system refuses to take back is filed as UNUSED
 */
#define ALL 7
#define N_BLOCKS 3

mtype = { UNUSED, EMPTY, TAKEN, OWNED, PARTIAL, FULL, RETIRING };
mtype = { NOTHING, LISTABLE, GONE_EMPTY };

mtype state = UNUSED; /* ctl, with `used` */
byte used, bits;
byte dirty;           /* a bit for each page */
bool listed;
byte lock;
short committed;      /* pages */
byte written;         /* pages that do not read as zero */
byte held, out;       /* blocks that somebody has; of those, the ones that may be returned */
byte n_calls;

#define count(mask) (((mask) & 1) + (((mask) >> 1) & 1) + (((mask) >> 2) & 1))
#define pages_of(mask) ((((mask) & 3) != 0 -> 1 : 0) | (((mask) & 6) != 0 -> 2 : 0))
/* Blocks that overlap a page: 0, 1 the first; 1, 2 the second. */
#ifdef BROKEN_edges_forgotten
#define blocks_on(page) ((page) == 1 -> 3 : 4)
#else
#define blocks_on(page) ((page) == 1 -> 3 : 6)
#endif

inline leave()
{
    d_step {
        n_calls--;
        n = 0; mask = 0; result = 0; seen_dirty = 0;
        if
        :: n_calls == 0 ->
            assert(held == out && lock == 0 && committed == count(dirty));
            assert((written & ~dirty) == 0);
            assert(state != UNUSED || dirty == 0);
            assert(state == UNUSED || state == EMPTY || (used == count(held) && bits == (ALL & ~held)));
            assert(state != PARTIAL || listed)
        :: else
        fi
    }
}

inline own_listed()
{
    d_step {
        if
        :: state == PARTIAL -> state = OWNED; n = 1
        :: else -> n = 0
        fi
    };
    listed = false;
    if
    :: state == PARTIAL -> listed = true
    :: else
    fi
}

inline act_on_result()
{
    if
    :: result == LISTABLE -> listed = true
    :: result == GONE_EMPTY ->
        atomic {
            lock == 0 -> assert(state == RETIRING && used == 0 && bits == ALL && held == 0);
            state = EMPTY
        }
    :: else
    fi
}

inline disown_slab()
{
    d_step {
        assert(state == OWNED);
        if
        :: used == 0 -> state = RETIRING; result = GONE_EMPTY
        :: used != 0 && used >= N_BLOCKS -> state = FULL; result = NOTHING
        :: else -> state = PARTIAL; result = LISTABLE
        fi
    };
    act_on_result()
}

inline choose_block()
{
    if
    :: mask = 1
    :: mask = 2
    :: mask = 4
    fi
}

inline return_blocks()
{
    atomic {
        choose_block();
        mask = mask & out;
        out = out & ~mask
    };
    if
    :: mask != 0 ->
        d_step { assert((bits & mask) == 0); bits = bits | mask; held = held & ~mask };
        d_step {
            assert(used >= count(mask));
            used = used - count(mask);
            if
            :: (state == FULL || state == PARTIAL) && used == 0 -> state = RETIRING; result = GONE_EMPTY
            :: state == FULL && used != 0 && used < N_BLOCKS -> state = PARTIAL; result = LISTABLE
            :: else -> result = NOTHING
            fi
        };
        act_on_result()
    :: else
    fi
}

/* Leaves n = 1 if the slab is ours. */
inline acquire()
{
    if
    :: listed -> own_listed()
    :: n = 0;
        atomic {
            lock == 0;
            if
            :: state == EMPTY || state == UNUSED -> state = TAKEN; n = 1
            :: else
            fi
        };
        if
        :: d_step { n == 1 -> assert(state == TAKEN && held == 0); bits = ALL; used = 0; state = OWNED }
        :: n == 0
        fi
    fi
}

/* Some free blocks; recycled ones are those all of whose pages are dirty. */
inline claim()
{
    atomic {
        choose_block();
        mask = mask & bits;
        if
        :: n = 1; /* recycled */
           mask = mask & ~((dirty & 1) == 0 -> 3 : 0) & ~((dirty & 2) == 0 -> 6 : 0)
        :: n = 0
        fi
    };
    d_step {
        assert((bits & mask) == mask && (held & mask) == 0);
        bits = bits & ~mask;
        held = held | mask
    };
    if
    :: n == 0 ->
        seen_dirty = dirty;
        if
        :: (pages_of(mask) & ~seen_dirty) != 0 ->
            committed = committed + count(pages_of(mask) & ~seen_dirty);
            dirty = seen_dirty | pages_of(mask)
        :: else
        fi
    :: else
    fi;
    d_step {
        assert((pages_of(mask) & ~dirty) == 0);
        used = used + count(mask);
        out = out | mask;
        written = written | pages_of(mask)
    }
}

proctype thread()
{
    bool mine;
    byte n, mask, seen_dirty;
    mtype result;
end:
    do
    :: atomic { !mine && out != ALL -> n_calls++ } -> acquire(); mine = (n == 1); leave()
    :: atomic { mine -> n_calls++ } -> claim(); leave()
    :: atomic { mine -> n_calls++; mine = false } -> disown_slab(); leave()
    :: atomic { out != 0 -> n_calls++ } -> return_blocks(); leave()
    od
}

inline purge_page(page)
{
    if
    :: (seen_dirty & page) != 0 ->
        /* all_free looks at one bit after the other; they only appear meanwhile. */
        if
        :: (bits & blocks_on(page)) == blocks_on(page) ->
            if
            :: d_step { assert((held & (page == 1 -> 3 : 6)) == 0); written = written & ~page };
               d_step { seen_dirty = seen_dirty & ~page; n++ }
            :: true /* the system refuses */
            fi
        :: else
        fi
    :: else
    fi
}

proctype tick()
{
    byte n, mask, seen_dirty;
    mtype result;
end:
    do
    :: atomic { state == PARTIAL -> n_calls++ } -> /* purge_slab */
#ifdef BROKEN_not_owned
        n = (state == PARTIAL -> 1 : 0);
#else
        own_listed();
#endif
        if
        :: n == 1 ->
            n = 0;
            seen_dirty = dirty;
            purge_page(1);
            purge_page(2);
#ifdef BROKEN_dirty_last
            disown_slab();
            d_step { dirty = seen_dirty; committed = committed - n }
#else
            dirty = seen_dirty;
            committed = committed - n;
#ifndef BROKEN_not_owned
            disown_slab()
#endif
#endif
        :: else
        fi;
        leave()
    :: atomic { state == EMPTY -> n_calls++ } -> /* shared_pool_purge_empty */
        atomic {
            lock == 0;
            if
            :: state == EMPTY ->
                n = 1;
#ifndef BROKEN_not_taken
                state = TAKEN
#endif
            :: else
            fi
        };
        if
        :: n == 1 ->
            if
            :: d_step { assert(held == 0); written = 0; mask = 1 }
            :: mask = 0 /* the system refuses */
            fi;
            atomic { lock == 0 -> lock = 1 };
#ifdef BROKEN_refusal_ignored
            mask = 1;
#endif
            if
            :: mask == 1 ->
                committed = committed - count(dirty);
                dirty = 0;
                state = UNUSED
            :: else -> state = EMPTY
            fi;
            lock = 0
        :: else
        fi;
        leave()
    od
}

init {
    atomic {
        run thread();
        run thread();
        run tick()
    }
}
