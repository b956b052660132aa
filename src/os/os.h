/* os.h - everything that hakmem asks of the system: address space, memory, futexes, facts about the machine.
 *
 * Pre-conditions of all functions that take a range: address and length are multiples of os_page_bytes(). Every
 * function keeps errno. A function that can fail says so in its result and then has changed nothing.
 * In the testing build those that enum os_call names can be made to fail: see os_fail_from.
 */
#ifndef HAKMEM_OS_OS_H
#define HAKMEM_OS_OS_H

#include "base/base.h"

/* Learns what the functions below need. Before the first of them; any number of times. */
void os_start(void);
void os_machine_start(void); /* the parts of it that other files have */
void os_threads_start(void);

/* In the child of a fork. */
void os_fork_child(void);

/* From now on os_is_new_child tells whether the process is the child of a fork that os_fork_child was not called in yet. (Not one of vfork,
 * which has its parent's memory.) False, too, where the system does not help (Linux before 4.14). Any number of times; keeps errno. */
void os_watch_forks(void);
bool os_is_new_child(void);

/* Of the process that os_start or os_fork_child was last called in: no system call. */
int32_t os_process_id(void);

/* Whether the caller is the child of a vfork, in its parent's memory. A system call. */
bool os_is_vfork_child(void);

/* The system's page, a power of two from 4 KiB to 64 KiB. */
extern size_t os_page_bytes_known __attribute__((visibility("hidden")));
static inline size_t os_page_bytes(void)
{
    return os_page_bytes_known;
}

/* Reserves address space that may not be touched and costs no memory. alignment is a power of two.
 * Returns NULL when the system refuses. */
void *os_reserve(size_t len_bytes, size_t alignment);

/* The same, but readable: every byte reads as zero until it is committed and written. */
void *os_reserve_readable(size_t len_bytes);

/* Reserves address space like os_reserve, at a place that nobody can guess; as os_reserve, where the system does not agree. */
void *os_reserve_anywhere(size_t len_bytes, size_t alignment);

/* Takes back what os_reserve or os_reserve_readable gave. */
void os_unreserve(void *address, size_t len_bytes);

/* Makes reserved memory readable and writable. Memory that was never committed, or was decommitted, reads as zero. */
bool os_commit(void *address, size_t len_bytes);

/* Gives the pages back and ends the right to touch them; the address space stays reserved. */
bool os_decommit(void *address, size_t len_bytes);

/* Whether the system charges committed memory to the sum of what it lets all processes have, in memory or not
 * (vm.overcommit_memory=2), so that fork and others lack what is idle here. A hint: false until os_learn_charges, which opens a file. */
bool os_charges_writable(void);
void os_learn_charges(void);

/* Ends the right to touch committed memory, whose contents stay until os_commit makes it accessible again. */
bool os_forbid(void *address, size_t len_bytes);

/* Gives the pages back; the memory stays committed, or forbidden, and reads as zero. */
bool os_purge(void *address, size_t len_bytes);

/* Whether core files, gdb's gcore's too, shall have the range. A new mapping is in them. A hint. */
void os_set_in_cores(void *address, size_t len_bytes, bool on);

/* Whether the system shall, or shall not, back the range with huge pages from now on, where it lets programs choose. A
 * hint: what is in memory already stays as it is. */
void os_advise_huge(void *address, size_t len_bytes, bool huge);

/* Breaks the huge page that lies at address, if one does, into small ones. Otherwise what is purged of it would stay in
 * memory, unused, until the system runs short. */
void os_split_huge_page(void *address);

/* Whether the process may map so many bytes more just now. One that has lowered a limit below what it has may not, and then must not
 * move pages: not even what mremap has unmapped may be mapped anew. */
bool os_may_map(size_t len_bytes);

/* Moves the pages of one committed range, which must lie in one mapping of the system's, to another committed one;
 * what the target held is lost and the source reads as zero. Returns false when the system cannot: then the source is
 * as it was, and the target reads as zero. */
bool os_move_pages(void *from, void *to, size_t len_bytes);

/* Sets memory to zero, of any address and length. Writes to no whole page that is zero already: it may never have been touched, and to
 * read such a page does not bring it into memory. */
void os_clear(void *memory, size_t len_bytes);

/* Copies, and writes to no page of the target for one of the source that is zero: of what was never written to in the one nothing
 * comes into memory in the other. zeroed: the target is known to be zero. */
void os_copy(void *to, const void *from, size_t len_bytes, bool zeroed);

/* What of len_bytes, whole pages, is in memory, in bytes; len_bytes when the system does not tell. What was swapped out is not.
 * Keeps errno. */
size_t os_resident_bytes(const void *address, size_t len_bytes);

/* Whether this process has such a thread. */
bool os_thread_lives(int32_t thread_id);

/* A stack's memory; of none its length is 0. */
struct os_stack {
    uintptr_t begin;
    size_t len_bytes;
};

