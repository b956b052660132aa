/* check.c - `hakmem check`: do the heap's records obey its invariants?
 * Owns       how often is looked, and what is said.     Called by  hakmem.c
 * Calls      process.h, target.h, image.h (the copy), judge.h (the rules), progress.h (what is in the making), freeze.h (--stop)
 * Threads    one.
 * I1  What is reported was found at every look of several, each of which read again what it is about, and between any two of which
 *     every thread was seen outside the allocator, or seen to have gone on in it.
 * Why several looks: the process runs on, and what it is just changing looks wrong meanwhile. A record that a careless write has
 * damaged stays as it is. Why also when it is stopped: a thread may have been stopped in the midst of a change. */
#define _GNU_SOURCE
#include "clock.h"
#include "freeze.h"
#include "judge.h"
#include "process.h"
#include "progress.h"
#include "tool.h"
#include "units.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LOOKS = 8,            /* at a running process, at each of which it must be found */
    STOPS = 5,            /* of a process, likewise */
    TRIES = 3,            /* times as many looks at most, where some do not count */
    FIRST_PAUSE_US = 500, /* before the second look, and twice as long before each further one */
    MOST_DOUBLINGS = 8
};
#define PATIENCE_NS ((uint64_t)20 * 1000000000)

struct settings {
    bool stop, json, help;
    const char *name; /* --name */
    const char *pid;
};

/* What was found at each of n_looks looks. Those that could not tell do not count. */
struct inquiry {
    struct violations found;
    unsigned n_looks;
};

/* What all looks come to. */
struct verdict {
    struct inquiry records, lists; /* apart: a look at the pool's lists fails more often */
    struct judged judged;
    unsigned n_looks;
    bool overflowed; /* the last one: more is wrong in the copy than what is known of */
    uint64_t bytes_read;
};

static int refuse_reading(const struct target *target, char *why, size_t why_bytes)
{
    snprintf(why, why_bytes, "process %d: its memory cannot be read any longer: %s", (int)target->pid,
             target_is_alive(target) ? strerror(errno) : "it has ended");
    return -1;
}

/* ---- Reading again ------------------------------------------------------------------------------------------------- */

static bool any_needs_everything(const struct violations *found)
{
    for (size_t i = 0; i < found->n; i++)
        if (found->at[i].everything)
            return true;
    return false;
}

/* Whether a violation is about more than single records, or threads or SuperSlabs have come that the copy does not have. */
static bool needs_everything(struct image *image, const struct verdict *verdict)
{
    uint64_t first = 0;
    const uint64_t first_known = image->n_threads == 0 ? 0 : image->threads[0]->address;
    return verdict->overflowed || any_needs_everything(&verdict->records.found) ||
           any_needs_everything(&verdict->lists.found) ||
           !target_read(image->target, target_address(image->target->anchor.threads), &first, sizeof first) ||
           first != first_known || image_has_grown(image);
}

static bool refresh_one(struct image *image, const struct violation *what)
{
    bool read = true;
    if (what->superslab != NO_SUPERSLAB)
        for (uint32_t i = 0; i < what->n_superslabs; i++)
            read &= image_refresh_superslab(image, &image->arenas[what->arena], what->superslab + i);
    if (what->thread != NO_THREAD)
        read &= image_refresh_thread(image, image->threads[what->thread]);
    if (what->other_thread != NO_THREAD)
        read &= image_refresh_thread(image, image->threads[what->other_thread]);
    return read;
}

/* Reads again what the violations are about; everything if need be. */
static int refresh(struct image *image, const struct verdict *verdict, char *why, size_t why_bytes)
{
    struct target *target = image->target;
    const struct violations *found = &verdict->records.found;
    if (needs_everything(image, verdict)) {
        image_free(image);
        return image_take(target, IMAGE_DETAIL, image, why, why_bytes);
    }
    for (size_t i = 0; i < found->n; i++)
        if (!refresh_one(image, &found->at[i]))
            return refuse_reading(target, why, why_bytes);
    if ((image->lists_torn || verdict->lists.found.n != 0) && !image_refresh_lists(image))
        return refuse_reading(target, why, why_bytes);
    return 0;
}

