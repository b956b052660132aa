/* unfilled_blocks.c - large blocks in which a program writes a byte each must not be in memory as whole huge pages: usually, with the helper
 * off, when nothing is given back unasked, and under a filter of system calls, where hakmem may not ask what is in memory.
 */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

enum { BLOCKS = 100, MOST_MIB = 80 };

static int hold_blocks(void)
{
    static volatile char *blocks[BLOCKS];
    size_t before = check_resident_bytes();
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(16 * CHECK_MIB);
        REQUIRE(blocks[i] != NULL);
        blocks[i][5 * CHECK_MIB] = 1;
    }
    return check_resident_bytes() - before > MOST_MIB * CHECK_MIB;
}

static void allow_everything(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Runs this program again, which then only holds blocks. */
static void try_with(const char *self, const char *variable, const char *value, bool filtered)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setenv(variable, value, 1);
        if (filtered)
            allow_everything();
        execl(self, self, "hold", (char *)NULL);
        _exit(127);
    }
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_THAT(status == 0, "%s=%s%s: %#x", variable, value, filtered ? ", filtered" : "", (unsigned)status);
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (argc > 1)
        return hold_blocks();
    try_with(argv[0], "HAKMEM_STATS", "0", false);
    try_with(argv[0], "HAKMEM_STATS", "0", true);
    try_with(argv[0], "HAKMEM_BACKGROUND", "off", false);
    try_with(argv[0], "HAKMEM_PURGE_DELAY_MS", "-1", false);
    return check_status();
}
