/* bare_thread.c - starts a thread past libc, so that a program with one thread stays one for libc.
 * Owns     the thread's stack, and the word that says whether it lives.     Called by  threads.c; background.c
 * Calls    system_call.h; libc's mmap
 * Threads  one caller at a time starts it; any may ask whether it lives.
 *
 * Once pthread_create has been called, libc locks every stream for each getc, and libstdc++ counts the owners of a shared_ptr by atomic
 * instructions, for the rest of the process's life; and a fork in a handler that interrupted fork waits for itself. A program that frees
 * some megabytes has not asked for that. (getc 5 ns to 32, copying a shared_ptr 13 to 42.)
 *
 * What the thread runs may call libc as long as no lock, no stream and no state of libc's own is touched: strings, numbers, system calls.
 * For these it has what libc finds by the thread pointer: the static thread-local storage of libc and of this library as it is when a thread
 * begins, and above it zeros with the few words that compiled code reads (the ABI of x86-64, ELF Handling For Thread-Local Storage, variant II).
 * Whoever would be called in libc's place (a library that watches munmap) knows nothing of such threads; then there is none.
 */
#include "os/bare_thread.h"

#include "os/fault.h"
#include "os/lock.h"
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

static _Atomic uint32_t thread_number; /* the kernel's; 0: it has ended */

bool os_bare_thread_lives(void)
{
    return atomic_load(&thread_number) != 0;
}

void os_bare_thread_fork_child(void)
{
    atomic_store(&thread_number, 0);
}

static _Atomic bool rights_are_watched;

void os_bare_thread_keeps_rights(void)
{
    atomic_store(&rights_are_watched, true);
}

/* A sanitizer's own functions stand in libc's place. */
#if defined(__x86_64__) && !defined(__ILP32__) && !UNDER_ADDRESS_SANITIZER && !UNDER_THREAD_SANITIZER

/* ---- Thread-local storage ---------------------------------------------------------------------------------------- */

#define TLS_MOST_BYTES MIB
#define CONTROL_BYTES ((size_t)16 * KIB) /* libc's struct pthread: 2,304 in glibc 2.36 */
#define STACK_BYTES ((size_t)256 * KIB)

/* The words at the thread pointer that are the ABI's. */
struct control {
    void *self, *dynamic, *thread;
    uint64_t unused[2], stack_guard, pointer_guard;
};

static struct part {
    size_t below_bytes; /* it begins so far below the thread pointer; 0: not known */
    const char *image;
    size_t image_bytes;
} libc_s, own;

static struct control *control(void)
{
    struct control *self;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    return self;
}

void bare_thread_learn(const struct dl_phdr_info *file, const ElfW(Phdr) * tls)
{
    uintptr_t block = (uintptr_t)file->dlpi_tls_data, pointer = (uintptr_t)control();
    struct part part = {pointer - block, (const char *)(file->dlpi_addr + tls->p_vaddr), /* NOLINT: as the file says */
                        tls->p_filesz};
    if (block == 0 || part.below_bytes - 1 >= TLS_MOST_BYTES)
        return;
    if ((uintptr_t)&errno - block < tls->p_memsz)
        libc_s = part;
    if ((uintptr_t)&lock_name - block < tls->p_memsz)
        own = part;
}

/* As it is when a thread begins. */
static void lay_out(char *pointer)
{
    size_t tls_bytes = max_size(libc_s.below_bytes, own.below_bytes);
    struct control *new = (struct control *)(void *)pointer;
    memset(pointer - tls_bytes, 0, tls_bytes + CONTROL_BYTES);
    memcpy(pointer - libc_s.below_bytes, libc_s.image, libc_s.image_bytes);
    memcpy(pointer - own.below_bytes, own.image, own.image_bytes);
    new->self = new->thread = pointer;
    new->stack_guard = control()->stack_guard;
    new->pointer_guard = control()->pointer_guard;
}

/* ---- The thread -------------------------------------------------------------------------------------------------- */

/* Where the thread pointer of the thread is to be: below it what is thread-local, and below that the stack. NULL: no memory. Made once. */
static char *stack_pointer_end(void)
{
    static char *pointer;
    size_t page_bytes = os_page_bytes();
    size_t tls_bytes = round_up(max_size(libc_s.below_bytes, own.below_bytes), page_bytes);
    size_t below_bytes = page_bytes + STACK_BYTES + tls_bytes;
    if (pointer != NULL)
        return pointer;
    char *memory = os_reserve(below_bytes + CONTROL_BYTES, page_bytes);
    if (memory == NULL)
        return NULL;
    if (!os_commit(memory + page_bytes, below_bytes - page_bytes + CONTROL_BYTES)) {
        os_unreserve(memory, below_bytes + CONTROL_BYTES);
        return NULL;
    }
    pointer = memory + below_bytes;
    return pointer;
}

/* As the kernel's clone, but the thread calls the function, and ends when that returns. */
long bare_clone(unsigned long flags, void *stack, _Atomic uint32_t *parent, _Atomic uint32_t *child, void *pointer,
                void *(*function)(void *)) __asm__("hakmem_bare_clone") __attribute__((visibility("hidden")));
