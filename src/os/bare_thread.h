/* bare_thread.h - a thread that libc does not know of: see os_start_bare_thread in os.h.
 */
#ifndef HAKMEM_OS_BARE_THREAD_H
#define HAKMEM_OS_BARE_THREAD_H

#include "base/base.h"

#include <link.h>

/* At the start, of each file with thread-local storage: where that lies in threads, and how it begins. */
void bare_thread_learn(const struct dl_phdr_info *file, const ElfW(Phdr) * tls);

#endif
