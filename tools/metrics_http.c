/* metrics_http.c - the server of `hakmem metrics --listen`: one path, two methods, by libmicrohttpd.
 * Owns       the listening socket.     Called by  metrics.c     Calls  metrics_accept.c, libmicrohttpd.     Threads  one.
 * I1  A request's body is never read, a request never waits for another's client: each connection has its time, its memory,
 *     and there are at most so many.
 * I2  An answer tells nothing but the metrics: not what this command is, nor why the process cannot be read.
 * Why no thread of the server's own: it reads another process and knows whether that lives; one at a time needs no lock.
 */
#define _GNU_SOURCE
#include "metrics.h"

#include "tool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 32,
    CONNECTION_TIMEOUT_S = 10,
    CONNECTION_MEMORY_BYTES = 16 * 1024, /* request line and headers must fit */
    MAX_PORT = 65535,
    URL_BYTES = 96
};

struct metrics_server {
    struct MHD_Daemon *daemon;
    int events; /* becomes readable when the daemon has something to do. The daemon's */
    metrics_render render;
    void *argument;
    char url[URL_BYTES];
};

/* ---- Addresses --------------------------------------------------------------------------------------------------- */

static bool parse_port(const char *text, in_port_t *port)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    const unsigned long number = strtoul(text, &end, 10);
    if (*end != '\0' || number > MAX_PORT)
        return false;
    *port = htons((in_port_t)number);
    return true;
}

static bool use_v4(const char *host, in_port_t port, struct metrics_address *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address->socket_address;
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    address->len_bytes = sizeof *v4;
    if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
        return false;
    address->loopback = (ntohl(v4->sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
    return true;
}

static bool use_v6(const char *host, in_port_t port, struct metrics_address *address)
{
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->socket_address;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port;
    address->len_bytes = sizeof *v6;
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
        return false;
    address->loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    return true;
}

bool metrics_parse_address(const char *text, struct metrics_address *address)
{
    char host[INET6_ADDRSTRLEN + 2];
    in_port_t port;
    const char *colon = strrchr(text, ':');
    const size_t len = colon == NULL ? 0 : (size_t)(colon - text);
    memset(address, 0, sizeof *address);
    if (len >= sizeof host || !parse_port(colon == NULL ? text : colon + 1, &port))
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        return use_v6(host + 1, port, address);
    }
    return use_v4(len == 0 || strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port, address);
}

static void write_url(struct metrics_server *server, int listener)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    char host[INET6_ADDRSTRLEN] = "";
    if (getsockname(listener, (struct sockaddr *)&own, &len) != 0)
        return;
    if (own.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&own;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(server->url, URL_BYTES, "http://[%s]:%u/metrics", host, (unsigned)ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&own;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(server->url, URL_BYTES, "http://%s:%u/metrics", host, (unsigned)ntohs(v4->sin_port));
    }
}

/* Returns a socket, or -1 and why. Reuse: a server that ended a moment ago must not keep the next one from its port. */
static int listen_at(const struct metrics_address *address, char *why, size_t why_bytes)
{
    const int on = 1;
    const int listener = socket(address->socket_address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(listener, (const struct sockaddr *)&address->socket_address, address->len_bytes) == 0 &&
        listen(listener, MAX_CONNECTIONS) == 0)
        return listener;
    snprintf(why, why_bytes, "cannot listen: %s", strerror(errno));
    if (listener >= 0)
        close(listener);
    return -1;
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static enum MHD_Result send_response(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
    if (response == NULL)
        return MHD_NO; /* closes the connection */
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, MHD_HTTP_HEADER_X_CONTENT_TYPE_OPTIONS, "nosniff");
    const enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_line(struct MHD_Connection *connection, unsigned status, const char *line)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(line), (void *)(uintptr_t)line, MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
        if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
            MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    }
    return send_response(connection, status, response);
}

static enum MHD_Result send_metrics(struct metrics_server *server, struct MHD_Connection *connection)
{
    char *text;
    size_t len_bytes;
    const enum metrics_format format =
        metrics_negotiate(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT));
    const int status = server->render(server->argument, format, &text, &len_bytes);
    struct MHD_Response *response = MHD_create_response_from_buffer(len_bytes, text, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            status == MHD_HTTP_OK ? metrics_content_type(format) : "text/plain; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ACCEPT);
    return send_response(connection, (unsigned)status, response);
}

static bool has_body(struct MHD_Connection *connection)
{
    const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return (length != NULL && strcmp(length, "0") != 0) ||
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING) != NULL;
}

/* Called when the headers are there, and again when the whole request is. An answer at the first call refuses the body and closes
 * the connection behind it; one at the second leaves it open for further requests. */
static enum MHD_Result answer(void *argument, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version, const char *body, size_t *body_bytes, void **state)
{
    static char headers_were_seen;
    (void)version;
    (void)body;
    (void)body_bytes; /* 0: bodies are refused */
    if (strcmp(url, "/metrics") != 0)
        return send_line(connection, MHD_HTTP_NOT_FOUND, "Not found: the metrics are at /metrics.\n");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return send_line(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD are allowed.\n");
    if (*state == NULL && !has_body(connection)) {
        *state = &headers_were_seen;
        return MHD_YES;
    }
    return send_metrics(argument, connection);
}

/* Decodes a path or an argument in place. One with a 0 in it would be the path before that to who compares texts; so it is none. */
static size_t unescape(void *unused, struct MHD_Connection *connection, char *text)
{
    (void)unused;
    (void)connection;
    const size_t len = MHD_http_unescape(text);
    if (strlen(text) == len)
        return len;
    text[0] = '\0';
    return 0;
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

struct metrics_server *metrics_server_start(const struct metrics_address *address, metrics_render render,
                                            void *argument, char *why, size_t why_bytes)
{
    const int listener = listen_at(address, why, why_bytes);
    if (listener < 0)
        return NULL;
    struct metrics_server *server = tool_reallocate(NULL, 1, sizeof *server);
    *server = (struct metrics_server){.render = render, .argument = argument};
    write_url(server, listener);
    server->daemon =
        MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, server, MHD_OPTION_LISTEN_SOCKET, listener,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS, MHD_OPTION_UNESCAPE_CALLBACK, unescape,
                         NULL, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_TIMEOUT_S,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
    if (server->daemon == NULL) {
        snprintf(why, why_bytes, "cannot start the HTTP server");
        close(listener);
        free(server);
        return NULL;
    }
    server->events = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    return server;
}

const char *metrics_server_url(const struct metrics_server *server)
{
    return server->url;
}

void metrics_server_step(struct metrics_server *server, int wait_ms, const sigset_t *while_waiting)
{
    struct pollfd events = {.fd = server->events, .events = POLLIN};
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    if (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES && timeout_ms < (unsigned)wait_ms)
        wait_ms = (int)timeout_ms;
    const struct timespec timeout = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000};
    if (ppoll(&events, 1, &timeout, while_waiting) >= 0)
        MHD_run(server->daemon);
}

void metrics_server_stop(struct metrics_server *server)
{
    MHD_stop_daemon(server->daemon); /* closes the listener */
    free(server);
}
