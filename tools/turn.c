/* turn.c - see turn.h.
 * Owns       nothing: a turn is its holder's descriptor.     Called by  freeze.c, profile_live.c     Calls  libc
 * Threads    any.
 */
#define _GNU_SOURCE
#include "turn.h"

#include "clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { TURN_POLL_MS = 5 }; /* from one look whether another command has let go to the next */

/* The lock is a name and no file: that would need a directory that all users may write to, and stay behind a command that is killed. */
int turn_take(const char *what, pid_t pid, double seconds, const volatile sig_atomic_t *interrupted)
{
    const struct timespec poll = {.tv_nsec = TURN_POLL_MS * 1000000L};
    struct sockaddr_un address = {.sun_family = AF_UNIX}; /* the name begins behind a 0: it is no path */
    const int name_bytes =
        snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "hakmem %s of %d", what, (int)pid);
    const socklen_t address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)name_bytes);
    const int turn = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const double begin = clock_now_seconds();
    while (turn >= 0 && bind(turn, (struct sockaddr *)&address, address_bytes) != 0) {
        const bool taken = errno == EADDRINUSE;
        if (!taken || clock_now_seconds() - begin >= seconds || (interrupted != NULL && *interrupted != 0)) {
            close(turn);
            return taken ? TURN_TAKEN : TURN_UNKNOWN;
        }
        nanosleep(&poll, NULL);
    }
    return turn < 0 ? TURN_UNKNOWN : turn;
}

void turn_end(int turn)
{
    if (turn >= 0)
        close(turn);
}
