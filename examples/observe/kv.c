/* kv.c - a small in-memory key-value server, with a leak that docs/observe.md hunts.
 *
 * Usage: kv SOCKET     a path. It says when it is ready, and serves until it gets a signal.
 * Build: cc -O2 -g -o kv kv.c          with the leak
 *        cc -O2 -g -DFIXED -o kv kv.c  without it
 *
 * A client sends lines, as many as it likes before it reads, and gets one line for each:
 *   SET key value        OK
 *   SETEX key ms value   OK           the key expires after so many milliseconds
 *   EXPIRE key ms        OK, NONE     so does a key that is there
 *   GET key              =value, NONE
 *   DEL key              OK, NONE
 *   INFO                 keys=N expiring=N expired=N clients=N
 * Anything else gets ERROR.
 *
 * Owns       the table of keys, the clients.     Threads  one.
 * I1  A key that has expired is never answered with. It goes when somebody asks for it, or at a sweep.
 * I2  A client is not read from while an answer to it waits, so that its buffers stay bounded. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define N_BUCKETS 65536
#define MAX_CLIENTS 64
#define MAX_LINE_BYTES 16384
#define SWEEP_MS 100
#define NEVER INT64_MAX

struct value {
    size_t len_bytes;
    char text[];
};

struct entry {
    struct entry *next;
    char *key;
    struct value *value;
    int64_t expires_ms;
};

struct client {
    int fd;
    char *in, *out;
    size_t in_bytes, out_bytes, out_room_bytes;
};

static struct entry *bucket[N_BUCKETS];
static size_t n_keys, n_expired;
static struct client *client[MAX_CLIENTS];
static size_t n_clients;

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static void *need(void *memory)
{
    if (memory == NULL) {
        fputs("kv: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static struct value *value_new(const char *text)
{
    const size_t len_bytes = strlen(text);
    struct value *value = need(malloc(sizeof *value + len_bytes + 1));
    value->len_bytes = len_bytes;
    memcpy(value->text, text, len_bytes + 1);
    return value;
}

static void entry_free(struct entry *entry)
{
    free(entry->value);
    free(entry->key);
    free(entry);
    n_keys--;
}

/* The place that points to the key's entry, or to NULL where a new one belongs. An entry that has expired goes here. */
static struct entry **entry_find(const char *key)
{
    uint32_t hash = 2166136261;
    for (const char *c = key; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619;
    struct entry **place = &bucket[hash % N_BUCKETS];
    while (*place != NULL && strcmp((*place)->key, key) != 0)
        place = &(*place)->next;
    struct entry *entry = *place;
    if (entry != NULL && entry->expires_ms <= now_ms()) {
        *place = entry->next;
        entry_free(entry);
        n_expired++;
        return entry_find(key);
    }
    return place;
}

static void entry_store(const char *key, const char *text, int64_t expires_ms)
{
    struct entry **place = entry_find(key), *entry = *place;
    if (entry == NULL) {
        entry = *place = need(calloc(1, sizeof *entry));
        entry->key = need(strdup(key));
        n_keys++;
    }
    free(entry->value);
    entry->value = value_new(text);
    entry->expires_ms = expires_ms;
}

/* Most keys expire without anybody asking for them. */
static void sweep(void)
{
    const int64_t now = now_ms();
    for (size_t i = 0; i < N_BUCKETS; i++)
        for (struct entry **place = &bucket[i]; *place != NULL;) {
            struct entry *entry = *place;
            if (entry->expires_ms > now) {
                place = &entry->next;
                continue;
            }
            *place = entry->next;
            n_expired++;
#ifdef FIXED
            entry_free(entry);
#else
            /* The leak: values were once part of their entries, and this place was not told that they no longer are. */
            free(entry->key);
            free(entry);
            n_keys--;
#endif
        }
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void answer(struct client *to, const char *format, ...)
{
    char line[MAX_LINE_BYTES + 2];
    va_list arguments;
    va_start(arguments, format);
    const size_t len_bytes = (size_t)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (to->out_bytes + len_bytes > to->out_room_bytes) {
        to->out_room_bytes = 2 * (to->out_bytes + len_bytes);
        to->out = need(realloc(to->out, to->out_room_bytes));
    }
    memcpy(to->out + to->out_bytes, line, len_bytes);
    to->out_bytes += len_bytes;
}

static void command_set(struct client *from, char **word)
{
    entry_store(word[1], word[2], NEVER);
    answer(from, "OK\n");
}

static void command_setex(struct client *from, char **word)
{
    entry_store(word[1], word[3], now_ms() + atoi(word[2]));
    answer(from, "OK\n");
}

static void command_expire(struct client *from, char **word)
{
    struct entry *entry = *entry_find(word[1]);
    if (entry != NULL)
        entry->expires_ms = now_ms() + atoi(word[2]);
    answer(from, entry != NULL ? "OK\n" : "NONE\n");
}

static void command_get(struct client *from, char **word)
{
    const struct entry *entry = *entry_find(word[1]);
    if (entry != NULL)
        answer(from, "=%s\n", entry->value->text);
    else
        answer(from, "NONE\n");
}

static void command_del(struct client *from, char **word)
{
    struct entry **place = entry_find(word[1]), *entry = *place;
    if (entry != NULL) {
        *place = entry->next;
        entry_free(entry);
    }
    answer(from, entry != NULL ? "OK\n" : "NONE\n");
}

static void command_info(struct client *from, char **word)
{
    size_t n_expiring = 0;
    (void)word;
    for (size_t i = 0; i < N_BUCKETS; i++)
        for (const struct entry *entry = bucket[i]; entry != NULL; entry = entry->next)
            n_expiring += entry->expires_ms != NEVER;
    answer(from, "keys=%zu expiring=%zu expired=%zu clients=%zu\n", n_keys, n_expiring, n_expired, n_clients);
}

static const struct {
    const char *name;
    int n_words;
    void (*run)(struct client *from, char **word);
} commands[] = {{"SET", 3, command_set}, {"SETEX", 4, command_setex}, {"EXPIRE", 3, command_expire},
                {"GET", 2, command_get}, {"DEL", 2, command_del},     {"INFO", 1, command_info}};

static void execute(struct client *from, char *line)
{
    char *word[5], *rest;
    int n = 0;
    for (char *w = strtok_r(line, " ", &rest); w != NULL && n < 5; w = strtok_r(NULL, " ", &rest))
        word[n++] = w;
    for (size_t i = 0; n > 0 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(word[0], commands[i].name) == 0 && n == commands[i].n_words) {
            commands[i].run(from, word);
            return;
        }
    answer(from, "ERROR\n");
}

/* ---- Clients ----------------------------------------------------------------------------------------------------- */

static void client_open(int listener)
{
    const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct client *new = client[n_clients++] = need(calloc(1, sizeof *new));
    new->fd = fd;
    new->in = need(malloc(MAX_LINE_BYTES));
}

static void client_close(size_t i)
{
    close(client[i]->fd);
    free(client[i]->in);
    free(client[i]->out);
    free(client[i]);
    client[i] = client[--n_clients];
}

/* Executes the whole lines that are there. False: the client is gone, or its line is too long. */
static bool client_read(struct client *from)
{
    const ssize_t n = read(from->fd, from->in + from->in_bytes, MAX_LINE_BYTES - from->in_bytes);
    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    from->in_bytes += (size_t)n;
    char *line = from->in, *end = from->in + from->in_bytes;
    for (char *newline; (newline = memchr(line, '\n', (size_t)(end - line))) != NULL; line = newline + 1) {
        *newline = '\0';
        execute(from, line);
    }
    from->in_bytes = (size_t)(end - line);
    memmove(from->in, line, from->in_bytes);
    return from->in_bytes < MAX_LINE_BYTES;
}

static bool client_write(struct client *to)
{
    const ssize_t n = write(to->fd, to->out, to->out_bytes);
    if (n < 0)
        return errno == EAGAIN;
    to->out_bytes -= (size_t)n;
    memmove(to->out, to->out + n, to->out_bytes);
    return true;
}

static void serve(int listener)
{
    struct pollfd fds[MAX_CLIENTS + 1];
    for (int64_t swept_ms = now_ms();;) {
        const size_t n = n_clients;
        for (size_t i = 0; i < n; i++)
            fds[i] = (struct pollfd){client[i]->fd, client[i]->out_bytes != 0 ? POLLOUT : POLLIN, 0}; /* I2 */
        fds[n] = (struct pollfd){listener, n < MAX_CLIENTS ? POLLIN : 0, 0};
        poll(fds, n + 1, SWEEP_MS);
        for (size_t i = n; i-- > 0;) /* from the end, because client_close puts the last one in its place */
            if (fds[i].revents != 0 &&
                !((fds[i].events == POLLOUT || client_read(client[i])) && client_write(client[i])))
                client_close(i);
        if (fds[n].revents != 0)
            client_open(listener);
        if (now_ms() - swept_ms >= SWEEP_MS) {
            sweep();
            swept_ms = now_ms();
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) {
        fputs("usage: kv SOCKET\n", stderr);
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    unlink(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0) {
        perror("kv");
        return 1;
    }
    printf("listening on %s\n", argv[1]);
    fflush(stdout);
    serve(listener);
}
