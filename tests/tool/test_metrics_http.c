/* test_metrics_http.c - the server of `hakmem metrics --listen`, over real sockets on the loopback interface.
 * Owns     a client, a server whose answers are made up, and the thread that it runs in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static _Atomic bool stops, process_is_gone;
static _Atomic unsigned n_rendered;
static unsigned port;

static int render(void *argument, enum metrics_format format, char **text, size_t *len_bytes)
{
    *text = strdup(format == METRICS_OPENMETRICS ? "open 1\n# EOF\n" : "classic 1\n");
    *len_bytes = strlen(*text);
    assert_ptr_equal(argument, &port);
    atomic_fetch_add(&n_rendered, 1);
    return process_is_gone ? 503 : 200;
}

static void *serve(void *argument)
{
    while (!stops)
        metrics_server_step(argument, 20, NULL);
    metrics_server_stop(argument);
    return NULL;
}

static pthread_t server_thread;

static int start(void **state)
{
    struct metrics_address address;
    char why[256] = "";
    (void)state;
    if (!metrics_parse_address("0", &address))
        return -1;
    struct metrics_server *server = metrics_server_start(&address, render, &port, why, sizeof why);
    if (server == NULL || sscanf(metrics_server_url(server), "http://127.0.0.1:%u/metrics", &port) != 1)
        return -1;
    return pthread_create(&server_thread, NULL, serve, server);
}

static int stop(void **state)
{
    (void)state;
    stops = true;
    return pthread_join(server_thread, NULL);
}

static int connect_to_server(void)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((in_port_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int s = socket(AF_INET, SOCK_STREAM, 0);
    const struct timeval patience = {.tv_sec = 60};
    assert_true(s >= 0);
    assert_int_equal(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    assert_int_equal(connect(s, (const struct sockaddr *)&address, sizeof address), 0);
    return s;
}

/* Sends a request and reads until the server closes. */
static const char *ask(const char *request)
{
    static char reply[65536];
    const int s = connect_to_server();
    size_t len = 0;
    ssize_t n;
    send(s, request, strlen(request), MSG_NOSIGNAL); /* the server may have closed before it was all sent */
    while (len < sizeof reply - 1 && (n = recv(s, reply + len, sizeof reply - 1 - len, 0)) > 0)
        len += (size_t)n;
    close(s);
    reply[len] = '\0';
    return reply;
}

#define CLOSE "Host: x\r\nConnection: close\r\n\r\n"

static int status_of(const char *reply)
{
    int status = 0;
    assert_int_equal(sscanf(reply, "HTTP/1.1 %d ", &status), 1);
    return status;
}

