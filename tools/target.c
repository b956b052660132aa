/* target.c - see target.h.
 * Owns       an open /proc/PID/mem for each target.     Called by  snapshot.c and the subcommands that look at a process
 * Calls      libc, the proc file system.     Threads  one.
 * I1  Nothing that was read from a process is used as a length or an address without a look whether it can be one: a damaged or
 *     hostile process makes this fail, and no worse.
 * Why the mapped ELF headers and not the files: the files may have been replaced since, lie in another mount namespace, or be
 * gone; what is mapped is what runs. */
#define _GNU_SOURCE
#include "target.h"

#include "front/guarded.h"
#include "front/harden.h"
#include "front/profile.h"
#include "front/sampled.h"
#include "hakmem/hakmem.h"
#include "pool/pool_state.h"
#include "service/budget.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TEXT_OF(number) #number
#define VERSION_TEXT(a, b, c) TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)
static const char own_version[] = VERSION_TEXT(HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH);

enum {
    MAX_SEGMENTS = 256,           /* of an ELF object; real ones have about ten */
    MAX_NOTES_BYTES = 64 * 1024,  /* of a segment; real ones have about a hundred */
    SEARCH_BYTES = 64 * 1024,     /* read at a time, of a segment that is searched for an anchor */
    MAX_SEARCH_BYTES = 256 << 20, /* read so of all segments: a process may say that one has any length */
    COMM_BYTES = 15,              /* that the system keeps of a program's name */
    CALL_TRIES = 4,               /* to read by a thread, each of which may end meanwhile */
    MAPS_TRIES = 100,             /* to list what is mapped by a thread, 1 ms apart */
    LIST_TRIES = 1000,            /* to find a thread of those that are listed */
    EMPTY_LISTS = 8,              /* in a row: then there is none */
    PF_KTHREAD = 0x00200000       /* in /proc/PID/stat: a thread of the kernel */
};
#define READ_AT_ONCE_BYTES ((size_t)64 << 20)

/* Where the anchor's copy says how long each structure is there, and how long it is here. */
static const struct {
    const char *name;
    size_t offset, bytes;
} known_sizes[] = {
#define KNOWN(field, type)                                                                                             \
    {                                                                                                                  \
#type, offsetof(struct anchor_sizes, field), sizeof(struct type)                                               \
    }
    KNOWN(anchor, anchor),
    KNOWN(arena, arena),
    KNOWN(superslab, superslab),
    KNOWN(slab, slab),
    KNOWN(thread, thread),
    KNOWN(magazine, magazine),
    KNOWN(class_info, class_info),
    KNOWN(counters, stats_counters),
    KNOWN(pool_state, pool_state),
    KNOWN(budget, budget),
    KNOWN(config, config),
    KNOWN(quarantine, quarantine),
    KNOWN(sampled_figures, sampled_figures),
    KNOWN(guarded_figures, guarded_figures),
    KNOWN(profile_state, profile_state),
    KNOWN(profile_record, profile_record),
};
_Static_assert(sizeof known_sizes / sizeof known_sizes[0] == sizeof(struct anchor_sizes) / sizeof(uint32_t),
               "every size is compared");

int target_refuse(char *why, size_t why_bytes, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, why_bytes, format, arguments);
    va_end(arguments);
    return -1;
}

/* ---- What /proc says ----------------------------------------------------------------------------------------------- */

/* The beginning of a file of /proc/PID, as text. Returns its length, 0 when it cannot be read. */
static size_t read_proc(pid_t pid, const char *file, char *text, size_t size_bytes)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, size_bytes - 1);
    if (fd >= 0)
        close(fd);
    text[length < 0 ? 0 : length] = '\0';
    return length < 0 ? 0 : (size_t)length;
}

struct proc_stat {
    char state;
    unsigned flags;
    uint64_t start_time;
};

/* Fields 3, 9 and 22 of /proc/PID/stat. False: there is no such process. */
static bool read_stat(pid_t pid, struct proc_stat *stat)
{
    char text[1024];
    read_proc(pid, "stat", text, sizeof text);
    const char *rest = strrchr(text, ')'); /* the name before it may hold anything */
    return rest != NULL &&
           sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                  &stat->state, &stat->flags, &stat->start_time) == 3;
}

