/* test_module.c - what is known of a loaded file: what it defines, which function an address lies in, its build id; and the table of files
 * that stacks lead through. By what the dynamic linker says of the same.
 * Owns     a directory, that is removed.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "os/os.h"
#include "service/modules.h"
#include "process.h"

#include <dlfcn.h>
#include <elf.h>
#include <gnu/lib-names.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct os_module module_of(const void *address)
{
    struct os_module module;
    assert_true(os_module_of(address, &module));
    return module;
}

/* Systems before glibc 2.35 tell nothing. */
static bool nothing_is_known(void)
{
    struct os_module module;
    return !os_module_of((const void *)(uintptr_t)strtol, &module);
}

/* Of libc alone: a sanitizer's functions of the same names lie in the program. NULL: it has none. */
static const void *symbol_of_libc(const char *name)
{
    void *libc = dlopen(LIBC_SO, RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(libc);
    const void *address = dlsym(libc, name);
    dlclose(libc); /* it stays */
    return address;
}

static const void *symbol(const char *name)
{
    const void *address = symbol_of_libc(name);
    if (address == NULL)
        address = dlsym(RTLD_DEFAULT, name);
    assert_non_null(address);
    return address;
}

/* ---- What a file defines ----------------------------------------------------------------------------------------- */

static void names_are_those_of_the_linker(void **state)
{
    (void)state;
    static const char *const of_libc[] = {"qsort", "strtol",  "fopen",    "getenv", "environ",
                                          "errno", "regcomp", "wcstombs", "puts",   "open64"};
    static const char *const of_cmocka[] = {"_assert_true", "_fail", "_cmocka_run_group_tests", "print_message"};
    static const char *const of_none[] = {"qsor", "qsort_", "", "no_such_name_at_all", "hak_malloc_of_none"};
    const struct os_module libc = module_of(symbol_of_libc("strtol")), cmocka = module_of(symbol("_fail"));
    for (size_t i = 0; i < sizeof of_libc / sizeof of_libc[0]; i++) {
        if (symbol_of_libc(of_libc[i]) != NULL)
            assert_true(os_module_defines(&libc, of_libc[i]));
        assert_false(os_module_defines(&cmocka, of_libc[i])); /* though it asks for some of them */
    }
    for (size_t i = 0; i < sizeof of_cmocka / sizeof of_cmocka[0]; i++) {
        assert_true(os_module_defines(&cmocka, of_cmocka[i]));
        assert_false(os_module_defines(&libc, of_cmocka[i]));
    }
    for (size_t i = 0; i < sizeof of_none / sizeof of_none[0]; i++)
        assert_false(os_module_defines(&libc, of_none[i]) || os_module_defines(&cmocka, of_none[i]));
}

/* By an address inside, by the first one, and not by the next function's; a name may be another one of the same function. */
static void functions_are_found_by_addresses(void **state)
{
    (void)state;
    static const char *const names[] = {"qsort",    "strtol", "fopen",         "getenv",      "regcomp",
                                        "wcstombs", "_fail",  "print_message", "_assert_true"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *address = symbol(names[i]);
        const ElfW(Sym) *entry = NULL;
        Dl_info info;
        assert_true(dladdr1(address, &info, (void **)&entry, RTLD_DL_SYMENT) != 0 && entry != NULL &&
                    entry->st_size > 1);
        const struct os_module module = module_of(address);
        for (unsigned k = 0; k < 3; k++) {
            const char *found = os_module_name_at(&module, address + (k == 0 ? 0 : k == 1 ? 1 : entry->st_size - 1));
            assert_non_null(found);
            assert_ptr_equal(symbol(found), address);
        }
        const char *behind = os_module_name_at(&module, address + entry->st_size);
        assert_true(behind == NULL || dlsym(RTLD_DEFAULT, behind) != address);
    }
    const struct os_module libc = module_of(symbol_of_libc("strtol"));
    for (size_t i = 0; i < 512; i++) /* nothing is there, but thread-local variables are counted from 0 on */
        assert_null(os_module_name_at(&libc, (const char *)libc.start + i)); /* NOLINT: the file's header */
}

static void texts_are_found(void **state)
{
    (void)state;
    static const char text[] = "\0Operation not permitted";
    const struct os_module libc = module_of(symbol_of_libc("strtol")), cmocka = module_of(symbol("_fail"));
    assert_true(os_module_contains(&libc, text, sizeof text));
    assert_false(os_module_contains(&libc, "\0Operation not permitteD", sizeof text));
    assert_false(os_module_contains(&cmocka, text, sizeof text));
}

/* Of libc and the linker, whoever else there is. */
static void libc_is_told_from_others(void **state)
{
    (void)state;
    const struct os_module linker = module_of((const void *)_r_debug.r_ldbase); /* NOLINT: the linker's */
    assert_true(os_is_libc(symbol_of_libc("strtol")) && os_is_libc(symbol_of_libc("qsort")));
    /* NOLINT: likewise */
    assert_true(os_is_libc((const char *)linker.start + 4096) && os_is_libc((const char *)linker.end - 1));
    assert_false(os_is_libc(symbol("_fail")) || os_is_libc((const void *)(uintptr_t)module_of));
    assert_false(os_is_libc(NULL) || os_is_libc(state));
}

/* ---- Build ids ------------------------------------------------------------------------------------------------------ */

struct asked {
    uintptr_t address;
    const unsigned char *id;
    size_t n_bytes;
};

/* The descriptor behind "GNU" of type 3, byte by byte. */
static int look_for_id(struct dl_phdr_info *info, size_t size_bytes, void *argument)
{
    struct asked *asked = argument;
    static const unsigned char mark[] = {4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 'G', 'N', 'U', 0};
    bool is_in = false;
    (void)size_bytes;
    for (unsigned i = 0; i < info->dlpi_phnum; i++)
        is_in |= info->dlpi_phdr[i].p_type == PT_LOAD &&
                 asked->address - info->dlpi_addr - info->dlpi_phdr[i].p_vaddr < info->dlpi_phdr[i].p_memsz;
    for (unsigned i = 0; is_in && i < info->dlpi_phnum; i++) {
        const unsigned char *notes = (const unsigned char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr); /* NOLINT */
        for (size_t at = 0;
             info->dlpi_phdr[i].p_type == PT_NOTE && at + sizeof mark + 20 <= info->dlpi_phdr[i].p_filesz; at += 4)
            if (memcmp(notes + at, mark, sizeof mark) == 0) {
                asked->id = notes + at + sizeof mark;
                asked->n_bytes = 20;
            }
    }
    return is_in;
}

static void build_ids_are_those_of_the_notes(void **state)
{
    (void)state;
    const void *const addresses[] = {symbol_of_libc("strtol"), symbol("_fail"), (const void *)(uintptr_t)look_for_id,
                                     (const void *)_r_debug.r_ldbase};
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        struct asked asked = {.address = (uintptr_t)addresses[i]};
        size_t n_bytes = 1;
        const struct os_module module = module_of(addresses[i]);
        dl_iterate_phdr(look_for_id, &asked);
        assert_ptr_equal(os_module_build_id(&module, &n_bytes), asked.id);
        assert_int_equal(n_bytes, asked.n_bytes);
    }
}

