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

#include <dlfcn.h>
#include <elf.h>
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

static const void *symbol(const char *name)
{
    const void *address = dlsym(RTLD_DEFAULT, name);
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
    const struct os_module libc = module_of(symbol("strtol")), cmocka = module_of(symbol("_fail"));
    for (size_t i = 0; i < sizeof of_libc / sizeof of_libc[0]; i++) {
        if (dlsym(RTLD_DEFAULT, of_libc[i]) != NULL)
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
    const struct os_module libc = module_of(symbol("strtol"));
    for (size_t i = 0; i < 512; i++) /* nothing is there, but thread-local variables are counted from 0 on */
        assert_null(os_module_name_at(&libc, (const char *)libc.start + i)); /* NOLINT: the file's header */
}

static void texts_are_found(void **state)
{
    (void)state;
    static const char text[] = "\0Operation not permitted";
    const struct os_module libc = module_of(symbol("strtol")), cmocka = module_of(symbol("_fail"));
    assert_true(os_module_contains(&libc, text, sizeof text));
    assert_false(os_module_contains(&libc, "\0Operation not permitteD", sizeof text));
    assert_false(os_module_contains(&cmocka, text, sizeof text));
}

/* Of libc and the linker, whoever else there is. */
static void libc_is_told_from_others(void **state)
{
    (void)state;
    const struct os_module linker = module_of((const void *)_r_debug.r_ldbase); /* NOLINT: the linker's */
    assert_true(os_is_libc(symbol("strtol")) && os_is_libc(symbol("qsort")));
    assert_true(os_is_libc((const char *)linker.start + 4096) && os_is_libc((const char *)linker.end - 1)); /* NOLINT: likewise */
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
    const void *const addresses[] = {symbol("strtol"), symbol("_fail"), (const void *)(uintptr_t)look_for_id,
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
    const char *in_libc = symbol("strtol"), *in_cmocka = symbol("_fail"), *nowhere = NULL;
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
    const char *in_libc = symbol("strtol");
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
    const char *in_libc = symbol("strtol"), *in_cmocka = symbol("_fail");
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
    static const char *const sort[] = {"no_such_name_at_all", "qsort", NULL}, *const none[] = {"no_such_name_at_all",
                                                                                               NULL};
    static const char *const nobody[] = {NULL}, *const libc[] = {"libcm", "ld-linux", "libc.so", NULL},
                             *const beginning[] = {"ibc.so", "/", NULL};
    static const char text[] = "\0Operation not permitted", other_text[] = "\0which only this test's file has";
    assert_true(modules_define(sort, NULL, nobody));
    assert_true(modules_define(sort, NULL, beginning)); /* of a file's name, not of its path */
    assert_false(modules_define(sort, NULL, libc));
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