static bool has_ended(char state)
{
    return state == 'Z' || state == 'X';
}

/* One of its threads that has not ended. 0: none is listed; n_listed tells how many besides the first one are. */
static pid_t find_listed_thread(pid_t pid, unsigned *n_listed)
{
    char path[64];
    struct proc_stat stat;
    const struct dirent *entry;
    pid_t found = 0;
    *n_listed = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    while (tasks != NULL && found == 0 && (entry = readdir(tasks)) != NULL) {
        const pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
        *n_listed += thread > 0 && thread != pid;
        if (thread > 0 && read_stat(thread, &stat) && !has_ended(stat.state))
            found = thread;
    }
    if (tasks != NULL)
        closedir(tasks);
    return found;
}

/* The same for a process whose first thread has ended. Those that were listed may end before they are looked at, and have begun
 * others; and where the next one to be listed ends just then, the list ends there too: one that is empty says little (of 2.5 million of a
 * process whose threads come and go 545 were, and no two in a row). */
static pid_t find_living_thread(pid_t pid)
{
    unsigned n_listed, n_empty = 0;
    pid_t found = 0;
    for (unsigned i = 0; i < LIST_TRIES && found == 0 && n_empty < EMPTY_LISTS; i++) {
        found = find_listed_thread(pid, &n_listed);
        n_empty = n_listed == 0 ? n_empty + 1 : 0;
    }
    return found;
}

/* Whether it is for want of means of this command's that something could not be opened: that says nothing of the process. */
static bool lacks_means(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/* The same for a process that was opened: the first thread where that lives. */
static pid_t living_thread(const struct target *target)
{
    struct proc_stat stat;
    pid_t found;
    errno = 0;
    if (!read_stat(target->pid, &stat))
        return lacks_means(errno) ? target->pid : 0;
    if (stat.start_time != target->start_time)
        return 0;
    if (!has_ended(stat.state))
        return target->pid;
    errno = 0;
    found = find_living_thread(target->pid);
    return found == 0 && lacks_means(errno) ? target->pid : found;
}

bool target_is_alive(const struct target *target)
{
    return living_thread(target) != 0;
}

pid_t target_reader(struct target *target)
{
    const pid_t thread = living_thread(target);
    if (thread != 0)
        target->reader = thread;
    return thread;
}

/* The number of the first thread stays the process's; that of another one may go to another process's when it has ended. */
static bool has_reader(const struct target *target)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", (int)target->pid, (int)target->reader);
    return target->reader == target->pid || access(path, F_OK) == 0;
}

static void read_name(pid_t pid, char *name, size_t size_bytes)
{
    size_t length = read_proc(pid, "comm", name, size_bytes);
    if (length > 0 && name[length - 1] == '\n')
        name[length - 1] = '\0';
}

/* The user that a process runs as. False: it is not told. */
static bool read_user(pid_t pid, uid_t *user)
{
    char text[4096];
    unsigned number;
    read_proc(pid, "status", text, sizeof text);
    const char *line = strstr(text, "\nUid:");
    if (line == NULL || sscanf(line, "\nUid: %u", &number) != 1)
        return false;
    *user = number;
    return true;
}

/* Why the system does not let us read a process that exists. */
static int refuse_permission(pid_t pid, char *why, size_t why_bytes)
{
    char scope[16] = "";
    uid_t user;
    if (read_user(pid, &user) && user != geteuid())
        return target_refuse(why, why_bytes,
                             "no permission to read process %d: it runs as user %u, this command as user %u", (int)pid,
                             (unsigned)user, (unsigned)geteuid());
    const int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? 0 : read(fd, scope, sizeof scope - 1);
    if (fd >= 0)
        close(fd);
    if (length > 0 && scope[0] >= '1' && scope[0] <= '3')
        return target_refuse(
            why, why_bytes,
            "no permission to read process %d: /proc/sys/kernel/yama/ptrace_scope is %c, which lets %s do so", (int)pid,
            scope[0],
            scope[0] == '1'   ? "only root and its parents"
            : scope[0] == '2' ? "only root"
                              : "nobody");
    return target_refuse(
        why, why_bytes,
        "no permission to read process %d: it has forbidden that (it is set-user-ID, or not dumpable), or a "
        "rule of this "
        "system does",
        (int)pid);
}