/* ---- Files that no usual tool makes ------------------------------------------------------------------------------ */

enum { FOLD, MIDDLE, LABEL, INNER, OUTER, LAST, N_NAMES, N_BUCKETS = 11 };
static const char *const made_up_names[N_NAMES] = {
    "a_name_so_long_that_its_hash_is_folded", "b", "label", "inner", "outer", "last"};

/* As in a file and in memory: the header, segments, tables. Places are counted from its beginning, but for those of the dynamic section,
 * which may be addresses. A symbol's place is 64 * its number, and it has 16 bytes. */
static struct made_up {
    ElfW(Ehdr) header;
    ElfW(Phdr) segment[4];
    uint32_t notes[40];
    ElfW(Dyn) dynamic[4];
    ElfW(Sym) symbol[N_NAMES + 2]; /* the first one is none; the second one is asked for, and not in the table */
    char text[128];
    uint32_t hash[2 + N_BUCKETS + N_NAMES + 2], gnu_hash[4 + 2 + 2 + N_NAMES];
} made_up __attribute__((aligned(4096)));

static uint32_t place_in(const void *part)
{
    return (uint32_t)((const char *)part - (const char *)&made_up);
}

/* As the standard has it. */
static uint32_t hash_of(const char *name)
{
    uint32_t hash = 0;
    for (; *name != 0; name++) {
        hash = (hash << 4) + (unsigned char)*name;
        uint32_t high = hash & 0xf0000000;
        hash = (hash ^ high >> 24) & ~high;
    }
    return hash;
}

