/* diff.c - `hakmem diff`: what has grown from one heap profile to another, by stacks.
 * Owns       the options, and the table of stacks.     Called by  hakmem.c
 * Calls      profile_read.c, symbols.c, profile_write.c, profile_text.c     Threads  one.
 * I1  Stacks are the same if their functions' names are, in order: addresses differ from run to run, and lines from version to
 *     version. What has no name is told by its place in its file. */
#define _GNU_SOURCE
#include "heap_profile.h"
#include "profile_read.h"
#include "profile_text.h"
#include "profile_write.h"
#include "symbols.h"
#include "tool.h"

#include <getopt.h>
#include <inttypes.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#define STANDARD_TOP 20

struct diff_settings {
    struct profile_output output;
    const char *file[2];
    bool full_names, help;
};

/* A stack, and what it has in either profile. */
struct stack {
    struct heap_frame *frame; /* the innermost first; texts of the profile that they come from */
    uint32_t n_frames;
    bool is_of_second; /* the frames' files and lines are the second profile's */
    int64_t value[2][N_HEAP_VALUES];
    double variance;
};

struct diff {
    struct heap_profile *profile[2];
    struct stack **stack;
    size_t n;
    void *tree;
};

/* ---- The table --------------------------------------------------------------------------------------------------- */

/* I1 */
static int compare_stacks(const void *one, const void *other)
{
    const struct stack *a = one, *b = other;
    int order = (a->n_frames > b->n_frames) - (a->n_frames < b->n_frames);
    for (uint32_t i = 0; i < a->n_frames && order == 0; i++)
        order = strcmp(a->frame[i].name, b->frame[i].name);
    return order;
}

/* The same stack from another place: lines that differ are not told. The second profile's source is the newer one. */
static void merge_frames(struct stack *stack, const struct heap_frame *frame, bool is_of_second)
{
    for (uint32_t i = 0; i < stack->n_frames; i++)
        if (is_of_second && !stack->is_of_second)
            stack->frame[i] = frame[i];
        else if (stack->frame[i].line != frame[i].line)
            stack->frame[i].line = 0;
    stack->is_of_second |= is_of_second;
}

static struct stack *stack_of(struct diff *diff, const struct heap_frame *frame, uint32_t n_frames, bool is_of_second)
{
    struct stack *own = heap_alloc(sizeof *own);
    *own = (struct stack){.frame = heap_realloc(NULL, n_frames, sizeof *own->frame), .n_frames = n_frames};
    own->is_of_second = is_of_second;
    if (n_frames != 0)
        memcpy(own->frame, frame, n_frames * sizeof *frame);
    struct stack **node = tsearch(own, &diff->tree, compare_stacks);
    if (node == NULL)
        heap_alloc(SIZE_MAX); /* which says so */
    if (*node != own) {
        merge_frames(*node, frame, is_of_second);
        free(own->frame);
        free(own);
        return *node;
    }
    if ((diff->n & (diff->n - 1)) == 0)
        diff->stack = heap_realloc(diff->stack, 2 * diff->n + 1, sizeof *diff->stack);
    return diff->stack[diff->n++] = own;
}

static void add_profile(struct diff *diff, int which, enum heap_value value)
{
    struct heap_profile *profile = diff->profile[which];
    struct heap_frame *frame = NULL;
    uint32_t size = 0;
    for (uint32_t i = 0; i < profile->n_samples; i++) {
        const struct heap_sample *sample = &profile->sample[i];
        uint32_t n = heap_frames(profile, sample, &frame, &size);
        struct stack *stack = stack_of(diff, frame, n, which == 1);
        for (int v = 0; v < N_HEAP_VALUES; v++)
            stack->value[which][v] += sample->value[v];
        if (value == INUSE_SPACE || value == ALLOC_SPACE)
            stack->variance += heap_variance(profile, sample, value == INUSE_SPACE);
    }
    free(frame);
}

static void free_stack(void *node)
{
    struct stack *stack = node;
    free(stack->frame);
    free(stack);
}

/* ---- Text -------------------------------------------------------------------------------------------------------- */

static int64_t growth(const struct stack *stack, enum heap_value value)
{
    return stack->value[1][value] - stack->value[0][value];
}

static int compare_growth(const void *one, const void *other, void *value)
{
    int64_t a = growth(*(struct stack *const *)one, *(enum heap_value *)value);
    int64_t b = growth(*(struct stack *const *)other, *(enum heap_value *)value);
    return a != b ? (a < b) - (a > b) : compare_stacks(*(struct stack *const *)one, *(struct stack *const *)other);
}

static void print_growth(int64_t amount, double variance, enum heap_value value, FILE *out)
{
    char text[TEXT_AMOUNT_BYTES];
    if (value == INUSE_SPACE || value == ALLOC_SPACE)
        text_print_estimate(out, amount, variance, true);
    else
        fprintf(out, "%s blocks", text_amount(text, amount, value, true));
}

