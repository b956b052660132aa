/* test_metrics_text.c - the metrics as text, what a client accepts, and what --listen takes.
 * Owns     a reader of both formats.     Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "figures_data.h"
#include "metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static char *print(const struct snapshot *s, enum metrics_format format, const struct metrics_choice *choice)
{
    struct capture c;
    metrics_print(begin_capture(&c), s, 0.00125, format, choice);
    return end_capture(&c);
}

/* Whether the text has this line. */
static bool has_line(const char *text, const char *line)
{
    const size_t len = strlen(line);
    for (const char *at = text; *at != '\0'; at += strcspn(at, "\n") + 1)
        if (strcspn(at, "\n") == len && strncmp(at, line, len) == 0)
            return true;
    return false;
}

static void test_openmetrics(void **state)
{
    struct snapshot s = begin_data("redis-server", 2);
    const struct metrics_choice choice = {0};
    (void)state;
    put_class(&s, 64, 3, 1000, 24, 2048);
    s.census.stats.live_bytes = 64000;
    s.census.stats.purged_bytes = 4096;
    s.census.stats.stage_lru = 5;
    s.census.stats.gap_slabs = 8;
    s.census.stats.gap_blocks_total = 9;
    s.census.stats.lock_acquisitions[HAK_LOCK_TRIM] = 6;
    s.census.stats.superslabs_hot = 7;
    s.census.stats.hot_by_fullness[9] = 7;
    s.resident_bytes = 1 << 20;
    char *text = print(&s, METRICS_OPENMETRICS, &choice);
    static const char *const lines[] = {
        "# TYPE hakmem_live_bytes gauge",
        "# UNIT hakmem_live_bytes bytes",
        "hakmem_live_bytes 64000",
        "# TYPE hakmem_purged_bytes counter",
        "# UNIT hakmem_purged_bytes bytes",
        "hakmem_purged_bytes_total 4096",
        "# TYPE hakmem_process info",
        "hakmem_process_info{version=\"0.1.0\",profile=\"conservative\"} 1",
        "hakmem_process_resident_bytes 1048576",
        "hakmem_slabs_acquired_total{stage=\"lru\"} 5",
        "hakmem_lock_acquisitions_total{cause=\"trim\"} 6",
        "# TYPE hakmem_gap_slabs gauge",
        "hakmem_gap_slabs 8",
        "# TYPE hakmem_gap_blocks counter",
        "hakmem_gap_blocks_total 9",
        "hakmem_superslabs{state=\"hot\"} 7",
        "hakmem_superslabs_by_fullness{tier=\"hot\",up_to=\"1.0\"} 7",
        "hakmem_superslabs_by_fullness{tier=\"draining\",up_to=\"0.1\"} 0",
        "hakmem_class_blocks{class=\"64\",state=\"cached\"} 24",
        "hakmem_class_blocks{class=\"run\",state=\"live\"} 0",
        "hakmem_class_committed_bytes{class=\"64\"} 196608",
        "# UNIT hakmem_read_seconds seconds",
        "hakmem_read_seconds 0.001250",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!has_line(text, lines[i]))
            fail_msg("the text lacks the line %s", lines[i]);
    assert_string_equal(text + strlen(text) - 7, "\n# EOF\n");
    assert_null(strstr(text, "pid"));
    assert_null(strstr(text, "redis"));
    free(text);
    end_data(&s);
}

static void test_classic(void **state)
{
    struct snapshot s = begin_data("redis-server", 0);
    const struct metrics_choice choice = {.without_classes = true};
    (void)state;
    char *text = print(&s, METRICS_CLASSIC, &choice);
    assert_true(has_line(text, "# TYPE hakmem_purged_bytes_total counter"));
    assert_true(has_line(text, "hakmem_purged_bytes_total 0"));
    assert_true(has_line(text, "# TYPE hakmem_process_info gauge"));
    assert_null(strstr(text, "# UNIT"));
    assert_null(strstr(text, "# EOF"));
    assert_null(strstr(text, "hakmem_class_"));
    assert_null(strstr(text, "resident")); /* the system does not tell */
    free(text);
    end_data(&s);
}