static uint32_t gnu_hash_of(const char *name)
{
    uint32_t hash = 5381;
    for (; *name != 0; name++)
        hash = hash * 33 + (unsigned char)*name;
    return hash;
}

/* In the GNU table all symbols are in the last of the buckets, so that their order does not depend on their hashes: where one is looked for
 * by name there is one. */
static struct os_module make_up(bool with_hash, uint32_t n_buckets)
{
    size_t len = 1;
    memset(&made_up, 0, sizeof made_up);
    memcpy(made_up.header.e_ident, ELFMAG, SELFMAG);
    made_up.header.e_phoff = sizeof made_up.header;
    made_up.header.e_phnum = 4;
    made_up.header.e_phentsize = sizeof made_up.segment[0];
    for (uint32_t i = 0; i < N_NAMES + 2; i++) {
        const char *name = i == 0 ? "" : i == 1 ? "asked_for" : made_up_names[i - 2];
        made_up.symbol[i] = (ElfW(Sym)){
            .st_name = (uint32_t)len, .st_value = 64u * i, .st_size = 16, .st_shndx = i < 2 ? SHN_UNDEF : 1};
        strcpy(made_up.text + len, name);
        len += strlen(name) + 1;
    }
    made_up.dynamic[0] = (ElfW(Dyn)){.d_tag = DT_SYMTAB, .d_un.d_ptr = (ElfW(Addr))made_up.symbol};
    made_up.dynamic[1] = (ElfW(Dyn)){.d_tag = DT_STRTAB, .d_un.d_ptr = place_in(made_up.text)};
    made_up.dynamic[2] = with_hash ? (ElfW(Dyn)){.d_tag = DT_HASH, .d_un.d_ptr = place_in(made_up.hash)}
                                   : (ElfW(Dyn)){.d_tag = DT_GNU_HASH, .d_un.d_ptr = place_in(made_up.gnu_hash)};
    uint32_t *bucket = made_up.hash + 2, *next = bucket + N_BUCKETS;
    made_up.hash[0] = n_buckets == 0 ? 0 : N_BUCKETS;
    made_up.hash[1] = N_NAMES + 2;
    for (uint32_t i = 1; i < N_NAMES + 2; i++) {
        uint32_t hash = hash_of(made_up.text + made_up.symbol[i].st_name) % N_BUCKETS;
        next[i] = bucket[hash];
        bucket[hash] = i;
    }
    made_up.gnu_hash[0] = n_buckets;
    made_up.gnu_hash[1] = 2;
    made_up.gnu_hash[2] = 1;
    bucket = made_up.gnu_hash + 4 + sizeof(ElfW(Addr)) / 4;
    for (uint32_t i = 0; n_buckets != 0 && i < N_NAMES; i++) {
        bucket[n_buckets - 1] = 2;
        bucket[n_buckets + i] = (gnu_hash_of(made_up_names[i]) & ~1u) | (i == N_NAMES - 1);
    }
    return (struct os_module){.start = (uintptr_t)&made_up,
                              .end = (uintptr_t)(&made_up + 1),
                              .bias = (uintptr_t)&made_up,
                              .dynamic = made_up.dynamic,
                              .path = ""};
}

