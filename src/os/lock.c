/* lock.c - see lock.h.
 * Owns     what a child does before it waits.     Called by  pool/slots.c (the pool lock), service/budget.c, front/pressure.c, front/fork.c.
 * Calls    os.h
 * Threads  any.
 *  edge  release               acquire                what becomes visible
 *  L1    lock_drop exchange -> lock_take CAS          everything that the last holder wrote
 */
#include "os/lock.h"

#include "os/os.h"

#define SLEEPERS 1u
/* A waiter looks at the word after 1, 2, 4 ... SPINS_MOST pauses, so that many of them leave its cache line to the holder, and
 * sleeps after SPINS in all, some 20 to 60 microseconds: what is done under a lock takes a fraction of one, but for a system call
 * now and then; being woken takes several. */
#define SPINS 1000
#define SPINS_MOST 64

/* Who is woken may run a signal handler first, and that may wait for another lock, whose holder sleeps here; or until a collector lets it go on.
 * So nobody counts on being woken. */
#define WAIT_MOST_MS 200

/* The futex is the low half of the word: it changes whenever the owner does, and the sleepers' bit is in it. */
static _Atomic uint32_t *futex_of(struct lock *lock)
{
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half comes first");
    return (_Atomic uint32_t *)(void *)&lock->word;
}

__thread uint64_t lock_name;

static void (*before_wait_in_child)(void);

void lock_before_wait_in_child(void (*function)(void))
{
    before_wait_in_child = function;
}

enum lock_result lock_take(struct lock *lock, uintptr_t self)
{
    uint64_t seen = 0;
    if (likely(atomic_compare_exchange_strong_explicit(&lock->word, &seen, self, memory_order_acquire,
                                                       memory_order_relaxed))) /* L1; relaxed: nothing was taken */
        return LOCK_TAKEN;
    if ((seen & ~(uint64_t)SLEEPERS) == self)
        return LOCK_SELF;
    for (int i = 0, n = 1; i < SPINS; i += n, n = n < SPINS_MOST ? 2 * n : n) {
        for (int k = 0; k < n; k++)
            cpu_relax();
        seen = 0;
        if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 && /* relaxed: the CAS decides */
            atomic_compare_exchange_strong_explicit(&lock->word, &seen, self, memory_order_acquire,
                                                    memory_order_relaxed)) /* L1 */
            return LOCK_TAKEN_AFTER_WAIT;
    }
    for (;;) {
        if (unlikely(os_is_new_child()) && before_wait_in_child != NULL)
            before_wait_in_child();
        seen = 0;
        /* Others may sleep too, so a lock taken after a wait carries the sleepers' bit. */
        if (atomic_compare_exchange_strong_explicit(&lock->word, &seen, self | SLEEPERS, memory_order_acquire,
                                                    memory_order_relaxed)) /* L1 */
            return LOCK_TAKEN_AFTER_WAIT;
        if ((seen & SLEEPERS) == 0 &&
            !atomic_compare_exchange_strong_explicit(&lock->word, &seen, seen | SLEEPERS, memory_order_relaxed,
                                                     memory_order_relaxed)) /* relaxed: only asks to be woken */
            continue;
        os_futex_wait_ms(futex_of(lock), (uint32_t)(seen | SLEEPERS), WAIT_MOST_MS);
    }
}

bool lock_try(struct lock *lock, uintptr_t self)
{
    uint64_t seen = 0;
    return atomic_compare_exchange_strong_explicit(&lock->word, &seen, self, memory_order_acquire,
                                                   memory_order_relaxed); /* L1; relaxed: nothing was taken */
}

void lock_drop(struct lock *lock)
{
    uint64_t was = atomic_exchange_explicit(&lock->word, 0, memory_order_release); /* L1 */
    if (unlikely(was & SLEEPERS))
        os_futex_wake(futex_of(lock), 1);
}

uintptr_t lock_owner(const struct lock *lock)
{
    /* relaxed: the caller asks about itself, or is the only thread */
    return (uintptr_t)(atomic_load_explicit(&lock->word, memory_order_relaxed) & ~(uint64_t)SLEEPERS);
}

void lock_reset(struct lock *lock)
{
    atomic_store_explicit(&lock->word, 0, memory_order_relaxed); /* relaxed: the caller is the only thread */
}
