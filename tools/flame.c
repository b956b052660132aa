/* flame.c - see flame.h.
 * Owns       the tree of calls while a page is written.     Called by  profile_write.c
 * Calls      heap_profile.h; the pages in pages/, which the build puts into this program     Threads  one.
 * I1  Every text of a profile goes through write_json or write_markup: names may be anything.
 * I2  A node's amounts are at least the sum of its children's.
 * Why the image has its frames twice, drawn and as data: a viewer that runs no scripts shows it, too. */
#define _GNU_SOURCE
#include "flame.h"

#include "pages.h"
#include "profile_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NODES 20000 /* in a page; the smallest are left out beyond */
#define FRAME_HEIGHT 18
#define GRAPH_WIDTH 1180.
#define GRAPH_TOP 116
#define CHARACTER_WIDTH 7.3
#define LEAST_WIDTH 0.4

/* The order in which a page offers the amounts. */
static const struct {
    enum heap_value value;
    const char *title;
} shown_values[N_HEAP_VALUES] = {{INUSE_SPACE, "live bytes"},
                                 {INUSE_OBJECTS, "live blocks"},
                                 {ALLOC_SPACE, "allocated bytes"},
                                 {ALLOC_OBJECTS, "allocated blocks"}};

struct node {
    const char *name, *file, *module; /* texts of the profile */
    int64_t amount[N_HEAP_VALUES];
    struct node *child, *next; /* the first child; the next of the same parent */
};

struct flame {
    struct heap_profile *profile;
    enum heap_value value;
    struct node *root;
    size_t n_nodes, n_left_out;
    double least; /* nodes with a smaller part of all, by bytes live and allocated, are left out */
    FILE *out;
    const char **text; /* those in the page, by their numbers there */
    size_t n_texts;
    struct flame_module *module; /* but the program, those with most first */
    size_t n_modules;
};

struct flame_module {
    const char *name;
    double weight;
};

/* ---- The tree ---------------------------------------------------------------------------------------------------- */

static struct node *make_node(const char *name, const char *file, const char *module)
{
    struct node *node = heap_alloc(sizeof *node);
    *node = (struct node){.name = name, .file = file, .module = module};
    return node;
}

static void free_node(struct node *node)
{
    while (node->child != NULL) {
        struct node *next = node->child->next;
        free_node(node->child);
        node->child = next;
    }
    free(node);
}

/* The child for a frame, which comes to the front: stacks that follow each other are alike. */
static struct node *child_of(struct flame *flame, struct node *parent, const struct heap_frame *frame)
{
    for (struct node **at = &parent->child; *at != NULL; at = &(*at)->next) {
        struct node *child = *at;
        if (child->name != frame->name || child->file != frame->file)
            continue;
        *at = child->next;
        child->next = parent->child;
        return parent->child = child;
    }
    const char *module = heap_mapping_name(flame->profile, flame->profile->location[frame->location].mapping);
    struct node *child = make_node(frame->name, frame->file, heap_text(flame->profile, module));
    flame->n_nodes++;
    child->next = parent->child;
    return parent->child = child;
}

static void add_amounts(struct node *node, const int64_t amount[N_HEAP_VALUES])
{
    for (int v = 0; v < N_HEAP_VALUES; v++)
        node->amount[v] += amount[v] < 0 ? 0 : amount[v];
}

static void build_tree(struct flame *flame)
{
    struct heap_frame *frame = NULL;
    uint32_t size = 0;
    const char *empty = heap_text(flame->profile, "");
    flame->root = make_node(heap_text(flame->profile, "all"), empty, empty);
    flame->n_nodes = 1;
    for (uint32_t i = 0; i < flame->profile->n_samples; i++) {
        const struct heap_sample *sample = &flame->profile->sample[i];
        struct node *node = flame->root;
        add_amounts(node, sample->value);
        for (uint32_t n = heap_frames(flame->profile, sample, &frame, &size); n-- > 0;) {
            node = child_of(flame, node, &frame[n]);
            add_amounts(node, sample->value);
        }
    }
    free(frame);
}

/* The larger of a node's parts of what is live and of what was allocated. */
static double part_of(const struct flame *flame, const struct node *node)
{
    double part = 0;
    for (int v = 0; v < N_HEAP_VALUES; v++)
        if (flame->root->amount[v] != 0 && (double)node->amount[v] / (double)flame->root->amount[v] > part)
            part = (double)node->amount[v] / (double)flame->root->amount[v];
    return part;
}