/* By both kinds of tables; an empty one has none, and what is only asked for is not defined. */
static void names_are_found_by_either_table(void **state)
{
    (void)state;
    for (unsigned with_hash = 0; with_hash < 2; with_hash++) {
        struct os_module module = make_up(with_hash != 0, 1);
        for (unsigned i = 0; i < N_NAMES; i++)
            assert_true(os_module_defines(&module, made_up_names[i]));
        assert_false(os_module_defines(&module, "asked_for") || os_module_defines(&module, "none") ||
                     os_module_defines(&module, ""));
        module = make_up(with_hash != 0, 0);
        assert_false(os_module_defines(&module, "b"));
        for (unsigned missing = 0; missing < 3; missing++) {
            module = make_up(with_hash != 0, 1);
            made_up.dynamic[missing].d_tag = DT_DEBUG;
            assert_false(os_module_defines(&module, "b"));
            assert_null(os_module_name_at(&module, (char *)&made_up + made_up.symbol[2].st_value));
        }
        module = make_up(with_hash != 0, 1);
        module.end = (uintptr_t)made_up.hash; /* the tables lie behind the file */
        assert_false(os_module_defines(&module, "b"));
    }
    struct os_module module = make_up(false, 1);
    uint32_t *bucket = made_up.gnu_hash + 4 + sizeof(ElfW(Addr)) / 4;
    *bucket = 1; /* what the table leaves out is not in it */
    assert_false(os_module_defines(&module, "b"));
}

/* The inmost one of those that hold an address; of one without a length only the place itself; the last one, too. */
static void names_at_places(void **state)
{
    (void)state;
    for (unsigned with_hash = 0; with_hash < 2; with_hash++) {
        struct os_module module = make_up(with_hash != 0, 2);
        ElfW(Sym) *symbol = made_up.symbol + 2;
        const char *base = (const char *)&made_up;
        symbol[OUTER].st_value = symbol[INNER].st_value - 8; /* and it comes behind it */
        symbol[OUTER].st_size = 32;
        symbol[LABEL].st_size = 0;
        symbol[MIDDLE].st_info = STT_TLS;
        symbol[FOLD].st_value = 0;
        assert_string_equal(os_module_name_at(&module, base + symbol[INNER].st_value), "inner");
        assert_string_equal(os_module_name_at(&module, base + symbol[INNER].st_value - 1), "outer");
        assert_string_equal(os_module_name_at(&module, base + symbol[INNER].st_value + 16), "outer");
        assert_string_equal(os_module_name_at(&module, base + symbol[LABEL].st_value), "label");
        assert_null(os_module_name_at(&module, base + symbol[LABEL].st_value + 1));
        assert_null(os_module_name_at(&module, base + symbol[MIDDLE].st_value));
        assert_null(os_module_name_at(&module, base)); /* at 0 there is the file's header */
        assert_null(os_module_name_at(&module, base + made_up.symbol[1].st_value)); /* it is asked for */
        assert_string_equal(os_module_name_at(&module, base + symbol[LAST].st_value + 15), "last");
        assert_null(os_module_name_at(&module, base + symbol[LAST].st_value + 16));
        symbol[FOLD].st_value = symbol[LAST].st_value - 8; /* and it comes before it */
        symbol[FOLD].st_size = 32;
        assert_string_equal(os_module_name_at(&module, base + symbol[LAST].st_value), "last");
        assert_string_equal(os_module_name_at(&module, base + symbol[LAST].st_value + 16), made_up_names[FOLD]);
    }
    struct os_module module = make_up(false, 0); /* it names nothing, but lists what it asks for */
    made_up.symbol[1].st_shndx = 1;
    assert_string_equal(os_module_name_at(&module, (char *)&made_up + 64), "asked_for");
    assert_null(os_module_name_at(&module, (char *)&made_up + 128));
}