static void print_amount(const struct stack *stack, int which, enum heap_value value, FILE *out)
{
    char text[TEXT_AMOUNT_BYTES];
    bool live = value == INUSE_SPACE || value == INUSE_OBJECTS;
    fputs(text_amount(text, stack->value[which][live ? INUSE_SPACE : ALLOC_SPACE], live ? INUSE_SPACE : ALLOC_SPACE,
                      false),
          out);
    int64_t blocks = stack->value[which][live ? INUSE_OBJECTS : ALLOC_OBJECTS];
    fprintf(out, " in %" PRId64 " block%s", blocks, blocks == 1 ? "" : "s");
}

static void write_text(struct diff *diff, const struct diff_settings *set, FILE *out)
{
    enum heap_value value = set->output.value;
    int64_t total[2][N_HEAP_VALUES], rest = 0;
    char first[TEXT_AMOUNT_BYTES], second[TEXT_AMOUNT_BYTES];
    double variance = 0;
    size_t n = 0;
    qsort_r(diff->stack, diff->n, sizeof *diff->stack, compare_growth, &value);
    for (int i = 0; i < 2; i++)
        heap_totals(diff->profile[i], total[i]);
    for (size_t i = 0; i < diff->n; i++)
        variance += diff->stack[i]->variance;
    fprintf(out, "%s %s: ", value == INUSE_SPACE || value == INUSE_OBJECTS ? "live" : "allocated",
            strcmp(heap_value_unit(value), "bytes") == 0 ? "bytes" : "blocks");
    print_growth(total[1][value] - total[0][value], variance, value, out);
    fprintf(out, ", from %s in %s to %s in %s\n", text_amount(first, total[0][value], value, false), set->file[0],
            text_amount(second, total[1][value], value, false), set->file[1]);
    for (size_t i = 0; i < diff->n; i++) {
        const struct stack *stack = diff->stack[i];
        if (growth(stack, value) == 0)
            continue;
        if (set->output.top != 0 && n++ >= set->output.top) {
            rest += growth(stack, value);
            continue;
        }
        fputc('\n', out);
        print_growth(growth(stack, value), stack->variance, value, out);
        fputs(": from ", out);
        print_amount(stack, 0, value, out);
        fputs(" to ", out);
        print_amount(stack, 1, value, out);
        fputc('\n', out);
        text_print_stack(stack->frame, stack->n_frames, out);
    }
    if (set->output.top != 0 && n > set->output.top) {
        fputs("\nand ", out);
        print_growth(rest, 0, value, out);
        fprintf(out, " by %zu more stack%s\n", n - set->output.top, n - set->output.top == 1 ? "" : "s");
    }
}

/* ---- Other formats ----------------------------------------------------------------------------------------------- */

/* A profile of the differences, whose locations have no addresses. */
static struct heap_profile *difference(const struct diff *diff)
{
    struct heap_profile *profile = heap_profile_new();
    const struct heap_profile *second = diff->profile[1];
    profile->is_difference = true;
    profile->program = heap_text(profile, second->program);
    profile->time_ns = second->time_ns;
    uint32_t mapping =
        heap_add_mapping(profile, &(struct heap_mapping){.file = second->n_mappings == 0 ? "" : second->mapping[0].file,
                                                         .build_id = ""});
    for (size_t i = 0; i < diff->n; i++) {
        const struct stack *stack = diff->stack[i];
        uint32_t *location = heap_realloc(NULL, stack->n_frames, sizeof *location);
        int64_t value[N_HEAP_VALUES], any = 0;
        for (uint32_t f = 0; f < stack->n_frames; f++) {
            const struct heap_frame *frame = &stack->frame[f];
            const struct heap_line line = {heap_function(profile, frame->name, frame->name, frame->file, 0),
                                           frame->line};
            location[f] = heap_location_of_lines(profile, mapping, &line, 1);
        }
        for (int v = 0; v < N_HEAP_VALUES; v++)
            any |= value[v] = stack->value[1][v] - stack->value[0][v];
        if (any != 0)
            heap_add_sample(profile, location, stack->n_frames, value);
        free(location);
    }
    return profile;
}

struct text_job {
    struct diff *diff;
    const struct diff_settings *set;
};

static bool write_text_job(const void *what, FILE *out)
{
    const struct text_job *job = what;
    write_text(job->diff, job->set, out);
    return true;
}

