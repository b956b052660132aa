/* event.h - the event log of debug builds: one line per event on stderr when HAKMEM_DEBUG=1. Compiled out of release
 * builds.
 */
#ifndef HAKMEM_SERVICE_EVENT_H
#define HAKMEM_SERVICE_EVENT_H

#if defined(HAKMEM_DEBUG_BUILD)
#define EVENT_LOG_BUILT 1
#include "service/config.h"
#include "service/report.h"
#define EVENT(...)                                                                                                     \
    do {                                                                                                               \
        if (config.debug)                                                                                              \
            report_line("hakmem: event: " __VA_ARGS__);                                                                \
    } while (0)
#else
#define EVENT_LOG_BUILT 0
#define EVENT(...) ((void)0)
#endif

#endif
