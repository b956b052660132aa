/* symbols.c - see symbols.h.
 * Owns       the files and debug information that are open meanwhile.     Called by  profile.c, diff.c
 * Calls      libdw and libdwfl of elfutils, names.c, heap_profile.h     Threads  one.
 * I1  A file counts as the one that was mapped only if its build id says so. Where the mapped one has none, its inode does, or
 *     that it has not changed since.
 * I2  Each file is looked at by the addresses that are written in it, so it does not matter where it lay, nor what lay there
 *     before or after.
 * Debug information is what elfutils finds: in the file, in the one that its .gnu_debuglink names, by build id below
 * /usr/lib/debug, and by debuginfod servers if DEBUGINFOD_URLS names some. */
#define _GNU_SOURCE
#include "symbols.h"

#include "names.h"
#include "tool.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BUILD_ID_BYTES 64
#define MAX_INLINED 64 /* functions at one address; more are cut */
#define DEEPEST 96     /* functions within functions, as compilers nest them */
#define VDSO_FILE "[vdso]"

/* Addresses of a compilation unit. */
struct unit_range {
    Dwarf_Addr low, high;
    Dwarf_Off unit; /* of its DIE */
};

/* A function by the table of symbols. */
struct symbol {
    Dwarf_Addr start, size; /* size 0: not told */
    const char *name;       /* the file's */
    unsigned char binding;
};

/* A file that mappings are of. */
struct symbol_file {
    const char *file, *build_id; /* texts of the profile */
    uint64_t inode;
    Dwfl *dwfl; /* NULL: it cannot be used */
    Dwfl_Module *module;
    struct unit_range *range; /* made when it is needed */
    size_t n_ranges;
    struct symbol *symbol; /* by address; likewise */
    size_t n_symbols;
    bool has_ranges, has_symbols;
};

struct symbols {
    struct heap_profile *profile;
    pid_t pid;
    bool full_names;
    struct symbol_file *file;
    uint32_t *file_of_mapping; /* HEAP_NONE: none */
    uint64_t *bias;            /* of each mapping */
    size_t n_files;
};

/* ---- Which file -------------------------------------------------------------------------------------------------- */

static void print_hex(char *text, const unsigned char *bytes, size_t n)
{
    text[0] = 0;
    for (size_t i = 0; i < n && i < MAX_BUILD_ID_BYTES; i++)
        sprintf(text + 2 * i, "%02x", bytes[i]); /* NOLINT: the caller's array has room */
}

/* The file's build id; "" when it has none, or is no ELF file. */
static void read_build_id(int file, char text[2 * MAX_BUILD_ID_BYTES + 1])
{
    const void *id = NULL;
    Elf *elf = elf_begin(file, ELF_C_READ_MMAP, NULL);
    ssize_t n = elf == NULL ? 0 : dwelf_elf_gnu_build_id(elf, &id);
    print_hex(text, id, n > 0 ? (size_t)n : 0);
    elf_end(elf);
}

/* I1. The library notes 20 bytes of an id at most. */
static bool is_the_mapped_one(const struct symbols *symbols, const struct symbol_file *wanted, int file)
{
    char id[2 * MAX_BUILD_ID_BYTES + 1];
    struct stat status;
    read_build_id(file, id);
    if (wanted->build_id[0] != 0)
        return id[0] != 0 && strncmp(id, wanted->build_id, strlen(wanted->build_id)) == 0;
    return fstat(file, &status) == 0 && ((wanted->inode != 0 && status.st_ino == wanted->inode) ||
                                         (symbols->profile->time_ns != 0 &&
                                          status.st_ctim.tv_sec < symbols->profile->time_ns / 1000000000 -
                                                                      symbols->profile->duration_ns / 1000000000 - 1));
}

static int open_elf(const char *path)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file >= 0 && (fstat(file, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(file);
        return -1;
    }
    return file;
}