static inline bool os_stack_has(const struct os_stack *stack, uintptr_t address)
{
    return address - stack->begin < stack->len_bytes;
}

/* Whether the process may be under a filter of system calls (seccomp), which may end it for one that its author did not think of.
 * Keeps errno. */
bool os_calls_are_filtered(void);

/* The same, asked of a file and not by a call that a filter may end the process for. Keeps errno. */
bool os_file_tells_of_filter(void);

/* Remembers whether it is under one now, for the next function. Once, at the process's start, where a thread may be started. Keeps errno. */
void os_note_filter(void);

/* Whether it has put itself under one since it began, rather than that a container brings one with it. Such a process may have given up to
 * open files. Keeps errno. */
bool os_calls_are_filtered_since_start(void);

/* Whether the calling thread may look at what others do, which opens files. Keeps errno. */
bool os_may_look_at_threads(void);

/* Every other thread of the process passes a full barrier, or is not running. False: the system has no such call. */
bool os_barrier_of_all(void);

/* Whether an address lies in the dynamic linker. Not known in a program that is linked statically: then none does. */
extern uintptr_t os_linker_begin __attribute__((visibility("hidden")));
extern uintptr_t os_linker_bytes __attribute__((visibility("hidden")));
static inline bool os_is_linker(const void *address)
{
    return (uintptr_t)address - os_linker_begin < os_linker_bytes;
}

/* Physical memory in bytes; 0 when unknown. */
size_t os_physical_bytes(void);

/* The widest vectors that the processor handles without slowing down for them, in bytes: 64, 32, or 16. */
unsigned os_vector_bytes(void);

/* Random bits from the system, fit for secrets. */
uint64_t os_random(void);

/* Where the program, as opposed to a library, begins. */
uintptr_t os_program_entry(void);

/* A file that the dynamic linker has loaded: the program, a library, the vDSO. */
struct os_module {
    uintptr_t start, end; /* from its first byte in memory to behind its last */
    uintptr_t bias;       /* what was added to the addresses in the file */
    const char *path;     /* as the linker knows it; "": the program. The linker's memory, while it is loaded */
    const unsigned char *unwind_table; /* its .eh_frame_hdr; NULL: it has none */
    const void *dynamic;               /* what the linker reads of it, its PT_DYNAMIC; NULL: it has none */
};

/* The module that has the address. Without a lock. False: there is none, or the system cannot tell (glibc before 2.35). */
bool os_module_of(const void *address, struct os_module *module);

/* Whether the address lies in libc or the dynamic linker; true, too, where the system cannot tell. As os_module_of. */
bool os_is_libc(const void *address);

/* Its build id, in its own memory; *len_bytes is 0 where it has none that can be seen. The caller knows that it stays loaded. */
const unsigned char *os_module_build_id(const struct os_module *module, size_t *len_bytes);

/* Whether it defines the name, in any version, where other modules can see it. The caller knows that it stays loaded. */
bool os_module_defines(const struct os_module *module, const char *name);

/* The exported function that the address lies in; NULL: none is known. Without a lock. Likewise. */
const char *os_module_name_at(const struct os_module *module, const void *address);

/* Whether the bytes lie in what it cannot write to. Reads all of that. Likewise. */
bool os_module_contains(const struct os_module *module, const void *bytes, size_t len_bytes);

/* A function of the module that the kernel puts into each process, the vDSO (vdso(7)). NULL: there is none of that name. */
const void *os_vdso_function(const char *name);

/* Whether fits(module, want) is true for one of the loaded modules; those behind the first one are not asked. They stay loaded as
 * long as fits runs. Allocates nothing, but takes a lock of the dynamic linker's, which the thread may hold already. */
bool os_module_any(bool (*fits)(const struct os_module *module, const void *want), const void *want);

/* prlimit of libc: a limit of the process, 0 for the caller's, becomes another, or is told. 0, or -1 with errno. */
int os_set_limit(int32_t process, int resource, const void *limit, void *before);

/* The limit in bytes where one was set so on the address space of the process that this memory belongs to, which a child of vfork is not.
 * SIZE_MAX: it was another, or none; or it is before os_start. */
size_t os_own_address_limit(int32_t process, int resource, const void *limit);

/* The limit on address space (RLIMIT_AS) in bytes; SIZE_MAX when there is none. */
size_t os_address_limit_bytes(void);

/* Sleeps while *word == expected; wakes at most n sleepers. The first may return early. */
void os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms);
void os_futex_wake(_Atomic uint32_t *word, int n);
void os_yield(void);

/* Milliseconds of a clock that never goes back; exact to a few, and wraps after 49 days. No system call. */
uint32_t os_now_ms(void);

/* Whether delay_ms have gone by from since_ms to now_ms, of this clock. Not if now_ms was read up to ten minutes before since_ms. */
static inline bool os_has_waited(uint32_t now_ms, uint32_t since_ms, int64_t delay_ms)
{
    uint32_t waited_ms = now_ms - since_ms;
    return delay_ms == 0 || (waited_ms >= delay_ms && waited_ms < UINT32_MAX - 10 * 60 * 1000);
}

