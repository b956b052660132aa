/* override_cxx.c - the C++ operators new and delete, all twenty, defined directly: no detour through malloc's PLT
 * entry.
 * Owns     nothing.     Called by  C++ programs.     Calls  front/hit.h; libstdc++ only if the program has loaded it.
 * Threads  any.
 * The names are those of the Itanium C++ ABI: _Zn = new, _Zd = delete, w = single, a = array, m = size_t,
 * St11align_val_t = alignment, RKSt9nothrow_t = nothrow.
 * Source   ISO C++20 [new.delete]: on failure the program's new_handler is called again and again; without one,
 *          std::bad_alloc is thrown, or NULL returned by the nothrow forms.
 */
#include "front/hit.h"
#include "hakmem/hakmem.h"
#include "service/report.h"

#include <dlfcn.h>
#include <stdlib.h>

#pragma weak dlsym /* NULL in a fully static program that has no other use for it */

#define EXPORT HIT_TEXT __attribute__((visibility("default")))

typedef void (*new_handler)(void);

/* Weak: these resolve when the program brings a C++ runtime, and are NULL when it does not. */
__attribute__((weak)) new_handler _ZSt15get_new_handlerv(void);
__attribute__((weak, noreturn)) void _ZSt17__throw_bad_allocv(void);

static HIT_TEXT void *allocate(size_t size_bytes, size_t alignment)
{
    return alignment <= 1 ? hit_malloc(size_bytes) : hak_aligned_alloc(alignment, size_bytes);
}

/* The handler in force; false when there is none and the request has failed for good. */
static bool call_new_handler(void)
{
    new_handler handler = _ZSt15get_new_handlerv != NULL ? _ZSt15get_new_handlerv() : NULL;
    if (handler == NULL)
        return false;
    handler(); /* It may throw: this file is compiled with unwind tables. */
    return true;
}

static COLD void *retry_or_throw(size_t size_bytes, size_t alignment)
{
    while (call_new_handler()) {
        void *block = allocate(size_bytes, alignment);
        if (block != NULL)
            return block;
    }
    if (_ZSt17__throw_bad_allocv != NULL)
        _ZSt17__throw_bad_allocv();
    report_line("hakmem: operator new: out of memory for %z bytes, and no C++ runtime to throw std::bad_alloc",
                size_bytes);
    abort();
}

/* The nothrow forms return NULL where the others throw, also when the handler throws. C cannot catch an exception,
 * but the runtime's own nothrow operator does: it calls the throwing one, which is ours, and catches. Where there is
 * none (a fully static program), a handler's exception leaves the operator. */
static COLD void *retry_or_null(size_t size_bytes, size_t alignment, const char *name)
{
    if (_ZSt15get_new_handlerv == NULL || _ZSt15get_new_handlerv() == NULL)
        return NULL;
    void *next = dlsym != NULL ? dlsym(RTLD_NEXT, name) : NULL;
    if (next != NULL && alignment <= 1)
        return ((void *(*)(size_t, const void *))next)(size_bytes, NULL);
    if (next != NULL)
        return ((void *(*)(size_t, size_t, const void *))next)(size_bytes, alignment, NULL);
    while (call_new_handler()) {
        void *block = allocate(size_bytes, alignment);
        if (block != NULL)
            return block;
    }
    return NULL;
}

static ALWAYS_INLINE void *new_throwing(size_t size_bytes, size_t alignment)
{
    void *block = allocate(size_bytes, alignment);
    return likely(block != NULL) ? block : retry_or_throw(size_bytes, alignment);
}

static ALWAYS_INLINE void *new_nothrow(size_t size_bytes, size_t alignment, const char *name)
{
    void *block = allocate(size_bytes, alignment);
    return likely(block != NULL) ? block : retry_or_null(size_bytes, alignment, name);
}

#define NEW(name)                                                                                                      \
    EXPORT void *name(size_t n);                                                                                       \
    void *name(size_t n)                                                                                               \
    {                                                                                                                  \
        return new_throwing(n, 1);                                                                                     \
    }
