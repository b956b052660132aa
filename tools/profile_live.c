/* profile_live.c - see profile_live.h.
 * Owns       the session that it has begun in the process.     Called by  profile.c
 * Calls      target.c, address_map.c, heap_profile.h, freeze.h, turn.h     Threads  one.
 * I1  A session that was begun here is ended here, whatever ends the waiting, unless the process ends first; and a request that was
 *     not heard is withdrawn.
 * I2  What is read belongs to one session: its number is the same before and after.
 * I3  One command at a time asks a process (turn_take): a request and its answer bear no name.
 * I4  Doors are closed only while all threads of the process stand still: what is written there is then seen whole, and no
 *     thread's memory goes.
 * How a process is asked: see front/profile.h. A thread of it hears on its next call that its magazines cannot serve. */
#define _GNU_SOURCE
#include "profile_live.h"

#include "clock.h"
#include "freeze.h"
#include "profile_read.h"
#include "target.h"
#include "tool.h"
#include "turn.h"

#include "front/profile.h"
#include "front/thread.h"
#include "service/config.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 1000000
#define EARLY_SECONDS 0.2 /* before it is stopped */
#define HEAR_SECONDS 10.0 /* that a process gets at least to hear that a session shall begin */
#define END_SECONDS 2.0   /* or end; if it hears later it ends later */
#define POLL_MS 5
#define REMIND_SECONDS                                                                                                 \
    0.5 /* after which the epoch is counted up once more: another one may have written it at the same time */
#define LOOK_SECONDS 1.0      /* from one look at the records to the next, for the case that the process ends */
#define LOOK_MAX_RECORDS 4096 /* with more a look takes longer, and there are fewer */
#define READ_TRIES 10
#define GONE_SECONDS 0.5 /* in which a process that has no memory any more comes to its end */

/* ---- The records as they were at some time ------------------------------------------------------------------------ */

struct look {
    struct profile_state state;
    struct profile_record *records; /* from 1 on */
    struct modules *modules;
    char *maps;
    uint32_t ms; /* when, as the library counts */
    int64_t time_ns;
};

struct live {
    struct target target;
    uint64_t state_address, epoch_address;
    uint32_t session; /* that was begun here */
    double hear_seconds;
    char *why;
    size_t why_bytes;
};

__attribute__((format(printf, 2, 3))) static bool refuse(struct live *live, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(live->why, live->why_bytes, format, arguments);
    va_end(arguments);
    return false;
}

static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
    interrupted = signal_number;
}

/* Sleeps, or until a signal. */
static void sleep_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

/* False: the process has ended, or runs another program. */
static bool read_state(struct live *live, struct profile_state *state)
{
    return target_read(&live->target, live->state_address, state, sizeof *state) && state->version == PROFILE_VERSION &&
           state->record_bytes == sizeof(struct profile_record) && state->modules_bytes == sizeof(struct modules) &&
           target_address(state->epoch) == live->epoch_address;
}

static char *read_maps(pid_t pid)
{
    char path[64], *text = NULL;
    size_t size_bytes = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    if (maps == NULL)
        return NULL;
    if (getdelim(&text, &size_bytes, 0, maps) < 0) { /* there is no 0 in it: all of it */
        free(text);
        text = NULL;
    }
    fclose(maps);
    return text;
}

static void free_look(struct look *look)
{
    if (look == NULL)
        return;
    free(look->records);
    free(look->modules);
    free(look->maps);
    free(look);
}

