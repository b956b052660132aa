/* library.c - where libhakmem.so is.
 * Owns       the list of places and names.     Called by  run.c.     Calls  libc only.     Threads  one.
 * I1  The path found is absolute, so that it holds in a program that changes its directory.
 * Why relative to this command first: a build tree, an unpacked archive and an installation that was moved all work,
 * and each uses its own library. The versioned name comes first, because a system may have the plain one only with the
 * development files, or pointing to a later version with another interface. */
#define _GNU_SOURCE
#include "tool.h"

#include "hakmem/hakmem.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The build gives the way from this command to the library in an installation, the directory that the library is
 * installed to, and its versioned name. */
#ifndef HAKMEM_BIN_TO_LIB
#define HAKMEM_BIN_TO_LIB "../lib"
#endif
#ifndef HAKMEM_LIBDIR
#define HAKMEM_LIBDIR "/usr/local/lib"
#endif
#ifndef HAKMEM_SONAME
#define SONAME_OF(major) "libhakmem.so." #major
#define SONAME(major) SONAME_OF(major)
#define HAKMEM_SONAME SONAME(HAKMEM_VERSION_MAJOR)
#endif

/* Debian's directory below lib/ for this architecture. */
#if defined(__x86_64__)
#define MULTIARCH_PLACE "../lib/x86_64-linux-gnu"
#elif defined(__aarch64__)
#define MULTIARCH_PLACE "../lib/aarch64-linux-gnu"
#else
#define MULTIARCH_PLACE "../lib"
#endif

/* A place without a leading slash is relative to the directory of this command. */
static const char *const places[] = {".", HAKMEM_BIN_TO_LIB, "../lib", MULTIARCH_PLACE, HAKMEM_LIBDIR};
static const char *const names[] = {HAKMEM_SONAME, "libhakmem.so"};

enum { N_PLACES = sizeof places / sizeof places[0], N_NAMES = sizeof names / sizeof names[0] };

static bool own_directory(char *path, size_t size_bytes)
{
    const ssize_t length = readlink("/proc/self/exe", path, size_bytes - 1);
    if (length <= 0)
        return false;
    path[length] = '\0';
    *strrchr(path, '/') = '\0';
    return true;
}

/* Writes the place as an absolute path, without dots when it exists. Returns false when it cannot be named. */
static bool place_path(const char *place, char path[PATH_MAX])
{
    char own[PATH_MAX] = "";
    char full[2 * PATH_MAX];
    if (place[0] != '/' && !own_directory(own, sizeof own))
        return false;
    snprintf(full, sizeof full, "%s%s%s", own, place[0] == '/' ? "" : "/", place);
    if (realpath(full, path) != NULL)
        return true;
    const int length = snprintf(path, PATH_MAX, "%s", full);
    return length < PATH_MAX;
}

static bool library_is_in(const char *place, const char *name, char *path, size_t size_bytes)
{
    char directory[PATH_MAX];
    if (!place_path(place, directory))
        return false;
    const int length = snprintf(path, size_bytes, "%s/%s", directory, name);
    return length > 0 && (size_t)length < size_bytes && access(path, R_OK) == 0;
}

int library_find(char *path, size_t size_bytes)
{
    for (int i = 0; i < N_PLACES; i++)
        for (int j = 0; j < N_NAMES; j++)
            if (library_is_in(places[i], names[j], path, size_bytes))
                return 0;
    return -1;
}

static bool is_listed_earlier(int place)
{
    for (int i = 0; i < place; i++)
        if (strcmp(places[i], places[place]) == 0)
            return true;
    return false;
}

void library_places(char *text, size_t size_bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < N_PLACES && used < size_bytes; i++) {
        char directory[PATH_MAX];
        if (!is_listed_earlier(i) && place_path(places[i], directory))
            used += (size_t)snprintf(text + used, size_bytes - used, "%s%s", used == 0 ? "" : ", ", directory);
    }
}
