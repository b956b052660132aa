/* fault.h - the seam at which the testing build has calls of the system fail: os_fail_from in os.h.
 * Called by  memory.c and threads.c, before each call that may fail.     Calls  fault.c.
 */
#ifndef HAKMEM_OS_FAULT_H
#define HAKMEM_OS_FAULT_H

#include "os/os.h"

#if defined(HAKMEM_TESTING)
/* Whether this call shall fail. len_bytes: what it is about; 0: nothing that has a length. */
bool os_fault(enum os_call call, size_t len_bytes);
#define FAULT(call, len_bytes) os_fault(call, len_bytes)
#else
#define FAULT(call, len_bytes) false
#endif

#endif
