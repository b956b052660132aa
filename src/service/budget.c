/* budget.c - see budget.h.
 * Owns     budget.     Called by  front/, pool/, api/budget.c     Calls  os/cgroup.h
 * Threads  any. The lines are numbers, and what is counted against them is counted by single additions; a lock only keeps those
 *          apart who move the lines.
 * I1  A claim looks first and commits afterwards. Claims of large blocks promise what they will commit, so together they
 *     pass no line; one of blocks to 32 KiB commits a slab at most, so that each thread passes it by less than that.
 */
#include "service/budget.h"

#include "os/cgroup.h"
#include "os/lock.h"
#include "os/os.h"

#define AUTO_PERCENT 90 /* of the control group's limit: the rest is for what is not the heap */
#define RESERVE_MIN_BYTES (64 * KIB)
#define RESERVE_MAX_BYTES (4 * MIB)
#define RESERVE_PART 64

struct budget budget = {.soft_bytes = SIZE_MAX, .hard_bytes = SIZE_MAX};

_Atomic uint32_t budget_by_group;

static struct lock lock;

/* Lock held. */
static bool move_lines(size_t soft_bytes, size_t hard_bytes)
{
    if (hard_bytes == 0 && soft_bytes == 0) {
        soft_bytes = hard_bytes = SIZE_MAX;
    } else {
        if (soft_bytes == 0)
            soft_bytes = hard_bytes - hard_bytes / 8;
        if (hard_bytes < BUDGET_MIN_BYTES || soft_bytes > hard_bytes)
            return false;
    }
    atomic_store(&budget.soft_bytes, soft_bytes);
    atomic_store(&budget.hard_bytes, hard_bytes);
    budget_close_reserve();
    return true;
}

bool budget_set(size_t soft_bytes, size_t hard_bytes)
{
    bool locked = lock_take(&lock, lock_self()) != LOCK_SELF; /* else by a signal handler that interrupted us */
    bool moved = move_lines(soft_bytes, hard_bytes);
    if (moved)
        atomic_store(&budget_by_group, 0);
    if (locked)
        lock_drop(&lock);
    return moved;
}

/* The hard line that a percentage or `auto` means now; 0: none. */
static size_t hard_bytes_by_system(const char *root)
{
    size_t limit_bytes = os_cgroup_limit_bytes(root), physical_bytes = os_physical_bytes();
    size_t of_bytes = physical_bytes == 0 ? limit_bytes : min_size(limit_bytes, physical_bytes);
    if (limit_bytes == SIZE_MAX && (config.budget_auto || physical_bytes == 0))
        return 0;
    size_t hard_bytes = of_bytes / 100 * (config.budget_auto ? AUTO_PERCENT : config.budget_percent);
    return hard_bytes == 0 ? 0 : max_size(hard_bytes, BUDGET_MIN_BYTES);
}

void budget_start(const char *root)
{
    if (config.budget_percent != 0 || config.budget_auto) {
        atomic_store(&budget_by_group, 1);
        budget_follow(root);
    } else if (config.budget_hard_bytes != 0) {
        budget_set(config.budget_soft_bytes, config.budget_hard_bytes); /* config.c has looked at both */
    }
}

bool budget_follow(const char *root)
{
    if (likely(!budget_is_by_group()))
        return false;
    size_t hard_bytes = hard_bytes_by_system(root);
    if (lock_take(&lock, lock_self()) == LOCK_SELF)
        return false;
    bool changed = budget_is_by_group() &&
                   atomic_load(&budget.hard_bytes) != (hard_bytes == 0 ? SIZE_MAX : hard_bytes) &&
                   move_lines(config.budget_soft_bytes, hard_bytes);
    lock_drop(&lock);
    return changed;
}

/* The calling thread's share of what is promised and leaves: in the child of a fork there is no other. Raised before the sum and lowered
 * after it, so that a fork in between, by a signal handler, leaves too much rather than too little. */
static __thread size_t own_promised_bytes, own_leaving_bytes;

void budget_fork_child(void)
{
    atomic_store(&budget.promised_bytes, own_promised_bytes);
    atomic_store(&budget.leaving_bytes, own_leaving_bytes);
    lock_reset(&lock); /* also if a handler forked that interrupted us in it: nobody else is there */
}

/* What is kept back of the budget until a request was refused. */
static size_t reserve_bytes(size_t hard_bytes)
{
    return min_size(max_size(hard_bytes / RESERVE_PART, RESERVE_MIN_BYTES), RESERVE_MAX_BYTES);
}

static bool has_room(size_t used_bytes, size_t need_bytes, bool small)
{
    size_t hard_bytes = atomic_load(&budget.hard_bytes);
    if (hard_bytes == SIZE_MAX)
        return true;
    if (!small || atomic_load(&budget.reserve) == RESERVE_CLOSED)
        hard_bytes -= reserve_bytes(hard_bytes);
    return used_bytes <= hard_bytes && need_bytes <= hard_bytes - used_bytes;
}

bool budget_has_room(size_t need_bytes, bool small)
{
    return has_room(budget_used_bytes(), need_bytes, small);
}

void budget_note_leaving(int64_t change_bytes)
{
    if (change_bytes > 0)
        own_leaving_bytes += (size_t)change_bytes;
    atomic_fetch_add(&budget.leaving_bytes, (size_t)change_bytes);
    if (change_bytes < 0)
        own_leaving_bytes += (size_t)change_bytes;
}

bool budget_may_have_room(size_t need_bytes, bool small)
{
    size_t leaving_bytes = atomic_load(&budget.leaving_bytes);
    size_t committed_bytes = (size_t)stats_read(&stats_counters.committed_bytes);
    return has_room(committed_bytes - min_size(committed_bytes, leaving_bytes), need_bytes, small);
}

bool budget_promise(size_t need_bytes)
{
    size_t promised_bytes = atomic_load(&budget.promised_bytes);
    own_promised_bytes += need_bytes;
    do {
        if (!budget_has_room(need_bytes, false)) {
            own_promised_bytes -= need_bytes;
            return false;
        }
    } while (!atomic_compare_exchange_weak(&budget.promised_bytes, &promised_bytes, promised_bytes + need_bytes));
    /* The sum may be what it was, and yet another promise have been made, committed and settled since it was read. */
    if (likely(budget_has_room(0, false)))
        return true;
    budget_settle(need_bytes);
    return false;
}

void budget_settle(size_t need_bytes)
{
    atomic_fetch_sub(&budget.promised_bytes, need_bytes);
    own_promised_bytes -= need_bytes;
}

void budget_open_reserve(void)
{
    atomic_store(&budget.reserve, RESERVE_FOR_ALL);
}

void budget_close_reserve(void)
{
    if (atomic_load_explicit(&budget.reserve, memory_order_relaxed) != RESERVE_CLOSED) /* relaxed: a hint */
        atomic_store(&budget.reserve, RESERVE_CLOSED);
}