/* ---- Reading and writing ------------------------------------------------------------------------------------------- */

/* Calls process_vm_readv or process_vm_writev; by another thread if that by which it was done has ended, which loses the memory
 * shortly before it counts as ended. */
static ssize_t call(struct target *target, const struct iovec *own, const struct iovec *theirs, size_t n, bool write)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    for (unsigned i = 0; i < CALL_TRIES; i++) {
        if (i != 0)
            nanosleep(&pause, NULL);
        if (has_reader(target)) {
            const ssize_t n_bytes = write ? process_vm_writev(target->reader, own, n, theirs, n, 0)
                                          : process_vm_readv(target->reader, own, n, theirs, n, 0);
            if (n_bytes >= 0 || errno != ESRCH)
                return n_bytes;
        }
        if (target_reader(target) == 0)
            break;
    }
    errno = ESRCH;
    return -1;
}

/* One step of a copy, in either direction. Returns the bytes copied, 0 and errno when none. */
static size_t copy_by_call(struct target *target, uint64_t address, void *here, size_t len_bytes, bool write)
{
    const struct iovec own = {here, len_bytes};
    const struct iovec theirs = {(void *)(uintptr_t)address, len_bytes}; /* NOLINT: an address there */
    const ssize_t n = call(target, &own, &theirs, 1, write);
    return n < 0 ? 0 : (size_t)n;
}

static size_t copy_by_file(const struct target *target, uint64_t address, void *here, size_t len_bytes, bool write)
{
    if (target->memory < 0) {
        errno = EPERM;
        return 0;
    }
    const ssize_t n = write ? pwrite(target->memory, here, len_bytes, (off_t)address)
                            : pread(target->memory, here, len_bytes, (off_t)address);
    if (n == 0)
        errno = ESRCH; /* its memory is gone */
    else if (n < 0 && errno == EIO)
        errno = EFAULT;
    return n < 0 ? 0 : (size_t)n;
}

/* Whether the call itself is refused, and not this address. */
static bool call_is_refused(int error)
{
    return error == EPERM || error == ENOSYS || error == EACCES;
}

bool target_read(struct target *target, uint64_t address, void *to, size_t len_bytes)
{
    char *at = to;
    if (address > INT64_MAX || len_bytes > INT64_MAX - address) {
        errno = EFAULT; /* of the kernel's half, or beyond all */
        return false;
    }
    while (len_bytes != 0) {
        const size_t step_bytes = len_bytes < READ_AT_ONCE_BYTES ? len_bytes : READ_AT_ONCE_BYTES;
        size_t n = target->reads_by_call ? copy_by_call(target, address, at, step_bytes, false) : 0;
        if (n == 0 && target->reads_by_call && call_is_refused(errno))
            target->reads_by_call = false;
        /* The file outlives the thread by which it was opened. */
        if (n == 0 && (!target->reads_by_call || errno == ESRCH))
            n = copy_by_file(target, address, at, step_bytes, false);
        if (n == 0)
            return false;
        target->bytes_read += n;
        address += n;
        at += n;
        len_bytes -= n;
    }
    return true;
}

bool target_read_pieces(struct target *target, const struct target_piece *piece, size_t n)
{
    struct iovec own[TARGET_MAX_PIECES], theirs[TARGET_MAX_PIECES];
    size_t sum_bytes = 0;
    if (n == 0 || n > TARGET_MAX_PIECES) {
        errno = EINVAL;
        return n == 0;
    }
    for (size_t i = 0; i < n; i++) {
        own[i] = (struct iovec){piece[i].to, piece[i].len_bytes};
        theirs[i] =
            (struct iovec){(void *)(uintptr_t)piece[i].address, piece[i].len_bytes}; /* NOLINT: addresses there */
        sum_bytes += piece[i].len_bytes;
    }
    if (target->reads_by_call && call(target, own, theirs, n, false) == (ssize_t)sum_bytes) {
        target->bytes_read += sum_bytes;
        return true;
    }
    for (size_t i = 0; i < n; i++)
        if (!target_read(target, piece[i].address, piece[i].to, piece[i].len_bytes))
            return false;
    return true;
}

