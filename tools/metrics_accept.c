/* metrics_accept.c - content negotiation: which of the two formats a client wants.
 * Owns       the names of the two media types.     Called by  metrics_http.c     Calls  libc only.     Threads  any.
 * I1  The most specific range that matches a type gives its weight, as RFC 9110 12.5.1 has it: application/openmetrics-text
 *     with its version before without one, then application/ *, then any.
 * I2  A text that is no header of that kind never fails: parts that cannot be read count as not there.
 */
#define _GNU_SOURCE
#include "metrics.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct media_type {
    const char *type, *subtype, *version;
};

static const struct media_type media_types[] = {
    [METRICS_CLASSIC] = {"text", "plain", "0.0.4"},
    [METRICS_OPENMETRICS] = {"application", "openmetrics-text", "1.0.0"},
};

const char *metrics_content_type(enum metrics_format format)
{
    return format == METRICS_OPENMETRICS ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                         : "text/plain; version=0.0.4; charset=utf-8";
}

/* A part of the header, from one character to another. */
struct part {
    const char *at;
    size_t len;
};

static struct part trim(struct part part)
{
    while (part.len > 0 && isspace((unsigned char)part.at[0])) {
        part.at++;
        part.len--;
    }
    while (part.len > 0 && isspace((unsigned char)part.at[part.len - 1]))
        part.len--;
    return part;
}

/* Takes off what comes before the separator. False at the end. */
static bool next_part(struct part *rest, char separator, struct part *part)
{
    if (rest->at == NULL)
        return false;
    const char *end = memchr(rest->at, separator, rest->len);
    const size_t len = end == NULL ? rest->len : (size_t)(end - rest->at);
    *part = trim((struct part){rest->at, len});
    *rest = end == NULL ? (struct part){NULL, 0} : (struct part){end + 1, rest->len - len - 1};
    return true;
}

static bool is_text(struct part part, const char *text)
{
    return part.len == strlen(text) && strncasecmp(part.at, text, part.len) == 0;
}

/* "name=value", the value perhaps in quotes. */
static bool is_parameter(struct part parameter, const char *name, struct part *value)
{
    struct part rest = parameter, key;
    if (!next_part(&rest, '=', &key) || rest.at == NULL || !is_text(key, name))
        return false;
    *value = trim(rest);
    if (value->len >= 2 && value->at[0] == '"' && value->at[value->len - 1] == '"')
        *value = (struct part){value->at + 1, value->len - 2};
    return true;
}

/* 0 to 1 with up to three digits behind the point; anything else counts as 0. */
static double read_weight(struct part value)
{
    char text[8] = "";
    char *end;
    if (value.len == 0 || value.len > 5 || !isdigit((unsigned char)value.at[0]))
        return 0;
    memcpy(text, value.at, value.len);
    const double weight = strtod(text, &end);
    return *end == '\0' && weight <= 1 ? weight : 0;
}

/* How exactly a range means the type: 0 not at all, 1 any, 2 any of its kind, 3 itself, 4 itself in its version. */
static int match(struct part range, const struct media_type *type, struct part version)
{
    struct part rest = range, kind;
    next_part(&rest, '/', &kind);
    if (rest.at == NULL)
        return 0;
    const struct part subtype = trim(rest);
    if (is_text(kind, "*") && is_text(subtype, "*"))
        return 1;
    if (!is_text(kind, type->type))
        return 0;
    if (is_text(subtype, "*"))
        return 2;
    if (!is_text(subtype, type->subtype))
        return 0;
    if (version.at == NULL)
        return 3;
    return is_text(version, type->version) ? 4 : 0;
}

/* Takes one range into account: a closer match replaces the weight of a more general one. */
static void weigh(struct part range, const struct media_type *type, int *closest, double *weight)
{
    struct part rest = range, name, parameter, value, version = {NULL, 0};
    double q = 1;
    next_part(&rest, ';', &name);
    while (next_part(&rest, ';', &parameter)) {
        if (is_parameter(parameter, "version", &value))
            version = value;
        else if (is_parameter(parameter, "q", &value))
            q = read_weight(value);
    }
    const int closeness = match(name, type, version);
    if (closeness == 0 || closeness < *closest || (closeness == *closest && q <= *weight))
        return;
    *closest = closeness;
    *weight = q;
}

static double weight_of(const char *accept, const struct media_type *type)
{
    struct part rest = {accept, strlen(accept)}, range;
    int closest = 0;
    double weight = 0;
    while (next_part(&rest, ',', &range))
        weigh(range, type, &closest, &weight);
    return weight;
}

enum metrics_format metrics_negotiate(const char *accept)
{
    if (accept == NULL)
        return METRICS_CLASSIC;
    return weight_of(accept, &media_types[METRICS_OPENMETRICS]) > weight_of(accept, &media_types[METRICS_CLASSIC])
               ? METRICS_OPENMETRICS
               : METRICS_CLASSIC;
}