/* Our own vDSO as a file: that of another process on the same kernel is the same. */
static int open_vdso(void)
{
    const unsigned char *vdso =
        (const unsigned char *)getauxval(AT_SYSINFO_EHDR); /* NOLINT: an address by the kernel */
    Elf64_Ehdr header;
    if (vdso == NULL)
        return -1;
    memcpy(&header, vdso, sizeof header);
    size_t len_bytes = header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
    int file = memfd_create("vdso", MFD_CLOEXEC);
    if (file >= 0 && write(file, vdso, len_bytes) != (ssize_t)len_bytes) {
        close(file);
        return -1;
    }
    return file;
}

/* Place number i where the file of a mapping may be, the best first; false: there are no more. An empty path is none. */
static bool place(const struct symbols *symbols, const struct heap_mapping *mapping, int i, char path[PATH_MAX])
{
    path[0] = 0;
    const bool by_path_alone = symbols->pid != 0 && mapping->build_id[0] == 0; /* here may lie another one */
    if (i == 0 && mapping->file[0] == '/' && !by_path_alone)
        snprintf(path, PATH_MAX, "%s", mapping->file);
    if (i == 1 && symbols->pid != 0)
        snprintf(path, PATH_MAX, "/proc/%d/root%s", (int)symbols->pid, mapping->file);
    if (i == 2 && symbols->pid != 0)
        snprintf(path, PATH_MAX, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)symbols->pid, mapping->start,
                 mapping->limit);
    if (i == 3 && symbols->pid != 0 && mapping == symbols->profile->mapping)
        snprintf(path, PATH_MAX, "/proc/%d/exe", (int)symbols->pid);
    if (i == 4 && strlen(mapping->build_id) > 2)
        snprintf(path, PATH_MAX, "/usr/lib/debug/.build-id/%.2s/%s.debug", mapping->build_id, mapping->build_id + 2);
    return i <= 4;
}

/* An open file that is the mapped one, and its path. -1: there is none; *exists tells whether there is another one. */
static int open_mapped(const struct symbols *symbols, const struct symbol_file *wanted,
                       const struct heap_mapping *mapping, char path[PATH_MAX], bool *exists)
{
    *exists = false;
    if (strcmp(mapping->file, VDSO_FILE) == 0) {
        snprintf(path, PATH_MAX, "%s", VDSO_FILE);
        int file = open_vdso();
        if (file >= 0 && (wanted->build_id[0] == 0 ? symbols->pid != 0 : is_the_mapped_one(symbols, wanted, file)))
            return file;
        if (file >= 0)
            close(file);
        return -1;
    }
    for (int i = 0; place(symbols, mapping, i, path); i++) {
        int file = path[0] == 0 ? -1 : open_elf(path);
        if (file < 0)
            continue;
        if (is_the_mapped_one(symbols, wanted, file))
            return file;
        *exists = true;
        close(file);
    }
    return -1;
}

/* Whether opening a file could wait for ever, or do something: it is there, and no plain one. */
static bool is_special(const char *path, size_t directory_len, const char *between, const char *name,
                       const char *ending)
{
    char whole[PATH_MAX];
    struct stat status;
    return snprintf(whole, sizeof whole, "%.*s%s%s%s", (int)directory_len, path, between, name, ending) <
               (int)sizeof whole &&
           stat(whole, &status) == 0 && !S_ISREG(status.st_mode);
}

/* Whether one of the files is such that elfutils tries beside a file: what .gnu_debuglink names, or else FILE.debug, and FILE in .debug. */
static bool is_beside_special(const char *file, const char *link)
{
    static const char *const between[] = {"", ".debug/"};
    const char *slash = strrchr(file, '/'), *name = slash == NULL ? file : slash + 1;
    const size_t len = (size_t)(name - file);
    for (unsigned i = 0; i < sizeof between / sizeof between[0]; i++)
        if (is_special(file, len, between[i], link == NULL ? name : link, link == NULL ? ".debug" : "") ||
            (link == NULL && is_special(file, len, between[i], name, "")))
            return true;
    return false;
}

/* elfutils opens those without a look at them; also beside what a symbolic link leads to. */
static int find_debuginfo(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base, const char *file,
                          const char *link, GElf_Word crc, char **found)
{
    char real[PATH_MAX];
    if (file != NULL &&
        (is_beside_special(file, link) || (realpath(file, real) != NULL && is_beside_special(real, link))))
        return -1;
    return dwfl_standard_find_debuginfo(module, data, name, base, file, link, crc, found);
}