/* ---- Looks --------------------------------------------------------------------------------------------------------- */

/* Brings the copy to what is there now, and notes who is inside the allocator. The first time there is no copy yet. */
static int read_running(struct target *target, struct image *image, const struct verdict *verdict,
                        struct progress *inside, char *why, size_t why_bytes)
{
    const int result = verdict->n_looks == 0 ? image_take(target, IMAGE_DETAIL, image, why, why_bytes)
                                             : refresh(image, verdict, why, why_bytes);
    if (result != 0)
        return -1;
    return progress_note(image, inside) ? 0 : refuse_reading(target, why, why_bytes);
}

/* The same with the process stopped meanwhile. */
static int read_stopped(struct target *target, struct image *image, const struct verdict *verdict,
                        struct progress *inside, char *why, size_t why_bytes)
{
    if (verdict->n_looks != 0)
        image_free(image);
    if (freeze_stop(why, why_bytes) != 0)
        return -1;
    int result = image_take(target, IMAGE_DETAIL, image, why, why_bytes);
    if (result == 0 && !progress_note(image, inside))
        result = refuse_reading(target, why, why_bytes);
    freeze_continue();
    return result;
}

/* Takes those about the pool's lists out of `found`. What was left out may be about either. */
static bool split(struct violations *found, struct violations *lists)
{
    size_t n = 0, n_lists = 0;
    *lists = (struct violations){.n_left_out = found->n_left_out};
    for (size_t i = 0; i < found->n; i++)
        n_lists += found->at[i].lists;
    if (n_lists != 0 && (lists->at = calloc(n_lists, sizeof *lists->at)) == NULL)
        return false;
    for (size_t i = 0; i < found->n; i++) {
        if (found->at[i].lists)
            lists->at[lists->n++] = found->at[i];
        else
            found->at[n++] = found->at[i];
    }
    found->n = n;
    return true;
}

/* Adds a look to an inquiry: what was not found at the looks before counts no longer. What was left out is no finding, and never
 * tells that another one is gone. A look that does not confirm tells what is gone alone. Takes over `again`. */
static void add_look(struct inquiry *inquiry, struct violations *again, bool confirms)
{
    const bool was_whole = inquiry->n_looks != 0 && inquiry->found.n_left_out == 0, is_whole = again->n_left_out == 0;
    if (inquiry->n_looks == 0 || (!was_whole && is_whole)) {
        violations_free(&inquiry->found);
        *inquiry = (struct inquiry){*again, 1};
        return;
    }
    if (was_whole == is_whole) {
        violations_intersect(&inquiry->found, again);
        inquiry->n_looks += confirms;
    }
    violations_free(again);
}

static int judge_look(const struct image *image, bool has_grown, struct verdict *verdict, char *why, size_t why_bytes)
{
    struct violations records, lists = {0};
    if (!judge(image, &records, &verdict->judged) || !split(&records, &lists)) {
        violations_free(&records);
        snprintf(why, why_bytes, "no memory to judge the records");
        return -1;
    }
    verdict->n_looks++;
    verdict->overflowed = records.n_left_out != 0;
    add_look(&verdict->records, &records, !has_grown);
    if (image->lists_torn)
        violations_free(&lists);
    else
        add_look(&verdict->lists, &lists, !has_grown);
    return 0;
}

static bool is_empty(const struct inquiry *inquiry)
{
    return inquiry->n_looks != 0 && inquiry->found.n == 0 && inquiry->found.n_left_out == 0;
}

static bool is_settled(const struct inquiry *inquiry, unsigned n_looks)
{
    return is_empty(inquiry) || inquiry->n_looks >= n_looks;
}