/* By the file first: unlike the process's number it cannot come to mean another process. */
static bool write_bytes(struct target *target, uint64_t address, void *from, size_t len_bytes)
{
    if (address > INT64_MAX || address % len_bytes != 0) {
        errno = EFAULT;
        return false;
    }
    return copy_by_file(target, address, from, len_bytes, true) == len_bytes ||
           (call_is_refused(errno) || errno == EBADF
                ? target_is_alive(target) && copy_by_call(target, address, from, len_bytes, true) == len_bytes
                : false);
}

bool target_write_u64(struct target *target, uint64_t address, uint64_t value)
{
    return write_bytes(target, address, &value, sizeof value);
}

bool target_write_u32(struct target *target, uint64_t address, uint32_t value)
{
    return write_bytes(target, address, &value, sizeof value);
}

/* ---- The anchor ---------------------------------------------------------------------------------------------------- */

/* What all versions have in common. */
enum { ANCHOR_HEAD_BYTES = offsetof(struct anchor, sizes) + sizeof(uint32_t) };

/* The head of an anchor at an address. False: there is none. */
static bool read_anchor_head(struct target *target, uint64_t address, struct anchor *anchor)
{
    return address % _Alignof(struct anchor) == 0 && target_read(target, address, anchor, ANCHOR_HEAD_BYTES) &&
           anchor->magic == ANCHOR_MAGIC && target_address(anchor->self) == address;
}

/* Whether the heap of an anchor is in use: of several in one process, that one counts. */
static bool anchor_is_in_use(struct target *target, uint64_t address, const struct anchor *head)
{
    struct anchor anchor;
    uint64_t first;
    return head->layout_version == LAYOUT_VERSION && head->sizes.anchor == sizeof anchor &&
           target_read(target, address, &anchor, sizeof anchor) &&
           target_read(target, target_address(anchor.arenas), &first, sizeof first) && first != 0;
}

/* Takes the anchor at an address, if there is one. True: no need to look further. */
static bool consider_anchor(struct target *target, uint64_t address)
{
    struct anchor head = {0};
    if (!read_anchor_head(target, address, &head))
        return false;
    const bool in_use = anchor_is_in_use(target, address, &head);
    if (in_use || target->anchor_address == 0) {
        target->anchor_address = address;
        target->anchor = head;
    }
    return in_use;
}