static const char *body_of(const char *reply)
{
    const char *end = strstr(reply, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

static void test_get(void **state)
{
    (void)state;
    const char *reply = ask("GET /metrics HTTP/1.1\r\n" CLOSE);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strstr(reply, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_non_null(strstr(reply, "\r\nContent-Length: 10\r\n"));
    assert_non_null(strstr(reply, "\r\nVary: Accept\r\n"));
    assert_string_equal(body_of(reply), "classic 1\n");
    reply = ask("GET /metrics?x=y HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n" CLOSE);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strstr(reply, "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_string_equal(body_of(reply), "open 1\n# EOF\n");
}

/* The path may be written in another way, as by RFC 3986. */
static void test_encoded_path(void **state)
{
    (void)state;
    assert_int_equal(status_of(ask("GET /%6detrics HTTP/1.1\r\n" CLOSE)), 200);
    assert_int_equal(status_of(ask("GET /metrics?a%00=b%00c HTTP/1.1\r\n" CLOSE)), 200);
}

static void test_head(void **state)
{
    (void)state;
    const char *reply = ask("HEAD /metrics HTTP/1.1\r\n" CLOSE);
    assert_int_equal(status_of(reply), 200);
    assert_non_null(strstr(reply, "\r\nContent-Length: 10\r\n"));
    assert_string_equal(body_of(reply), "");
}

/* A body is nobody's business: it is not waited for. */
static void test_get_with_body(void **state)
{
    (void)state;
    const char *reply = ask("GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\nHost: x\r\n\r\nabc");
    assert_int_equal(status_of(reply), 200);
    assert_string_equal(body_of(reply), "classic 1\n");
    reply = ask("GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n3\r\nabc\r\n");
    assert_int_equal(status_of(reply), 200);
}

static void test_what_is_refused(void **state)
{
    static const struct {
        const char *request;
        int status;
    } rows[] = {
        {"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n" CLOSE "abc", 405},
        {"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n" CLOSE, 405}, /* answered without waiting for it */
        {"PUT /metrics HTTP/1.1\r\nContent-Length: 0\r\n" CLOSE, 405},
        {"DELETE /metrics HTTP/1.1\r\n" CLOSE, 405},
        {"OPTIONS /metrics HTTP/1.1\r\n" CLOSE, 405},
        {"TRACE /metrics HTTP/1.1\r\n" CLOSE, 405},
        {"get /metrics HTTP/1.1\r\n" CLOSE, 405},
        {"GET / HTTP/1.1\r\n" CLOSE, 404},
        {"GET /metrics/ HTTP/1.1\r\n" CLOSE, 404},
        {"GET /metricsx HTTP/1.1\r\n" CLOSE, 404},
        {"GET /../metrics HTTP/1.1\r\n" CLOSE, 404},
        {"GET /metrics%00 HTTP/1.1\r\n" CLOSE, 404},
        {"GET /metrics%00x?a=b HTTP/1.1\r\n" CLOSE, 404},
        {"POST /x HTTP/1.1\r\nContent-Length: 0\r\n" CLOSE, 404},
    };
    const unsigned before = n_rendered;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *reply = ask(rows[i].request);
        if (status_of(reply) != rows[i].status)
            fail_msg("status %d for %s", status_of(reply), rows[i].request);
        if (rows[i].status == 405)
            assert_non_null(strstr(reply, "\r\nAllow: GET, HEAD\r\n"));
    }
    assert_int_equal(n_rendered, before); /* nobody is read for it */
}

static void test_process_is_gone(void **state)
{
    (void)state;
    process_is_gone = true;
    const char *reply = ask("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n" CLOSE);
    process_is_gone = false;
    assert_int_equal(status_of(reply), 503);
    assert_non_null(strstr(reply, "\r\nContent-Type: text/plain; charset=utf-8\r\n"));
}

/* Headers larger than a connection's memory, and what is no HTTP, are refused, and the server goes on. */
static void test_limits(void **state)
{
    const size_t len = 200000;
    char *request = malloc(len);
    (void)state;
    assert_non_null(request);
    const int head = snprintf(request, len, "GET /metrics HTTP/1.1\r\nX: ");
    memset(request + head, 'a', len - (size_t)head - 1);
    request[len - 1] = '\0';
    const char *reply = ask(request);
    assert_true(reply[0] == '\0' || status_of(reply) >= 400);
    free(request);
    reply = ask("\x16\x03\x01 no HTTP at all\r\n\r\n");
    assert_true(reply[0] == '\0' || status_of(reply) >= 400);
    assert_int_equal(status_of(ask("GET /metrics HTTP/1.1\r\n" CLOSE)), 200);
}

/* Clients that connect and say nothing do not keep others out as long as there is room for one more; more of them than there is
 * room for do, until they are gone. */
static void test_silent_clients(void **state)
{
    int silent[60];
    (void)state;
    for (int i = 0; i < 20; i++)
        silent[i] = connect_to_server();
    assert_int_equal(status_of(ask("GET /metrics HTTP/1.1\r\n" CLOSE)), 200);
    for (int i = 20; i < 60; i++)
        silent[i] = connect_to_server();
    for (int i = 0; i < 60; i++)
        close(silent[i]);
    assert_int_equal(status_of(ask("GET /metrics HTTP/1.1\r\n" CLOSE)), 200);
}

/* One connection, several requests. */
static void test_keep_alive(void **state)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    char reply[4096];
    (void)state;
    const int s = connect_to_server();
    for (int i = 0; i < 3; i++) {
        size_t len = 0;
        assert_int_equal(send(s, request, strlen(request), 0), (ssize_t)strlen(request));
        do {
            const ssize_t n = recv(s, reply + len, sizeof reply - 1 - len, 0);
            assert_true(n > 0);
            len += (size_t)n;
            reply[len] = '\0';
        } while (strstr(reply, "classic 1\n") == NULL);
    }
    close(s);
}

static void test_port_in_use(void **state)
{
    struct metrics_address address;
    char text[32], why[256] = "";
    (void)state;
    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    assert_true(metrics_parse_address(text, &address));
    assert_null(metrics_server_start(&address, render, &port, why, sizeof why));
    assert_string_equal(why, "cannot listen: Address already in use");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_encoded_path),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_get_with_body),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_process_is_gone),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_silent_clients),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_port_in_use),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
