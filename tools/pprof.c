/* pprof.c - see pprof.h.
 * Owns       nothing.     Called by  profile_read.c, profile_write.c
 * Calls      protobuf-c (pprof.proto), zlib, heap_profile.h     Threads  one.
 * I1  Numbers of the format count from 1, ours from 0; 0 there is HEAP_NONE here.
 * I2  What is read is trusted only after every number in it has been found to name something. */
#define _GNU_SOURCE
#include "pprof.h"

#include "profile_read.h"

#include "pprof.pb-c.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define GZIP_WINDOW_BITS (MAX_WBITS + 16)     /* zlib's way to say gzip */
#define MAX_DECODED_BYTES ((size_t)256 << 20) /* of a profile; its messages take up to 50 times as much */
#define MAX_STACK_LINES 16384 /* of a sample, and one for each location: trees of calls are walked by recursion */

typedef Hakmem__Pprof__Profile Message;

/* ---- Encoding ---------------------------------------------------------------------------------------------------- */

/* The table of texts. Those of a profile exist once, so a tree by address finds them. */
struct text_row {
    const char *text;
    int64_t number;
};

struct encoder {
    const struct heap_profile *profile;
    Message *message;
    void *rows; /* a tree of text_row */
};

static int compare_rows(const void *one, const void *other)
{
    uintptr_t a = (uintptr_t)((const struct text_row *)one)->text,
              b = (uintptr_t)((const struct text_row *)other)->text;
    return (a > b) - (a < b);
}

static int64_t text_number(struct encoder *encoder, const char *text)
{
    Message *message = encoder->message;
    struct text_row key = {text, (int64_t)message->n_string_table}, *row;
    struct text_row **node = tfind(&key, &encoder->rows, compare_rows);
    if (node != NULL)
        return (*node)->number;
    row = heap_alloc(sizeof *row);
    *row = key;
    if (tsearch(row, &encoder->rows, compare_rows) == NULL)
        heap_alloc(SIZE_MAX); /* which says so */
    if ((message->n_string_table & (message->n_string_table - 1)) == 0)
        message->string_table =
            heap_realloc(message->string_table, 2 * message->n_string_table + 1, sizeof *message->string_table);
    message->string_table[message->n_string_table++] = (char *)(uintptr_t)text; /* it is only read */
    return key.number;
}

/* An array of n pointers to n structures behind them, each as init leaves it. */
#define MAKE_ROWS(message, field, type, INIT, n)                                                                       \
    do {                                                                                                               \
        (message)->n_##field = (n);                                                                                    \
        (message)->field = heap_realloc(NULL, (n), sizeof(void *) + sizeof(type));                                     \
        type *rows_ = (type *)(void *)((message)->field + (n));                                                        \
        for (size_t i_ = 0; i_ < (n); i_++) {                                                                          \
            type init_ = INIT;                                                                                         \
            rows_[i_] = init_;                                                                                         \
            (message)->field[i_] = &rows_[i_];                                                                         \
        }                                                                                                              \
    } while (0)

static void encode_types(struct encoder *encoder)
{
    Message *message = encoder->message;
    MAKE_ROWS(message, sample_type, Hakmem__Pprof__ValueType, HAKMEM__PPROF__VALUE_TYPE__INIT, N_HEAP_VALUES);
    for (int v = 0; v < N_HEAP_VALUES; v++) {
        message->sample_type[v]->type = text_number(encoder, heap_value_name((enum heap_value)v));
        message->sample_type[v]->unit = text_number(encoder, heap_value_unit((enum heap_value)v));
    }
    message->default_sample_type = message->sample_type[INUSE_SPACE]->type;
}

static void encode_mappings(struct encoder *encoder)
{
    const struct heap_profile *profile = encoder->profile;
    Message *message = encoder->message;
    MAKE_ROWS(message, mapping, Hakmem__Pprof__Mapping, HAKMEM__PPROF__MAPPING__INIT, profile->n_mappings);
    for (uint32_t i = 0; i < profile->n_mappings; i++) {
        const struct heap_mapping *from = &profile->mapping[i];
        Hakmem__Pprof__Mapping *to = message->mapping[i];
        to->id = i + 1;
        to->memory_start = from->start;
        to->memory_limit = from->limit;
        to->file_offset = from->offset;
        to->filename = text_number(encoder, from->file);
        to->build_id = text_number(encoder, from->build_id);
        to->has_functions = to->has_filenames = to->has_line_numbers = to->has_inline_frames = from->has_functions;
    }
}