/* I2. NULL: nothing can be read. */
static struct look *look_once(struct live *live)
{
    struct look *look = heap_alloc(sizeof *look);
    struct timespec now;
    *look = (struct look){.records = NULL};
    if (!read_state(live, &look->state) || look->state.session == 0 || look->state.n_records > PROFILE_MAX_RECORDS)
        goto failed;
    size_t n = (size_t)look->state.n_records + 1;
    look->records = heap_realloc(NULL, n, sizeof *look->records);
    look->modules = heap_alloc(sizeof *look->modules);
    struct profile_state after;
    if (!target_read(&live->target, target_address(look->state.records), look->records, n * sizeof *look->records) ||
        !target_read(&live->target, target_address(look->state.modules), look->modules, sizeof *look->modules) ||
        !read_state(live, &after) || after.session != look->state.session)
        goto failed;
    look->maps = read_maps(target_reader(&live->target));
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    look->ms = (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
    clock_gettime(CLOCK_REALTIME, &now);
    look->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (look->maps != NULL)
        return look;
failed:
    free_look(look);
    return NULL;
}

static struct look *look_at(struct live *live)
{
    struct look *look = NULL;
    for (unsigned i = 0; i < READ_TRIES && look == NULL; i++)
        look = look_once(live);
    return look;
}

/* Of a process that cannot be read: whether it has other memory now than it was opened with. One that is about to end has none for a
 * moment. */
static bool runs_another_program(struct live *live)
{
    const double begin = clock_now_seconds();
    pid_t reader;
    while ((reader = target_reader(&live->target)) != 0 && clock_now_seconds() - begin < GONE_SECONDS) {
        char *maps = read_maps(reader);
        free(maps);
        if (maps != NULL)
            return true;
        sleep_ms(POLL_MS);
    }
    return false;
}

/* ---- Requests ---------------------------------------------------------------------------------------------------- */

static bool write_word(struct live *live, size_t offset, uint64_t value, bool is_64_bits)
{
    const uint64_t address = live->state_address + offset;
    return is_64_bits ? target_write_u64(&live->target, address, value)
                      : target_write_u32(&live->target, address, (uint32_t)value);
}

/* Threads that are on a slow path see another number than theirs, and look at the request. */
static bool count_epoch_up(struct live *live)
{
    uint32_t epoch;
    return target_read(&live->target, live->epoch_address, &epoch, sizeof epoch) &&
           target_write_u32(&live->target, live->epoch_address, epoch + 1);
}

static bool ask(struct live *live, uint64_t request)
{
    return write_word(live, offsetof(struct profile_state, answer), EINPROGRESS, false) &&
           write_word(live, offsetof(struct profile_state, request), request, true) && count_epoch_up(live);
}

/* Waits for the answer to a request. Returns it: 0 or an errno; ETIMEDOUT: nobody has heard it; EINTR; ESRCH. */
static int await_answer(struct live *live, double seconds, bool may_interrupt)
{
    struct profile_state state;
    double begin = clock_now_seconds(), reminded = begin;
    for (;;) {
        if (!read_state(live, &state))
            return ESRCH;
        if (state.request == 0 && state.answer != EINPROGRESS)
            return (int)state.answer;
        double now = clock_now_seconds();
        if (may_interrupt && interrupted)
            return EINTR;
        if (now - begin >= seconds)
            return ETIMEDOUT;
        if (state.request != 0 && now - reminded >= REMIND_SECONDS) {
            count_epoch_up(live);
            reminded = now;
        }
        sleep_ms(POLL_MS);
    }
}

/* I1. A thread may have heard it in this moment. Returns whether one has. */
static bool withdraw(struct live *live)
{
    write_word(live, offsetof(struct profile_state, request), 0, true);
    int answer = await_answer(live, 0.2, false);
    if (answer == ETIMEDOUT) { /* heard or not, it has not begun: now it must not (obey in front/profile.c) */
        write_word(live, offsetof(struct profile_state, answer), ECANCELED, false);
        sleep_ms(POLL_MS);
        answer = await_answer(live, 0.2, false);
    }
    return answer == 0;
}

static void end_session(struct live *live)
{
    struct profile_state state;
    const int turn = turn_take(TURN_TO_ASK, live->target.pid, END_SECONDS, NULL); /* taken or not, it ends */
    if (read_state(live, &state) && state.session == live->session &&
        state.on != 0 && /* else it, or the process, has ended */
        ask(live, PROFILE_REQUEST_STOP) && await_answer(live, END_SECONDS, false) == ETIMEDOUT)
        tool_complain("process %d has made no call yet that ends the sampling; the next such call does",
                      (int)live->target.pid);
    turn_end(turn);
}

/* What thread_call_all does inside: the thread's next malloc comes by a slow path, and so does each free until then. I4. A record
 * whose thread has gone without saying so has no door any more: what was there does not lead to its cache. */
static bool close_door(struct live *live, uint64_t record, uint64_t closed_cache, uint64_t *next)
{
    struct thread thread;
    uint64_t own_cache = record + offsetof(struct thread, cache), cache;
    if (!target_read(&live->target, record, &thread, sizeof thread))
        return false;
    *next = target_address(thread.next);
    if (thread.in_use == 0 || !target_read(&live->target, target_address(thread.tls_slot), &cache, sizeof cache) ||
        (cache != own_cache && cache != closed_cache))
        return true;
    return target_write_u64(&live->target, record + offsetof(struct thread, door), closed_cache) &&
           target_write_u64(&live->target, target_address(thread.tls_slot), closed_cache);
}

static bool close_doors(struct live *live, uint64_t closed_cache)
{
    uint64_t record;
    unsigned n = 0;
    if (!target_read(&live->target, target_address(live->target.anchor.threads), &record, sizeof record))
        return false;
    while (record != 0 && n++ < MAX_THREADS)
        if (!close_door(live, record, closed_cache, &record))
            return false;
    return true;
}

/* Stops the process for that. False, and why. */
static bool call_threads(struct live *live)
{
    struct profile_state state;
    bool called = false;
    if (freeze_begin_unless(&interrupted, live->target.pid, live->why, live->why_bytes) != 0)
        return false;
    if (freeze_stop(live->why, live->why_bytes) == 0) {
        called = read_state(live, &state) && close_doors(live, target_address(state.closed_cache));
        if (!called)
            refuse(live, "process %d: its threads cannot be reached: %s", (int)live->target.pid, strerror(errno));
    }
    freeze_end();
    return called;
}

/* ---- Beginning ---------------------------------------------------------------------------------------------------- */

/* What its variables say about it, so that it need not be asked. */
static bool may_begin(struct live *live)
{
    struct config config;
    const int pid = (int)live->target.pid;
    if (!target_read(&live->target, target_address(live->target.anchor.config), &config, sizeof config))
        return refuse(live, "process %d: its memory cannot be read: %s", pid, strerror(errno));
    if (config.secure != 0 || config.guard_sample != 0)
        return refuse(live, "process %d runs with %s, which goes with no profile (ENOTSUP)", pid,
                      config.secure != 0 ? "HAKMEM_SECURE" : "HAKMEM_GUARD_SAMPLE");
    if (!config.background)
        return refuse(live,
                      "process %d runs with HAKMEM_BACKGROUND=off, and so may not start the thread that begins a "
                      "profile (EPERM); HAKMEM_PROFILE does without one",
                      pid);
    return true;
}

static bool refuse_answer(struct live *live, int answer)
{
    const int pid = (int)live->target.pid;
    switch (answer) {
    case EBUSY:
        return refuse(live, "process %d is sampled already (EBUSY); --seconds 0 reads what it has so far", pid);
    case ENOTSUP:
        return refuse(live, "process %d cannot be sampled: HAKMEM_SECURE or HAKMEM_GUARD_SAMPLE is on (ENOTSUP)", pid);
    case EPERM:
        return refuse(live, "process %d could not start the thread that begins a profile (EPERM)", pid);
    case ENOMEM:
        return refuse(live, "process %d has no memory for a profile (ENOMEM)", pid);
    case ESRCH:
        return refuse(live, "process %d %s", pid,
                      runs_another_program(live) ? "runs another program now" : "has ended");
    case EINTR:
        return refuse(live, "interrupted before process %d had begun to sample", pid);
    case ETIMEDOUT:
        if (freeze_stands(live->target.pid))
            return refuse(live, "process %d made no call within %.0f s that could begin a profile: it is stopped", pid,
                          live->hear_seconds);
        return refuse(live,
                      "process %d made no call within %.0f s that could begin a profile: it is idle or frozen, or its "
                      "threads' caches serve all that it allocates (then --stop reaches them)",
                      pid, live->hear_seconds);
    default:
        return refuse(live, "process %d refuses: %s", pid, strerror(answer));
    }
}

/* A session that somebody has asked to end, and that the process has not heard of yet, ends first. */
static bool await_earlier_end(struct live *live, struct profile_state *state)
{
    if (state->on == 0 || state->request != PROFILE_REQUEST_STOP)
        return true;
    count_epoch_up(live);
    int answer = await_answer(live, live->hear_seconds, true);
    if (answer != 0)
        return refuse_answer(live, answer);
    return read_state(live, state) || refuse_answer(live, ESRCH);
}

/* Returns the answer; -1, and why: the threads cannot be called. */
static int await_begin(struct live *live, bool stop)
{
    int answer = await_answer(live, stop ? EARLY_SECONDS : live->hear_seconds, true);
    if (answer != ETIMEDOUT || !stop)
        return answer;
    return call_threads(live) ? await_answer(live, live->hear_seconds, true) : -1;
}

static bool ask_for_session(struct live *live, const struct live_request *request, uint64_t interval_bytes)
{
    struct profile_state state;
    if (!read_state(live, &state))
        return refuse_answer(live, ESRCH);
    if (!await_earlier_end(live, &state))
        return false;
    if (state.on != 0)
        return refuse_answer(live, EBUSY);
    if (!ask(live, interval_bytes))
        return refuse(live, "process %d: its memory cannot be written: %s", (int)live->target.pid, strerror(errno));
    int answer = await_begin(live, request->stop);
    /* One that was heard in this moment has begun, though we were about to give up: an interrupt then ends it as any other. */
    if ((answer == ETIMEDOUT || answer == EINTR || answer == -1) && withdraw(live) && answer != -1)
        answer = 0;
    if (!read_state(live, &state))
        return refuse_answer(live, ESRCH);
    const bool begun = answer == 0 && state.interval_bytes == interval_bytes;
    live->session = begun || answer == EINTR || answer == -1 ? state.session : 0;
    if (begun)
        return true;
    return answer == -1 ? false : refuse_answer(live, answer == 0 ? EBUSY : answer);
}

static bool begin_session(struct live *live, const struct live_request *request, uint64_t interval_bytes)
{
    if (!may_begin(live))
        return false;
    const int turn = turn_take(TURN_TO_ASK, live->target.pid, live->hear_seconds, &interrupted);
    if (turn == TURN_TAKEN)
        return refuse(live, "another command asks process %d for a profile (EBUSY)", (int)live->target.pid);
    const bool begun = ask_for_session(live, request, interval_bytes);
    turn_end(turn);
    if (!begun && live->session != 0)
        end_session(live); /* if it has begun after all */
    return begun;
}

/* Waits for the time to pass. Returns the last look at the records before the process ended, NULL if it has not. */
static struct look *wait_and_look(struct live *live, double seconds)
{
    struct look *look = NULL;
    double begin = clock_now_seconds(), looked = begin, pause = LOOK_SECONDS;
    for (double now = begin; !interrupted && now - begin < seconds; now = clock_now_seconds()) {
        double rest = seconds - (now - begin);
        sleep_ms(rest > 0.1 ? 100 : (unsigned)(rest * 1000) + 1);
        if (!target_is_alive(&live->target))
            return look;
        if (now - looked < pause)
            continue;
        struct look *next = look_at(live);
        if (next == NULL)
            return look; /* it ends, or runs another program now */
        free_look(look);
        look = next;
        pause = look->state.n_records > LOOK_MAX_RECORDS ? 10 * LOOK_SECONDS : LOOK_SECONDS;
        looked = now;
    }
    free_look(look);
    return NULL;
}

/* ---- From a look to a profile ------------------------------------------------------------------------------------- */

static void enter_maps(struct address_map *map, char *maps)
{
    for (char *line = strtok(maps, "\n"); line != NULL; line = strtok(NULL, "\n"))
        address_map_add_line(map, line);
}

/* What was copied while it was written may be anything, but stays within its bounds. */
static void enter_module(struct address_map *map, struct module *module)
{
    char build_id[2 * MODULE_BUILD_ID_BYTES + 1] = "";
    if (module->valid == 0)
        return;
    for (uint32_t i = 0; i < module->build_id_bytes && i < MODULE_BUILD_ID_BYTES; i++)
        sprintf(build_id + (size_t)2 * i, "%02x", module->build_id[i]); /* NOLINT: there is room */
    module->path[MODULE_PATH_BYTES - 1] = 0;
    const struct heap_mapping mapping = {.start = module->start,
                                         .limit = module->end,
                                         .bias = module->bias,
                                         .has_bias = true,
                                         .file = module->path,
                                         .build_id = build_id};
    address_map_add_module(map, &mapping, module->since);
}

/* As the library's dump has it: whole blocks, and no more live than allocated. */
static void enter_record(struct heap_profile *profile, struct address_map *map, const struct profile_record *record,
                         uint32_t number)
{
    uint32_t location[STACK_MAX_FRAMES], n = record->stack.n_frames;
    if (record->total_samples == 0 || n > STACK_MAX_FRAMES)
        return;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t call = (uint64_t)(uintptr_t)record->stack.frame[i] - 1;
        location[i] = heap_location(profile, address_map_find(map, profile, call, number), call);
    }
    uint64_t live_count = record->live_count > record->total_count ? 0 : record->live_count;
    uint64_t live_bytes = record->live_bytes > record->total_bytes ? 0 : record->live_bytes;
    heap_add_sample(
        profile, location, n,
        (const int64_t[]){
            [ALLOC_OBJECTS] = (int64_t)((record->total_count + PROFILE_COUNT_SCALE / 2) / PROFILE_COUNT_SCALE),
            [ALLOC_SPACE] = (int64_t)record->total_bytes,
            [INUSE_OBJECTS] = (int64_t)((live_count + PROFILE_COUNT_SCALE / 2) / PROFILE_COUNT_SCALE),
            [INUSE_SPACE] = (int64_t)live_bytes,
        });
}