static const Dwfl_Callbacks callbacks = {.find_elf = dwfl_build_id_find_elf,
                                         .find_debuginfo = find_debuginfo,
                                         .section_address = dwfl_offline_section_address};

static void open_file(const struct symbols *symbols, struct symbol_file *own, const struct heap_mapping *mapping,
                      bool lacks_names)
{
    char path[PATH_MAX];
    bool exists;
    int file = open_mapped(symbols, own, mapping, path, &exists);
    if (file < 0) {
        if (lacks_names)
            tool_complain("%s %s: its functions are not named", mapping->file,
                          exists ? "has been replaced since the profile was taken" : "cannot be read any more");
        return;
    }
    own->dwfl = dwfl_begin(&callbacks);
    if (own->dwfl != NULL) {
        dwfl_report_begin(own->dwfl);
        own->module = dwfl_report_elf(own->dwfl, path, path, file, 0, true);
        dwfl_report_end(own->dwfl, NULL, NULL);
    }
    if (own->module == NULL) {
        close(file);
        tool_complain("%s: %s: its functions are not named", mapping->file, dwfl_errmsg(-1));
    }
}

static uint32_t file_of(struct symbols *symbols, const struct heap_mapping *mapping, bool lacks_names)
{
    if (mapping->file[0] == 0 || (mapping->file[0] == '[' && strcmp(mapping->file, VDSO_FILE) != 0))
        return HEAP_NONE;
    for (uint32_t i = 0; i < symbols->n_files; i++)
        if (symbols->file[i].file == mapping->file && symbols->file[i].build_id == mapping->build_id)
            return i;
    symbols->file = heap_realloc(symbols->file, symbols->n_files + 1, sizeof *symbols->file);
    struct symbol_file *own = &symbols->file[symbols->n_files];
    *own = (struct symbol_file){.file = mapping->file, .build_id = mapping->build_id, .inode = mapping->inode};
    open_file(symbols, own, mapping, lacks_names);
    return (uint32_t)symbols->n_files++;
}

