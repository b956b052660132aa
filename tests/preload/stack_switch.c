/* stack_switch.c - a program that changes to another stack by instructions of its own, which its unwind tables do not tell of, allocates there:
 * on the last page of a mapping, with nothing readable behind it, and at the end of a block. Who takes stacks stops at the end of this one.
 */
#include "check.h"

#include <sys/mman.h>

#define STACK_BYTES ((size_t)32768)
#define PAGE_BYTES ((size_t)65536) /* of a page, the most */
#define N_ROUNDS 10
#define N_BLOCKS 300

#if defined(__x86_64__)

static void *blocks[N_BLOCKS];

static void allocate(void)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        free(blocks[i]);
        blocks[i] = check_malloc(1 + i * 37 % 3000);
    }
}

__attribute__((noinline)) static void call_on_stack(void (*function)(void), char *end)
{
    __asm__ volatile("mov %%rsp, %%rbx\n\t"
                     "mov %1, %%rsp\n\t"
                     "call *%0\n\t"
                     "mov %%rbx, %%rsp"
                     :
                     : "r"(function), "r"(end)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

int main(void)
{
    check_on_hakmem();
    char *mapping = mmap(NULL, STACK_BYTES + PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapping != MAP_FAILED && mprotect(mapping, STACK_BYTES, PROT_READ | PROT_WRITE) == 0);
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        call_on_stack(allocate, mapping + STACK_BYTES);
        char *block = check_malloc(STACK_BYTES);
        call_on_stack(allocate, block + STACK_BYTES);
        free(block);
    }
    for (unsigned i = 0; i < N_BLOCKS; i++)
        free(blocks[i]);
    return check_status();
}

#else

int main(void)
{
    check_leave_out("the instructions that change the stack are x86-64's");
    return check_status();
}

#endif