/* Appends a note; returns its text. */
static unsigned char *add_note(uint32_t *at, uint32_t type, const char *name, uint32_t name_bytes, uint32_t text_bytes)
{
    uint32_t *note = made_up.notes + *at, name_words = (name_bytes + 3) / 4;
    note[0] = name_bytes;
    note[1] = text_bytes;
    note[2] = type;
    memcpy(note + 3, name, name_bytes);
    *at += 3 + name_words + (text_bytes + 3) / 4;
    return (unsigned char *)(note + 3 + name_words);
}

/* Behind other notes, of odd lengths; not in a segment that is not loaded, nor in one that ends before it does. Segments in no order. */
static void build_ids_of_odd_files(void **state)
{
    (void)state;
    struct os_module module = make_up(true, 1);
    uint32_t at = 0;
    size_t n_bytes = 1;
    ElfW(Phdr) *notes = &made_up.segment[0], *behind = &made_up.segment[1], *loaded = &made_up.segment[2];
    *loaded = (ElfW(Phdr)){.p_type = PT_LOAD, .p_filesz = place_in(made_up.dynamic)};
    *behind = (ElfW(Phdr)){.p_type = PT_LOAD, .p_vaddr = sizeof made_up, .p_filesz = 1};
    *notes = (ElfW(Phdr)){.p_type = PT_NOTE, .p_vaddr = place_in(made_up.notes)};
    add_note(&at, 3, "LONGER", 7, 5);
    add_note(&at, 1, "GNU", 4, 16);
    add_note(&at, 3, "GNV", 4, 0);
    add_note(&at, 3, "GN", 3, 1);
    add_note(&at, 3, "GNU\0X", 5, 1);
    notes->p_filesz = 4 * at;
    assert_null(os_module_build_id(&module, &n_bytes));
    assert_int_equal(n_bytes, 0);
    const unsigned char *id = add_note(&at, 3, "GNU", 4, 7);
    notes->p_filesz = 4 * at;
    made_up.segment[3] = (ElfW(Phdr)){.p_type = PT_NOTE, .p_vaddr = notes->p_vaddr, .p_filesz = 20}; /* has none */
    assert_ptr_equal(os_module_build_id(&module, &n_bytes), id);
    assert_int_equal(n_bytes, 7);
    made_up.segment[3].p_type = PT_NULL;
    for (size_t cut = 1; cut < 4 * at; cut++) {
        notes->p_filesz = 4 * at - cut;
        assert_null(os_module_build_id(&module, &n_bytes));
        assert_int_equal(n_bytes, 0);
    }
    notes->p_filesz = 4 * at;
    loaded->p_filesz = notes->p_vaddr + notes->p_filesz - 1;
    assert_null(os_module_build_id(&module, &n_bytes));
    loaded->p_filesz++;
    loaded->p_type = PT_DYNAMIC;
    assert_null(os_module_build_id(&module, &n_bytes));
    loaded->p_type = PT_LOAD;
    notes->p_type = PT_NULL;
    assert_null(os_module_build_id(&module, &n_bytes));
    notes->p_type = PT_NOTE;
    assert_ptr_equal(os_module_build_id(&module, &n_bytes), id);
    made_up.header.e_phentsize++;
    assert_null(os_module_build_id(&module, &n_bytes));
    made_up.header.e_phentsize--;
    made_up.header.e_phnum =
        (uint16_t)(os_page_bytes() / sizeof made_up.segment[0]); /* the header's page is all that is sure to be there */
    assert_null(os_module_build_id(&module, &n_bytes));
}

/* As that of a static program, which is said to begin with its code: the kernel tells of the program, and only of it. */
static void a_module_without_a_header_is_the_program_or_nothing(void **state)
{
    (void)state;
    const char *own = (const char *)(uintptr_t)look_for_id;
    struct os_module program = module_of(own), libc = module_of(symbol_of_libc("strtol"));
    size_t n_bytes, program_bytes;
    const unsigned char *id = os_module_build_id(&program, &program_bytes);
    program.start = (uintptr_t)own;
    assert_ptr_equal(os_module_build_id(&program, &n_bytes), id);
    assert_int_equal(n_bytes, program_bytes);
/* It looks through all of the program, which leads over the sanitizer's bounds of global variables. */
#ifndef SANITIZED
    assert_true(os_module_contains(&program, "a_module_without_a_header_is_the_program", 40));
#endif
    program.start = libc.start = (uintptr_t)symbol_of_libc("strtol");
    assert_null(os_module_build_id(&program, &n_bytes)); /* not where it is said to begin elsewhere */
    assert_null(os_module_build_id(&libc, &n_bytes));
    assert_int_equal(n_bytes, 0);
    assert_false(os_module_contains(&libc, "\0Operation not permitted", 24));
}