/* Milliseconds that the calling thread has run for. */
uint32_t os_thread_ms(void);

/* Of the world's clock. (Not time(): libc chooses it when a process begins, in a page that few programs need: 64 KiB for each.) */
uint64_t os_seconds_since_1970(void);

/* Sleeps for about so long. */
void os_sleep_ms(uint32_t ms);

/* Starts a detached thread that blocks all signals, with a small stack. False: the system refuses. Keeps errno. */
bool os_start_thread(void *(*function)(void *));

/* The same, but if the process has one thread, then so that libc does not come to know of a second one (bare_thread.c): the function must
 * take no lock of libc's, directly or through a function of it, nor call what is the program's. One at a time: waits, for a second at most,
 * until the one before is gone. Otherwise, where that is not possible, as os_start_thread. */
bool os_start_bare_thread(void *(*function)(void *));

/* Whether one is there. setuid and the like, which act on all threads that libc knows, do not reach it. */
bool os_bare_thread_lives(void);

/* From now on somebody sees to it that it ends before the process changes its rights. Until then a process that has any to lose gets
 * none. */
void os_bare_thread_keeps_rights(void);

/* In the child of a fork. */
void os_bare_thread_fork_child(void);

/* As abort. But a handler that the program has for SIGABRT runs in a thread that libc knows, the first one, if the caller is none; and has
 * ten seconds then. */
_Noreturn void os_abort(void);

/* The number of the calling thread, as the system counts them. */
int32_t os_thread_id(void);

/* Whether the calling thread may be in a handler of the signal: it is blocked, or its handlers do not block it. Two system calls. */
bool os_may_be_handling(int signal);

/* An address above every frame of the calling thread's stack, but near its end. thread_id: os_thread_id() */
uintptr_t os_stack_end(int32_t thread_id);

/* Whether a system call is one in which a thread waits for what others do. None of them can have another task run in this thread's place
 * (as vfork does), and none is ever part of this library's own paths but futex, when it waits for the lock. */
bool os_is_waiting_call(long number);

/* Whether a thread of this process sleeps in a system call that waits for an event (futex, sleep, poll, read, ...), and
 * where its stack pointer is. False, too, where the system does not tell. A few microseconds. Keeps errno. */
bool os_thread_waits(int32_t thread_id, uintptr_t *stack_pointer);

/* Whether a word of 4 bytes at a multiple of 4 can be read, without a fault. A system call that every filter allows which lets threads
 * wait for each other. Keeps errno. */
bool os_is_readable(const void *address);

/* Copies len_bytes from an address that may not be mapped; false when it is not. Within one page. Keeps errno. */
bool os_peek(uintptr_t address, void *to, size_t len_bytes);

/* Gives the calling thread a table of file descriptors of its own, which is empty: what it opens from then on never takes a
 * number that the program counts on, and no file stays open because of it. False: the system cannot (Linux before 5.9), or the process has a
 * message queue open, which would notice. */
bool os_leave_files(void);

/* Writes all of it to a file, and the program sees no signal because of it (SIGPIPE, SIGXFSZ). 0, or the error's number, as
 * errno has it: then a part may have been written. Keeps errno. Signal handlers may call it; it does not allocate. */
int os_write(int file, const char *text, size_t len_bytes);

/* Writes to the standard error stream's descriptor (the process's, if the thread has left its files) like os_write, without
 * buffering. What cannot be written is lost. */
void os_write_stderr(const char *text, size_t len_bytes);

#if defined(HAKMEM_TESTING)
/* The fault-injection seam: call number `first` (counted from 1, over the calls that mask names) and the
 * following ones, up to `n` in all, fail. os_fail_from(0, 0, 0) ends it. Returns how many calls were counted since the
 * last use. */
enum os_call {
    OS_CALL_RESERVE = 1,
    OS_CALL_COMMIT = 2,
    OS_CALL_DECOMMIT = 4,
    OS_CALL_PURGE = 8,
    OS_CALL_MOVE = 16,
    OS_CALL_THREAD = 32,
    OS_CALL_LOOK = 64, /* os_thread_waits, os_peek, os_resident_bytes */
    OS_CALL_FORBID = 128,
    OS_CALL_ALL = 255
};
unsigned long os_fail_from(unsigned long first, unsigned long n, unsigned mask);
/* Reservations above this size fail, as under vm.overcommit_memory=2 or valgrind. SIZE_MAX ends it. */
void os_fail_reservations_above(size_t len_bytes);
/* From now on os_random gives a series that the seed decides; 0 ends it. */
void os_pretend_random(uint64_t seed);
/* Pretends another system page size; 0 ends it. */
void os_pretend_page_bytes(size_t page_bytes);
#endif

#endif