static void encode_functions(struct encoder *encoder)
{
    const struct heap_profile *profile = encoder->profile;
    Message *message = encoder->message;
    MAKE_ROWS(message, function, Hakmem__Pprof__Function, HAKMEM__PPROF__FUNCTION__INIT, profile->n_functions);
    for (uint32_t i = 0; i < profile->n_functions; i++) {
        const struct heap_function *from = &profile->function[i];
        Hakmem__Pprof__Function *to = message->function[i];
        to->id = i + 1;
        to->name = text_number(encoder, from->name);
        to->system_name = text_number(encoder, from->system_name);
        to->filename = text_number(encoder, from->file);
        to->start_line = from->start_line;
    }
}

static void encode_locations(struct encoder *encoder)
{
    const struct heap_profile *profile = encoder->profile;
    Message *message = encoder->message;
    MAKE_ROWS(message, location, Hakmem__Pprof__Location, HAKMEM__PPROF__LOCATION__INIT, profile->n_locations);
    for (uint32_t i = 0; i < profile->n_locations; i++) {
        const struct heap_location *from = &profile->location[i];
        Hakmem__Pprof__Location *to = message->location[i];
        to->id = i + 1;
        to->mapping_id = from->mapping == HEAP_NONE ? 0 : from->mapping + 1;
        to->address = from->address;
        MAKE_ROWS(to, line, Hakmem__Pprof__Line, HAKMEM__PPROF__LINE__INIT, from->n_lines);
        for (uint32_t k = 0; k < from->n_lines; k++) {
            to->line[k]->function_id = from->line[k].function + 1;
            to->line[k]->line = from->line[k].line;
        }
    }
}

static void encode_samples(struct encoder *encoder)
{
    const struct heap_profile *profile = encoder->profile;
    Message *message = encoder->message;
    MAKE_ROWS(message, sample, Hakmem__Pprof__Sample, HAKMEM__PPROF__SAMPLE__INIT, profile->n_samples);
    for (uint32_t i = 0; i < profile->n_samples; i++) {
        struct heap_sample *from = &profile->sample[i];
        Hakmem__Pprof__Sample *to = message->sample[i];
        to->n_location_id = from->n_locations;
        to->location_id = heap_realloc(NULL, from->n_locations, sizeof *to->location_id);
        for (uint32_t k = 0; k < from->n_locations; k++)
            to->location_id[k] = from->location[k] + 1;
        to->n_value = N_HEAP_VALUES;
        to->value = from->value;
    }
}

static void free_encoded(struct encoder *encoder)
{
    Message *message = encoder->message;
    for (size_t i = 0; i < message->n_sample; i++)
        free(message->sample[i]->location_id);
    for (size_t i = 0; i < message->n_location; i++)
        free(message->location[i]->line);
    free(message->sample_type);
    free(message->mapping);
    free(message->function);
    free(message->location);
    free(message->sample);
    free(message->string_table);
    tdestroy(encoder->rows, free);
}

