/* config.c - see config.h.
 * Owns     config.     Called by  front/thread.c at start, api/introspect.c.     Calls  report.h, libc's secure_getenv (a
 * set-user-ID program listens to no variable).
 * Threads  written by the one thread that starts the allocator, constant afterwards.
 */
#include "service/config.h"

#include "base/decimal.h"
#include "service/event.h"
#include "service/report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LRU_SUPERSLABS_STANDARD 4
#define EMPTY_SLABS_STANDARD 64
#define PURGE_DELAY_MS_STANDARD 250
/* Smaller heaps have no huge pages (huge_pages.c, HUGE_HEAP_BYTES), and the two SuperSlabs that are asked before the first one gets them are
 * to be packed already. */
#define PACKED_HEAP_BYTES (12 * MIB)
#define GUARD_SAMPLE_AUTO 50000
#define GUARD_SAMPLE_MAX 1000000000

struct config config = {.lru_superslabs = LRU_SUPERSLABS_STANDARD,
                        .empty_slabs = EMPTY_SLABS_STANDARD,
                        .purge_delay_ms = PURGE_DELAY_MS_STANDARD,
                        .huge_pages = HUGE_PAGES_AUTO,
                        .packed_heap_bytes = PACKED_HEAP_BYTES,
                        .background = true,
                        .gaps = true};

const char *const profile_names[N_PROFILES] = {"conservative", "hot", "off", "full"};

static bool parse_choice(const char *text, const char *const *names, unsigned n, unsigned *out)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static bool parse_profile(const char *text)
{
    unsigned choice;
    if (!parse_choice(text, profile_names, N_PROFILES, &choice))
        return false;
    config.profile = (enum profile)choice;
    return true;
}

static bool parse_on_error(const char *text)
{
    static const char *const names[] = {"abort", "warn"};
    unsigned choice;
    if (!parse_choice(text, names, 2, &choice))
        return false;
    config.on_error = (enum on_error)choice;
    return true;
}

static bool parse_stats(const char *text)
{
    static const char *const names[] = {"0", "1", "json"};
    unsigned choice;
    if (text[0] == '/') {
        size_t len = strlen(text);
        if (len >= CONFIG_PATH_MAX_BYTES)
            return false;
        memcpy(config.stats_path, text, len + 1);
        config.stats = STATS_FILE;
        return true;
    }
    if (!parse_choice(text, names, 3, &choice))
        return false;
    config.stats = (enum stats_output)choice;
    return true;
}

static bool parse_debug(const char *text)
{
    static const char *const names[] = {"0", "1"};
    unsigned choice;
    if (!parse_choice(text, names, 2, &choice))
        return false;
    config.debug = choice == 1;
    if (config.debug && !EVENT_LOG_BUILT)
        report_line("hakmem: HAKMEM_DEBUG=1 has no effect: only debug builds have the event log");
    return true;
}

/* A decimal number, with K, M, G or T for powers of 1024 where units are allowed; at most max. */
static bool parse_size(const char *text, bool units, size_t max, size_t *out)
{
    size_t n;
    text = read_decimal(text, &n);
    if (text == NULL)
        return false;
    static const char unit_letters[] = "KMGT";
    const char *unit = units && *text != 0 ? strchr(unit_letters, *text) : NULL;
    if (unit != NULL) {
        unsigned shift = 10 * (unsigned)(unit - unit_letters + 1);
        if (n > SIZE_MAX >> shift)
            return false;
        n <<= shift;
        text++;
    }
    if (*text != 0 || n > max)
        return false;
    *out = n;
    return true;
}

static bool parse_lru(const char *text)
{
    return parse_size(text, false, 65536, &config.lru_superslabs);
}

static bool parse_empty(const char *text)
{
    return parse_size(text, false, 1 << 20, &config.empty_slabs);
}

static bool parse_purge_delay(const char *text)
{
    size_t n;
    if (strcmp(text, "-1") == 0) {
        config.purge_delay_ms = -1;
        return true;
    }
    if (!parse_size(text, false, 86400000, &n))
        return false;
    config.purge_delay_ms = (int64_t)n;
    return true;
}

