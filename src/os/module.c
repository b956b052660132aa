/* module.c - which file an address belongs to, and what a file defines: os_module_... of os.h.
 * Owns     nothing.     Called by  service/, api/profile.c, api/override_signal.c; machine.c (the vDSO)
 * Calls    _dl_find_object of glibc, by which exceptions are unwound, too; dl_iterate_phdr
 * Threads  any; signal handlers, but os_module_any.
 * Why os_module_of does without dl_iterate_phdr: it takes a lock of the dynamic linker's, which in the child of a fork may be held
 * by nobody. os_module_any has no other way to all modules, so only who is about to report a mistake may call it.
 */
#include "os/os.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>

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
    module->dynamic = found.dlfo_link_map->l_ld;
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

/* By libc's text of its version: a function's address may be that of an entry in the program. In a program that is linked statically
 * it lies in another segment than the code, and glibc tells of each segment by itself: all of the program counts as libc there. */
bool os_is_libc(const void *address)
{
    struct os_module libc, other;
    return os_is_linker(address) || !os_module_of(gnu_get_libc_version(), &libc) ||
           (uintptr_t)address - libc.start < libc.end - libc.start ||
           (libc.path[0] == 0 && os_module_of(address, &other) && other.path[0] == 0 && other.bias == libc.bias);
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

struct headers {
    const ElfW(Phdr) * segment;
    size_t n;
};

/* Whether the bytes lie in a segment that is loaded. */
static bool is_loaded(const struct headers *headers, uintptr_t bias, uintptr_t address, size_t len_bytes)
{
    for (size_t i = 0; i < headers->n; i++) {
        const ElfW(Phdr) *segment = &headers->segment[i];
        uintptr_t offset = address - (bias + segment->p_vaddr);
        if (segment->p_type == PT_LOAD && offset < segment->p_filesz && len_bytes <= segment->p_filesz - offset)
            return true;
    }
    return false;
}

/* A module begins with its file's header, in all that is not made by hand. But that of a static program is said to begin with its code:
 * there the kernel tells where its headers are. Where neither does, nothing is known. */
static bool find_headers(const struct os_module *module, struct headers *headers)
{
    const void *start = (const void *)module->start; /* NOLINT: the linker's */
    if (memcmp(start, ELFMAG, SELFMAG) == 0) { /* before it is taken for a header: code lies at odd addresses, too */
        const ElfW(Ehdr) *header = start;
        *headers = (struct headers){(const ElfW(Phdr) *)(module->start + header->e_phoff), header->e_phnum};
        return header->e_phentsize == sizeof(ElfW(Phdr)) &&
               header->e_phoff + header->e_phnum * sizeof(ElfW(Phdr)) <= os_page_bytes();
    }
    *headers =
        (struct headers){(const ElfW(Phdr) *)getauxval(AT_PHDR), getauxval(AT_PHNUM)}; /* NOLINT: by the kernel */
    /* That it is the program, and not a file whose places the program's would also cover, its headers tell: they are loaded with it. */
    return headers->segment != NULL && is_loaded(headers, module->bias, module->start, 1) &&
           is_loaded(headers, module->bias, (uintptr_t)headers->segment, headers->n * sizeof *headers->segment);
}

const unsigned char *os_module_build_id(const struct os_module *module, size_t *len_bytes)
{
    struct headers headers;
    const unsigned char *id = NULL;
    *len_bytes = 0;
    if (!find_headers(module, &headers))
        return NULL;
    for (size_t i = 0; i < headers.n && id == NULL; i++) {
        const ElfW(Phdr) *segment = &headers.segment[i];
        uintptr_t notes = module->bias + segment->p_vaddr;
        if (segment->p_type == PT_NOTE && is_loaded(&headers, module->bias, notes, segment->p_filesz))
            id = build_id_among((const unsigned char *)notes, segment->p_filesz, len_bytes);
    }
    return id;
}

/* ---- What a module defines ----------------------------------------------------------------------------------------- */

/* A module's names. The dynamic linker finds them by the same tables, so they are taken to be right. */
struct names {
    const ElfW(Sym) * symbol;
    const char *text;
    const uint32_t *hash, *gnu_hash; /* one of the two may be NULL */
};

/* An address in the dynamic section: as in the file, or, where the dynamic linker could write to the section, as in memory. */
static const void *place_of(const struct os_module *module, uintptr_t address)
{
    uintptr_t len_bytes = module->end - module->start;
    if (address - module->start >= len_bytes)
        address += module->bias;
    return address - module->start < len_bytes ? (const void *)address : NULL;
}

static bool find_names(const struct os_module *module, struct names *names)
{
    *names = (struct names){.symbol = NULL};
    for (const ElfW(Dyn) *entry = module->dynamic; entry != NULL && entry->d_tag != DT_NULL; entry++) {
        const void *place = place_of(module, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            names->symbol = place;
        else if (entry->d_tag == DT_STRTAB)
            names->text = place;
        else if (entry->d_tag == DT_HASH)
            names->hash = place;
        else if (entry->d_tag == DT_GNU_HASH)
            names->gnu_hash = place;
    }
    return names->symbol != NULL && names->text != NULL;
}

/* The symbol if it is defined and has the name, else NULL. */
static const ElfW(Sym) * symbol_if(const struct names *names, uint32_t index, const char *name)
{
    const ElfW(Sym) *symbol = &names->symbol[index];
    return symbol->st_shndx != SHN_UNDEF && strcmp(names->text + symbol->st_name, name) == 0 ? symbol : NULL;
}

/* DT_HASH: numbers of buckets and of symbols, the buckets' first symbols, to each symbol the next of its bucket. */
static const ElfW(Sym) * find_by_hash(const struct names *names, const char *name)
{
    const uint32_t *table = names->hash, n_buckets = table[0];
    const uint32_t *bucket = table + 2, *next = bucket + n_buckets;
    uint32_t hash = 0;
    for (const unsigned char *at = (const unsigned char *)name; *at != 0; at++) {
        hash = (hash << 4) + *at;
        hash = (hash ^ (hash >> 28 << 4)) & 0x0fffffff;
    }
    const ElfW(Sym) *symbol = NULL;
    for (uint32_t i = n_buckets == 0 ? STN_UNDEF : bucket[hash % n_buckets]; i != STN_UNDEF && symbol == NULL;
         i = next[i])
        symbol = symbol_if(names, i, name);
    return symbol;
}

/* DT_GNU_HASH: numbers of buckets, of symbols that are not in it, and of words of a filter, which is not needed here; the filter;
 * the buckets' first symbols; the symbols' hashes, of which the lowest bit marks the last one of a bucket. */
static const ElfW(Sym) * find_by_gnu_hash(const struct names *names, const char *name)
{
    const uint32_t *table = names->gnu_hash, n_buckets = table[0], n_left_out = table[1];
    const uint32_t *bucket = table + 4 + (size_t)table[2] * (sizeof(ElfW(Addr)) / sizeof *table);
    const uint32_t *hash_of = bucket + n_buckets;
    uint32_t hash = 5381;
    for (const unsigned char *at = (const unsigned char *)name; *at != 0; at++)
        hash = hash * 33 + *at;
    uint32_t i = n_buckets == 0 ? STN_UNDEF : bucket[hash % n_buckets];
    if (i < n_left_out)
        return NULL;
    for (;; i++) {
        uint32_t other = hash_of[i - n_left_out];
        const ElfW(Sym) *symbol = (other | 1) == (hash | 1) ? symbol_if(names, i, name) : NULL;
        if (symbol != NULL || (other & 1) != 0)
            return symbol;
    }
}

static const ElfW(Sym) * find_symbol(const struct os_module *module, const char *name)
{
    struct names names;
    if (!find_names(module, &names))
        return NULL;
    if (names.gnu_hash != NULL)
        return find_by_gnu_hash(&names, name);
    return names.hash != NULL ? find_by_hash(&names, name) : NULL;
}

bool os_module_defines(const struct os_module *module, const char *name)
{
    return find_symbol(module, name) != NULL;
}

/* How many symbols there are: DT_HASH says so; else behind the last one of the last bucket of DT_GNU_HASH. */
static uint32_t count_symbols(const struct names *names)
{
    if (names->hash != NULL)
        return names->hash[1];
    if (names->gnu_hash == NULL)
        return 0;
    const uint32_t *table = names->gnu_hash, n_buckets = table[0], n_left_out = table[1];
    const uint32_t *bucket = table + 4 + (size_t)table[2] * (sizeof(ElfW(Addr)) / sizeof *table);
    const uint32_t *hash_of = bucket + n_buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < n_buckets; i++)
        last = bucket[i] > last ? bucket[i] : last;
    if (last < n_left_out)
        return n_left_out;
    while ((hash_of[last - n_left_out] & 1) == 0)
        last++;
    return last + 1;
}

const char *os_module_name_at(const struct os_module *module, const void *address)
{
    struct names names;
    uintptr_t offset = (uintptr_t)address - module->bias, nearest = 0;
    const char *name = NULL;
    if (!find_names(module, &names))
        return NULL;
    for (uint32_t i = 0, n = count_symbols(&names); i < n; i++) {
        const ElfW(Sym) *symbol = &names.symbol[i];
        bool has = symbol->st_size == 0 ? symbol->st_value == offset : offset - symbol->st_value < symbol->st_size;
        if (symbol->st_shndx != SHN_UNDEF && symbol->st_value != 0 && (symbol->st_info & 0xf) != STT_TLS && has &&
            symbol->st_value >= nearest) {
            nearest = symbol->st_value;
            name = names.text + symbol->st_name;
        }
    }
    return name;
}

bool os_module_contains(const struct os_module *module, const void *bytes, size_t len_bytes)
{
    struct headers headers;
    if (!find_headers(module, &headers))
        return false;
    for (size_t i = 0; i < headers.n; i++) {
        const ElfW(Phdr) *segment = &headers.segment[i];
        const void *memory = (const void *)(module->bias + segment->p_vaddr); /* NOLINT: by its headers */
        if (segment->p_type == PT_LOAD && (segment->p_flags & (PF_R | PF_W)) == PF_R &&
            memmem(memory, segment->p_filesz, bytes, len_bytes) != NULL)
            return true;
    }
    return false;
}

/* The kernel tells where it has put its module; all of it is in memory as in its file. */
static bool find_vdso(struct os_module *module)
{
    struct headers headers;
    int saved_errno = errno;
    *module = (struct os_module){.start = (uintptr_t)getauxval(AT_SYSINFO_EHDR), .path = ""};
    errno = saved_errno; /* getauxval says ENOENT where the system gives none (qemu-user) */
    if (module->start == 0 || !find_headers(module, &headers))
        return false;
    for (size_t i = 0; i < headers.n; i++)
        if (headers.segment[i].p_type == PT_LOAD) {
            module->bias = module->start + headers.segment[i].p_offset - headers.segment[i].p_vaddr;
            module->end = module->start + headers.segment[i].p_offset + headers.segment[i].p_memsz;
        }
    for (size_t i = 0; i < headers.n; i++)
        if (headers.segment[i].p_type == PT_DYNAMIC)
            module->dynamic = (const void *)(module->bias + headers.segment[i].p_vaddr); /* NOLINT: by the kernel */
    return true;
}

const void *os_vdso_function(const char *name)
{
    struct os_module vdso;
    const ElfW(Sym) *symbol = find_vdso(&vdso) ? find_symbol(&vdso, name) : NULL;
    return symbol == NULL ? NULL : (const void *)(vdso.bias + symbol->st_value); /* NOLINT: as above */
}

/* ---- All modules --------------------------------------------------------------------------------------------------- */

struct question {
    bool (*fits)(const struct os_module *module, const void *want);
    const void *want;
};

static int ask(struct dl_phdr_info *info, size_t info_bytes, void *argument)
{
    const struct question *question = argument;
    struct os_module module = {
        .start = UINTPTR_MAX, .bias = info->dlpi_addr, .path = info->dlpi_name == NULL ? "" : info->dlpi_name};
    (void)info_bytes;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t address = module.bias + segment->p_vaddr;
        if (segment->p_type == PT_LOAD) {
            module.start = min_size(module.start, address);
            module.end = max_size(module.end, address + segment->p_memsz);
        } else if (segment->p_type == PT_DYNAMIC) {
            module.dynamic = (const void *)address;
        } else if (segment->p_type == PT_GNU_EH_FRAME) {
            module.unwind_table = (const unsigned char *)address;
        }
    }
    return question->fits(&module, question->want);
}

bool os_module_any(bool (*fits)(const struct os_module *module, const void *want), const void *want)
{
    struct question question = {fits, want};
    return dl_iterate_phdr(ask, &question) != 0;
}
