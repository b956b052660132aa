/* profile.c - the heap profile as programs see it: hak_profile_*, HAKMEM_PROFILE, the dump and the report.
 * Owns     nothing but the number of the process that began.     Called by  programs, introspect.c (start and end of the process)
 * Calls    front/profile.h
 * Threads  any. Nothing here allocates: a dump shows the heap as it is, and can be had when memory is exhausted.
 *
 * The dump is gperftools' text format, which `go tool pprof`, google-pprof and `hakmem profile` read, with sums that are
 * estimates already: docs/heap-profile.md.
 */
#include "api/profile.h"

#include "front/profile.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "os/system_call.h"
#include "os/os.h"
#include "service/config.h"
#include "service/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REPORT_STACKS 20

static pid_t first_process;
static bool ends_late, has_ended;

/* ---- The dump ---------------------------------------------------------------------------------------------------- */

struct output {
    int file, error; /* errno of the first write that failed */
    size_t len;
    char buffer[4096];
};

static void flush_output(struct output *output)
{
    if (output->error == 0)
        output->error = os_write(output->file, output->buffer, output->len);
    output->len = 0;
}

#define PRINT_MAX_BYTES 512 /* at a time */

__attribute__((format(printf, 2, 3))) static void print(struct output *output, const char *format, ...)
{
    va_list arguments;
    if (sizeof output->buffer - output->len < PRINT_MAX_BYTES)
        flush_output(output);
    va_start(arguments, format);
    int n = vsnprintf(output->buffer + output->len, sizeof output->buffer - output->len, format, arguments);
    va_end(arguments);
    output->len += n > 0 ? min_size((size_t)n, sizeof output->buffer - output->len - 1) : 0;
}

struct sums {
    unsigned long long live_count, live_bytes, total_count, total_bytes;
};

/* A count in whole blocks. */
static unsigned long long blocks_of(uint64_t count)
{
    return (count + PROFILE_COUNT_SCALE / 2) / PROFILE_COUNT_SCALE;
}

/* Read one after the other while the program goes on: what is live was allocated, and no sum is below zero. */
static struct sums sums_of(const struct profile_record *record)
{
    uint64_t live_count = atomic_load_explicit(&record->live_count, memory_order_relaxed); /* relaxed, all: numbers */
    uint64_t live_bytes = atomic_load_explicit(&record->live_bytes, memory_order_relaxed);
    uint64_t total_count = atomic_load_explicit(&record->total_count, memory_order_relaxed);
    uint64_t total_bytes = atomic_load_explicit(&record->total_bytes, memory_order_relaxed);
    return (struct sums){blocks_of(live_count > total_count ? 0 : live_count),
                         live_bytes > total_bytes ? 0 : live_bytes, blocks_of(total_count), total_bytes};
}

/* Record i, counted from 1; NULL: it is not valid. */
static const struct profile_record *record_at(uint32_t i)
{
    const struct profile_record *record = &profile_state.records[i];
    return atomic_load_explicit(&record->total_samples, memory_order_acquire) == 0 ? NULL : record;
}

static void print_line(struct output *output, const struct sums *sums, const struct stack *stack)
{
    print(output, "%llu: %llu [%llu: %llu] @", sums->live_count, sums->live_bytes, sums->total_count,
          sums->total_bytes);
    for (uint32_t i = 0; i < stack->n_frames; i++)
        print(output, " %p", stack->frame[i]);
    print(output, "\n");
}

static struct sums sum_of_all(uint32_t n)
{
    struct sums all = {0};
    for (uint32_t i = 1; i <= n; i++) {
        if (record_at(i) == NULL)
            continue;
        struct sums one = sums_of(record_at(i));
        all.live_count += one.live_count;
        all.live_bytes += one.live_bytes;
        all.total_count += one.total_count;
        all.total_bytes += one.total_bytes;
    }
    return all;
}

/* ---- The files that frames lie in -------------------------------------------------------------------------------- */

/* Entry i of the table, counted from 0; NULL: it is not valid. */
static const struct module *module_at(uint32_t i)
{
    const struct module *module = &profile_state.modules->module[i];
    return atomic_load_explicit(&module->valid, memory_order_acquire) == 0 ? NULL : module;
}

static uint32_t count_modules(void)
{
    return (uint32_t)min_size(atomic_load(&profile_state.modules->n), MODULES_MAX);
}