/* Waits for a while, and until whoever was inside the allocator at the last look has left it. */
static int wait_for_progress(struct image *image, struct progress *inside, unsigned n_looks, char *why,
                             size_t why_bytes)
{
    const uint64_t until = (uint64_t)clock_now_ns() + PATIENCE_NS;
    struct timespec pause = {0, FIRST_PAUSE_US * 1000L << (n_looks < MOST_DOUBLINGS ? n_looks : MOST_DOUBLINGS)};
    bool left = false;
    while (!left) {
        nanosleep(&pause, NULL);
        pause.tv_nsec = FIRST_PAUSE_US * 1000L; /* who is inside most of the time is outside for a moment only */
        if (!progress_look(image, inside, &left))
            return refuse_reading(image->target, why, why_bytes);
        if (!left && (uint64_t)clock_now_ns() > until) {
            snprintf(why, why_bytes, "process %d: what looks wrong may be in the making: %s for %u seconds now",
                     (int)image->target->pid,
                     inside->n == 0 ? "the pool lock has been held" : "a thread has been inside the allocator",
                     (unsigned)(PATIENCE_NS / 1000000000u));
            return -1;
        }
    }
    return 0;
}

static bool has_counting(const struct inquiry *inquiry)
{
    for (size_t i = 0; i < inquiry->found.n; i++)
        if (!inquiry->found.at[i].excused)
            return true;
    return false;
}

/* Whether the looks tell anything: a violation that counts, or that there is none. */
static bool is_decided(const struct inquiry *inquiry, unsigned n_looks)
{
    return is_empty(inquiry) ||
           (inquiry->n_looks >= n_looks && (has_counting(inquiry) || inquiry->found.n_left_out == 0));
}

/* What is found in the one counts, whatever becomes of the other. */
static int decide(const struct target *target, bool stop, struct verdict *verdict, char *why, size_t why_bytes)
{
    const unsigned n_looks = stop ? STOPS : LOOKS;
    const bool records = is_decided(&verdict->records, n_looks), lists = is_decided(&verdict->lists, n_looks);
    if (!records)
        violations_free(&verdict->records.found);
    if (!lists)
        violations_free(&verdict->lists.found);
    if (records && lists)
        return 0;
    snprintf(why, why_bytes, "process %d: %s too fast to be judged%s", (int)target->pid,
             records ? "the pool's lists change" : "its heap changes",
             stop ? "" : " while it runs; --stop looks at it while it stands still");
    if (!has_counting(&verdict->records) && !has_counting(&verdict->lists))
        return -1;
    tool_complain("%s", why); /* but what was found is there */
    return 0;
}

static int look_until_settled(struct target *target, bool stop, struct verdict *verdict, char *why, size_t why_bytes)
{
    const unsigned n_looks = stop ? STOPS : LOOKS;
    struct image image = {0};
    struct progress inside = {0};
    int result;
    do {
        if (verdict->n_looks != 0)
            result = wait_for_progress(&image, &inside, verdict->n_looks, why, why_bytes);
        else
            result = 0;
        progress_free(&inside);
        if (result == 0)
            result = (stop ? read_stopped : read_running)(target, &image, verdict, &inside, why, why_bytes);
        if (result == 0)
            result = judge_look(&image, !stop && image_has_grown(&image), verdict, why, why_bytes);
    } while (result == 0 && verdict->n_looks < TRIES * n_looks &&
             !(is_settled(&verdict->records, n_looks) && is_settled(&verdict->lists, n_looks)));
    progress_free(&inside);
    image_free(&image);
    return result == 0 ? decide(target, stop, verdict, why, why_bytes) : -1;
}

/* ---- What is said -------------------------------------------------------------------------------------------------- */

static bool is_clean(const struct verdict *verdict)
{
    return !has_counting(&verdict->records) && !has_counting(&verdict->lists);
}

static uint64_t left_out_of(const struct verdict *verdict)
{
    const uint64_t records = verdict->records.found.n_left_out, lists = verdict->lists.found.n_left_out;
    return records > lists ? records : lists; /* of one look, they are the same ones */
}

