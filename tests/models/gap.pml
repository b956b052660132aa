/* gap.pml - a slab with gaps: its bits, the second map, the flag, the class map, and who asks which of them when.
 * Stands for
 *   src/pool/gap.c: gap_claim claim_from open_gaps close_gaps gap_close_unused gap_tick_slab gap_return set_map
 *   src/superslab/slab_gaps.c: slab_open_gaps slab_close_gaps slab_find_gap slab_claim_gap slab_follows slab_gap_blocks slab_split_gap
 *   src/superslab/slab.c: slab_open slab_claim slab_own slab_disown slab_return_bits slab_return_count
 *   src/pool/shared_pool.c: open_slot shared_pool_return_blocks shared_pool_disown_slab
 *   src/front/locate.c: locate_block
 *   src/front/free.c: return_to_gaps return_located
 *   src/front/flush.c: flush_located
 * Proves
 *   P1  no place has two holders
 *   P2  as many places come back as were claimed, whether the class map says GAPS by then or not: nothing is lost, and
 *       nothing of others is freed. No block is taken for the middle of a larger one, or for free
 *   P3  a free place is not in the second map, unless somebody is at it: who claims finds none there
 *   P4  when no call is in progress, bits and `used` agree with what is held, the class map with the flag, and, while
 *       there are gaps, the second map and n_following with the larger blocks; without gaps there are none
 *   P5  nobody waits for ever: there is no invalid end state
 * Abstracted away
 *   One slab of four places; a larger block is two of them, anywhere. Others would add places, but no word that more
 *   threads share. A larger block may lie across two words of the bit map, so its places go back one by one; one claim
 *   may clear them together, because only the owner claims.
 *   How a slab is found, and states FULL and idle (class_set.pml, slab.pml): a slab that lives is found, a full slab is
 *   PARTIAL and whoever owns it finds nothing.
 *   Who opens or closes: a claim of either kind, or a tick. Each owns the slab, so one process, which may come at any
 *   time and do either, stands for all; that a claim then goes on without letting the slab go leaves out interleavings,
 *   and adds none.
 *   An empty slab is let wait, as PARTIAL, or its slot is free. When that is opened again, another class may have had
 *   it between: the second map may say anything.
 *   Magazines: a block of one place that went into one comes back as one place, whatever the class map says by then.
 *   A slab is owned for one claim.
 *   A claim that clears the bits before it writes the second map is no error here, so it is no variant: nobody asks
 *   for these places before it has returned the block.
 *   SPIN assumes sequential consistency. Who returns a block has it from its caller, and that from the claim.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_bits_first         a return sets the bits before it clears the second map
 *   BROKEN_number_last        a return lowers n_following when its places are free
 *   BROKEN_map_after_disown   who opens or closes sets the class map after letting go of the slab
 *   BROKEN_map_before_clear   who opens sets the class map before it clears the second map
 *   BROKEN_not_cleared        who opens leaves the second map as it was
 *   BROKEN_close_unlooked     who closes does not look whether larger blocks are left
 *   BROKEN_close_looked_early looks before owning the slab, but not after
 *   BROKEN_flag_kept          a slot that is opened again keeps the flag
 */
#define ALL 15

mtype = { EMPTY, TAKEN, OWNED, PARTIAL, RETIRING };

mtype state = EMPTY; /* ctl: changes together with `used` */
byte used;
byte bits;           /* set: free */
byte follow;         /* the second map. set: part of a larger block that begins before it */
byte n_following;
bool gaps;           /* the flag */
bool map_gaps;       /* the class map: GAPS, or the slab's class */
byte held;           /* places that somebody has: callers, a claim or a return in progress */
byte singles;        /* blocks that may be returned: of one place, */
byte doubles;        /* and of two, by the first */
byte n_calls;

#define count(mask) (((mask) & 1) + (((mask) >> 1) & 1) + (((mask) >> 2) & 1) + (((mask) >> 3) & 1))
#define lowest(mask) ((mask) & (16 - (mask)))

/* Ends a call, and checks what is true when there is none. */
inline leave()
{
    d_step {
        n_calls--;
        mine = false; mask = 0; first = 0; whole = 0;
        if
        :: n_calls == 0 ->
            assert(state == PARTIAL || state == EMPTY);
            assert(held == (singles | doubles | (doubles << 1)));
            assert(state != EMPTY || held == 0);
            if
            :: state == PARTIAL ->
                assert(used == count(held) && bits == (ALL & ~held));
                assert(map_gaps == gaps);
                assert(gaps || doubles == 0);
                assert(!gaps || (follow == doubles << 1 && n_following == count(doubles)))
            :: else
            fi
        :: else
        fi
    }
}

inline own()
{
    d_step {
        if
        :: state == PARTIAL -> state = OWNED; mine = true
        :: else
        fi
    }
}

/* It is empty, and nobody else's. */
inline let_wait()
{
    if
    :: d_step { assert(state == RETIRING && used == 0 && bits == ALL && held == 0); state = EMPTY }
    :: state = PARTIAL
    fi
}

inline disown()
{
    d_step {
        assert(state == OWNED);
        state = (used == 0 -> RETIRING : PARTIAL);
        mine = (used == 0)
    };
    if
    :: mine -> let_wait()
    :: else
    fi
}

