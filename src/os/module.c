/* module.c - which file an address belongs to: os_module_of, os_module_build_id of os.h.
 * Owns     nothing.     Called by  service/modules.c     Calls  _dl_find_object of glibc, by which exceptions are unwound, too
 * Threads  any; signal handlers.
 * Why not dl_iterate_phdr: it takes a lock of the dynamic linker's, which in the child of a fork may be held by nobody.
 */
#include "os/os.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>

#if __GLIBC_PREREQ(2, 35)
/* The library runs with an older glibc than it is built with; and a static program has it if its unwinder needs it. */
extern __typeof__(_dl_find_object) _dl_find_object __attribute__((weak));

static bool find(const void *address, struct os_module *module)
{
    struct dl_find_object found;
    if (_dl_find_object == NULL || _dl_find_object((void *)(uintptr_t)address, &found) != 0)
        return false;
    module->start = (uintptr_t)found.dlfo_map_start;
    module->end = (uintptr_t)found.dlfo_map_end;
    module->bias = found.dlfo_link_map->l_addr;
    module->path = found.dlfo_link_map->l_name == NULL ? "" : found.dlfo_link_map->l_name;
    module->unwind_table = found.dlfo_eh_frame;
    return true;
}
#else
static bool find(const void *address, struct os_module *module)
{
    (void)address;
    (void)module;
    return false;
}
#endif

bool os_module_of(const void *address, struct os_module *module)
{
    return find(address, module);
}

/* Notes are a name's length, a text's length, a type, the name, the text; both filled up to 4 bytes. */
static const unsigned char *build_id_among(const unsigned char *notes, size_t len_bytes, size_t *id_bytes)
{
    ElfW(Nhdr) note;
    for (size_t at = 0; len_bytes - at >= sizeof note;) {
        memcpy(&note, notes + at, sizeof note);
        at += sizeof note;
        size_t name_bytes = round_up(note.n_namesz, 4), text_bytes = round_up(note.n_descsz, 4);
        if (name_bytes > len_bytes - at || text_bytes > len_bytes - at - name_bytes)
            return NULL;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof ELF_NOTE_GNU &&
            memcmp(notes + at, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0) {
            *id_bytes = note.n_descsz;
            return notes + at + name_bytes;
        }
        at += name_bytes + text_bytes;
    }
    return NULL;
}

/* The first segment begins with the file's header, in all that is not made by hand; where it does not, nothing is known. */
const unsigned char *os_module_build_id(const struct os_module *module, size_t *len_bytes)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)module->start;
    *len_bytes = 0;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_phentsize != sizeof(ElfW(Phdr)) ||
        header->e_phoff > os_page_bytes() || header->e_phoff + header->e_phnum * sizeof(ElfW(Phdr)) > os_page_bytes())
        return NULL;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(module->start + header->e_phoff);
    const unsigned char *id = NULL;
    for (unsigned i = 0; i < header->e_phnum && id == NULL; i++) {
        uintptr_t notes = module->bias + segment[i].p_vaddr;
        if (segment[i].p_type == PT_NOTE && notes >= module->start && notes < module->end &&
            segment[i].p_filesz <= module->end - notes)
            id = build_id_among((const unsigned char *)notes, segment[i].p_filesz, len_bytes);
    }
    return id;
}