/* A newline in a path is written as the system's map has it: a line is a line. */
static void print_path(struct output *output, const char *path)
{
    for (size_t n; *path != 0; path += n) {
        n = strcspn(path, "\n");
        print(output, "%.*s", (int)n, path);
        if (path[n] != 0) {
            print(output, "\\012");
            n++;
        }
    }
    print(output, "\n");
}

static void print_module(struct output *output, const struct module *module)
{
    char build_id[2 * MODULE_BUILD_ID_BYTES + 1] = "-";
    for (uint32_t i = 0; i < module->build_id_bytes; i++)
        snprintf(build_id + (size_t)2 * i, 3, "%02x", module->build_id[i]);
    print(output, "# module %llx-%llx %llx %s ", (unsigned long long)module->start, (unsigned long long)module->end,
          (unsigned long long)module->bias, build_id);
    print_path(output, module->path);
}

/* Those that were entered when record `number` was made, or since the record before it. */
static void print_modules_since(struct output *output, uint32_t *since, uint32_t number)
{
    for (uint32_t i = 0; i < count_modules(); i++)
        if (module_at(i) != NULL && module_at(i)->since > *since && module_at(i)->since <= number)
            print_module(output, module_at(i));
    *since = number;
}

/* Those that are unloaded, as lines of the map, for readers that know of no others. */
static void print_unloaded(struct output *output)
{
    struct os_module now;
    for (uint32_t i = 0; i < count_modules(); i++) {
        const struct module *module = module_at(i);
        if (module == NULL || module->path[0] != '/' || os_module_of((const void *)(uintptr_t)module->start, &now))
            continue;
        print(output, "%llx-%llx r-xp 00000000 00:00 0 ", (unsigned long long)module->start,
              (unsigned long long)module->end);
        print_path(output, module->path);
    }
}

static void copy_maps(struct output *output)
{
    char piece[512];
    ssize_t n;
    int maps = file_open("/proc/thread-self/maps", O_RDONLY, 0);
    while (maps >= 0 && (n = file_read(maps, piece, sizeof piece)) > 0) {
        if (sizeof output->buffer - output->len < (size_t)n)
            flush_output(output);
        memcpy(output->buffer + output->len, piece, (size_t)n);
        output->len += (size_t)n;
    }
    if (maps >= 0)
        file_close(maps);
}

static void write_records(struct output *output, bool held)
{
    uint32_t n = held && profile_has_records() ? atomic_load(&profile_state.n_records) : 0;
    struct sums all = sum_of_all(n);
    print(output, "heap profile: %llu: %llu [%llu: %llu] @ heapprofile\n", all.live_count, all.live_bytes,
          all.total_count, all.total_bytes);
    for (uint32_t i = 1, since = 0; i <= n; i++) {
        if (record_at(i) == NULL)
            continue;
        struct sums sums = sums_of(record_at(i));
        print_modules_since(output, &since, i);
        print_line(output, &sums, &record_at(i)->stack);
    }
    uint32_t ms = profile_lasted_ms();
    print(output, "# hakmem %s pid=%d interval_bytes=%llu seconds=%u.%03u samples=%llu dropped=%llu time=%lld\n",
          hak_version(), (int)getpid(), (unsigned long long)atomic_load(&profile_state.interval_bytes), ms / 1000,
          ms % 1000, (unsigned long long)atomic_load(&profile_state.n_samples),
          (unsigned long long)atomic_load(&profile_state.n_dropped), (long long)os_seconds_since_1970());
    print(output, "\nMAPPED_LIBRARIES:\n");
    copy_maps(output);
    if (n != 0)
        print_unloaded(output);
}

static int dump(const char *path)
{
    struct output output = {.file = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600)};
    if (output.file < 0)
        return errno;
    bool held = profile_hold(); /* another thread may begin a session, which drops the records */
    write_records(&output, held);
    if (held)
        profile_let_go();
    flush_output(&output);
    if (file_close(output.file) != 0 && output.error == 0)
        output.error = errno;
    return output.error;
}

/* ---- The report -------------------------------------------------------------------------------------------------- */

/* The record that has most live bytes of those that come after `bytes` and number `after`; 0: there is none. */
static uint32_t next_largest(uint64_t bytes, uint32_t after)
{
    uint32_t found = 0, n = atomic_load(&profile_state.n_records);
    uint64_t most = 0;
    for (uint32_t i = 1; i <= n; i++) {
        uint64_t own = record_at(i) == NULL ? 0 : sums_of(record_at(i)).live_bytes;
        if (own > most && (own < bytes || (own == bytes && i > after))) {
            most = own;
            found = i;
        }
    }
    return found;
}