static void print_violations(const struct violations *found)
{
    for (size_t i = 0; i < found->n; i++) {
        const struct violation *one = &found->at[i];
        if (one->address != 0)
            printf("%#" PRIx64 ": %s: ", one->address, rule_names[one->rule]);
        else
            printf("heap: %s: ", rule_names[one->rule]);
        if (one->class_bytes != 0)
            printf("class of %" PRIu32 " bytes: ", one->class_bytes);
        printf("%s%s\n", one->text, one->excused ? " (may be what a fork has cut off)" : "");
    }
}

static void print_text(const struct target *target, const struct verdict *verdict)
{
    const struct judged *judged = &verdict->judged;
    print_violations(&verdict->records.found);
    print_violations(&verdict->lists.found);
    if (left_out_of(verdict) != 0)
        printf("and what is too much to be kept: %" PRIu64 " at the last look\n", left_out_of(verdict));
    char name[sizeof target->name];
    printf("process %d (%s): %s; %" PRIu64 " SuperSlabs, %" PRIu64 " slabs with %" PRIu64 " blocks in use, %" PRIu64
           " spans, %" PRIu64 " runs, %" PRIu64 " threads with %" PRIu64 " cached blocks; %u look%s, %" PRIu64
           " KiB read\n",
           (int)target->pid, units_name(name, sizeof name, target->name),
           is_clean(verdict) ? "clean" : "violations found", judged->superslabs, judged->slabs, judged->blocks_in_use,
           judged->spans, judged->runs, judged->threads, judged->cached_blocks, verdict->n_looks,
           verdict->n_looks == 1 ? "" : "s", verdict->bytes_read / KIB);
}

static json_t *json_of_violation(const struct violation *one)
{
    char address[24];
    snprintf(address, sizeof address, "%#" PRIx64, one->address);
    return json_pack("{s:s, s:s?, s:I, s:s, s:b}", "rule", rule_names[one->rule], "address",
                     one->address == 0 ? NULL : address, "class_bytes", (json_int_t)one->class_bytes, "text", one->text,
                     "excused", (int)one->excused);
}

static int refuse_json(json_t *given_up, const char *why)
{
    tool_complain("cannot write the output: %s", why);
    json_decref(given_up);
    return TOOL_USAGE;
}

static bool add_violations(json_t *list, const struct violations *found)
{
    for (size_t i = 0; i < found->n; i++)
        if (json_array_append_new(list, json_of_violation(&found->at[i])) != 0)
            return false;
    return true;
}

static int print_json(const struct target *target, const struct verdict *verdict, bool stopped)
{
    const struct judged *judged = &verdict->judged;
    json_t *list = json_array();
    if (!add_violations(list, &verdict->records.found) || !add_violations(list, &verdict->lists.found))
        return refuse_json(list, "no memory");
    char text[sizeof target->name];
    json_t *name = json_string(units_utf8(text, sizeof text, target->name));
    json_t *all = json_pack(
        "{s:i, s:o, s:s, s:b, s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I}", "pid", (int)target->pid,
        "name", name == NULL ? json_null() : name, "version", target->anchor.version, "clean", (int)is_clean(verdict),
        "stopped", stopped, "looks", (int)verdict->n_looks, "bytes_read", (json_int_t)verdict->bytes_read, "superslabs",
        (json_int_t)judged->superslabs, "slabs", (json_int_t)judged->slabs, "blocks_in_use",
        (json_int_t)judged->blocks_in_use, "spans", (json_int_t)judged->spans, "runs", (json_int_t)judged->runs,
        "threads", (json_int_t)judged->threads, "cached_blocks", (json_int_t)judged->cached_blocks, "violations", list,
        "violations_left_out", (json_int_t)left_out_of(verdict));
    if (all == NULL || json_dumpf(all, stdout, JSON_INDENT(2)) != 0)
        return refuse_json(all, all == NULL ? "no memory" : strerror(errno));
    putchar('\n');
    json_decref(all);
    return TOOL_OK;
}

