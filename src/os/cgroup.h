/* cgroup.h - how much memory the system lets this process have, and whether it runs short.
 *
 * `root` is put before every path: "" for the system's own files, a directory with copies of them in tests. Nothing here
 * allocates; every function keeps errno and costs a few system calls.
 */
#ifndef HAKMEM_OS_CGROUP_H
#define HAKMEM_OS_CGROUP_H

#include "base/base.h"

/* The least memory limit in force for the process's control group and those around it, by version 2 (memory.max) and
 * version 1 (memory.limit_in_bytes), in bytes; SIZE_MAX when there is none. */
size_t os_cgroup_limit_bytes(const char *root);

/* Pressure stall information: the part of the last ten seconds in which some task waited for memory, in hundredths of a
 * per cent; of the control group where it tells (version 2), else of the machine. -1 when the system does not tell. */
int os_memory_pressure(const char *root);

#endif