/* A size; up to `end`, where that is not NULL. */
static bool parse_part(const char *text, const char *end, size_t *out)
{
    char part[32];
    size_t len = end == NULL ? strlen(text) : (size_t)(end - text);
    if (len >= sizeof part)
        return false;
    memcpy(part, text, len);
    part[len] = 0;
    return parse_size(part, true, (size_t)1 << 46, out);
}

static bool parse_budget(const char *text)
{
    const char *colon = strchr(text, ':');
    size_t len = strlen(text), percent, soft_bytes = 0, hard_bytes;
    if (strcmp(text, "auto") == 0) {
        config.budget_auto = true;
        return true;
    }
    if (len > 1 && len <= 4 && text[len - 1] == '%') {
        char digits[4];
        memcpy(digits, text, len - 1);
        digits[len - 1] = 0;
        if (!parse_size(digits, false, 100, &percent) || percent == 0)
            return false;
        config.budget_percent = (unsigned)percent;
        return true;
    }
    if (colon != NULL && (!parse_part(text, colon, &soft_bytes) || soft_bytes == 0))
        return false;
    if (!parse_part(colon == NULL ? text : colon + 1, NULL, &hard_bytes) || soft_bytes > hard_bytes ||
        (hard_bytes != 0 && hard_bytes < MIB))
        return false;
    config.budget_soft_bytes = soft_bytes;
    config.budget_hard_bytes = hard_bytes;
    return true;
}

/* "off", or what it is called when it is on. */
static bool parse_switch(const char *text, const char *on, bool *is_on)
{
    const char *const names[] = {"off", on};
    unsigned i;
    if (!parse_choice(text, names, 2, &i))
        return false;
    *is_on = i == 1;
    return true;
}

static bool parse_background(const char *text)
{
    return parse_switch(text, "auto", &config.background);
}

static bool parse_gaps(const char *text)
{
    return parse_switch(text, "on", &config.gaps);
}

/* A list of names with commas between them; their bits. */
static bool parse_bits(const char *text, const char *const *names, unsigned n, unsigned *bits)
{
    for (*bits = 0;; text++) {
        size_t len = strcspn(text, ",");
        unsigned i = 0;
        while (i < n && (strlen(names[i]) != len || strncmp(names[i], text, len) != 0))
            i++;
        if (i == n)
            return false;
        *bits |= 1u << i;
        text += len;
        if (*text == 0)
            return true;
    }
}

static bool parse_secure(const char *text)
{
    static const char *const names[] = {"canary", "zero", "quarantine", "random", "guard", "type"};
    static const char *const words[] = {"0", "1", "max"};
    static const unsigned bits_of_word[] = {0, SECURE_ALL, SECURE_ALL | SECURE_PAGES};
    unsigned choice, bits;
    if (parse_choice(text, words, 3, &choice))
        bits = bits_of_word[choice];
    else if (!parse_bits(text, names, sizeof names / sizeof names[0], &bits))
        return false;
    config.secure = bits;
    return true;
}

static bool parse_guard_sample(const char *text)
{
    size_t n = GUARD_SAMPLE_AUTO;
    if (strcmp(text, "auto") != 0 && !parse_size(text, false, GUARD_SAMPLE_MAX, &n))
        return false;
    config.guard_sample = (uint32_t)n;
    return true;
}

static bool parse_heap_profile(const char *text)
{
    if (strcmp(text, "0") == 0)
        return true;
    config.profile_report = strcmp(text, "report") == 0;
    if (*text == 0 || strlen(text) >= sizeof config.profile_path)
        return false;
    strcpy(config.profile_path, text); /* NOLINT: it fits */
    return true;
}

static bool parse_profile_interval(const char *text)
{
    size_t n;
    if (!parse_size(text, true, (size_t)1 << 40, &n) || n == 0)
        return false;
    config.profile_interval_bytes = n;
    return true;
}

static bool parse_huge_pages(const char *text)
{
    static const char *const names[] = {"never", "auto", "always"};
    unsigned i;
    if (!parse_choice(text, names, 3, &i))
        return false;
    config.huge_pages = (enum huge_pages)i;
    return true;
}

static bool parse_arena(const char *text)
{
    size_t n;
    if (!parse_size(text, true, (size_t)1 << 46, &n) || (n != 0 && n < 2 * MIB))
        return false;
    config.arena_bytes = n & ~(2 * MIB - 1);
    return true;
}

