/* budget.h - how much memory the heap may hold: two lines that committed bytes are held against.
 *
 *        0 ............ soft .................... hard - reserve ..... hard
 *          nothing      | caches shrink, idle     | one more block at   | no more memory
 *          happens      | memory goes at once     | a time, if small    |
 *
 * What counts is stats_counters.committed_bytes: pages handed out and not given back since. What is done when a line is
 * reached, front/pressure.c does. Without a budget both lines are SIZE_MAX.
 */
#ifndef HAKMEM_SERVICE_BUDGET_H
#define HAKMEM_SERVICE_BUDGET_H

#include "service/config.h"
#include "service/stats.h"

#define BUDGET_MIN_BYTES MIB
#define BUDGET_SMALL_BYTES 1024 /* requests up to this may use the reserve */

/* FOR_HANDLER: the program's function runs, which is told that a request is about to fail. FOR_ALL: one has failed, and
 * committed bytes have not fallen below the soft line since. */
enum budget_reserve { RESERVE_CLOSED = 0, RESERVE_FOR_HANDLER, RESERVE_FOR_ALL };

struct budget {
    _Atomic size_t soft_bytes, hard_bytes;
    _Atomic size_t promised_bytes; /* to large blocks that are being claimed */
    _Atomic size_t leaving_bytes;  /* committed ones that threads are giving back, out of a relief's reach; at most */
    _Atomic uint32_t reserve;      /* enum budget_reserve */
    _Atomic uint32_t freed;        /* memory came back since the last relief; see pressure.c */
    _Atomic uint32_t system_short; /* the system says that tasks wait for memory */
};
extern struct budget budget __attribute__((visibility("hidden")));

static inline bool budget_is_set(void)
{
    return atomic_load_explicit(&budget.hard_bytes, memory_order_relaxed) != SIZE_MAX; /* relaxed: a number */
}

/* Sets both lines, 1 MiB at least and soft not above hard; 0 for hard: no budget; 0 for soft: seven eighths of hard.
 * False: they are none of that, and nothing has changed. */
bool budget_set(size_t soft_bytes, size_t hard_bytes);

/* The budget that HAKMEM_BUDGET asks for. `root` as in os/cgroup.h. */
void budget_start(const char *root);

/* Whether the lines are a part of the control group's limit, by HAKMEM_BUDGET; not once budget_set has moved them. */
extern _Atomic uint32_t budget_by_group __attribute__((visibility("hidden")));
static inline bool budget_is_by_group(void)
{
    return atomic_load_explicit(&budget_by_group, memory_order_relaxed) != 0; /* relaxed: followed now or next time */
}

/* Moves the lines if they are and the limit has changed since it was read; whether they have moved. Opens and closes files. */
bool budget_follow(const char *root);

/* In the child of a fork: a thread that it does not have may have been moving the lines, was promised something, or was giving something
 * back. */
void budget_fork_child(void);

/* What counts against the lines. */
static inline size_t budget_used_bytes(void)
{
    /* acquire, and first: what is settled has been committed. The other way round it might be in neither. */
    size_t promised_bytes = atomic_load_explicit(&budget.promised_bytes, memory_order_acquire);
    return promised_bytes + (size_t)stats_read(&stats_counters.committed_bytes);
}

/* Whether need_bytes more may be committed. small: the reserve serves too, while it is open. */
bool budget_has_room(size_t need_bytes, bool small);

/* Whether there would be room if nothing were promised, for what is promised may count among what is committed already, and if what is
 * on its way back to the system had arrived: then it is worth while to wait a moment. */
bool budget_may_have_room(size_t need_bytes, bool small);

/* So many bytes more are about to be given back by system calls, out of a relief's reach; less than 0: that is done. */
void budget_note_leaving(int64_t change_bytes);

/* Counts need_bytes that are about to be committed, if they may be: two large claims at a time do not both take the
 * same room. Each promise ends by budget_settle. */
bool budget_promise(size_t need_bytes);
void budget_settle(size_t need_bytes);

/* Opens the reserve: a request has failed. Closes it: committed bytes are below the soft line. */
void budget_open_reserve(void);
void budget_close_reserve(void);

/* Notes that blocks came back: what was refused a moment ago may be had now. */
static inline void budget_note_freed(void)
{
    /* relaxed: who frees and then asks sees his own store */
    if (unlikely(budget_is_set()) && atomic_load_explicit(&budget.freed, memory_order_relaxed) == 0)
        atomic_store_explicit(&budget.freed, 1, memory_order_relaxed);
}

/* Whether memory is to go back eagerly: above the soft line, or while the system is short. */
static inline bool budget_presses(void)
{
    return stats_read(&stats_counters.committed_bytes) >
               atomic_load_explicit(&budget.soft_bytes, memory_order_relaxed) || /* relaxed, both: numbers */
           atomic_load_explicit(&budget.system_short, memory_order_relaxed) != 0;
}

/* How long what is idle waits before it goes back: HAKMEM_PURGE_DELAY_MS, or not at all while the budget presses. */
static inline int64_t budget_purge_delay_ms(void)
{
    return config.purge_delay_ms > 0 && budget_presses() ? 0 : config.purge_delay_ms;
}

#endif
