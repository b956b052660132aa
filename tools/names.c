/* names.c - see names.h.
 * Owns       nothing.     Called by  symbols.c     Calls  libstdc++, libiberty     Threads  one.
 * Why shorter: one name of a std::map's function fills six lines with arguments of templates, and in a profile the same source line
 * for other types is the same place. pprof does likewise. */
#define _GNU_SOURCE
#include "names.h"

#include "heap_profile.h"

#include <ctype.h>
#include <libiberty/demangle.h>
#include <stdlib.h>
#include <string.h>

/* libstdc++'s, as the C++ ABI has it. */
char *__cxa_demangle(const char *mangled, char *buffer, size_t *size, int *status); /* NOLINT: its name */

struct shortening {
    const char *at; /* not read yet */
    char *out;
    size_t len;
    bool is_conversion; /* behind "operator " a blank parts nothing */
};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void copy(struct shortening *s, size_t n)
{
    memcpy(s->out + s->len, s->at, n);
    s->len += n;
    s->at += n;
}

/* Passes over what is between a bracket and its partner, the brackets included. A '>' of "->" is none. */
static const char *behind_partner(const char *at)
{
    unsigned depth = 0;
    char before = 0;
    for (; *at != 0; before = *at++) {
        if (strchr("(<[{", *at) != NULL)
            depth++;
        else if (strchr(")]}", *at) != NULL || (*at == '>' && before != '-'))
            depth--;
        if (depth == 0)
            return at + 1;
    }
    return at;
}

/* Copies up to `end` without arguments: "lambda(int)#2". */
static void copy_without_arguments(struct shortening *s, const char *end)
{
    while (s->at < end)
        if (*s->at == '(')
            s->at = behind_partner(s->at);
        else
            copy(s, 1);
}

/* "{lambda(int)#2}" of the demangler; or "<lambda(int)>" of the compiler, behind "f::". Whatever its partner is, that makes no name
 * longer: only a bracket without one, of which there is one at most, gets one. */
static void take_lambda(struct shortening *s)
{
    const char *behind = behind_partner(s->at), *end = strchr(")]}>", behind[-1]) != NULL ? behind - 1 : behind;
    s->at++;
    s->out[s->len++] = '{';
    copy_without_arguments(s, end);
    s->out[s->len++] = '}';
    s->at = behind;
}

static bool is_word_character(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* "operator" and its symbol, so that its brackets are not taken for such. */
static bool take_operator(struct shortening *s)
{
    static const char word[] = "operator";
    static const char *const symbols[] = {
        "()", "[]", "<=>", "->*", "<<=", ">>=", "<<", ">>", "<=", ">=", "==", "!=", "&&",
        "||", "++", "--",  "+=",  "-=",  "*=",  "/=", "%=", "^=", "&=", "|=", "->", "<",
        ">",  "=",  "!",   "+",   "-",   "*",   "/",  "%",  "^",  "&",  "|",  "~",  ","};
    const char *symbol = s->at + sizeof word - 1;
    if (!begins(s->at, word) || is_word_character(*symbol) || (s->len != 0 && is_word_character(s->out[s->len - 1])))
        return false;
    copy(s, sizeof word - 1);
    s->is_conversion = *symbol == ' ' || *symbol == '"'; /* or new, delete, a literal */
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
        if (begins(symbol, symbols[i])) {
            copy(s, strlen(symbols[i]));
            break;
        }
    if (begins(s->at, " <"))
        s->at++;
    return true;
}

/* What may stand behind a function's arguments. */
static void pass_qualifiers(struct shortening *s)
{
    static const char *const words[] = {" const", " volatile", " &&", " &", " noexcept"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (begins(s->at, words[i]))
            s->at += strlen(words[i]);
}

char *name_shortened(const char *name)
{
    static const char anonymous[] = "(anonymous namespace)";
    struct shortening s = {.at = name, .out = heap_alloc(strlen(name) + 3)};
    while (*s.at != 0 && !begins(s.at, " [clone")) {
        if (take_operator(&s))
            continue;
        if (begins(s.at, anonymous)) {
            copy(&s, sizeof anonymous - 1);
        } else if (*s.at == '{' || (*s.at == '<' && (s.len == 0 || s.out[s.len - 1] == ':'))) {
            take_lambda(&s);
        } else if (*s.at == '<') {
            s.at = behind_partner(s.at);
        } else if (begins(s.at, "[]") && s.is_conversion) {
            copy(&s, 2);
        } else if (*s.at == '(' || *s.at == '[') {
            s.at = behind_partner(s.at);
            pass_qualifiers(&s);
        } else if (*s.at == ' ' && !s.is_conversion) {
            s.len = 0; /* it was the result's type */
            s.at++;
        } else {
            copy(&s, 1);
        }
    }
    while (s.len != 0 && s.out[s.len - 1] == ' ')
        s.len--;
    s.out[s.len] = 0;
    if (s.len == 0)
        strcpy(s.out, name); /* NOLINT: it fits */
    return s.out;
}

char *name_for_people(const char *system_name, bool full)
{
    int status = -1;
    /* Both of Rust's ways; without the hashes by which two builds of a program differ. NULL: it is no name of Rust's. */
    char *of_rust = rust_demangle(system_name, DMGL_NO_OPTS);
    if (of_rust != NULL)
        return of_rust;
    char *demangled = begins(system_name, "_Z") ? __cxa_demangle(system_name, NULL, NULL, &status) : NULL;
    if (demangled == NULL || status != 0)
        return strcpy(heap_alloc(strlen(system_name) + 1), system_name); /* NOLINT: it fits */
    if (full)
        return demangled;
    char *name = name_shortened(demangled);
    free(demangled);
    return name;
}
