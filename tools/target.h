/* target.h - another process that is on hakmem: found, proven to be of this layout, read, and written to.
 *
 * It is found by the ELF note of the library (api/anchor.h), in whatever of its mapped ELF objects that is. Reading needs the
 * right to trace the process: the same user and a permissive ptrace_scope, or CAP_SYS_PTRACE. The process is not stopped, gets
 * no signal, and runs no code of ours. An address is what it is there; nothing here may be dereferenced.
 */
#ifndef HAKMEM_TOOLS_TARGET_H
#define HAKMEM_TOOLS_TARGET_H

#include "api/anchor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TARGET_WHY_BYTES 512 /* room for any line that says why not */

struct target {
    pid_t pid;
    pid_t reader;        /* the thread that is read: the first one, or another when that has ended (pthread_exit) */
    char name[64];       /* the program's, by /proc/PID/comm */
    uint64_t start_time; /* by /proc/PID/stat: tells it from a later process with its number */
    int memory;          /* /proc/PID/mem; stays with this very process, even if another gets its number. -1: refused */
    bool reads_by_call;  /* process_vm_readv works; else /proc/PID/mem is read */
    uint64_t anchor_address; /* there */
    struct anchor anchor;    /* a copy: its pointers are addresses there */
    uint64_t bytes_read;     /* so far */
};

/* Writes one line without a newline into `why`: for who called, that something cannot be done. Returns -1. */
int target_refuse(char *why, size_t why_bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Opens a process. 0; or -1, and one line without a newline in `why`: no such process, a zombie or a thread of the kernel, no
 * permission, not on hakmem, another layout than this command knows. */
int target_open(pid_t pid, struct target *target, char *why, size_t why_bytes);

/* The same for who never writes there: then nothing can, by mistake. */
int target_open_to_read(pid_t pid, struct target *target, char *why, size_t why_bytes);

/* The one process on hakmem whose /proc/PID/comm is this name (of which the system keeps 15 bytes): its number. Else a line in
 * `why`, and 0: there is no process of that name; -1: none that can be read, or several, whose numbers the line lists. */
pid_t target_find_by_name(const char *name, char *why, size_t why_bytes);

void target_close(struct target *target);

/* Copies len_bytes from an address there, whole or not at all: false, and errno: EFAULT (nothing is mapped there), ESRCH (the
 * process has ended). What changes meanwhile may be torn at any byte, though aligned words are not in practice. */
bool target_read(struct target *target, uint64_t address, void *to, size_t len_bytes);

/* The same for several pieces at once, as close to one moment as the system can: for records that must agree. At most
 * TARGET_MAX_PIECES, all or nothing. */
#define TARGET_MAX_PIECES 64
struct target_piece {
    uint64_t address;
    void *to;
    size_t len_bytes;
};
bool target_read_pieces(struct target *target, const struct target_piece *piece, size_t n);

/* Stores a number at an aligned address there; false as above. Whoever may see it half stored must be told by a later store. */
bool target_write_u64(struct target *target, uint64_t address, uint64_t value);
bool target_write_u32(struct target *target, uint64_t address, uint32_t value);

/* Whether it still exists and is no zombie. */
bool target_is_alive(const struct target *target);

/* A thread of it that has not ended, by whose number /proc shows the memory of the process: that of its first thread shows none when
 * that has ended. 0: the process has ended. */
pid_t target_reader(struct target *target);

/* The address of a pointer of the anchor, as it is there. */
static inline uint64_t target_address(const volatile void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

#endif