static size_t count_from(const struct flame *flame, const struct node *node, double least)
{
    size_t n = 1;
    for (const struct node *child = node->child; child != NULL; child = child->next)
        if (part_of(flame, child) >= least)
            n += count_from(flame, child, least);
    return n;
}

static void choose_least(struct flame *flame)
{
    flame->least = 0;
    for (double least = 1e-6; count_from(flame, flame->root, flame->least) > MAX_NODES; least *= 2)
        flame->least = least;
    flame->n_left_out = flame->n_nodes - count_from(flame, flame->root, flame->least);
}

/* ---- Texts ------------------------------------------------------------------------------------------------------- */

/* I1, in HTML and XML. */
static void write_markup(FILE *out, const char *text)
{
    for (; *text != 0; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
}

/* I1, as JSON inside of a page: without what would end a script, there or in XML. The profile's texts have no control characters. */
static void write_json(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        if (*text == '<' || *text == '>' || *text == '&')
            fprintf(out, "\\u%04x", (unsigned)*text);
        else
            fputc(*text, out);
    }
    fputc('"', out);
}

static int compare_texts(const void *one, const void *other)
{
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

/* All texts of the nodes that are written. */
static void collect_texts(struct flame *flame, const struct node *node)
{
    const char *own[] = {node->name, node->file, node->module};
    for (size_t i = 0; i < 3; i++) {
        if ((flame->n_texts & (flame->n_texts - 1)) == 0)
            flame->text = heap_realloc(flame->text, 2 * flame->n_texts + 1, sizeof *flame->text);
        flame->text[flame->n_texts++] = own[i];
    }
    for (const struct node *child = node->child; child != NULL; child = child->next)
        if (part_of(flame, child) >= flame->least)
            collect_texts(flame, child);
}

static void number_texts(struct flame *flame)
{
    size_t n = 0;
    collect_texts(flame, flame->root);
    qsort(flame->text, flame->n_texts, sizeof *flame->text, compare_texts);
    for (size_t i = 0; i < flame->n_texts; i++)
        if (i == 0 || flame->text[i] != flame->text[i - 1])
            flame->text[n++] = flame->text[i];
    flame->n_texts = n;
}

static size_t text_number(const struct flame *flame, const char *text)
{
    const char **found = bsearch(&text, flame->text, flame->n_texts, sizeof *flame->text, compare_texts);
    return (size_t)(found - flame->text);
}

/* ---- Colours ----------------------------------------------------------------------------------------------------- */

#define N_COLOURS 8 /* the first is the program's */
#define N_SHADES 3

/* The module that is the program. */
static const char *program_of(const struct flame *flame)
{
    return heap_mapping_name(flame->profile, flame->profile->n_mappings == 0 ? HEAP_NONE : 0);
}

static void weigh_module(struct flame *flame, const struct node *node)
{
    size_t i = 0;
    while (i < flame->n_modules && strcmp(flame->module[i].name, node->module) != 0)
        i++;
    if (i == flame->n_modules) {
        flame->module = heap_realloc(flame->module, ++flame->n_modules, sizeof *flame->module);
        flame->module[i] = (struct flame_module){node->module, 0};
    }
    flame->module[i].weight += part_of(flame, node);
}

static void weigh_modules(struct flame *flame, const struct node *node)
{
    if (node != flame->root && strcmp(node->module, program_of(flame)) != 0)
        weigh_module(flame, node);
    for (const struct node *child = node->child; child != NULL; child = child->next)
        if (part_of(flame, child) >= flame->least)
            weigh_modules(flame, child);
}

static int compare_modules(const void *one, const void *other)
{
    const struct flame_module *a = one, *b = other;
    return a->weight != b->weight ? (a->weight < b->weight) - (a->weight > b->weight) : strcmp(a->name, b->name);
}

/* So that those with most differ in colour. */
static void order_modules(struct flame *flame)
{
    weigh_modules(flame, flame->root);
    if (flame->n_modules != 0)
        qsort(flame->module, flame->n_modules, sizeof *flame->module, compare_modules);
}

static size_t colour_of(const struct flame *flame, const struct node *node)
{
    size_t i = 0;
    if (strcmp(node->module, program_of(flame)) == 0)
        return 0;
    while (i < flame->n_modules && strcmp(flame->module[i].name, node->module) != 0)
        i++;
    return 1 + i % (N_COLOURS - 1);
}

/* ---- The data ---------------------------------------------------------------------------------------------------- */

static void write_node(const struct flame *flame, const struct node *node, unsigned depth)
{
    fprintf(flame->out, "%s%zu,%zu,%zu,%u", depth == 0 ? "" : ",", text_number(flame, node->name),
            text_number(flame, node->file), text_number(flame, node->module), depth);
    for (int i = 0; i < N_HEAP_VALUES; i++)
        fprintf(flame->out, ",%" PRId64, node->amount[shown_values[i].value]);
    for (const struct node *child = node->child; child != NULL; child = child->next)
        if (part_of(flame, child) >= flame->least)
            write_node(flame, child, depth + 1);
}

static void write_data(struct flame *flame)
{
    int shown = 0;
    for (int i = 0; i < N_HEAP_VALUES; i++)
        if (shown_values[i].value == flame->value)
            shown = i;
    fprintf(flame->out, "{\"shown\":%d,\"program\":", shown);
    write_json(flame->out, program_of(flame));
    fputs(",\"modules\":[", flame->out);
    for (size_t i = 0; i < flame->n_modules; i++) {
        if (i != 0)
            fputc(',', flame->out);
        write_json(flame->out, flame->module[i].name);
    }
    fputs("],\"values\":[", flame->out);
    for (int i = 0; i < N_HEAP_VALUES; i++)
        fprintf(flame->out, "%s{\"title\":\"%s\",\"unit\":\"%s\"}", i == 0 ? "" : ",", shown_values[i].title,
                heap_value_unit(shown_values[i].value));
    fputs("],\"texts\":[", flame->out);
    for (size_t i = 0; i < flame->n_texts; i++) {
        if (i != 0)
            fputc(',', flame->out);
        write_json(flame->out, flame->text[i]);
    }
    fputs("],\"nodes\":[", flame->out);
    write_node(flame, flame->root, 0);
    fputs("]}", flame->out);
}

/* ---- The frames of an image -------------------------------------------------------------------------------------- */

/* As flame.js has it; only shades may differ where a name is not ASCII. */
static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261;
    for (; *text != 0; text++)
        h = (h ^ (unsigned char)*text) * 16777619u;
    return h;
}

