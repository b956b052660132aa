/* budget.c - hak_budget_set and its kin.
 * Owns     nothing.     Called by  programs     Calls  service/budget.h, front/pressure.h
 * Threads  any. Contracts: include/hakmem/hakmem.h
 */
#include "service/budget.h"

#include "front/pressure.h"
#include "hakmem/hakmem.h"

#include <errno.h>

int hak_budget_set(size_t soft_bytes, size_t hard_bytes)
{
    thread_start_process(); /* or HAKMEM_BUDGET would be read afterwards */
    if (!budget_set(soft_bytes, hard_bytes)) {
        errno = EINVAL;
        return -1;
    }
    pressure_lines_moved();
    return 0;
}

void hak_budget_get(size_t *soft_bytes, size_t *hard_bytes)
{
    bool set = budget_is_set();
    if (soft_bytes != NULL)
        *soft_bytes = set ? atomic_load(&budget.soft_bytes) : 0;
    if (hard_bytes != NULL)
        *hard_bytes = set ? atomic_load(&budget.hard_bytes) : 0;
}

void hak_budget_on_pressure(hak_pressure_function function, void *argument)
{
    pressure_set_function(function, argument);
}