/* What was added to the file's addresses, for a mapping of which only its place in the file is known. */
static bool find_bias(const struct symbol_file *file, const struct heap_mapping *mapping, uint64_t *bias)
{
    GElf_Addr unused;
    GElf_Phdr segment;
    size_t n = 0;
    Elf *elf = dwfl_module_getelf(file->module, &unused);
    if (elf == NULL || elf_getphdrnum(elf, &n) != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (gelf_getphdr(elf, (int)i, &segment) != NULL && segment.p_type == PT_LOAD) {
            uint64_t begin = segment.p_offset & ~(uint64_t)4095;
            if (mapping->offset < begin || mapping->offset >= segment.p_offset + segment.p_memsz)
                continue;
            *bias = mapping->start - (segment.p_vaddr - segment.p_offset + mapping->offset);
            return true;
        }
    return false;
}

/* ---- What lies at an address ------------------------------------------------------------------------------------- */

static int compare_ranges(const void *one, const void *other)
{
    const struct unit_range *a = one, *b = other;
    return (a->low > b->low) - (a->low < b->low);
}

/* Not every compiler writes .debug_aranges, by which libdwfl finds units; the units tell themselves. */
static void collect_ranges(struct symbol_file *file)
{
    Dwarf_Addr unused, base, low, high;
    size_t size = 0;
    file->has_ranges = true;
    for (Dwarf_Die *unit = NULL; (unit = dwfl_module_nextcu(file->module, unit, &unused)) != NULL;)
        for (ptrdiff_t at = 0; (at = dwarf_ranges(unit, at, &base, &low, &high)) > 0;) {
            if (file->n_ranges == size)
                file->range = heap_realloc(file->range, size = 2 * size + 64, sizeof *file->range);
            file->range[file->n_ranges++] = (struct unit_range){low, high, dwarf_dieoffset(unit)};
        }
    if (file->n_ranges != 0)
        qsort(file->range, file->n_ranges, sizeof *file->range, compare_ranges);
}

static bool find_unit_by_range(struct symbol_file *file, Dwarf_Addr address, Dwarf_Die *unit, Dwarf_Addr *bias)
{
    Dwarf *debug = dwfl_module_getdwarf(file->module, bias);
    if (debug == NULL)
        return false;
    if (!file->has_ranges)
        collect_ranges(file);
    size_t low = 0, high = file->n_ranges; /* the last range that begins at the address or before is below `high` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (file->range[middle].low <= address - *bias)
            low = middle + 1;
        else
            high = middle;
    }
    return high != 0 && address - *bias < file->range[high - 1].high &&
           dwarf_offdie(debug, file->range[high - 1].unit, unit) != NULL;
}

static bool find_unit(struct symbol_file *file, Dwarf_Addr address, Dwarf_Die *unit, Dwarf_Addr *bias)
{
    Dwarf_Die *found = dwfl_module_addrdie(file->module, address, bias);
    if (found == NULL)
        return find_unit_by_range(file, address, unit, bias);
    *unit = *found;
    return true;
}

static uint32_t enter_function(const struct symbols *symbols, const char *system_name, const char *file,
                               int64_t start_line)
{
    char *name = name_for_people(system_name, symbols->full_names);
    uint32_t number = heap_function(symbols->profile, name, system_name, file, start_line);
    free(name);
    return number;
}

static const char *text_or_empty(const char *text)
{
    return text == NULL ? "" : text;
}

static bool is_cplusplus(Dwarf_Die *unit)
{
    int language = dwarf_srclang(unit);
    return language == DW_LANG_C_plus_plus || language == DW_LANG_C_plus_plus_03 ||
           language == DW_LANG_C_plus_plus_11 || language == DW_LANG_C_plus_plus_14;
}

/* A function's declaration, which stands in its class or namespace. */
static void find_declaration(Dwarf_Die *function)
{
    static const unsigned ways[] = {DW_AT_abstract_origin, DW_AT_specification};
    Dwarf_Attribute attribute;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        Dwarf_Die there;
        if (dwarf_formref_die(dwarf_attr(function, ways[i], &attribute), &there) != NULL)
            *function = there;
    }
}

/* The part of a name that a scope stands for; NULL: none. */
static const char *name_of_scope(Dwarf_Die *scope)
{
    const char *name = dwarf_diename(scope);
    switch (dwarf_tag(scope)) {
    case DW_TAG_namespace:
        return name == NULL ? "(anonymous namespace)" : name;
    case DW_TAG_class_type:
    case DW_TAG_structure_type:
    case DW_TAG_union_type:
        return name == NULL ? "{unnamed}" : name; /* a lambda's, for one */
    case DW_TAG_subprogram:
        return name;
    default:
        return NULL;
    }
}

/* The name with what it stands in: a function that is local to another one is in that one's namespace, by its declaration. */
static void print_qualified(Dwarf_Die die, unsigned depth, FILE *stream)
{
    Dwarf_Die *scopes;
    find_declaration(&die);
    const char *name = name_of_scope(&die);
    int n = dwarf_getscopes_die(&die, &scopes);
    if (n > 1 && depth < DEEPEST)
        print_qualified(scopes[1], depth + 1, stream);
    if (n > 0)
        free(scopes);
    if (name != NULL)
        fprintf(stream, "%s%s", ftell(stream) == 0 ? "" : "::", name);
}

/* A C++ function that the linker does not know: a member of a local class, a lambda. A new text; NULL: it has no name. */
static char *qualified_name(Dwarf_Die function)
{
    char *text = NULL;
    size_t len;
    find_declaration(&function);
    FILE *stream = dwarf_diename(&function) == NULL ? NULL : open_memstream(&text, &len);
    if (stream != NULL) {
        print_qualified(function, 0, stream);
        fclose(stream);
    }
    return text;
}

/* The function of a DIE; HEAP_NONE: it has no name. */
static uint32_t function_of(const struct symbols *symbols, Dwarf_Die *unit, Dwarf_Die *function, const char *file)
{
    Dwarf_Attribute attribute;
    int start_line = 0;
    const char *name = dwarf_formstring(dwarf_attr_integrate(function, DW_AT_linkage_name, &attribute));
    dwarf_decl_line(function, &start_line);
    if (name == NULL && is_cplusplus(unit)) {
        char *own = qualified_name(*function);
        if (own == NULL)
            return HEAP_NONE;
        char *shown = symbols->full_names ? NULL : name_shortened(own);
        uint32_t number = heap_function(symbols->profile, shown != NULL ? shown : own, own, file, start_line);
        free(shown);
        free(own);
        return number;
    }
    if (name == NULL)
        name = dwarf_diename(function);
    return name == NULL ? HEAP_NONE : enter_function(symbols, name, file, start_line);
}

/* Where an inlined function was called from. */
static void read_call(Dwarf_Die *unit, Dwarf_Die *inlined, const char **file, int64_t *line)
{
    Dwarf_Attribute attribute;
    Dwarf_Files *files;
    Dwarf_Word number;
    size_t n;
    *line = dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &number) == 0 ? (int64_t)number : 0;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &number) == 0 &&
        dwarf_getsrcfiles(unit, &files, &n) == 0 && number < n)
        *file = text_or_empty(dwarf_filesrc(files, number, NULL, NULL));
}

