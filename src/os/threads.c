/* threads.c - threads as Linux has them: sleeping and waking, starting one, and what others of the process do.
 * Owns     whether the calling thread has left the process's files; the length of thread-local storage, found at the start.
 * Called by every layer above.     Calls  system_call.h; libc's pthread_create, process_vm_readv; write.c
 * Threads  any, no lock.
 */
#include "os/bare_thread.h"
#include "os/fault.h"
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <time.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2 /* since Linux 5.9 */
#endif

/* The stack of a thread holds all thread-local variables that the process began with, too. Found at the start: later the linker's lock,
 * which this takes, may be held by who waits for us. */
static size_t tls_bytes;

static int add_tls(struct dl_phdr_info *file, size_t size, void *sum_bytes)
{
    (void)size;
    for (unsigned i = 0; i < file->dlpi_phnum; i++)
        if (file->dlpi_phdr[i].p_type == PT_TLS) {
            *(size_t *)sum_bytes += file->dlpi_phdr[i].p_memsz + file->dlpi_phdr[i].p_align;
            bare_thread_learn(file, &file->dlpi_phdr[i]);
        }
    return 0;
}

void os_threads_start(void)
{
    size_t sum_bytes = 0;
    dl_iterate_phdr(add_tls, &sum_bytes);
    tls_bytes = round_up(sum_bytes, os_page_bytes());
}

void os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms)
{
    int saved_errno = errno;
    struct timespec most = {.tv_sec = most_ms / 1000, .tv_nsec = most_ms % 1000 * 1000000L};
    system_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, expected, (long)&most, 0, 0);
    errno = saved_errno;
}

void os_futex_wake(_Atomic uint32_t *word, int n)
{
    int saved_errno = errno;
    system_call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, n, 0, 0, 0);
    errno = saved_errno;
}

/* A wait for a word that is other than expected ends with EAGAIN, and if it is as expected when its time is up. */
bool os_is_readable(const void *address)
{
    const uint32_t unlikely_value = 0x9e3779b9;
    int saved_errno = errno;
    struct timespec no_time = {0, 0};
    bool readable =
        system_call(SYS_futex, (long)address, FUTEX_WAIT_PRIVATE, unlikely_value, (long)&no_time, 0, 0) == 0 ||
        errno != EFAULT;
    errno = saved_errno;
    return readable;
}

void os_sleep_ms(uint32_t ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    raw_system_call(SYS_nanosleep, (long)&span, 0, 0, 0, 0, 0); /* errno stays */
}

void os_yield(void)
{
    sched_yield();
}

#define THREAD_STACK_BYTES ((size_t)256 * KIB)

bool os_start_thread(void *(*function)(void *))
{
    int saved_errno = errno, status;
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (FAULT(OS_CALL_THREAD, 0) || pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES + tls_bytes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited by the thread */
    status = pthread_create(&thread, &attributes, function, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    errno = saved_errno;
    return status == 0;
}

int32_t os_thread_id(void)
{
    return (int32_t)system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

bool os_may_be_handling(int signal)
{
    struct {
        uint64_t handler, flags, restorer, mask;
    } action; /* as the kernel has it */
    uint64_t blocked;
    if (raw_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&blocked, sizeof blocked, 0, 0) != 0 ||
        raw_system_call(SYS_rt_sigaction, signal, 0, (long)&action, sizeof blocked, 0, 0) != 0)
        return true;
    return (blocked >> (signal - 1) & 1) != 0 || (action.flags & SA_NODEFER) != 0;
}

bool os_thread_lives(int32_t thread_id)
{
    return raw_system_call(SYS_tgkill, ask_for_process_id(), thread_id, 0, 0, 0, 0) == 0;
}

uintptr_t os_stack_end(int32_t thread_id)
{
    /* The system puts these bytes above the first thread's frames, and libc's threads have their descriptor there. */
    return thread_id == os_process_id() ? (uintptr_t)getauxval(AT_RANDOM) : (uintptr_t)pthread_self();
}

bool os_is_waiting_call(long number)
{
    switch (number) {
    case SYS_futex:
    case SYS_clock_nanosleep:
    case SYS_nanosleep:
    case SYS_ppoll:
    case SYS_pselect6:
    case SYS_epoll_pwait:
    case SYS_read:
    case SYS_readv:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_restart_syscall: /* one of those that have a time, after a signal */
    case SYS_rt_sigtimedwait:
    case SYS_rt_sigsuspend:
#ifdef SYS_poll /* what older architectures have besides */
    case SYS_pause:
    case SYS_poll:
    case SYS_select:
    case SYS_epoll_wait:
#endif
        return true;
    default:
        return false;
    }
}

/* The beginning of a file as a string; false: it cannot be read. */
static bool read_line(const char *path, char *line, size_t size_bytes)
{
    int file = file_open(path, O_RDONLY, 0);
    ssize_t n = file < 0 ? -1 : file_read(file, line, size_bytes - 1);
    if (file >= 0)
        file_close(file);
    line[n > 0 ? n : 0] = 0;
    return n > 0;
}

bool os_thread_waits(int32_t thread_id, uintptr_t *stack_pointer)
{
    char path[48], line[256];
    if (FAULT(OS_CALL_LOOK, 0))
        return false;
    int saved_errno = errno;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)thread_id);
    /* A /proc of another pid namespace than ours has other numbers: a number of ours may be another thread's there. */
    bool told = read_line("/proc/thread-self/stat", line, sizeof line) && strtol(line, NULL, 10) == os_thread_id() &&
                read_line(path, line, sizeof line);
    errno = saved_errno;
    if (!told)
        return false;
    /* number, six arguments, stack pointer, program counter; or "running"; or -1 and the last two */
    char *at;
    long number = strtol(line, &at, 10);
    if (at == line || !os_is_waiting_call(number))
        return false;
    unsigned long long value = 0;
    for (unsigned i = 0; i < 7; i++) {
        char *from = at;
        value = strtoull(from, &at, 16);
        if (at == from)
            return false;
    }
    *stack_pointer = (uintptr_t)value;
    return true;
}