static const struct {
    struct config_help help;
    bool (*parse)(const char *text);
} rows[] = {
    {{"HAKMEM_TINY_PROFILE", "conservative|hot|off|full", "conservative", "routes of the classes up to 1024 bytes"},
     parse_profile},
    {{"HAKMEM_ON_ERROR", "abort|warn", "abort", "after misuse: end the process, or ignore the call and go on"},
     parse_on_error},
    {{"HAKMEM_STATS", "0|1|json|/FILE", "0",
      "statistics at exit: text or JSON on stderr, or JSON to a file (at most 1023 bytes of path)"},
     parse_stats},
    {{"HAKMEM_LRU_SUPERSLABS", "0..65536", "4", "empty SuperSlabs of 2 MiB kept for large blocks"}, parse_lru},
    {{"HAKMEM_EMPTY_SLABS", "0..1048576", "64", "empty slabs of 64 KiB that keep their pages, with a purge delay of 0"},
     parse_empty},
    {{"HAKMEM_PURGE_DELAY_MS", "-1|0..86400000", "250",
      "how long an emptied slab waits before its release; -1: no limit"},
     parse_purge_delay},
    {{"HAKMEM_BACKGROUND", "auto|off", "auto", "a thread that gives idle memory back when the program makes no calls"},
     parse_background},
    {{"HAKMEM_GAPS", "on|off", "on",
      "larger blocks lie between the last ones of smaller sizes, instead of on fresh memory"},
     parse_gaps},
    {{"HAKMEM_THP", "never|auto|always", "auto", "transparent huge pages: auto for large blocks and in large heaps"},
     parse_huge_pages},
    {{"HAKMEM_BUDGET", "0|SIZE|SOFT:SIZE|1%..100%|auto", "0",
      "most memory that the heap may hold: a size from 1M, a part of the control group's limit, or 90% of it if it has "
      "one"},
     parse_budget},
    {{"HAKMEM_SECURE", "0|1|max|canary,zero,quarantine,random,guard,type", "0",
      "hardened mode: all checks, those that are named, or every block on pages of its own as well"},
     parse_secure},
    {{"HAKMEM_GUARD_SAMPLE", "0|auto|1..1000000000", "0",
      "one of so many blocks lies beside an inaccessible page, and mistakes with it are reported with stacks; auto: "
      "50000"},
     parse_guard_sample},
    {{"HAKMEM_PROFILE", "0|report|FILE", "0",
      "heap profile by samples, written at exit: the largest live stacks on stderr, or all to a file (%p: the "
      "process)"},
     parse_heap_profile},
    {{"HAKMEM_PROFILE_INTERVAL", "1..1T", "512K", "bytes from one sample to the next in the mean"},
     parse_profile_interval},
    {{"HAKMEM_ARENA_BYTES", "0|2M..64T", "0", "address space reserved at a time; 0: by the machine's memory"},
     parse_arena},
    {{"HAKMEM_DEBUG", "0|1", "0", "event log on stderr; debug builds only"}, parse_debug},
};

#define N_ROWS (sizeof rows / sizeof rows[0])

const struct config_help *config_help_row(size_t i)
{
    return i < N_ROWS ? &rows[i].help : NULL;
}

void config_read(void)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *text = secure_getenv(rows[i].help.name);
        if (text != NULL && !rows[i].parse(text))
            report_bad_value(rows[i].help.name, text, rows[i].help.values, rows[i].help.standard);
    }
}

/* The variable that an entry of the environment sets, if it is one of ours; else NULL. */
static const char *own_variable(const char *entry)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        size_t len = strlen(rows[i].help.name);
        if (strncmp(entry, rows[i].help.name, len) == 0 && entry[len] == '=')
            return rows[i].help.name;
    }
    return NULL;
}

/* Not by unsetenv: a program may define that (bash does), and is not ready for it yet. */
void config_drop_refused(void)
{
    char **to = environ;
    if (to == NULL)
        return;
    for (char **from = to; *from != NULL; from++) {
        const char *name = **from == 'H' ? own_variable(*from) : NULL;
        if (name != NULL && secure_getenv(name) == NULL)
            continue;
        if (to != from)
            *to = *from;
        to++;
    }
    if (*to != NULL)
        *to = NULL;
}
