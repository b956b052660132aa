/* anchor.c - see anchor.h.
 * Owns     the anchor and the note; nothing changes either.     Called by  outside readers, and hak_version     Calls  nothing
 * Threads  any: constant.
 * Cost     fifteen pointers that the dynamic linker fills in at start, on a page that it writes to anyway.
 * I1  Whoever links malloc statically has this file: hak_version refers to it, and lies beside mallinfo2, which override.c calls.
 *     A section of type NOTE is kept by --gc-sections, and keeps what it refers to.
 * Why a note and no symbol: it is found through the program headers alone, which are mapped, so that neither a file needs to be
 * there nor a symbol table, and a static program is as good as a preloaded library.
 */
#include "api/anchor.h"

#include "front/guarded.h"
#include "front/harden.h"
#include "front/profile.h"
#include "front/sampled.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/metapool.h"
#include "os/os.h"
#include "pool/pool_state.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

#define STRING(x) #x
#define VERSION_TEXT(a, b, c) STRING(a) "." STRING(b) "." STRING(c)

__attribute__((used)) const struct anchor hakmem_anchor = {
    .magic = ANCHOR_MAGIC,
    .self = &hakmem_anchor,
    .version = VERSION_TEXT(HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH),
    .layout_version = LAYOUT_VERSION,
    .sizes =
        {
            .anchor = sizeof(struct anchor),
            .arena = sizeof(struct arena),
            .superslab = sizeof(struct superslab),
            .slab = sizeof(struct slab),
            .thread = sizeof(struct thread),
            .magazine = sizeof(struct magazine),
            .class_info = sizeof(struct class_info),
            .counters = sizeof(struct stats_counters),
            .pool_state = sizeof(struct pool_state),
            .budget = sizeof(struct budget),
            .config = sizeof(struct config),
            .quarantine = sizeof(struct quarantine),
            .sampled_figures = sizeof(struct sampled_figures),
            .guarded_figures = sizeof(struct guarded_figures),
            .profile_state = sizeof(struct profile_state),
            .profile_record = sizeof(struct profile_record),
        },
    .arenas = &arena_list,
    .threads = &thread_list,
    .classes = class_table,
    .counters = &stats_counters,
    .pool = &pool,
    .pool_lock = &pool_gate.lock,
    .budget = &budget,
    .config = &config,
    .page_bytes = &os_page_bytes_known,
    .metapool_bytes = &metapool_committed,
    .sampled = &sampled_figures,
    .guarded = &guarded_figures,
    .profile = &profile_state,
    .cut_off = &thread_cut_off,
};
_Static_assert(sizeof VERSION_TEXT(HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH) <=
                   ANCHOR_VERSION_BYTES,
               "the version fits");

/* The note: the lengths of its name and its text, ANCHOR_NOTE_TYPE, the name, the text. That is a difference of addresses, so
 * the dynamic linker has nothing to do. */
_Static_assert(ANCHOR_NOTE_TYPE == 1, "the third number below");
__asm__(".pushsection .note.hakmem, \"a\", %note\n"
        ".balign 4\n"
        ".long 2f - 1f, 4f - 3f, 1\n"
        "1:\n"
        ".asciz \"" ANCHOR_NOTE_OWNER "\"\n"
        "2:\n"
        ".balign 4\n"
        "3:\n"
        ".quad hakmem_anchor - .\n"
        "4:\n"
        ".popsection\n");
