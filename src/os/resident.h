/* resident.h - what of some mappings is in memory, as the system sees it.
 */
#ifndef HAKMEM_OS_RESIDENT_H
#define HAKMEM_OS_RESIDENT_H

#include "base/base.h"

struct os_resident {
    uint64_t resident_bytes; /* in memory */
    uint64_t huge_bytes;     /* of that, in transparent huge pages */
};

/* Sums over the process's mappings for which wanted(first byte, byte behind the last) is true. False: the system does not
 * tell. Walks all page tables: some 50 microseconds, and up to 10 ms per GiB in memory. No malloc. Keeps errno. */
bool os_resident(bool (*wanted)(uintptr_t from, uintptr_t to), struct os_resident *sum);

#endif