__asm__(".pushsection .text.bare_clone, \"ax\", @progbits\n"
        ".hidden hakmem_bare_clone\n"
        ".type hakmem_bare_clone, @function\n"
        "hakmem_bare_clone:\n"
        ".cfi_startproc\n"
        "mov %rcx, %r10\n"
        "mov $56, %eax\n" /* SYS_clone */
        "syscall\n"
        "test %rax, %rax\n"
        "jz 1f\n"
        "ret\n"
        "1:\n"
        ".cfi_undefined rip\n" /* the end of every backtrace */
        "xor %ebp, %ebp\n"
        "xor %edi, %edi\n"
        "call *%r9\n"
        "mov $60, %eax\n" /* SYS_exit: of the thread */
        "xor %edi, %edi\n"
        "syscall\n"
        "hlt\n"
        ".cfi_endproc\n"
        ".size hakmem_bare_clone, .-hakmem_bare_clone\n"
        ".popsection");

/* glibc's own flags for a thread: filters of system calls know them. */
#define THREAD_FLAGS                                                                                                   \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |                 \
     CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

static bool start(void *(*function)(void *))
{
    uint64_t all = UINT64_MAX, before;
    char *pointer = stack_pointer_end();
    if (pointer == NULL)
        return false;
    lay_out(pointer);
    size_t tls_bytes = round_up(max_size(libc_s.below_bytes, own.below_bytes), os_page_bytes());
    if (raw_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, sizeof all, 0, 0) != 0)
        return false;
    long result = bare_clone(THREAD_FLAGS, pointer - tls_bytes, &thread_number, &thread_number, pointer, function);
    raw_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, sizeof before, 0, 0);
    return result > 0;
}

/* ---- Whether there may be one ------------------------------------------------------------------------------------ */

/* setuid and the like take the rights of the threads that libc knows. Whoever has none to lose, or is watched, need not care. */
static bool keeps_rights(void)
{
    struct {
        uint32_t version;
        int32_t process;
    } header = {0x20080522, 0}; /* linux/capability.h */
    struct {
        uint32_t effective, permitted, inheritable;
    } rights[2] = {{0, 0, 0}, {0, 0, 0}};
    uint32_t id[6];
    return raw_system_call(SYS_getresuid, (long)&id[0], (long)&id[1], (long)&id[2], 0, 0, 0) == 0 &&
           raw_system_call(SYS_getresgid, (long)&id[3], (long)&id[4], (long)&id[5], 0, 0, 0) == 0 &&
           raw_system_call(SYS_capget, (long)&header, (long)rights, 0, 0, 0, 0) == 0 && id[0] != 0 && id[0] == id[1] &&
           id[0] == id[2] && id[3] == id[4] && id[3] == id[5] && (rights[0].permitted | rights[1].permitted) == 0;
}

#define IS_LIBC_S(function) os_is_libc((const void *)(uintptr_t)(function))

static bool may_be_bare(void)
{
    return __libc_single_threaded != 0 && libc_s.below_bytes != 0 && own.below_bytes != 0 && IS_LIBC_S(mmap) &&
           IS_LIBC_S(munmap) && IS_LIBC_S(madvise) && IS_LIBC_S(mprotect) && IS_LIBC_S(mincore) &&
           (atomic_load(&rights_are_watched) || keeps_rights());
}

#define GONE_MAX_ROUNDS 1000 /* of a millisecond */

/* One that was told to end, or has nothing to do, may yet be about to. */
static bool is_gone(void)
{
    for (unsigned i = 0; i < GONE_MAX_ROUNDS && os_bare_thread_lives(); i++)
        os_sleep_ms(1);
    return !os_bare_thread_lives();
}

bool os_start_bare_thread(void *(*function)(void *))
{
    if (!may_be_bare())
        return os_start_thread(function);
    return !FAULT(OS_CALL_THREAD, 0) && is_gone() && start(function);
}

#define ABORT_WAIT_MS 10000

_Noreturn void os_abort(void)
{
    struct {
        uint64_t handler, flags, restorer, mask;
    } action = {0, 0, 0, 0}, standard = {0, 0, 0, 0}; /* as the kernel has it */
    int32_t process = ask_for_process_id();
    if (os_bare_thread_lives() && (uint32_t)os_thread_id() == atomic_load(&thread_number) &&
        raw_system_call(SYS_rt_sigaction, SIGABRT, 0, (long)&action, sizeof action.mask, 0, 0) == 0 &&
        action.handler > 1) {
        raw_system_call(SYS_tgkill, process, process, SIGABRT, 0, 0, 0);
        os_sleep_ms(ABORT_WAIT_MS);
        raw_system_call(SYS_rt_sigaction, SIGABRT, (long)&standard, 0, sizeof action.mask, 0, 0);
    }
    abort();
}

#else

_Noreturn void os_abort(void)
{
    abort();
}

void bare_thread_learn(const struct dl_phdr_info *file, const ElfW(Phdr) * tls)
{
    (void)file, (void)tls;
}

bool os_start_bare_thread(void *(*function)(void *))
{
    return os_start_thread(function);
}

#endif
