/* wipe.c - see wipe.h.
 * Owns     the width of a step.     Called by  harden.c, guarded.c, guarded_wait.c, straight.c     Calls  os.h
 * Threads  any; a block is its holder's.
 * W1  Nothing outside of the block is read or written.
 */
#include "front/wipe.h"

#include "os/os.h"

unsigned wipe_step_bytes = 16;

void wipe_start(void)
{
    wipe_step_bytes = os_vector_bytes();
}

#define WIPE(width)                                                                                                    \
    static WIPE_TARGET_##width void clear_##width(void *block, size_t len_bytes)                                       \
    {                                                                                                                  \
        wipe_clear_##width(block, len_bytes);                                                                          \
    }                                                                                                                  \
    static WIPE_TARGET_##width bool is_clear_##width(const void *block, size_t len_bytes)                              \
    {                                                                                                                  \
        return wipe_is_clear_##width(block, len_bytes);                                                                \
    }
WIPE(64)
WIPE(32)
WIPE(16)

bool wipe_is_clear(const void *block, size_t len_bytes)
{
    return wipe_step_bytes == 64   ? is_clear_64(block, len_bytes)
           : wipe_step_bytes == 32 ? is_clear_32(block, len_bytes)
                                   : is_clear_16(block, len_bytes);
}

void wipe_clear(void *block, size_t len_bytes)
{
    if (unlikely(len_bytes > WIPE_WHOLE_BYTES))
        os_clear(block, len_bytes);
    else if (wipe_step_bytes == 64)
        clear_64(block, len_bytes);
    else if (wipe_step_bytes == 32)
        clear_32(block, len_bytes);
    else
        clear_16(block, len_bytes);
}
