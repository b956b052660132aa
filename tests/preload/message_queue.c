/* message_queue.c - a program that has asked to be told of messages (mq_notify) is told of them, also when the library's thread has been there: Linux
 * forgets who asked as soon as any thread of the process closes any copy of the queue's descriptor.
 */
#include "check.h"

#include <mqueue.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_MS 20000

static volatile sig_atomic_t n_told;

static void on_message(int number)
{
    (void)number;
    n_told++;
}

static mqd_t open_queue(void)
{
    char name[40];
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    snprintf(name, sizeof name, "/hakmem-test-%d", (int)getpid());
    mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
    if (queue == (mqd_t)-1 && (errno == ENOSYS || errno == EMFILE || errno == ENOSPC || errno == EACCES)) {
        check_leave_out("no message queue can be had here");
        exit(check_status());
    }
    REQUIRE(queue != (mqd_t)-1);
    mq_unlink(name);
    return queue;
}

/* More than the library's thread begins for. It gives all of it back, some time after it has begun. */
static void free_much(void)
{
    enum { N = 160000, BYTES = 100 };
    static char *block[N];
    for (unsigned i = 0; i < N; i++)
        check_fill(block[i] = check_malloc(BYTES), BYTES, i);
    for (unsigned i = 0; i < N; i++)
        free(block[i]);
    unsigned waited_ms = 0;
    for (; check_stats().committed_bytes > 4 * CHECK_MIB && waited_ms < MOST_MS; waited_ms += 10)
        usleep(10000);
    CHECK_THAT(waited_ms < MOST_MS, "nobody gives back what is idle");
}

static void send(mqd_t queue)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(mq_send(queue, "x", 1, 0) != 0);
    REQUIRE(pid > 0);
    check_wait(pid, "the sender");
}

int main(void)
{
    check_on_hakmem();
    mqd_t queue = open_queue();
    signal(SIGUSR1, on_message);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    REQUIRE(mq_notify(queue, &event) == 0);
    free_much();
    send(queue);
    for (unsigned i = 0; n_told == 0 && i < 500; i++) /* it is sent before the sender ends */
        usleep(10000);
    CHECK_THAT(n_told == 1, "told %d times of one message", (int)n_told);
    return check_status();
}