static bool compress_to(FILE *out, uint8_t *bytes, size_t len_bytes)
{
    z_stream stream = {.next_in = bytes, .avail_in = (uInt)len_bytes};
    uint8_t piece[1 << 14];
    int status;
    if (len_bytes > MAX_DECODED_BYTES || deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW_BITS,
                                                      MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    do {
        stream.next_out = piece;
        stream.avail_out = sizeof piece;
        status = deflate(&stream, Z_FINISH);
        fwrite(piece, 1, sizeof piece - stream.avail_out, out);
    } while (status == Z_OK);
    deflateEnd(&stream);
    return status == Z_STREAM_END;
}

bool pprof_encode(struct heap_profile *profile, FILE *out)
{
    Message message = HAKMEM__PPROF__PROFILE__INIT;
    Hakmem__Pprof__ValueType period_type = HAKMEM__PPROF__VALUE_TYPE__INIT;
    struct encoder encoder = {.profile = profile, .message = &message};
    char facts[256];
    text_number(&encoder, heap_text(profile, ""));
    encode_types(&encoder);
    encode_mappings(&encoder);
    encode_functions(&encoder);
    encode_locations(&encoder);
    encode_samples(&encoder);
    profile_print_facts(profile, facts, sizeof facts);
    int64_t comment = text_number(&encoder, heap_text(profile, facts));
    message.comment = &comment;
    message.n_comment = 1;
    period_type.type = text_number(&encoder, heap_text(profile, "space"));
    period_type.unit = text_number(&encoder, heap_value_unit(INUSE_SPACE));
    message.period_type = &period_type;
    message.period = profile->interval_bytes;
    message.time_nanos = profile->time_ns;
    message.duration_nanos = profile->duration_ns;

    size_t len_bytes = hakmem__pprof__profile__get_packed_size(&message);
    uint8_t *bytes = heap_alloc(len_bytes);
    hakmem__pprof__profile__pack(&message, bytes);
    free_encoded(&encoder);
    bool compressed = compress_to(out, bytes, len_bytes);
    free(bytes);
    return compressed;
}

/* ---- Decoding ---------------------------------------------------------------------------------------------------- */

bool pprof_is_compressed(const char *bytes, size_t len_bytes)
{
    return len_bytes >= 2 && (unsigned char)bytes[0] == 0x1f && (unsigned char)bytes[1] == 0x8b;
}

static uint8_t *decompress(const char *bytes, size_t len_bytes, size_t *decoded_bytes)
{
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)len_bytes};
    size_t size = len_bytes * 4 + 4096;
    uint8_t *decoded = heap_alloc(size);
    int status = inflateInit2(&stream, GZIP_WINDOW_BITS);
    *decoded_bytes = 0;
    while (status == Z_OK && *decoded_bytes < MAX_DECODED_BYTES) {
        if (*decoded_bytes == size)
            decoded = heap_realloc(decoded, size *= 2, 1);
        stream.next_out = decoded + *decoded_bytes;
        stream.avail_out = (uInt)(size - *decoded_bytes);
        status = inflate(&stream, Z_NO_FLUSH);
        *decoded_bytes = size - stream.avail_out;
    }
    inflateEnd(&stream);
    if (status != Z_STREAM_END || *decoded_bytes > MAX_DECODED_BYTES) {
        free(decoded);
        return NULL;
    }
    return decoded;
}

struct decoder {
    const Message *message;
    struct heap_profile *profile;
    uint32_t *location_of; /* our numbers of the message's locations */
    bool too_deep;         /* a sample has more than MAX_STACK_LINES */
};

/* I2 */
static const char *text_at(const struct decoder *decoder, int64_t number)
{
    return number > 0 && (uint64_t)number < decoder->message->n_string_table ? decoder->message->string_table[number]
                                                                             : "";
}

/* Whether ids are 1, 2, 3 ..., as we write them: then a number needs no search. */
static bool ids_are_ours(const Message *message)
{
    bool ours = true;
    for (size_t i = 0; i < message->n_mapping; i++)
        ours &= message->mapping[i]->id == i + 1;
    for (size_t i = 0; i < message->n_function; i++)
        ours &= message->function[i]->id == i + 1;
    for (size_t i = 0; i < message->n_location; i++)
        ours &= message->location[i]->id == i + 1;
    return ours;
}

static bool types_are_ours(const struct decoder *decoder)
{
    const Message *message = decoder->message;
    if (message->n_sample_type != N_HEAP_VALUES)
        return false;
    for (int v = 0; v < N_HEAP_VALUES; v++)
        if (strcmp(text_at(decoder, message->sample_type[v]->type), heap_value_name((enum heap_value)v)) != 0)
            return false;
    return true;
}

static void decode_mappings(struct decoder *decoder)
{
    for (size_t i = 0; i < decoder->message->n_mapping; i++) {
        const Hakmem__Pprof__Mapping *from = decoder->message->mapping[i];
        heap_add_mapping(decoder->profile, &(struct heap_mapping){.start = from->memory_start,
                                                                  .limit = from->memory_limit,
                                                                  .offset = from->file_offset,
                                                                  .file = text_at(decoder, from->filename),
                                                                  .build_id = text_at(decoder, from->build_id),
                                                                  .has_functions = from->has_functions});
    }
}

static uint32_t decode_function(const struct decoder *decoder, uint64_t id)
{
    const Hakmem__Pprof__Function *from = decoder->message->function[id - 1];
    return heap_function(decoder->profile, text_at(decoder, from->name), text_at(decoder, from->system_name),
                         text_at(decoder, from->filename), from->start_line);
}