/* The names that users ask for are escaped as both formats have it. */
static void test_labels(void **state)
{
    struct snapshot s = begin_data("a\"b\\c\nd\xff\033", 0);
    const struct metrics_choice choice = {.label_pid = true, .label_name = true};
    (void)state;
    char *text = print(&s, METRICS_OPENMETRICS, &choice);
    assert_true(has_line(
        text, "hakmem_process_info{version=\"0.1.0\",profile=\"conservative\",pid=\"4711\",name=\"a\\\"b\\\\c\\nd?"
              "\033\"} 1"));
    free(text);
    end_data(&s);
}

/* Of a line that is a sample: the name of its metric. */
static void name_of(const char *line, char *name, size_t size_bytes)
{
    snprintf(name, size_bytes, "%.*s", (int)strcspn(line, "{ \n"), line);
}

/* Each family comes once and whole: HELP, TYPE, perhaps UNIT, and samples of its name; no sample comes twice. */
static void assert_families(const char *text, enum metrics_format format)
{
    char family[128] = "", seen[128][128];
    size_t n_seen = 0, n_samples = 0;
    for (const char *at = text; *at != '\0' && strcmp(at, "# EOF\n") != 0; at += strcspn(at, "\n") + 1) {
        char name[128];
        if (strncmp(at, "# HELP ", 7) == 0) {
            name_of(at + 7, family, sizeof family);
            for (size_t i = 0; i < n_seen; i++)
                assert_string_not_equal(family, seen[i]);
            assert_true(n_seen < 128);
            strcpy(seen[n_seen++], family);
            continue;
        }
        name_of(at[0] == '#' ? at + 7 : at, name, sizeof name);
        if (at[0] == '#') {
            assert_string_equal(name, family);
            continue;
        }
        if (format == METRICS_CLASSIC)
            assert_string_equal(name, family);
        else
            assert_int_equal(strncmp(name, family, strlen(family)), 0);
        n_samples++;
    }
    assert_true(n_seen > 40 && n_samples > 300);
}

static void test_families(void **state)
{
    static const uint64_t numbers[] = {0, 1, HUGE_NUMBER, UINT64_MAX};
    const struct metrics_choice choice = {.label_pid = true};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct snapshot s = begin_data("x", 1);
        char expected[64];
        fill_data(&s, numbers[i]);
        for (enum metrics_format format = METRICS_CLASSIC; format <= METRICS_OPENMETRICS; format++) {
            char *text = print(&s, format, &choice);
            assert_families(text, format);
            snprintf(expected, sizeof expected, "hakmem_live_bytes %llu", (unsigned long long)numbers[i]);
            assert_true(has_line(text, expected));
            free(text);
        }
        end_data(&s);
    }
}

/* The same series come out of an empty heap and of a full one. */
static void test_series_are_constant(void **state)
{
    struct snapshot empty = begin_data("x", 0), full = begin_data("x", 4096);
    const struct metrics_choice choice = {0};
    unsigned n[2] = {0, 0};
    (void)state;
    fill_data(&full, 1);
    empty.resident_bytes = 1;
    char *texts[2] = {print(&empty, METRICS_OPENMETRICS, &choice), print(&full, METRICS_OPENMETRICS, &choice)};
    for (int i = 0; i < 2; i++)
        for (const char *at = texts[i]; *at != '\0'; at += strcspn(at, "\n") + 1)
            n[i]++;
    assert_int_equal(n[0], n[1]);
    free(texts[0]);
    free(texts[1]);
    end_data(&empty);
    end_data(&full);
}

/* ---- What a client accepts --------------------------------------------------------------------------------------- */

