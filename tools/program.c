/* program.c - which file a program's name means, and whether a library can be preloaded into it.
 * Owns       nothing; reads files.     Called by  run.c.     Calls  libc only.     Threads  one.
 * I1  Whatever cannot be told (unreadable, 32-bit, unknown format) counts as no obstacle: a warning is never wrong.
 * Why read the file: in a setuid program the dynamic linker drops LD_PRELOAD without a word, and a static program has no
 * dynamic linker; both would run on another allocator with nobody the wiser. */
#define _GNU_SOURCE
#include "tool.h"

#include <elf.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The kernel reads this much of a script's first line. */
enum { SCRIPT_LINE_BYTES = 256 };

/* What execvp searches when PATH is not set. */
static const char default_path[] = "/bin:/usr/bin";

static bool is_executable_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

int program_find(const char *name, char *path, size_t size_bytes)
{
    if (strchr(name, '/') != NULL) {
        const int length = snprintf(path, size_bytes, "%s", name);
        return length > 0 && (size_t)length < size_bytes && is_executable_file(path) ? 0 : -1;
    }
    const char *directory = getenv("PATH");
    if (directory == NULL)
        directory = default_path;
    for (;;) {
        const int directory_length = (int)strcspn(directory, ":"); /* an empty entry is the working directory */
        const int length = snprintf(path, size_bytes, "%.*s/%s", directory_length == 0 ? 1 : directory_length,
                                    directory_length == 0 ? "." : directory, name);
        if (length > 0 && (size_t)length < size_bytes && is_executable_file(path))
            return 0;
        if (directory[directory_length] == '\0')
            return -1;
        directory += directory_length + 1;
    }
}

/* The cases in which the kernel asks the dynamic linker for secure mode: the program gains a user, a group, or
 * capabilities, that its caller lacks. */
static const char *privilege_obstacle(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return NULL;
    if ((status.st_mode & S_ISUID) != 0 && status.st_uid != getuid())
        return "is setuid";
    if ((status.st_mode & S_ISGID) != 0 && (status.st_mode & S_IXGRP) != 0 && status.st_gid != getgid())
        return "is setgid";
    if (getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
        return "has file capabilities";
    return NULL;
}

/* The header of an executable of this machine's kind. */
static bool read_header(int file, Elf64_Ehdr *header)
{
    return pread(file, header, sizeof *header, 0) == (ssize_t)sizeof *header &&
           memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_ident[EI_CLASS] == ELFCLASS64 &&
           header->e_phentsize == sizeof(Elf64_Phdr);
}

/* The first segment of a type, or the one that an address is loaded from. False: there is none; *readable says whether all
 * could be read. */
static bool find_segment(int file, const Elf64_Ehdr *header, Elf64_Word type, Elf64_Addr address, Elf64_Phdr *segment,
                         bool *readable)
{
    *readable = true;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        const off_t offset = (off_t)(header->e_phoff + i * sizeof *segment);
        if (pread(file, segment, sizeof *segment, offset) != (ssize_t)sizeof *segment)
            return *readable = false;
        if (segment->p_type == type &&
            (type != PT_LOAD || (address >= segment->p_vaddr && address - segment->p_vaddr < segment->p_filesz)))
            return true;
    }
    return false;
}

/* A dynamically linked program names its dynamic linker in a PT_INTERP header. */
static const char *linkage_obstacle(int file)
{
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    bool readable;
    char linker[64] = "";
    if (!read_header(file, &header))
        return NULL;
    if (!find_segment(file, &header, PT_INTERP, 0, &segment, &readable))
        return readable ? "is statically linked" : NULL;
    if (pread(file, linker, sizeof linker - 1, (off_t)segment.p_offset) <= 0 || strstr(linker, "/ld-musl") == NULL)
        return NULL;
    return "is linked with musl, whose linker does not start it with hakmem";
}

/* Whether the name of a needed library, so far into the string table, is that of a sanitizer's runtime. */
static bool is_sanitizer(int file, off_t name_offset)
{
    static const char *const runtimes[] = {"libasan.so",   "libtsan.so",       "liblsan.so",
                                           "libhwasan.so", "libclang_rt.asan", "libclang_rt.tsan"};
    char name[64] = "";
    if (pread(file, name, sizeof name - 1, name_offset) <= 0)
        return false;
    for (size_t i = 0; i < sizeof runtimes / sizeof runtimes[0]; i++)
        if (strncmp(name, runtimes[i], strlen(runtimes[i])) == 0)
            return true;
    return false;
}

static bool needs_sanitizer(int file)
{
    Elf64_Ehdr header;
    Elf64_Phdr dynamic, strings;
    Elf64_Dyn entry;
    bool readable;
    Elf64_Addr table = 0;
    if (!read_header(file, &header) || !find_segment(file, &header, PT_DYNAMIC, 0, &dynamic, &readable))
        return false;
    const size_t n = dynamic.p_filesz / sizeof entry;
    for (size_t i = 0; i < n && table == 0; i++)
        if (pread(file, &entry, sizeof entry, (off_t)(dynamic.p_offset + i * sizeof entry)) == (ssize_t)sizeof entry &&
            entry.d_tag == DT_STRTAB)
            table = entry.d_un.d_ptr;
    if (table == 0 || !find_segment(file, &header, PT_LOAD, table, &strings, &readable))
        return false;
    for (size_t i = 0; i < n; i++)
        if (pread(file, &entry, sizeof entry, (off_t)(dynamic.p_offset + i * sizeof entry)) == (ssize_t)sizeof entry &&
            entry.d_tag == DT_NEEDED &&
            is_sanitizer(file, (off_t)(strings.p_offset + (table - strings.p_vaddr) + entry.d_un.d_val)))
            return true;
    return false;
}

bool program_has_sanitizer(const char *path)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    const bool has = file >= 0 && needs_sanitizer(file);
    if (file >= 0)
        close(file);
    return has;
}

/* The interpreter of a script: "#!", blanks, a path. Returns false when the file is no script. */
static bool read_interpreter(int file, char interpreter[SCRIPT_LINE_BYTES])
{
    char line[SCRIPT_LINE_BYTES];
    const ssize_t length = pread(file, line, sizeof line - 1, 0);
    if (length < 2 || line[0] != '#' || line[1] != '!')
        return false;
    line[length] = '\0';
    const char *start = line + 2 + strspn(line + 2, " \t");
    snprintf(interpreter, SCRIPT_LINE_BYTES, "%.*s", (int)strcspn(start, " \t\n"), start);
    return true;
}

static const char *obstacle(const char *path, bool may_be_script)
{
    char interpreter[SCRIPT_LINE_BYTES];
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return privilege_obstacle(path);
    const bool is_script = read_interpreter(file, interpreter);
    const char *reason = is_script ? NULL : linkage_obstacle(file);
    close(file);
    if (is_script)
        return may_be_script ? obstacle(interpreter, false) : NULL;
    return reason != NULL ? reason : privilege_obstacle(path);
}

const char *program_preload_obstacle(const char *path)
{
    return obstacle(path, true);
}