/* ---- The table -------------------------------------------------------------------------------------------------------- */

static struct modules modules;

static void enter(const void *first, const void *second, const void *third)
{
    void *frame[] = {(void *)(uintptr_t)first, (void *)(uintptr_t)second, (void *)(uintptr_t)third};
    modules_enter(&modules, frame, 3, 77);
}

static void modules_of_frames_are_entered_once(void **state)
{
    (void)state;
    const char *in_libc = symbol_of_libc("strtol"), *in_cmocka = symbol("_fail"), *nowhere = NULL;
    const struct os_module libc = module_of(in_libc);
    memset(&modules, 0, sizeof modules);
    for (unsigned round = 0; round < 2; round++) {
        enter(in_libc + 1, nowhere + 100, in_libc + 2);
        assert_int_equal(modules.n, 1);
    }
    enter(in_libc + 1, nowhere + 100, in_cmocka + 1); /* what is unknown hides nothing behind it */
    assert_int_equal(modules.n, 2);
    const struct module *entry = &modules.module[0];
    size_t id_bytes;
    const unsigned char *id = os_module_build_id(&libc, &id_bytes);
    assert_int_equal(entry->valid, 1);
    assert_int_equal(entry->since, 77);
    assert_true(entry->start == libc.start && entry->end == libc.end && entry->bias == libc.bias &&
                entry->build_id_bytes == id_bytes);
    assert_memory_equal(entry->build_id, id, id_bytes);
    assert_string_equal(entry->path, libc.path);

    memset(&modules, 0, sizeof modules);
    enter((const void *)libc.start, nowhere, nowhere + 1); /* NOLINT: the call lies before it */
    assert_int_equal(modules.n, 0);
    enter((const void *)libc.end, nowhere, nowhere + 1); /* NOLINT: but inside here */
    assert_int_equal(modules.n, 1);
}

/* Another build, or another file, at the same place: it is entered beside the first one, which stays, and once. */
static void modules_that_are_replaced_are_entered_again(void **state)
{
    (void)state;
    const char *in_libc = symbol_of_libc("strtol");
    for (unsigned what = 0; what < 4; what++) {
        memset(&modules, 0, sizeof modules);
        enter(in_libc + 1, in_libc + 2, in_libc + 3);
        struct module *entry = &modules.module[0];
        if (what == 0)
            entry->build_id[7] ^= 1;
        else if (what == 1)
            entry->path[5] ^= 1;
        else if (what == 2)
            entry->end += 4096;
        else
            entry->start -= 4096;
        for (unsigned round = 0; round < 2; round++) {
            enter(in_libc + 1, in_libc + 2, in_libc + 3);
            assert_int_equal(modules.n, 2);
        }
    }
}

static void a_full_table_stays_as_it_is(void **state)
{
    (void)state;
    const char *in_libc = symbol_of_libc("strtol"), *in_cmocka = symbol("_fail");
    memset(&modules, 0, sizeof modules);
    modules.n = MODULES_MAX - 1;
    enter(in_libc + 1, in_cmocka + 1, in_cmocka + 2);
    assert_int_equal(modules.n, MODULES_MAX);
    assert_int_equal(modules.module[MODULES_MAX - 1].valid, 1);
    assert_true(modules.module[MODULES_MAX - 1].start == module_of(in_libc).start);
}