static size_t padded(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Looks through the notes of one segment. Sets *astray where a note of ours leads to no anchor. */
static bool search_notes(struct target *target, uint64_t address, size_t len_bytes, size_t padding_bytes, bool *astray)
{
    static char notes[MAX_NOTES_BYTES];
    Elf64_Nhdr note;
    int64_t distance;
    if (len_bytes > sizeof notes || !target_read(target, address, notes, len_bytes))
        return false;
    for (size_t at = 0; len_bytes - at >= sizeof note;) {
        memcpy(&note, notes + at, sizeof note);
        const size_t name = at + sizeof note, text = name + padded(note.n_namesz, 4);
        const size_t end = text + padded(note.n_descsz, padding_bytes);
        if (text + note.n_descsz > len_bytes)
            return false;
        if (note.n_namesz == sizeof ANCHOR_NOTE_OWNER && note.n_type == ANCHOR_NOTE_TYPE &&
            note.n_descsz == sizeof distance &&
            memcmp(notes + name, ANCHOR_NOTE_OWNER, sizeof ANCHOR_NOTE_OWNER) == 0) {
            memcpy(&distance, notes + text, sizeof distance);
            if (consider_anchor(target, address + text + (uint64_t)distance))
                return true;
            *astray |= target->anchor_address != address + text + (uint64_t)distance;
        }
        at = end < len_bytes ? end : len_bytes;
    }
    return false;
}

/* Looks through what one segment has of its file for an anchor, as far as *left_bytes go: patchelf moves notes to where it finds room,
 * and the distance that ours has leads astray then. */
static bool search_segment(struct target *target, uint64_t address, uint64_t len_bytes, uint64_t *left_bytes)
{
    static uint64_t words[SEARCH_BYTES / sizeof(uint64_t)];
    const uint64_t most_bytes = len_bytes < *left_bytes ? len_bytes : *left_bytes;
    const uint64_t end = address + most_bytes;
    *left_bytes -= most_bytes;
    for (uint64_t at = padded(address, sizeof words[0]); at < end && end - at >= ANCHOR_HEAD_BYTES;
         at += sizeof words) {
        const size_t n =
            end - at < sizeof words ? (size_t)(end - at) / sizeof words[0] : SEARCH_BYTES / sizeof words[0];
        if (!target_read(target, at, words, n * sizeof words[0]))
            return false;
        for (size_t i = 0; i < n; i++)
            if (words[i] == ANCHOR_MAGIC && consider_anchor(target, at + i * sizeof words[0]))
                return true;
    }
    return false;
}

/* Looks through an ELF object whose beginning is mapped at `start`. */
static bool search_object(struct target *target, uint64_t start, uint64_t *left_bytes)
{
    Elf64_Ehdr header;
    static Elf64_Phdr segments[MAX_SEGMENTS];
    if (!target_read(target, start, &header, sizeof header) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof segments[0] ||
        header.e_phnum > MAX_SEGMENTS ||
        !target_read(target, start + header.e_phoff, segments, header.e_phnum * sizeof segments[0]))
        return false;
    uint64_t bias = start; /* of an object that counts its addresses from its beginning */
    for (unsigned i = 0; i < header.e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_filesz != 0) {
            bias =
                start - (segments[i].p_vaddr - segments[i].p_offset); /* the first one; its file offset is 0 or near */
            break;
        }
    bool astray = false;
    for (unsigned i = 0; i < header.e_phnum; i++)
        if (segments[i].p_type == PT_NOTE &&
            (search_notes(target, bias + segments[i].p_vaddr, segments[i].p_memsz, 4, &astray) ||
             /* mold puts notes of both alignments into one segment of the greater one: so both ways are tried */
             (segments[i].p_align == 8 &&
              search_notes(target, bias + segments[i].p_vaddr, segments[i].p_memsz, 8, &astray))))
            return true;
    /* The anchor has addresses in it: it lies in what is writable at the start. */
    for (unsigned i = 0; astray && i < header.e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && (segments[i].p_flags & PF_W) != 0 &&
            search_segment(target, bias + segments[i].p_vaddr, segments[i].p_filesz, left_bytes))
            return true;
    return false;
}

/* Looks through everything that is mapped from a file's beginning. False: the list is none, or not all of it. */
static bool search_mappings(struct target *target, FILE *maps)
{
    char *line = NULL;
    size_t size_bytes = 0;
    uint64_t left_bytes = MAX_SEARCH_BYTES;
    bool any = false;
    while (getline(&line, &size_bytes, maps) > 0) {
        uint64_t start, offset, inode;
        char readable;
        any = true;
        if (sscanf(line, "%" SCNx64 "-%*x %c%*3c %" SCNx64 " %*x:%*x %" SCNu64, &start, &readable, &offset, &inode) ==
                4 &&
            readable == 'r' && offset == 0 && inode != 0 && search_object(target, start, &left_bytes))
            break;
    }
    free(line);
    return any && !ferror(maps);
}

static int check_sizes(const struct target *target, char *why, size_t why_bytes)
{
    const struct anchor *anchor = &target->anchor;
    for (size_t i = 0; i < sizeof known_sizes / sizeof known_sizes[0]; i++) {
        uint32_t bytes;
        memcpy(&bytes, (const char *)&anchor->sizes + known_sizes[i].offset, sizeof bytes);
        if (bytes != known_sizes[i].bytes)
            return target_refuse(
                why, why_bytes,
                "process %d has hakmem %.*s, whose struct %s has %" PRIu32
                " bytes; this command is hakmem %s and knows one of %zu: use the command of the same build",
                (int)target->pid, ANCHOR_VERSION_BYTES, anchor->version, known_sizes[i].name, bytes, own_version,
                known_sizes[i].bytes);
    }
    return 0;
}

/* Whether what is there is what this command knows. */
static int check_layout(struct target *target, char *why, size_t why_bytes)
{
    struct anchor *anchor = &target->anchor;
    struct class_info classes[CLASS_SET_SLOTS];
    for (size_t i = 0; i < ANCHOR_VERSION_BYTES; i++)
        if (anchor->version[i] != '\0' && !isprint((unsigned char)anchor->version[i]))
            anchor->version[i] = '?';
    anchor->version[ANCHOR_VERSION_BYTES - 1] = '\0';
    if (anchor->layout_version != LAYOUT_VERSION)
        return target_refuse(why, why_bytes,
                             "process %d has hakmem %s with records of layout %" PRIu32
                             "; this command is hakmem %s and knows layout %d: use the command of the same build",
                             (int)target->pid, anchor->version, anchor->layout_version, own_version, LAYOUT_VERSION);
    const size_t head_bytes = offsetof(struct anchor, layout_version);
    if (anchor->sizes.anchor == sizeof *anchor &&
        !target_read(target, target->anchor_address + head_bytes, (char *)anchor + head_bytes,
                     sizeof *anchor - head_bytes))
        return target_refuse(why, why_bytes, "process %d: its memory cannot be read: %s", (int)target->pid,
                             strerror(errno));
    if (check_sizes(target, why, why_bytes) != 0)
        return -1;
    if (!target_read(target, target_address(anchor->classes), classes, sizeof classes))
        return target_refuse(why, why_bytes, "process %d: its memory cannot be read: %s", (int)target->pid,
                             strerror(errno));
    if (memcmp(classes, class_table, sizeof classes) != 0)
        return target_refuse(
            why, why_bytes,
            "process %d has hakmem %s with other block sizes than this command, hakmem %s, knows: use the command of "
            "the same build",
            (int)target->pid, anchor->version, own_version);
    return 0;
}

/* ---- Opening ------------------------------------------------------------------------------------------------------- */

static int open_memory(struct target *target, bool to_write)
{
    char path[64];
    int memory = -1;
    for (unsigned i = 0; i < CALL_TRIES && memory < 0; i++) { /* a thread may end meanwhile */
        snprintf(path, sizeof path, "/proc/%d/mem", (int)target_reader(target));
        memory = to_write ? open(path, O_RDWR | O_CLOEXEC) : -1;
        if (memory < 0)
            memory = open(path, O_RDONLY | O_CLOEXEC);
        if (memory < 0 && errno != ENOENT && errno != ESRCH)
            break;
    }
    return memory;
}

/* Looks through what the process has mapped. False: the list of that cannot be read, or not all of it. The errno of what was read last,
 * in vain, is put into *error. */
static bool search_process(struct target *target, int *error)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)target_reader(target));
    errno = 0;
    FILE *maps = fopen(path, "re");
    const bool whole = maps != NULL && search_mappings(target, maps);
    *error = errno;
    if (maps != NULL)
        fclose(maps);
    return whole;
}

