/* metrics.h - the parts of `hakmem metrics`: the text, what a client accepts, the server. */
#ifndef HAKMEM_TOOLS_METRICS_H
#define HAKMEM_TOOLS_METRICS_H

#include "snapshot.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

/* ---- Text: metrics_text.c ---------------------------------------------------------------------------------------- */

enum metrics_format {
    METRICS_CLASSIC,    /* Prometheus's text format 0.0.4 */
    METRICS_OPENMETRICS /* OpenMetrics 1.0.0 */
};

struct metrics_choice {
    bool without_classes;       /* leave out what there is one of for each size class */
    bool label_pid, label_name; /* tell which process it is, in hakmem_process_info */
};

/* Writes all metrics. read_s: how long it took to take the snapshot. */
void metrics_print(FILE *out, const struct snapshot *snapshot, double read_s, enum metrics_format format,
                   const struct metrics_choice *choice);

/* ---- What a client accepts: metrics_accept.c --------------------------------------------------------------------- */

/* The better one by the header Accept (RFC 9110 12.5.1), which may be NULL; the classic one where it is all the same, or where
 * neither is wanted. */
enum metrics_format metrics_negotiate(const char *accept);

/* What to put into the header Content-Type. */
const char *metrics_content_type(enum metrics_format format);

/* ---- The server: metrics_http.c ---------------------------------------------------------------------------------- */

struct metrics_address {
    struct sockaddr_storage socket_address;
    socklen_t len_bytes;
    bool loopback;
};

/* Reads "9464", ":9464", "127.0.0.1:9464", "[::1]:9464", "localhost:9464". Without an address it is 127.0.0.1; port 0 lets the
 * system choose. Returns false when it is none of these: names are not looked up. */
bool metrics_parse_address(const char *text, struct metrics_address *address);

/* Makes the answer to one request: a text for free(). Returns the HTTP status, 200 or 503. */
typedef int (*metrics_render)(void *argument, enum metrics_format format, char **text, size_t *len_bytes);

struct metrics_server;

/* Listens. Returns NULL, and one line without a newline in `why`, when it cannot. */
struct metrics_server *metrics_server_start(const struct metrics_address *address, metrics_render render,
                                            void *argument, char *why, size_t why_bytes);

/* Where: "http://127.0.0.1:9464/metrics". */
const char *metrics_server_url(const struct metrics_server *server);

/* Does what there is to do, or waits for it: wait_ms at most, or until a signal that the mask lets through has come. */
void metrics_server_step(struct metrics_server *server, int wait_ms, const sigset_t *while_waiting);

void metrics_server_stop(struct metrics_server *server);

#endif