/* A library that is opened by a relative path is noted by the whole one, if there is room and the directory is still there. */
static void check_relative(const char *directory, bool has_room, bool goes)
{
    char expected[2048];
    assert_int_equal(chdir(directory), 0);
    assert_non_null(getcwd(expected, sizeof expected));
    strcat(expected, "/./copy.so");
    const struct os_module cmocka = module_of(symbol("_fail"));
    FILE *from = fopen(cmocka.path, "r"), *to = fopen("copy.so", "w");
    assert_true(from != NULL && to != NULL);
    for (int c; (c = getc(from)) != EOF;)
        putc(c, to);
    fclose(from);
    assert_int_equal(fclose(to), 0);
    void *copy = dlopen("./copy.so", RTLD_NOW | RTLD_LOCAL);
    assert_non_null(copy);
    const char *in_copy = dlsym(copy, "_fail");
    assert_non_null(in_copy);
    if (goes) {
        assert_true(unlink("copy.so") == 0 && rmdir(getcwd(expected, sizeof expected)) == 0);
    }
    memset(&modules, 0, sizeof modules);
    for (unsigned round = 0; round < 2; round++) {
        enter(in_copy + 1, in_copy + 2, in_copy + 3);
        assert_int_equal(modules.n, 1);
        assert_string_equal(modules.module[0].path, has_room && !goes ? expected : "");
    }
    dlclose(copy);
    if (!goes)
        unlink("copy.so");
}

static void relative_paths_are_completed(void **state)
{
    (void)state;
    char directory[] = "/tmp/hakmem-module.XXXXXX", name[201], before[2048];
    assert_non_null(getcwd(before, sizeof before));
    assert_non_null(mkdtemp(directory));
    check_relative(directory, true, false);
    memset(name, 'n', 200);
    name[200] = 0;
    assert_int_equal(mkdir(name, 0700), 0);
    check_relative(name, true, false);
    assert_int_equal(mkdir(name, 0700), 0);
    check_relative(name, false, false); /* of 320 bytes */
    assert_true(chdir("..") == 0 && rmdir(name) == 0 && chdir("..") == 0 && rmdir(name) == 0);
    check_relative(directory, true, true);
    assert_int_equal(chdir(before), 0);
}

static void definitions_are_looked_for_in_all_modules(void **state)
{
    (void)state;
    /* No sanitizer has a getenv of its own. */
    static const char *const known[] = {"no_such_name_at_all", "getenv", NULL};
    static const char *const none[] = {"no_such_name_at_all", NULL};
    static const char *const nobody[] = {NULL}, *const libc[] = {"libcm", "ld-linux", "libc.so", NULL},
                             *const beginning[] = {"ibc.so", "/", NULL};
    static const char text[] = "\0Operation not permitted", other_text[] = "\0which only this test's file has";
    assert_true(modules_define(known, NULL, nobody));
    assert_true(modules_define(known, NULL, beginning)); /* of a file's name, not of its path */
    assert_false(modules_define(known, NULL, libc));
    assert_false(modules_define(none, NULL, nobody));
    assert_true(modules_define(none, text, nobody));
    assert_false(modules_define(none, text, libc));
    assert_false(modules_define(none, other_text, nobody)); /* hakmem lies in it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_those_of_the_linker),
        cmocka_unit_test(functions_are_found_by_addresses),
        cmocka_unit_test(texts_are_found),
        cmocka_unit_test(libc_is_told_from_others),
        cmocka_unit_test(build_ids_are_those_of_the_notes),
        cmocka_unit_test(names_are_found_by_either_table),
        cmocka_unit_test(names_at_places),
        cmocka_unit_test(build_ids_of_odd_files),
        cmocka_unit_test(a_module_without_a_header_is_the_program_or_nothing),
        cmocka_unit_test(modules_of_frames_are_entered_once),
        cmocka_unit_test(modules_that_are_replaced_are_entered_again),
        cmocka_unit_test(a_full_table_stays_as_it_is),
        cmocka_unit_test(relative_paths_are_completed),
        cmocka_unit_test(definitions_are_looked_for_in_all_modules),
    };
    hak_free(hak_malloc(1)); /* finds out where the linker lies */
    if (nothing_is_known())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