static COLD void report(void)
{
    struct sums all = sum_of_all(atomic_load(&profile_state.n_records)), rest = all;
    report_line("hakmem: live at exit, by samples: %z bytes in %z blocks", (size_t)all.live_bytes,
                (size_t)all.live_count);
    uint64_t bytes = UINT64_MAX;
    for (uint32_t i = 0, number = 0; i < REPORT_STACKS && (number = next_largest(bytes, number)) != 0; i++) {
        struct sums sums = sums_of(record_at(number));
        bytes = sums.live_bytes;
        rest.live_bytes -= min_size(sums.live_bytes, rest.live_bytes);
        rest.live_count -= min_size(sums.live_count, rest.live_count);
        report_line("hakmem:   %z bytes in %z blocks, allocated by", (size_t)sums.live_bytes, (size_t)sums.live_count);
        stack_report_frames(&record_at(number)->stack);
    }
    if (rest.live_bytes != 0)
        report_line("hakmem:   and %z bytes in %z blocks by other stacks", (size_t)rest.live_bytes,
                    (size_t)rest.live_count);
    if (atomic_load(&profile_state.n_dropped) != 0)
        report_line("hakmem:   %z of %z samples found no room, and are missing",
                    (size_t)atomic_load(&profile_state.n_dropped), (size_t)atomic_load(&profile_state.n_samples));
}

/* ---- The interface ----------------------------------------------------------------------------------------------- */

static int answer(int status)
{
    if (status == 0)
        return 0;
    errno = status;
    return -1;
}

int hak_profile_start(size_t interval_bytes)
{
    thread_start_process();
    stack_prepare();
    return answer(profile_start(interval_bytes));
}

void hak_profile_stop(void)
{
    profile_stop();
}

int hak_profile_dump(const char *path)
{
    int saved_errno = errno, status = path == NULL ? EINVAL : dump(path);
    errno = saved_errno;
    return answer(status);
}

/* ---- The process ------------------------------------------------------------------------------------------------- */

extern int __cxa_atexit(void (*function)(void *), void *argument, void *library);

static void end_late(void *unused);

static COLD void start_as_configured(void)
{
    /* By no library: so it comes behind all libraries' destructors, for the loader's own entry was made after this one. */
    ends_late = __cxa_atexit(end_late, NULL, NULL) == 0;
    int status = atomic_load(&profile_state.on) != 0 ? 0 : profile_start(config.profile_interval_bytes);
    if (status == ENOTSUP)
        report_line("hakmem: HAKMEM_PROFILE has no effect with HAKMEM_SECURE or HAKMEM_GUARD_SAMPLE");
    else if (status != 0)
        report_line("hakmem: HAKMEM_PROFILE has no effect: no memory for it");
}

void profile_start_process(void)
{
    first_process = os_process_id();
    if (config.profile_path[0] != 0)
        start_as_configured();
}

/* The file's name: %p stands for the process. Where it does not, children of fork get its number behind the name. */
static void name_file(char *name, size_t size_bytes)
{
    const char *p = strstr(config.profile_path, "%p");
    if (p != NULL)
        snprintf(name, size_bytes, "%.*s%d%s", (int)(p - config.profile_path), config.profile_path, (int)getpid(),
                 p + 2);
    else if (getpid() != first_process)
        snprintf(name, size_bytes, "%s.%d", config.profile_path, (int)getpid());
    else
        snprintf(name, size_bytes, "%s", config.profile_path);
}

static COLD void end_as_configured(void)
{
    char name[CONFIG_PATH_MAX_BYTES + 16];
    profile_stop();
    if (config.profile_report) {
        if (profile_hold()) {
            report();
            profile_let_go();
        }
        return;
    }
    name_file(name, sizeof name);
    if (dump(name) != 0)
        report_line("hakmem: HAKMEM_PROFILE: the file cannot be written: %s", name);
}

void profile_end_process(void)
{
    if (config.profile_path[0] == 0 || !profile_has_records())
        return;
    has_ended = true;
    if (!ends_late)
        end_as_configured();
}

/* Part of a program, the library registers this behind the loader's entry: then the destructors are yet to come, and ours is the last. */
static void end_late(void *unused)
{
    (void)unused;
    ends_late = false;
    if (has_ended)
        profile_end_process();
}