static const struct {
    const char *accept;
    enum metrics_format format;
} accepts[] = {
    {NULL, METRICS_CLASSIC},
    {"", METRICS_CLASSIC},
    {"*/*", METRICS_CLASSIC},
    {"text/plain", METRICS_CLASSIC},
    {"application/json", METRICS_CLASSIC},
    {"application/openmetrics-text", METRICS_OPENMETRICS},
    {"Application/OpenMetrics-Text; Version=1.0.0", METRICS_OPENMETRICS},
    {"application/openmetrics-text;version=0.0.1", METRICS_CLASSIC}, /* that version is not what we would send */
    {"application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", METRICS_OPENMETRICS},
    /* what Prometheus 2.42 sends, and 2.50 */
    {"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
     "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
     METRICS_OPENMETRICS},
    {"text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", METRICS_CLASSIC},
    {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", METRICS_CLASSIC}, /* a browser */
    {"application/*, text/*;q=0.9", METRICS_OPENMETRICS},
    {"application/openmetrics-text;q=0, */*", METRICS_CLASSIC},
    {"text/plain;q=0, */*", METRICS_OPENMETRICS},
    {"*/*;q=0.1, application/openmetrics-text;q=0.05", METRICS_CLASSIC},
    {"application/openmetrics-text;q=2, text/plain;q=0.1", METRICS_CLASSIC}, /* no weight above 1 */
    {"application/openmetrics-text;q=nan, text/plain;q=0.001", METRICS_CLASSIC},
    {" , ;;, =, /, application/openmetrics-text ; q=0.5 ,", METRICS_OPENMETRICS},
    {"applicationopenmetrics-text", METRICS_CLASSIC},
    {"application/openmetrics-text;q", METRICS_OPENMETRICS},
};

static void test_accept(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof accepts / sizeof accepts[0]; i++)
        if (metrics_negotiate(accepts[i].accept) != accepts[i].format)
            fail_msg("wrong format for Accept: %s", accepts[i].accept == NULL ? "(none)" : accepts[i].accept);
}

/* ---- Addresses --------------------------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    bool valid, loopback;
    const char *host;
    unsigned port;
} addresses[] = {
    {"9464", true, true, "127.0.0.1", 9464},
    {":9464", true, true, "127.0.0.1", 9464},
    {"0", true, true, "127.0.0.1", 0},
    {"65535", true, true, "127.0.0.1", 65535},
    {"localhost:1", true, true, "127.0.0.1", 1},
    {"127.8.9.1:80", true, true, "127.8.9.1", 80},
    {"0.0.0.0:80", true, false, "0.0.0.0", 80},
    {"192.0.2.7:80", true, false, "192.0.2.7", 80},
    {"[::1]:80", true, true, "::1", 80},
    {"[::]:80", true, false, "::", 80},
    {"65536", false, false, NULL, 0},
    {"-1", false, false, NULL, 0},
    {"", false, false, NULL, 0},
    {":", false, false, NULL, 0},
    {"127.0.0.1", false, false, NULL, 0},
    {"127.0.0.1:", false, false, NULL, 0},
    {"127.0.0.1: 80", false, false, NULL, 0},
    {"127.0.0.1:80x", false, false, NULL, 0},
    {"127.0.0:80", false, false, NULL, 0},
    {"::1:80", false, false, NULL, 0},
    {"[]:80", false, false, NULL, 0},
    {"[127.0.0.1]:80", false, false, NULL, 0},
    {"example.org:80", false, false, NULL, 0},
    {"0000000000000000000000000000000000000000000000000000000000000000000.0.0.1:80", false, false, NULL, 0},
};

static void test_addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        struct metrics_address address;
        char host[INET6_ADDRSTRLEN];
        if (metrics_parse_address(addresses[i].text, &address) != addresses[i].valid)
            fail_msg("'%s' is %s", addresses[i].text, addresses[i].valid ? "refused" : "taken");
        if (!addresses[i].valid)
            continue;
        assert_int_equal(address.loopback, addresses[i].loopback);
        const bool v6 = address.socket_address.ss_family == AF_INET6;
        const struct sockaddr_in *v4_address = (const struct sockaddr_in *)&address.socket_address;
        const struct sockaddr_in6 *v6_address = (const struct sockaddr_in6 *)&address.socket_address;
        inet_ntop(v6 ? AF_INET6 : AF_INET,
                  v6 ? (const void *)&v6_address->sin6_addr : (const void *)&v4_address->sin_addr, host, sizeof host);
        assert_string_equal(host, addresses[i].host);
        assert_int_equal(ntohs(v6 ? v6_address->sin6_port : v4_address->sin_port), addresses[i].port);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openmetrics),
        cmocka_unit_test(test_classic),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_series_are_constant),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
