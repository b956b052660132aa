/* fault.c - which of the system's calls fail in the testing build. Otherwise empty.
 * Owns     the count of the calls and which of them shall fail.
 * Called by fault.h's macro; tests.     Threads  any, no lock.
 */
#include "os/fault.h"

#if defined(HAKMEM_TESTING)
static _Atomic unsigned long fault_first, fault_count, fault_calls;
static _Atomic unsigned fault_mask;
static _Atomic size_t reserve_limit_bytes = SIZE_MAX;

unsigned long os_fail_from(unsigned long first, unsigned long n, unsigned mask)
{
    unsigned long seen = atomic_exchange(&fault_calls, 0);
    atomic_store(&fault_first, first);
    atomic_store(&fault_count, n);
    atomic_store(&fault_mask, mask);
    return seen;
}

void os_fail_reservations_above(size_t len_bytes)
{
    atomic_store(&reserve_limit_bytes, len_bytes);
}

bool os_fault(enum os_call call, size_t len_bytes)
{
    if (call == OS_CALL_RESERVE && len_bytes > atomic_load(&reserve_limit_bytes))
        return true;
    if ((atomic_load(&fault_mask) & (unsigned)call) == 0)
        return false;
    unsigned long k = atomic_fetch_add(&fault_calls, 1) + 1, first = atomic_load(&fault_first);
    return first != 0 && k >= first && k - first < atomic_load(&fault_count);
}
#else
typedef int not_empty; /* ISO C wants something in a file */
#endif
