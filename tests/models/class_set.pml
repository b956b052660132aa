/* class_set.pml - the class set: a tree of bits that many threads change without a lock.
 * Stands for
 *   src/pool/class_set.c: set_bit clear_bit enter_above class_set_enter drop_above class_set_hide class_set_drop
 *   src/pool/shared_pool.c: own_listed list_slab
 *   src/superslab/slab.c: slab_own
 * Proves
 *   P1  when no call is in progress, a PARTIAL slab's bit is set, and so are the bits of its row at both levels
 *       above: class_set_find from 0 finds a slab whenever there is one
 *   P2  a slab has one owner
 *   P3  nobody waits: there is no invalid end state
 * Abstracted away
 *   Words of 64 bits: slabs 0 and 1 are the first row, slab 2 is the second; both rows are in one word of the middle
 *   level, that word is one bit at the top. A race needs a word that becomes empty and a bit that comes into it, and
 *   that needs two bits at most.
 *   class_set_find: a thread tries any slab at any time, which is more than what it can be told to try.
 *   The class: a slab that changes its class is one that is not PARTIAL for this set.
 *   SPIN assumes sequential consistency; that the C code's operations are so ordered is argued in class_set.c.
 * Size, for tests/scripts/models.sh: "models: optimize"
 * Broken variants
 *   BROKEN_slab_not_read_again   class_set_drop does not look at the slab's ctl after it has cleared the bit
 *   BROKEN_row_not_read_again    drop_above does not look at the row after it has cleared the bit above
 *   BROKEN_middle_not_read_again drop_above does not look at the middle word after it has cleared the top bit
 *   BROKEN_top_cleared_last      drop_above looks at the row first and clears the bits above last
 *   BROKEN_list_first            the owner lists the slab before it makes it PARTIAL
 */
#define N_THREADS 3
#define N_SLABS 3
#define ROW(slab) ((slab) / 2)

bool partial[N_SLABS] = true; /* ctl: PARTIAL; else somebody's, or full */
byte set0[2];                 /* bit: a slab of the row */
byte set1;                    /* bit: a row that is not empty */
byte set2;                    /* bit 0: set1 is not empty */
byte n_calls;                 /* in progress */
byte n_owners[N_SLABS];       /* of the slab */

#define BIT_OF(slab) (1 << ((slab) % 2))

inline check_when_quiet()
{
    if
    :: n_calls == 0 ->
        for (i : 0 .. N_SLABS - 1) {
            assert(!partial[i] || ((set0[ROW(i)] & BIT_OF(i)) != 0 && (set1 & (1 << ROW(i))) != 0 && set2 != 0))
        }
        i = 0
    :: else
    fi
}

/* fetch_or and fetch_and are one step each; what they tell (the word was empty, is empty now) is the way taken. */
inline enter_above(row)
{
    if
    :: d_step { set1 == 0 -> set1 = 1 << row }; set2 = 1
    :: d_step { set1 != 0 -> set1 = set1 | (1 << row) }
    fi
}

inline class_set_enter(slab)
{
    if
    :: d_step { set0[ROW(slab)] == 0 -> set0[ROW(slab)] = BIT_OF(slab) }; enter_above(ROW(slab))
    :: d_step { set0[ROW(slab)] != 0 -> set0[ROW(slab)] = set0[ROW(slab)] | BIT_OF(slab) }
    fi
}

inline clear_above(row)
{
    if
    :: d_step { set1 == (1 << row) -> set1 = 0 };
        set2 = 0;
#ifndef BROKEN_middle_not_read_again
        if
        :: set1 != 0 -> set2 = 1
        :: else
        fi
#endif
    :: d_step { set1 != (1 << row) -> set1 = set1 & ~(1 << row) }
    fi
}

inline drop_above(row)
{
#ifdef BROKEN_top_cleared_last
    if
    :: set0[row] == 0 -> clear_above(row)
    :: else
    fi
#else
    clear_above(row);
#ifndef BROKEN_row_not_read_again
    if
    :: set0[row] != 0 -> enter_above(row)
    :: else
    fi
#endif
#endif
}

inline class_set_drop(slab)
{
    if
    :: d_step { set0[ROW(slab)] == BIT_OF(slab) -> set0[ROW(slab)] = 0 }; drop_above(ROW(slab))
    :: d_step { set0[ROW(slab)] != BIT_OF(slab) -> set0[ROW(slab)] = set0[ROW(slab)] & ~BIT_OF(slab) }
    fi;
#ifndef BROKEN_slab_not_read_again
    if
    :: partial[slab] -> class_set_enter(slab)
    :: else
    fi
#endif
}

proctype thread()
{
    bool owned;
    byte slab, i;
    do
    :: atomic {
           n_calls++;
           select(slab : 0 .. N_SLABS - 1)
       };
       /* own_listed: the slab was found a while ago, and may be anybody's by now. */
       d_step {
           owned = partial[slab];
           partial[slab] = false;
           if
           :: owned -> n_owners[slab]++; assert(n_owners[slab] == 1)
           :: else
           fi
       };
       class_set_drop(slab);
       if
       :: owned -> /* In between it is claimed from. Then its owner lets go. */
           owned = false;
#ifdef BROKEN_list_first
           class_set_enter(slab);
           d_step { n_owners[slab]--; partial[slab] = true }
#else
           d_step { n_owners[slab]--; partial[slab] = true };
           class_set_enter(slab)
#endif
       :: else
       fi;
       atomic { n_calls--; slab = 0; check_when_quiet() }
    od
}

init {
    byte k;
    atomic {
        set0[0] = 3; set0[1] = 1; set1 = 3; set2 = 1;
        for (k : 1 .. N_THREADS) { run thread() }
    }
}
