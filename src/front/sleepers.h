/* sleepers.h - the caches of threads that sleep, or are gone, go back to the slabs.
 */
#ifndef HAKMEM_FRONT_SLEEPERS_H
#define HAKMEM_FRONT_SLEEPERS_H

#include "base/base.h"

/* Empties the caches of threads that have not used them for the purge delay and sleep. Returns how many bytes are in caches
 * that later calls may empty. Called every half delay; not under the pool lock. */
size_t sleepers_tick(void);

/* The same, but only of threads that are gone, for which the system need not be asked. */
size_t sleepers_tick_gone(void);

/* At once: empties the caches of all other threads that sleep, and what records keep that no thread has; of threads that are awake, what
 * they keep for blocks above 32 KiB. Not under the pool lock. */
void sleepers_empty_all(void);

#endif