static int write_diff(struct diff *diff, const struct diff_settings *set)
{
    const struct text_job job = {diff, set};
    if (set->output.format == FORMAT_TEXT)
        return profile_write_by(write_text_job, &job, set->output.path);
    struct heap_profile *profile = difference(diff);
    int status = profile_write(profile, &set->output);
    heap_profile_free(profile);
    return status;
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static bool refuse(const char *option, const char *value, const char *expected)
{
    tool_complain("--%s: '%s' is not %s (see 'hakmem help diff')", option, value, expected);
    return false;
}

static bool is_of_diff(enum profile_format format)
{
    return format == FORMAT_TEXT || format == FORMAT_FOLDED || format == FORMAT_PPROF;
}

static bool take_option(int option, struct diff_settings *set)
{
    switch (option) {
    case 'o':
        return profile_take_path(optarg, &set->output);
    case 'f':
        set->output.format = profile_format_by_name(optarg);
        return is_of_diff(set->output.format) || refuse("format", optarg, "one of text, folded, pprof");
    case 'v':
        set->output.value = heap_value_by_name(optarg);
        return set->output.value != N_HEAP_VALUES ||
               refuse("value", optarg, "one of inuse_space, inuse_objects, alloc_space, alloc_objects");
    case 't':
        return profile_parse_top(optarg, &set->output.top) || refuse("top", optarg, "a number from 0 to 1000000");
    case 'F':
        set->full_names = true;
        return true;
    case 'h':
        set->help = true;
        return true;
    default:
        return false; /* getopt has said why */
    }
}

/* Returns false after a line on stderr. */
static bool parse_arguments(int argc, char **argv, struct diff_settings *set)
{
    static const struct option options[] = {{"output", required_argument, NULL, 'o'},
                                            {"format", required_argument, NULL, 'f'},
                                            {"value", required_argument, NULL, 'v'},
                                            {"top", required_argument, NULL, 't'},
                                            {"full-names", no_argument, NULL, 'F'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "o:f:v:t:Fh", options, NULL)) != -1;)
        if (!take_option(option, set))
            return false;
    if (set->help)
        return true;
    if (argc != optind + 2) {
        tool_complain("'hakmem diff' takes two profiles (see 'hakmem help diff')");
        return false;
    }
    set->file[0] = argv[optind];
    set->file[1] = argv[optind + 1];
    const char *path = set->output.path;
    if (set->output.format == N_FORMATS)
        set->output.format = profile_is_stdout(path) ? FORMAT_TEXT : profile_format_by_path(path);
    if (!is_of_diff(set->output.format)) {
        tool_complain("%s: no format of differences has this ending (.txt, .folded, .pb.gz); --format names one", path);
        return false;
    }
    return true;
}

/* ---- All of it --------------------------------------------------------------------------------------------------- */

static bool read_both(struct diff *diff, const struct diff_settings *set)
{
    char why[READ_WHY_BYTES];
    for (int i = 0; i < 2; i++) {
        diff->profile[i] = profile_read(set->file[i], why, sizeof why);
        if (diff->profile[i] == NULL) {
            tool_complain("%s", why);
            return false;
        }
    }
    for (int i = 0; i < 2; i++)
        symbols_resolve(diff->profile[i], 0, set->full_names);
    return true;
}

static int diff_main(int argc, char **argv)
{
    struct diff_settings set = {.output = {.format = N_FORMATS, .value = INUSE_SPACE, .top = STANDARD_TOP}};
    struct diff diff = {.tree = NULL};
    int status = TOOL_USAGE;
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(diff_command.help, stdout);
        return tool_finish_output();
    }
    if (read_both(&diff, &set)) {
        for (int i = 0; i < 2; i++)
            add_profile(&diff, i, set.output.value);
        status = write_diff(&diff, &set);
        tdestroy(diff.tree, free_stack);
        free(diff.stack);
    }
    for (int i = 0; i < 2; i++)
        heap_profile_free(diff.profile[i]);
    return status;
}

const struct tool_command diff_command = {
    "diff", diff_main, "show what has grown between two heap profiles",
    "usage: hakmem diff [OPTION]... A B\n"
    "\n"
    "Shows by which call stacks memory has grown from heap profile A to B, the\n"
    "largest growth first, and what has shrunk last. A and B are files of the library\n"
    "(HAKMEM_PROFILE, hak_profile_dump) or .pb.gz files of 'hakmem profile'; of one\n"
    "process at two times, or of two runs or two versions of a program. Stacks are the\n"
    "same if the names of their functions are.\n"
    "\n"
    "  -o, --output FILE    write to FILE. Its ending chooses the format:\n"
    "                       .txt     text\n"
    "                       .folded  stacks on one line each, with what they grew by\n"
    "                       .pb.gz   for pprof: go tool pprof FILE\n"
    "                       Without it, text goes to the standard output.\n"
    "  -f, --format NAME    text, folded or pprof\n"
    "  -v, --value NAME     inuse_space (the default), inuse_objects, alloc_space or\n"
    "                       alloc_objects\n"
    "  -t, --top N          at most N stacks of text (20; 0: all)\n"
    "  -F, --full-names     C++ names with the arguments of templates and functions\n"
    "  -h, --help           show this text\n"
    "\n"
    "Amounts are estimates; a figure behind ± bounds 95 of 100. If both profiles\n"
    "are of one session, the true bounds are narrower.\n"
    "\n"
    "Exit status:\n"
    "  0  the difference is written\n"
    "  1  it cannot be written\n"
    "  2  wrong arguments, or a file that is no profile; one line on stderr says why\n"};