#define NEW_NOTHROW(name)                                                                                              \
    EXPORT void *name(size_t n, const void *t);                                                                        \
    void *name(size_t n, const void *t)                                                                                \
    {                                                                                                                  \
        (void)t;                                                                                                       \
        return new_nothrow(n, 1, #name);                                                                               \
    }
#define NEW_ALIGNED(name)                                                                                              \
    EXPORT void *name(size_t n, size_t a);                                                                             \
    void *name(size_t n, size_t a)                                                                                     \
    {                                                                                                                  \
        return new_throwing(n, a);                                                                                     \
    }
#define NEW_ALIGNED_NOTHROW(name)                                                                                      \
    EXPORT void *name(size_t n, size_t a, const void *t);                                                              \
    void *name(size_t n, size_t a, const void *t)                                                                      \
    {                                                                                                                  \
        (void)t;                                                                                                       \
        return new_nothrow(n, a, #name);                                                                               \
    }
#define DELETE1(name)                                                                                                  \
    EXPORT void name(void *p);                                                                                         \
    void name(void *p)                                                                                                 \
    {                                                                                                                  \
        hit_free(p);                                                                                                   \
    }
#define DELETE2(name, type2)                                                                                           \
    EXPORT void name(void *p, type2 x);                                                                                \
    void name(void *p, type2 x)                                                                                        \
    {                                                                                                                  \
        (void)x;                                                                                                       \
        hit_free(p);                                                                                                   \
    }
#define DELETE3(name, type2, type3)                                                                                    \
    EXPORT void name(void *p, type2 x, type3 y);                                                                       \
    void name(void *p, type2 x, type3 y)                                                                               \
    {                                                                                                                  \
        (void)x;                                                                                                       \
        (void)y;                                                                                                       \
        hit_free(p);                                                                                                   \
    }

NEW(_Znwm)                                                         /* new(size) */
NEW(_Znam)                                                         /* new[](size) */
NEW_NOTHROW(_ZnwmRKSt9nothrow_t)                                   /* new(size, nothrow) */
NEW_NOTHROW(_ZnamRKSt9nothrow_t)                                   /* new[](size, nothrow) */
NEW_ALIGNED(_ZnwmSt11align_val_t)                                  /* new(size, align) */
NEW_ALIGNED(_ZnamSt11align_val_t)                                  /* new[](size, align) */
NEW_ALIGNED_NOTHROW(_ZnwmSt11align_val_tRKSt9nothrow_t)            /* new(size, align, nothrow) */
NEW_ALIGNED_NOTHROW(_ZnamSt11align_val_tRKSt9nothrow_t)            /* new[](size, align, nothrow) */
DELETE1(_ZdlPv)                                                    /* delete(p) */
DELETE1(_ZdaPv)                                                    /* delete[](p) */
DELETE2(_ZdlPvm, size_t)                                           /* delete(p, size) */
DELETE2(_ZdaPvm, size_t)                                           /* delete[](p, size) */
DELETE2(_ZdlPvRKSt9nothrow_t, const void *)                        /* delete(p, nothrow) */
DELETE2(_ZdaPvRKSt9nothrow_t, const void *)                        /* delete[](p, nothrow) */
DELETE2(_ZdlPvSt11align_val_t, size_t)                             /* delete(p, align) */
DELETE2(_ZdaPvSt11align_val_t, size_t)                             /* delete[](p, align) */
DELETE3(_ZdlPvmSt11align_val_t, size_t, size_t)                    /* delete(p, size, align) */
DELETE3(_ZdaPvmSt11align_val_t, size_t, size_t)                    /* delete[](p, size, align) */
DELETE3(_ZdlPvSt11align_val_tRKSt9nothrow_t, size_t, const void *) /* delete(p, align, nothrow) */
DELETE3(_ZdaPvSt11align_val_tRKSt9nothrow_t, size_t, const void *) /* delete[](p, align, nothrow) */