bool os_peek(uintptr_t address, void *to, size_t len_bytes)
{
    if (FAULT(OS_CALL_LOOK, len_bytes))
        return false;
    int saved_errno = errno;
    struct iovec local = {to, len_bytes}, remote = {(void *)address, len_bytes};
    bool done = process_vm_readv(ask_for_process_id(), &local, 1, &remote, 1, 0) == (ssize_t)len_bytes;
    /* The process's number is that of its first thread, which has no memory any more after pthread_exit. */
    if (!done && errno == ESRCH)
        done = process_vm_readv(os_thread_id(), &local, 1, &remote, 1, 0) == (ssize_t)len_bytes;
    errno = saved_errno;
    return done;
}

static __thread bool has_left_files __attribute__((tls_model("initial-exec")));

bool os_may_look_at_threads(void)
{
    return has_left_files ? !os_calls_are_filtered_since_start() : !os_calls_are_filtered();
}

#define BARRIER_PRIVATE 8 /* linux/membarrier.h, since Linux 4.14 */
#define BARRIER_REGISTER 16

bool os_barrier_of_all(void)
{
    static _Atomic bool is_missing;
    if (atomic_load_explicit(&is_missing, memory_order_relaxed)) /* relaxed: a hint */
        return false;
    long result = raw_system_call(SYS_membarrier, BARRIER_PRIVATE, 0, 0, 0, 0, 0);
    if (result == -EPERM && raw_system_call(SYS_membarrier, BARRIER_REGISTER, 0, 0, 0, 0, 0) == 0)
        result = raw_system_call(SYS_membarrier, BARRIER_PRIVATE, 0, 0, 0, 0, 0);
    atomic_store_explicit(&is_missing, result != 0, memory_order_relaxed);
    return result == 0;
}

/* close_range copies the process's first COPIED_FILES files even where it is to leave all of them, and closes the copies. */
#define COPIED_FILES 64

/* A message queue that is closed in any table of the process takes back what the process asked for by mq_notify. */
static bool has_message_queue(void)
{
    struct mq_attr attributes;
    for (int file = 0; file < COPIED_FILES; file++)
        if (raw_system_call(SYS_mq_getsetattr, file, 0, (long)&attributes, 0, 0, 0) == 0)
            return true;
    return false;
}

bool os_leave_files(void)
{
    bool may_ask = !os_calls_are_filtered(); /* a filter may end the process for the question */
    has_left_files =
        !(may_ask && has_message_queue()) && system_call(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE, 0, 0, 0) == 0;
    return has_left_files;
}

/* The process's standard error stream for a thread that has left it; -1: it cannot be had. */
static int stderr_of_process(void)
{
    int process = (int)system_call(SYS_pidfd_open, ask_for_process_id(), 0, 0, 0, 0, 0);
    int file = process < 0 ? -1 : (int)system_call(SYS_pidfd_getfd, process, STDERR_FILENO, 0, 0, 0, 0);
    if (process >= 0)
        file_close(process);
    return file;
}

void os_write_stderr(const char *text, size_t len_bytes)
{
    int saved_errno = errno, file;
    if (os_write(STDERR_FILENO, text, len_bytes) == EBADF && has_left_files && (file = stderr_of_process()) >= 0) {
        os_write(file, text, len_bytes);
        file_close(file);
    }
    errno = saved_errno;
}