static size_t count_children(const struct node *node)
{
    size_t n = 0;
    for (const struct node *child = node->child; child != NULL; child = child->next)
        n++;
    return n;
}

static int compare_children(const void *one, const void *other, void *value)
{
    int64_t a = (*(struct node *const *)one)->amount[*(enum heap_value *)value];
    int64_t b = (*(struct node *const *)other)->amount[*(enum heap_value *)value];
    return (a < b) - (a > b);
}

static void draw_frame(const struct flame *flame, const struct node *node, unsigned depth, double x, double width)
{
    FILE *out = flame->out;
    unsigned y = depth * FRAME_HEIGHT;
    fprintf(out, "<g class=\"frame\"><rect x=\"%.2f\" y=\"%u\" width=\"%.2f\" height=\"%d\" rx=\"2\" class=\"", x, y,
            width < 0.8 ? 0.3 : width - 0.5, FRAME_HEIGHT - 1);
    if (node == flame->root)
        fputs("root", out);
    else
        fprintf(out, "m%zu s%u", colour_of(flame, node), hash(node->name) % N_SHADES);
    fputs("\"/>", out);
    int room = (int)((width - 6) / CHARACTER_WIDTH), length = (int)strlen(node->name);
    if (room >= 3) {
        char text[256];
        int n = length <= room ? length : room - 1;
        while (n > 0 && n < length && ((unsigned char)node->name[n] & 0xc0) == 0x80)
            n--; /* between characters */
        snprintf(text, sizeof text, "%.*s", n, node->name);
        fprintf(out, "<text x=\"%.2f\" y=\"%u\">", x + 4, y + 13);
        write_markup(out, text);
        fputs(n < length ? "…</text>" : "</text>", out);
    }
    fputs("</g>\n", out);
}