static bool holds_address(Dwarf_Die *die, Dwarf_Addr address)
{
    switch (dwarf_tag(die)) {
    case DW_TAG_subprogram:
    case DW_TAG_inlined_subroutine:
    case DW_TAG_lexical_block:
    case DW_TAG_try_block:
    case DW_TAG_catch_block:
        return dwarf_haspc(die, address) > 0;
    default:
        return false;
    }
}

/* Where functions may stand whose code is not its own. */
static bool may_hold_functions(Dwarf_Die *die, bool also_functions)
{
    switch (dwarf_tag(die)) {
    case DW_TAG_namespace:
    case DW_TAG_module:
    case DW_TAG_class_type:
    case DW_TAG_structure_type:
    case DW_TAG_union_type:
        return true;
    case DW_TAG_subprogram:
    case DW_TAG_lexical_block:
        return also_functions; /* they have local classes */
    default:
        return false;
    }
}

/* The functions that the code at an address lies in, the outermost first, as they are nested in the code: an inlined function is in
 * its caller. The outermost DEEPEST are entered. Returns their number.
 * local  Looks into all other functions, too: members of local classes are there.
 * Why not dwarf_getscopes: it finds nothing where what was inlined is defined in another unit, as all is by link-time optimisation. */
static int find_functions(Dwarf_Die *parent, Dwarf_Addr address, bool local, Dwarf_Die function[DEEPEST], int n)
{
    Dwarf_Die child;
    const int before = n;
    for (int status = dwarf_child(parent, &child); status == 0 && n < DEEPEST;
         status = dwarf_siblingof(&child, &child)) {
        if (holds_address(&child, address)) {
            if (dwarf_tag(&child) == DW_TAG_subprogram || dwarf_tag(&child) == DW_TAG_inlined_subroutine)
                function[n++] = child;
            return find_functions(&child, address, local, function, n);
        }
        if (may_hold_functions(&child, local)) {
            n = find_functions(&child, address, local, function, n);
            if (n != before)
                break;
        }
    }
    return n;
}

/* The better one of those that begin at the same address comes last: what is exported. */
static int compare_symbols(const void *one, const void *other)
{
    const struct symbol *a = one, *b = other;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    int order = (a->binding != STB_LOCAL) - (b->binding != STB_LOCAL);
    if (order == 0)
        order = (a->binding == STB_GLOBAL) - (b->binding == STB_GLOBAL);
    return order != 0 ? order : strcmp(b->name, a->name);
}

