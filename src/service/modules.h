/* modules.h - which files the frames of noted stacks lie in, so that they can be named when the files are no longer loaded; and
 * whether a loaded file defines a name.
 *
 * A table that only grows. The profile clears it with its records.
 */
#ifndef HAKMEM_SERVICE_MODULES_H
#define HAKMEM_SERVICE_MODULES_H

#include "base/base.h"

#define MODULES_MAX 512
#define MODULE_PATH_BYTES 320
#define MODULE_BUILD_ID_BYTES 20 /* that of SHA-1, which linkers use; a longer one is cut */

struct module {
    _Atomic uint32_t valid;
    /* The number of the first record that was made when it was known. Addresses of records before it may belong to another module, which
     * lay there before. */
    uint32_t since;
    uint64_t start, end, bias; /* see os_module_of */
    uint32_t build_id_bytes;   /* 0: there is none */
    uint8_t build_id[MODULE_BUILD_ID_BYTES];
    char path[MODULE_PATH_BYTES]; /* "": the program, or one whose path has no room */
};

struct modules {
    _Atomic uint32_t n; /* how many were begun, MODULES_MAX or more */
    struct module module[MODULES_MAX];
};

/* Enters the modules of the frames, which are loaded, if they are not in the table. No lock, no allocation; signal handlers may
 * call it. One may be entered twice, and beyond MODULES_MAX none is. */
COLD void modules_enter(struct modules *modules, void *const *frame, uint32_t n_frames, uint32_t since);

/* Whether a loaded module defines one of the names where others can see it, or has the text, which begins and ends with a 0, among what
 * it cannot write to (NULL: that is not asked, which reads all of it). Not asked are the module that hakmem
 * lies in, and files whose name begins with one of except. Both lists end with NULL. No allocation; the lock of os_module_any. */
COLD bool modules_define(const char *const *name, const char *text, const char *const *except);

#endif