/* False: it refers to what is not there. */
static bool decode_location(struct decoder *decoder, size_t i)
{
    const Hakmem__Pprof__Location *from = decoder->message->location[i];
    if (from->mapping_id > decoder->message->n_mapping)
        return false;
    uint32_t mapping = from->mapping_id == 0 ? HEAP_NONE : (uint32_t)from->mapping_id - 1;
    struct heap_line *lines = heap_realloc(NULL, from->n_line, sizeof *lines);
    bool ok = true;
    for (size_t k = 0; k < from->n_line && ok; k++) {
        ok = from->line[k]->function_id - 1 < decoder->message->n_function;
        if (ok)
            lines[k] = (struct heap_line){decode_function(decoder, from->line[k]->function_id), from->line[k]->line};
    }
    if (ok && from->address != 0) {
        decoder->location_of[i] = heap_location(decoder->profile, mapping, from->address);
        heap_set_lines(decoder->profile, decoder->location_of[i], lines, (uint32_t)from->n_line);
    } else if (ok) {
        decoder->location_of[i] = heap_location_of_lines(decoder->profile, mapping, lines, (uint32_t)from->n_line);
    }
    free(lines);
    return ok;
}

/* False: that too, or it has too many of it. */
static bool decode_sample(struct decoder *decoder, size_t i)
{
    const Hakmem__Pprof__Sample *from = decoder->message->sample[i];
    uint32_t *stack = heap_realloc(NULL, from->n_location_id, sizeof *stack);
    bool ok = from->n_value == N_HEAP_VALUES;
    uint64_t n_lines = 0; /* of the profile's locations: two of the message with one address share theirs */
    for (size_t k = 0; k < from->n_location_id && ok && n_lines <= MAX_STACK_LINES; k++) {
        ok = from->location_id[k] - 1 < decoder->message->n_location;
        if (ok)
            stack[k] = decoder->location_of[from->location_id[k] - 1];
        n_lines += ok ? (uint64_t)decoder->profile->location[stack[k]].n_lines + 1 : 0;
    }
    decoder->too_deep |= n_lines > MAX_STACK_LINES;
    ok &= !decoder->too_deep;
    if (ok)
        heap_add_sample(decoder->profile, stack, (uint32_t)from->n_location_id, from->value);
    free(stack);
    return ok;
}

static bool decode_all(struct decoder *decoder)
{
    const Message *message = decoder->message;
    bool ok = true;
    decode_mappings(decoder);
    decoder->location_of = heap_realloc(NULL, message->n_location, sizeof *decoder->location_of);
    for (size_t i = 0; i < message->n_location && ok; i++)
        ok = decode_location(decoder, i);
    for (size_t i = 0; i < message->n_sample && ok; i++)
        ok = decode_sample(decoder, i);
    free(decoder->location_of);
    return ok;
}

static void decode_facts(const struct decoder *decoder)
{
    struct heap_profile *profile = decoder->profile;
    for (size_t i = 0; i < decoder->message->n_comment; i++)
        profile_read_facts(profile, text_at(decoder, decoder->message->comment[i]));
    profile->interval_bytes = decoder->message->period;
    profile->time_ns = decoder->message->time_nanos;
    profile->duration_ns = decoder->message->duration_nanos;
    if (profile->n_mappings != 0)
        profile->program = heap_text(profile, heap_mapping_name(profile, 0));
    for (uint32_t i = 0; i < profile->n_samples; i++)
        for (int v = 0; v < N_HEAP_VALUES; v++)
            profile->is_difference |= profile->sample[i].value[v] < 0;
}

struct heap_profile *pprof_decode(const char *bytes, size_t len_bytes, char *why, size_t why_bytes)
{
    size_t decoded_bytes;
    uint8_t *decoded = decompress(bytes, len_bytes, &decoded_bytes);
    if (decoded == NULL) {
        snprintf(why, why_bytes, "is cut or damaged: it cannot be decompressed");
        return NULL;
    }
    Message *message = hakmem__pprof__profile__unpack(NULL, decoded_bytes, decoded);
    free(decoded);
    if (message == NULL) {
        snprintf(why, why_bytes, "is no profile in pprof's format");
        return NULL;
    }
    struct decoder decoder = {.message = message, .profile = heap_profile_new()};
    const char *problem = NULL;
    if (!types_are_ours(&decoder) || !ids_are_ours(message))
        problem = "is a profile, but none that hakmem has written";
    else if (!decode_all(&decoder))
        problem = decoder.too_deep ? "has a stack of too many frames" : "is damaged: it refers to what is not in it";
    else
        decode_facts(&decoder);
    hakmem__pprof__profile__free_unpacked(message, NULL);
    if (problem == NULL)
        return decoder.profile;
    snprintf(why, why_bytes, "%s", problem);
    heap_profile_free(decoder.profile);
    return NULL;
}