/* libdwfl looks through all symbols for each address; a compiler's program has 60,000, and a profile as many addresses. */
static void collect_symbols(struct symbol_file *file)
{
    int n = dwfl_module_getsymtab(file->module);
    file->has_symbols = true;
    file->symbol = heap_realloc(NULL, n > 0 ? (size_t)n : 0, sizeof *file->symbol);
    for (int i = 1; i < n; i++) {
        GElf_Sym symbol;
        GElf_Addr start;
        const char *name = dwfl_module_getsym_info(file->module, i, &symbol, &start, NULL, NULL, NULL);
        unsigned type = GELF_ST_TYPE(symbol.st_info);
        if (name == NULL || name[0] == 0 || symbol.st_shndx == SHN_UNDEF ||
            (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE))
            continue;
        file->symbol[file->n_symbols++] =
            (struct symbol){start, symbol.st_size, name, (unsigned char)GELF_ST_BIND(symbol.st_info)};
    }
    qsort(file->symbol, file->n_symbols, sizeof *file->symbol, compare_symbols);
}

#define MAX_LOOKS 64 /* back from an address, past labels inside of its function */

/* The function at an address by the table of symbols: one that has it, or else the label before it, which does not say how far it
 * reaches. */
static const struct symbol *symbol_at(struct symbol_file *file, Dwarf_Addr address)
{
    const struct symbol *found = NULL;
    if (!file->has_symbols)
        collect_symbols(file);
    size_t low = 0, high = file->n_symbols; /* symbols below `low` begin at the address or before it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (file->symbol[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low != 0 && file->symbol[low - 1].size == 0)
        found = &file->symbol[low - 1];
    for (size_t i = low; i-- > 0 && low - i <= MAX_LOOKS;)
        if (address - file->symbol[i].start < file->symbol[i].size) {
            found = &file->symbol[i];
            break;
        }
    return found;
}

static uint32_t find_symbol(struct symbols *symbols, struct symbol_file *file, Dwarf_Addr address,
                            struct heap_line *line)
{
    const struct symbol *found = symbol_at(file, address);
    if (found == NULL)
        return 0;
    *line = (struct heap_line){enter_function(symbols, found->name, "", 0), 0};
    return 1;
}

/* Of -gsplit-dwarf: the unit in the .dwo file, if that is there, in place of the one that stands for it. */
static void take_split_unit(Dwarf_Die *unit)
{
    Dwarf_Half version;
    uint8_t type;
    Dwarf_Die own, split;
    if (dwarf_cu_info(unit->cu, &version, &type, &own, &split, NULL, NULL, NULL) == 0 && type == DW_UT_skeleton &&
        split.cu != NULL)
        *unit = split;
}

/* Whether a C++ function is told without what it stands in, as -g1 and -gline-tables-only do. */
static bool lacks_scope(Dwarf_Die *unit, Dwarf_Die *function)
{
    Dwarf_Attribute attribute;
    return is_cplusplus(unit) && dwarf_attr_integrate(function, DW_AT_linkage_name, &attribute) == NULL &&
           dwarf_attr(function, DW_AT_specification, &attribute) == NULL &&
           dwarf_attr(function, DW_AT_abstract_origin, &attribute) == NULL;
}

/* The function at an address by the table of symbols; HEAP_NONE: there is none, or it is not C++'s though that is wanted. */
static uint32_t function_by_symbol(const struct symbols *symbols, struct symbol_file *file, Dwarf_Addr address,
                                   const char *source_file, bool mangled)
{
    const struct symbol *found = symbol_at(file, address);
    if (found == NULL || (mangled && strncmp(found->name, "_Z", 2) != 0))
        return HEAP_NONE;
    return enter_function(symbols, found->name, source_file, 0);
}

/* The functions at an address by debug information, the innermost first. Returns their number. */
static uint32_t find_lines(struct symbols *symbols, struct symbol_file *file, Dwarf_Addr address,
                           struct heap_line line[MAX_INLINED])
{
    Dwarf_Die unit, scope[DEEPEST];
    Dwarf_Addr bias;
    uint32_t n = 0;
    if (!find_unit(file, address, &unit, &bias))
        return 0;
    Dwarf_Line *source = dwarf_getsrc_die(&unit, address - bias);
    int source_line = 0;
    const char *source_file = source == NULL ? "" : text_or_empty(dwarf_linesrc(source, NULL, NULL));
    if (source != NULL)
        dwarf_lineno(source, &source_line);
    int64_t own_line = source_line;
    take_split_unit(&unit);
    int n_scopes = find_functions(&unit, address - bias, false, scope, 0);
    if (n_scopes == 0)
        n_scopes = find_functions(&unit, address - bias, true, scope, 0);
    for (int i = n_scopes; i-- > 0 && n < MAX_INLINED;) {
        const bool outermost = dwarf_tag(&scope[i]) == DW_TAG_subprogram;
        uint32_t function = HEAP_NONE;
        if (outermost && lacks_scope(&unit, &scope[i]))
            function = function_by_symbol(symbols, file, address, source_file, true);
        if (function == HEAP_NONE)
            function = function_of(symbols, &unit, &scope[i], source_file);
        if (function == HEAP_NONE)
            continue;
        line[n++] = (struct heap_line){function, own_line};
        if (outermost)
            break;
        read_call(&unit, &scope[i], &source_file, &own_line);
    }
    if (n == 0 && source != NULL) { /* a table of lines alone */
        const uint32_t function = function_by_symbol(symbols, file, address, source_file, false);
        if (function != HEAP_NONE)
            line[n++] = (struct heap_line){function, own_line};
    }
    return n;
}

/* Whether debug information has told of it. A profile that was written where there was none has but names, of symbols. */
static bool has_source(const struct heap_profile *profile, const struct heap_location *location)
{
    for (uint32_t i = 0; i < location->n_lines; i++)
        if (location->line[i].line != 0 || profile->function[location->line[i].function].file[0] != 0)
            return true;
    return false;
}

static void resolve_location(struct symbols *symbols, uint32_t number)
{
    const struct heap_location *location = &symbols->profile->location[number];
    struct heap_line line[MAX_INLINED];
    if (location->address == 0 || location->mapping == HEAP_NONE ||
        symbols->file_of_mapping[location->mapping] == HEAP_NONE || has_source(symbols->profile, location))
        return;
    struct symbol_file *file = &symbols->file[symbols->file_of_mapping[location->mapping]];
    if (file->module == NULL)
        return;
    Dwarf_Addr address = location->address - symbols->bias[location->mapping];
    uint32_t n = find_lines(symbols, file, address, line);
    if (n == 0 && location->n_lines == 0)
        n = find_symbol(symbols, file, address, line);
    if (n != 0)
        heap_set_lines(symbols->profile, number, line, n);
}

/* ---- The allocator's own frames ---------------------------------------------------------------------------------- */

/* What programs call, and what that becomes where a hit ends in a tail call of its trapdoor. */
static bool is_entry(const char *name)
{
    static const char *const names[] = {"malloc",
                                        "calloc",
                                        "realloc",
                                        "reallocarray",
                                        "memalign",
                                        "aligned_alloc",
                                        "posix_memalign",
                                        "valloc",
                                        "pvalloc",
                                        "__libc_malloc",
                                        "__libc_calloc",
                                        "__libc_realloc",
                                        "__libc_memalign",
                                        "__libc_valloc",
                                        "__libc_pvalloc",
                                        "front_claim_slow",
                                        "claim_slow",
                                        "front_claim_as",
                                        "front_claim_aligned",
                                        "front_claim_above_small",
                                        "front_claim_large",
                                        "claim_medium_slow",
                                        "large_block_resize"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return strncmp(name, "operator new", 12) == 0 || strncmp(name, "hak_", 4) == 0;
}

static const char *outermost_name(const struct heap_profile *profile, uint32_t location)
{
    const struct heap_location *own = &profile->location[location];
    return own->n_lines == 0 ? "" : profile->function[own->line[own->n_lines - 1].function].name;
}

#define MAX_OWN_FRAMES 24

/* The source file; *sources: how much of it is the directory that has the allocator's sources, if it is one of them. A path that is
 * relative may be anybody's. */
static const char *outermost_file(const struct heap_profile *profile, uint32_t location, size_t *sources)
{
    static const char stack[] = "/src/service/stack.c";
    const struct heap_location *own = &profile->location[location];
    const char *file = own->n_lines == 0 ? "" : profile->function[own->line[own->n_lines - 1].function].file;
    if (sources != NULL) {
        size_t length = strlen(file), tail = sizeof stack - 1;
        bool is_own = file[0] == '/' && length > tail && strcmp(file + length - tail, stack) == 0;
        *sources = is_own ? length - tail + strlen("/src/") : 0;
    }
    return file;
}

/* How many frames of a sample are the allocator's. It takes its own stack; in a program that it is linked into statically it cannot
 * tell its frames from the program's. The last entry among the first frames is where the program came in. */
static uint32_t count_own_frames(const struct heap_profile *profile, const struct heap_sample *sample)
{
    uint32_t n = 0;
    size_t sources;
    if (sample->n_locations == 0 || strncmp(outermost_name(profile, sample->location[0]), "stack_take", 10) != 0)
        return 0;
    for (uint32_t i = 0; i < sample->n_locations && i < MAX_OWN_FRAMES; i++)
        if (is_entry(outermost_name(profile, sample->location[i])))
            n = i + 1;
    /* An entry that ends with a jump into the allocator is not on the stack. */
    const char *own = outermost_file(profile, sample->location[0], &sources);
    while (n < sample->n_locations && sources != 0 &&
           strncmp(outermost_file(profile, sample->location[n], NULL), own, sources) == 0)
        n++;
    return n == sample->n_locations ? 0 : n;
}

static void drop_own_frames(struct heap_profile *profile)
{
    for (uint32_t i = 0; i < profile->n_samples; i++) {
        struct heap_sample *sample = &profile->sample[i];
        uint32_t n = count_own_frames(profile, sample);
        sample->location += n;
        sample->n_locations -= n;
    }
}

/* ---- All of it --------------------------------------------------------------------------------------------------- */

/* Whether a location needs the mapping's file; *lacks_names: for more than lines. */
static bool is_wanted(const struct heap_profile *profile, uint32_t mapping, bool *lacks_names)
{
    bool wanted = false;
    *lacks_names = false;
    for (uint32_t i = 0; i < profile->n_locations; i++)
        if (profile->location[i].mapping == mapping) {
            *lacks_names |= profile->location[i].n_lines == 0;
            wanted |= profile->location[i].address != 0 && !has_source(profile, &profile->location[i]);
        }
    return wanted || *lacks_names;
}

void symbols_resolve(struct heap_profile *profile, pid_t pid, bool full_names)
{
    struct symbols symbols = {.profile = profile, .pid = pid, .full_names = full_names};
    elf_version(EV_CURRENT);
    symbols.file_of_mapping = heap_realloc(NULL, profile->n_mappings, sizeof *symbols.file_of_mapping);
    symbols.bias = heap_realloc(NULL, profile->n_mappings, sizeof *symbols.bias);
    for (uint32_t i = 0; i < profile->n_mappings; i++) {
        const struct heap_mapping *mapping = &profile->mapping[i];
        symbols.bias[i] = mapping->bias;
        bool lacks_names, wanted = is_wanted(profile, i, &lacks_names);
        symbols.file_of_mapping[i] = wanted ? file_of(&symbols, mapping, lacks_names) : HEAP_NONE;
        uint32_t file = symbols.file_of_mapping[i];
        if (file != HEAP_NONE && symbols.file[file].module != NULL && !mapping->has_bias &&
            !find_bias(&symbols.file[file], mapping, &symbols.bias[i]))
            symbols.file_of_mapping[i] = HEAP_NONE;
    }
    for (uint32_t i = 0; i < profile->n_locations; i++)
        resolve_location(&symbols, i);
    drop_own_frames(profile);
    for (size_t i = 0; i < symbols.n_files; i++) {
        if (symbols.file[i].dwfl != NULL)
            dwfl_end(symbols.file[i].dwfl);
        free(symbols.file[i].range);
        free(symbols.file[i].symbol);
    }
    free(symbols.file);
    free(symbols.file_of_mapping);
    free(symbols.bias);
}