static struct heap_profile *profile_of(const struct live *live, const struct look *look)
{
    struct heap_profile *profile = heap_profile_new();
    struct address_map *map = address_map_new();
    enter_maps(map, look->maps);
    uint32_t n_modules = look->modules->n < MODULES_MAX ? look->modules->n : MODULES_MAX;
    for (uint32_t i = 0; i < n_modules; i++)
        enter_module(map, &look->modules->module[i]);
    address_map_begin(map, profile);
    for (uint32_t i = 1; i <= look->state.n_records; i++)
        enter_record(profile, map, &look->records[i], i);
    address_map_free(map);
    profile->program = heap_text(profile, live->target.name);
    snprintf(profile->version, sizeof profile->version, "%s", live->target.anchor.version);
    profile->pid = live->target.pid;
    profile->interval_bytes = (int64_t)look->state.interval_bytes;
    if (look->state.on != 0) { /* else nobody tells when it ended */
        uint32_t ms = look->ms - (uint32_t)look->state.from_ms;
        profile->duration_ns = (int64_t)(ms == 0 ? 1 : ms) * 1000000; /* 0 is "not known" */
    }
    profile->time_ns = look->time_ns;
    profile->picked = (int64_t)look->state.n_samples;
    profile->dropped = (int64_t)look->state.n_dropped;
    return profile;
}