static void draw_below(const struct flame *flame, const struct node *node, unsigned depth, double x, double width)
{
    size_t n = 0;
    enum heap_value value = flame->value;
    struct node **children = heap_realloc(NULL, count_children(node), sizeof(struct node *));
    draw_frame(flame, node, depth, x, width);
    for (struct node *child = node->child; child != NULL; child = child->next)
        children[n++] = child;
    qsort_r(children, n, sizeof(struct node *), compare_children, &value);
    for (size_t i = 0; i < n; i++) {
        double own = width * (double)children[i]->amount[value] / (double)node->amount[value];
        if (children[i]->amount[value] <= 0 || own < LEAST_WIDTH)
            break;
        draw_below(flame, children[i], depth + 1, x, own);
        x += own;
    }
    free(children);
}

static unsigned depth_of(const struct node *node)
{
    unsigned most = 0;
    for (const struct node *child = node->child; child != NULL; child = child->next) {
        unsigned own = depth_of(child);
        most = own > most ? own : most;
    }
    return most + 1;
}

/* ---- The page ---------------------------------------------------------------------------------------------------- */

static void write_facts(const struct flame *flame)
{
    const struct heap_profile *profile = flame->profile;
    FILE *out = flame->out;
    int64_t total[N_HEAP_VALUES];
    char live[TEXT_AMOUNT_BYTES], all[TEXT_AMOUNT_BYTES], interval[TEXT_AMOUNT_BYTES];
    heap_totals(profile, total);
    fprintf(out, "%s live in %" PRId64 " blocks, %s allocated in %" PRId64 " blocks",
            text_amount(live, total[INUSE_SPACE], INUSE_SPACE, false), total[INUSE_OBJECTS],
            text_amount(all, total[ALLOC_SPACE], ALLOC_SPACE, false), total[ALLOC_OBJECTS]);
    if (profile->duration_ns != 0)
        fprintf(out, ", in %.1f s", (double)profile->duration_ns / 1e9);
    if (profile->interval_bytes != 0)
        fprintf(out, "; %" PRId64 " samples, one for %s in the mean", profile->picked,
                text_amount(interval, profile->interval_bytes, INUSE_SPACE, false));
    if (profile->dropped != 0)
        fprintf(out, "; %" PRId64 " samples found no room, and are missing", profile->dropped);
    if (flame->n_left_out != 0)
        fprintf(out, "; %zu frames with less than %.2g %% of all are left out", flame->n_left_out, 100 * flame->least);
}

static void write_title(const struct flame *flame)
{
    fputs("Heap", flame->out);
    if (flame->profile->program[0] != 0) {
        fputs(" of ", flame->out);
        write_markup(flame->out, flame->profile->program);
    }
    if (flame->profile->pid != 0)
        fprintf(flame->out, ", process %" PRId64, flame->profile->pid);
}

/* What stands for @NAME@ in a page. */
static void write_part(struct flame *flame, const char *name)
{
    if (strcmp(name, "TITLE") == 0)
        write_title(flame);
    else if (strcmp(name, "FACTS") == 0)
        write_facts(flame);
    else if (strcmp(name, "STYLE") == 0)
        fputs(page_flame_css, flame->out);
    else if (strcmp(name, "SCRIPT") == 0)
        fputs(page_flame_js, flame->out);
    else if (strcmp(name, "DATA") == 0)
        write_data(flame);
    else if (strcmp(name, "HEIGHT") == 0)
        fprintf(flame->out, "%u", GRAPH_TOP + depth_of(flame->root) * FRAME_HEIGHT + 10);
    else if (strcmp(name, "FRAMES") == 0)
        draw_below(flame, flame->root, 0, 0, GRAPH_WIDTH);
}

static void write_page(struct heap_profile *profile, enum heap_value value, const char *page, FILE *out)
{
    struct flame flame = {.profile = profile, .value = value, .out = out};
    char name[16];
    int length;
    build_tree(&flame);
    choose_least(&flame);
    number_texts(&flame);
    order_modules(&flame);
    while (*page != 0) {
        size_t plain = strcspn(page, "@");
        fwrite(page, 1, plain, out);
        page += plain;
        length = 0;
        if (sscanf(page, "@%15[A-Z]@%n", name, &length) == 1 && length != 0) {
            write_part(&flame, name);
            page += length;
        } else if (*page != 0) {
            fputc(*page++, out); /* "@media" */
        }
    }
    free_node(flame.root);
    free(flame.text);
    free(flame.module);
}

void flame_write_html(struct heap_profile *profile, enum heap_value value, FILE *out)
{
    write_page(profile, value, page_flame_html, out);
}

void flame_write_svg(struct heap_profile *profile, enum heap_value value, FILE *out)
{
    write_page(profile, value, page_flame_svg, out);
}