/* ---- The command --------------------------------------------------------------------------------------------------- */

static void free_verdict(struct verdict *verdict)
{
    violations_free(&verdict->records.found);
    violations_free(&verdict->lists.found);
}

static int check_target(struct target *target, const struct settings *set)
{
    struct verdict verdict = {0};
    char why[TARGET_WHY_BYTES];
    int result = set->stop ? freeze_begin(target->pid, why, sizeof why) : 0;
    if (result == 0)
        result = look_until_settled(target, set->stop, &verdict, why, sizeof why);
    if (set->stop)
        freeze_end();
    if (result != 0) {
        free_verdict(&verdict);
        tool_complain("%s", why);
        return TOOL_USAGE;
    }
    verdict.bytes_read = target->bytes_read;
    int status = is_clean(&verdict) ? TOOL_OK : TOOL_FAILED;
    if (!set->json)
        print_text(target, &verdict);
    else if (print_json(target, &verdict, set->stop) != TOOL_OK)
        status = TOOL_USAGE;
    free_verdict(&verdict);
    return tool_finish_output() == TOOL_OK ? status : TOOL_USAGE;
}

/* Returns false after a line on stderr. */
static bool parse_arguments(int argc, char **argv, struct settings *set)
{
    static const struct option options[] = {{"stop", no_argument, NULL, 's'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "sjn:h", options, NULL)) != -1) {
        if (option == 's')
            set->stop = true;
        else if (option == 'j')
            set->json = true;
        else if (option == 'n')
            set->name = optarg;
        else if (option == 'h')
            set->help = true;
        else
            return false; /* getopt has said why */
    }
    set->pid = argv[optind];
    if (set->help || argc - optind == (set->name == NULL ? 1 : 0))
        return true;
    tool_complain("'hakmem check' takes one process, by its number or by --name (see 'hakmem help check')");
    return false;
}

static int check_main(int argc, char **argv)
{
    struct settings set = {0};
    struct target target;
    char why[TARGET_WHY_BYTES];
    pid_t pid;
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(check_command.help, stdout);
        return tool_finish_output();
    }
    if (!process_choose(set.pid, set.name, &pid))
        return TOOL_USAGE;
    if (target_open_to_read(pid, &target, why, sizeof why) != 0) {
        tool_complain("%s", why);
        return TOOL_USAGE;
    }
    const int status = check_target(&target, &set);
    target_close(&target);
    return status;
}

const struct tool_command check_command = {
    "check", check_main, "look whether the heap of a process is sound",
    "usage: hakmem check [--stop] [--json] PID | --name NAME\n"
    "\n"
    "Reads the records of a running process's heap from outside and looks whether\n"
    "they obey its invariants: slabs against their bits, masks, class map and lists,\n"
    "spans and runs, committed bytes against pages, and what threads cache. Damage is\n"
    "the trace of a wild write, or of a block freed twice. The process needs no\n"
    "option for it, runs on, and notices nothing.\n"
    "\n"
    "  -s, --stop       stop the process for each look (SIGSTOP, SIGCONT), some\n"
    "                   milliseconds: what changes too fast to be judged otherwise,\n"
    "                   like the sum of committed bytes, is then exact\n"
    "  -j, --json       the verdict as JSON\n"
    "  -n, --name NAME  the one process on hakmem of that name\n"
    "  -h, --help       show this text\n"
    "\n"
    "A line for each violation: an address, the rule, the class, what was found. What\n"
    "is found must be found again at eight looks (with --stop at five stops). Between\n"
    "them all threads that were inside the allocator must have left it, so that\n"
    "nothing is taken for damage that is only in the making. What a fork may have left\n"
    "in a child, because it cut off calls of other threads, is shown and does not count.\n"
    "\n"
    "Exit status:\n"
    "  0  clean\n"
    "  1  violations found\n"
    "  2  wrong arguments, or a process that cannot be read, or changes too fast\n"};