/* ---- All of it --------------------------------------------------------------------------------------------------- */

/* Whatever may end the command and can be caught: the session would go on without it. */
static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM};
enum { N_SIGNALS = sizeof signals / sizeof signals[0] };

static void catch_signals(struct sigaction old[N_SIGNALS], bool caught)
{
    struct sigaction own = {.sa_handler = on_signal}; /* without SA_RESTART: sleeps end */
    sigemptyset(&own.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i], caught ? &own : &old[i], caught ? &old[i] : NULL);
        if (caught && old[i].sa_handler == SIG_IGN)
            sigaction(signals[i], &old[i], NULL); /* who started us wants it ignored: nohup, for one */
    }
}

/* The records when the time has passed, or what was left of them. NULL, and why. */
static struct look *sample(struct live *live, const struct live_request *request)
{
    uint64_t interval_bytes = request->interval_bytes == 0 ? PROFILE_DEFAULT_INTERVAL_BYTES : request->interval_bytes;
    live->hear_seconds = request->seconds > HEAR_SECONDS ? request->seconds : HEAR_SECONDS;
    if (!begin_session(live, request, interval_bytes))
        return NULL;
    struct look *look = wait_and_look(live, request->seconds);
    struct look *now = look_at(live);
    if (now != NULL) {
        free_look(look);
        end_session(live);
        return now;
    }
    const char *what = runs_another_program(live) ? "runs another program now" : "has ended";
    if (look == NULL)
        refuse(live, "process %d %s, too early to have been read", (int)live->target.pid, what);
    else
        tool_complain("process %d %s: this is its profile as it was up to a second before", (int)live->target.pid,
                      what);
    return look;
}