/* Finds the anchor in what the process has mapped. A thread by which that is read may end meanwhile: then by another one. */
static int find_anchor(struct target *target, char *why, size_t why_bytes)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    const pid_t pid = target->pid;
    int error;
    bool whole = search_process(target, &error);
    for (unsigned i = 1; i < MAPS_TRIES && !whole && !call_is_refused(error) && target_is_alive(target); i++) {
        nanosleep(&pause, NULL);
        whole = search_process(target, &error);
    }
    if (target->anchor_address != 0)
        return 0;
    if (target->bytes_read == 0 && call_is_refused(error)) /* not even one ELF header */
        return refuse_permission(pid, why, why_bytes);
    if (!target_is_alive(target))
        return target_refuse(why, why_bytes, "process %d has just ended", (int)pid);
    if (!whole)
        return target_refuse(why, why_bytes, "process %d: what it has mapped cannot be read: %s", (int)pid,
                             error == 0 ? "it has nothing mapped" : strerror(error));
    return target_refuse(why, why_bytes, "process %d (%s) is not on hakmem: none of its ELF objects has hakmem's note",
                         (int)pid, target->name);
}

/* Whether what /proc says of a number is of the process that has it here. */
static int check_proc(char *why, size_t why_bytes)
{
    char own[32], self[32];
    snprintf(own, sizeof own, "%d", (int)getpid());
    const ssize_t length = readlink("/proc/self", self, sizeof self - 1);
    if (length < 0)
        return target_refuse(why, why_bytes, "no process can be looked at: there is no /proc here");
    self[length] = '\0';
    return strcmp(own, self) == 0
               ? 0
               : target_refuse(why, why_bytes, "no process can be looked at: /proc is that of another pid namespace");
}