/* A slot, which other classes may have had since. */
inline open_slot()
{
    d_step {
        if
        :: state == EMPTY -> state = TAKEN; mine = true
        :: else
        fi
    };
    if
    :: mine ->
        d_step {
            follow = ALL;
            bits = ALL;
            used = 0;
            n_following = 0;
#ifndef BROKEN_flag_kept
            gaps = false;
#endif
            state = OWNED
        };
        map_gaps = false
    :: else
    fi
}

/* A place, as a mask: any. */
inline choose_place()
{
    if
    :: mask = 1
    :: mask = 2
    :: mask = 4
    :: mask = 8
    fi
}

/* Only the owner clears bits, so those that it saw are still there. */
inline clear_bits()
{
    d_step {
        assert((bits & mask) == mask && (held & mask) == 0);
        bits = bits & ~mask;
        held = held | mask
    }
}

inline claim()
{
    atomic {
        choose_place();
        mask = mask & bits;
        assert(!gaps || (follow & mask) == 0)
    };
    if
    :: mask != 0 ->
        clear_bits();
        d_step { used++; singles = singles | mask }
    :: else
    fi
}

inline claim_gap()
{
    atomic {
        choose_place();
        mask = mask | (mask << 1);
        if
        :: (bits & mask) != mask -> mask = 0
        :: else -> assert((follow & mask) == 0)
        fi
    };
    if
    :: mask != 0 ->
        follow = follow | (mask & (mask << 1));
        clear_bits();
        n_following++;
        d_step { used = used + 2; doubles = doubles | lowest(mask) }
    :: else
    fi
}

/* A block that no other thread is returning: its first place, and all of it, which only the model knows. */
inline choose_block()
{
    if
    :: ((singles | doubles) & 1) != 0 -> first = 1
    :: ((singles | doubles) & 2) != 0 -> first = 2
    :: ((singles | doubles) & 4) != 0 -> first = 4
    :: ((singles | doubles) & 8) != 0 -> first = 8
    fi;
    whole = ((doubles & first) != 0 -> first | (first << 1) : first);
    singles = singles & ~first;
    doubles = doubles & ~first
}

/* Sets mask to what the second map says: of a row of places that follow, all. */
inline ask_second_map()
{
    d_step {
        mask = first;
        do
        :: (follow & ((mask << 1) & ~mask)) != 0 -> mask = mask | (follow & (mask << 1))
        :: else -> break
        od
    }
}

inline split()
{
    follow = follow & ~(mask & ~first);
#ifndef BROKEN_number_last
    n_following = n_following - (count(mask) - 1)
#endif
}

inline set_bits()
{
    do
    :: mask != 0 ->
        d_step {
            assert((bits & lowest(mask)) == 0 && (held & lowest(mask)) != 0);
            bits = bits | lowest(mask);
            held = held & ~lowest(mask);
            mask = mask & ~lowest(mask)
        };
        d_step {
            assert(used != 0);
            used--;
            if
            :: state == PARTIAL && used == 0 -> state = RETIRING; mine = true
            :: else
            fi
        };
        if
        :: mine -> let_wait()
        :: else
        fi
    :: else -> break
    od
}

inline return_block()
{
    if
    :: map_gaps ->
        assert((follow & first) == 0); /* not the middle of a block, */
        assert((bits & first) == 0);   /* and not free already */
        ask_second_map();
    :: else -> mask = first
    fi;
    assert(mask == whole);
    if
    :: mask != first -> /* gap_return */
#if defined(BROKEN_bits_first)
        set_bits();
        mask = whole;
        split()
#elif defined(BROKEN_number_last)
        split();
        set_bits();
        n_following = n_following - (count(whole) - 1)
#else
        split();
        set_bits()
#endif
    :: else -> set_bits()
    fi
}

proctype thread()
{
    bool mine;
    byte mask, first, whole;
end:
    do
    :: atomic { state == EMPTY -> n_calls++ } ->
        open_slot();
        if
        :: mine -> claim(); disown()
        :: else
        fi;
        leave()
    :: atomic { state == PARTIAL -> n_calls++ } ->
        own();
        if
        :: mine && gaps -> claim_gap(); disown()
        :: mine -> claim(); disown()
        :: else
        fi;
        leave()
    :: atomic { (singles | doubles) != 0 -> n_calls++; choose_block() } ->
        return_block();
        leave()
    od
}

/* open_gaps, gap_close_unused */
proctype open_or_close()
{
    bool mine;
    byte mask, first, whole;
end:
    do
    :: atomic { state == PARTIAL -> n_calls++ } ->
        if
#ifndef BROKEN_close_unlooked
        :: gaps && n_following != 0 -> skip
#endif
        :: else -> own()
        fi;
        if
        :: mine && !gaps ->
#ifdef BROKEN_map_before_clear
            map_gaps = true;
#endif
#ifndef BROKEN_not_cleared
            follow = 0;
#endif
            n_following = 0;
            gaps = true;
#ifdef BROKEN_map_after_disown
            disown();
            map_gaps = true
#else
            map_gaps = true;
            disown()
#endif
        :: mine && gaps ->
            if
#if !defined(BROKEN_close_unlooked) && !defined(BROKEN_close_looked_early)
            :: n_following != 0 -> disown()
#endif
            :: else ->
                gaps = false;
#ifdef BROKEN_map_after_disown
                disown();
                map_gaps = false
#else
                map_gaps = false;
                disown()
#endif
            fi
        :: else
        fi;
        leave()
    od
}

init {
    atomic {
        run thread();
        run thread();
        run open_or_close()
    }
}