static struct look *read_what_is_there(struct live *live)
{
    struct profile_state state;
    if (!read_state(live, &state))
        refuse_answer(live, ESRCH);
    else if (state.session == 0)
        refuse(live,
               "process %d has no profile: it was not started with HAKMEM_PROFILE, and nobody has sampled it since; "
               "--seconds S does",
               (int)live->target.pid);
    else {
        struct look *look = look_at(live);
        if (look == NULL)
            refuse(live, "process %d: its profile cannot be read; it has ended, or begins new ones all the time",
                   (int)live->target.pid);
        else if (look->state.on == 0)
            tool_complain("process %d is not sampled any more: this is what is left of what was allocated while it was",
                          (int)live->target.pid);
        return look;
    }
    return NULL;
}

struct heap_profile *profile_take(const struct live_request *request, pid_t *pid, char *why, size_t why_bytes)
{
    struct live live = {.why = why, .why_bytes = why_bytes};
    struct sigaction old[N_SIGNALS];
    struct profile_state state;
    struct heap_profile *profile = NULL;
    *pid = request->name != NULL ? target_find_by_name(request->name, why, why_bytes) : request->pid;
    if (*pid <= 0 || target_open(*pid, &live.target, why, why_bytes) != 0)
        return NULL;
    live.state_address = target_address(live.target.anchor.profile);
    if (!target_read(&live.target, live.state_address, &state, sizeof state)) {
        refuse_answer(&live, ESRCH);
        target_close(&live.target);
        return NULL;
    }
    live.epoch_address = target_address(state.epoch);
    catch_signals(old, true);
    struct look *look = request->seconds > 0 ? sample(&live, request) : read_what_is_there(&live);
    catch_signals(old, false);
    if (look != NULL)
        profile = profile_of(&live, look);
    *pid = target_reader(&live.target);
    free_look(look);
    target_close(&live.target);
    return profile;
}