static int open_target(pid_t pid, bool to_write, struct target *target, char *why, size_t why_bytes)
{
    struct proc_stat stat;
    *target = (struct target){.pid = pid, .memory = -1, .reads_by_call = true};
    if (check_proc(why, why_bytes) != 0)
        return -1;
    if (pid <= 0 || (kill(pid, 0) != 0 && errno == ESRCH))
        return target_refuse(why, why_bytes, "there is no process %d", (int)pid);
    if (!read_stat(pid, &stat)) /* mounted with hidepid */
        return refuse_permission(pid, why, why_bytes);
    read_name(pid, target->name, sizeof target->name);
    target->start_time = stat.start_time;
    if (target_reader(target) == 0)
        return target_refuse(why, why_bytes, "process %d (%s) is a zombie: it has ended, and its memory is gone",
                             (int)pid, target->name);
    if ((stat.flags & PF_KTHREAD) != 0)
        return target_refuse(why, why_bytes, "process %d (%s) is a thread of the kernel", (int)pid, target->name);
    target->memory = open_memory(target, to_write);
    if (find_anchor(target, why, why_bytes) == 0 && check_layout(target, why, why_bytes) == 0)
        return 0;
    target_close(target);
    return -1;
}

int target_open(pid_t pid, struct target *target, char *why, size_t why_bytes)
{
    return open_target(pid, true, target, why, why_bytes);
}

int target_open_to_read(pid_t pid, struct target *target, char *why, size_t why_bytes)
{
    return open_target(pid, false, target, why, why_bytes);
}

void target_close(struct target *target)
{
    if (target->memory >= 0)
        close(target->memory);
    target->memory = -1;
}

/* ---- By name ------------------------------------------------------------------------------------------------------- */

/* Adds a number to a list of them, as text; "..." where there is no room for another one. */
static void add_number(char *list, size_t size_bytes, pid_t pid)
{
    const size_t length = strlen(list), most = sizeof ", 2147483647, ..." - 1;
    if (length + most < size_bytes)
        snprintf(list + length, size_bytes - length, "%s%d", length == 0 ? "" : ", ", (int)pid);
    else if (length == 0 || list[length - 1] != '.')
        snprintf(list + length, size_bytes - length, ", ...");
}

/* Whether nothing but its number is left. Not known of one that may not be looked at. */
static bool is_gone(pid_t pid)
{
    struct target target = {.pid = pid};
    struct proc_stat stat;
    if (!read_stat(pid, &stat))
        return false;
    target.start_time = stat.start_time;
    return target_reader(&target) == 0;
}

pid_t target_find_by_name(const char *name, char *why, size_t why_bytes)
{
    char found[TARGET_WHY_BYTES / 2] = "", comm[64], reason[TARGET_WHY_BYTES];
    unsigned n_named = 0, n_found = 0;
    pid_t answer = -1;
    if (check_proc(why, why_bytes) != 0)
        return -1;
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    while (proc != NULL && (entry = readdir(proc)) != NULL) {
        const pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        struct target target;
        if (pid <= 0 || pid == getpid())
            continue;
        read_name(pid, comm, sizeof comm);
        if (comm[0] == '\0' || strncmp(comm, name, COMM_BYTES) != 0 || is_gone(pid))
            continue;
        n_named++;
        if (target_open_to_read(pid, &target, reason, sizeof reason) != 0)
            continue;
        target_close(&target);
        answer = pid;
        n_found++;
        add_number(found, sizeof found, pid);
    }
    if (proc != NULL)
        closedir(proc);
    if (n_found == 1)
        return answer;
    if (n_found > 1)
        target_refuse(why, why_bytes, "several processes on hakmem are named %s: %s; choose one by its number", name,
                      found);
    else if (n_named == 1)
        target_refuse(why, why_bytes, "%s", reason);
    else if (n_named > 1)
        target_refuse(why, why_bytes, "none of the %u processes named %s can be read; the last: %s", n_named, name,
                      reason);
    else
        target_refuse(why, why_bytes, "there is no process named %s", name);
    return n_named == 0 ? 0 : -1;
}
