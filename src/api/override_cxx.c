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

static ALWAYS_INLINE void *allocate(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    return alignment <= 1 ? hit_claim(size_bytes, kind) : hit_claim_aligned(size_bytes, alignment, kind);
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

static COLD HIT_TEXT void *retry_or_throw(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    while (call_new_handler()) {
        void *block = allocate(size_bytes, alignment, kind);
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
static COLD HIT_TEXT void *retry_or_null(size_t size_bytes, size_t alignment, enum block_kind kind, const char *name)
{
    if (_ZSt15get_new_handlerv == NULL || _ZSt15get_new_handlerv() == NULL)
        return NULL;
    void *next = dlsym != NULL ? dlsym(RTLD_NEXT, name) : NULL;
    if (next != NULL && alignment <= 1)
        return ((void *(*)(size_t, const void *))next)(size_bytes, NULL);
    if (next != NULL)
        return ((void *(*)(size_t, size_t, const void *))next)(size_bytes, alignment, NULL);
    while (call_new_handler()) {
        void *block = allocate(size_bytes, alignment, kind);
        if (block != NULL)
            return block;
    }
    return NULL;
}

static ALWAYS_INLINE void *new_throwing(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    void *block = allocate(size_bytes, alignment, kind);
    return likely(block != NULL) ? block : retry_or_throw(size_bytes, alignment, kind);
}

static ALWAYS_INLINE void *new_nothrow(size_t size_bytes, size_t alignment, enum block_kind kind, const char *name)
{
    void *block = allocate(size_bytes, alignment, kind);
    return likely(block != NULL) ? block : retry_or_null(size_bytes, alignment, kind, name);
}

#define NEW(name, kind)                                                                                                \
    EXPORT void *name(size_t n);                                                                                       \
    void *name(size_t n)                                                                                               \
    {                                                                                                                  \
        return new_throwing(n, 1, kind);                                                                               \
    }
#define NEW_NOTHROW(name, kind)                                                                                        \
    EXPORT void *name(size_t n, const void *t);                                                                        \
    void *name(size_t n, const void *t)                                                                                \
    {                                                                                                                  \
        (void)t;                                                                                                       \
        return new_nothrow(n, 1, kind, #name);                                                                         \
    }
#define NEW_ALIGNED(name, kind)                                                                                        \
    EXPORT void *name(size_t n, size_t a);                                                                             \
    void *name(size_t n, size_t a)                                                                                     \
    {                                                                                                                  \
        return new_throwing(n, a, kind);                                                                               \
    }
#define NEW_ALIGNED_NOTHROW(name, kind)                                                                                \
    EXPORT void *name(size_t n, size_t a, const void *t);                                                              \
    void *name(size_t n, size_t a, const void *t)                                                                      \
    {                                                                                                                  \
        (void)t;                                                                                                       \
        return new_nothrow(n, a, kind, #name);                                                                         \
    }
/* delete: `size` and `alignment` are expressions of the parameters n and a, or what stands for "not told". */
#define DELETE(name, array, size, alignment, ...)                                                                      \
    EXPORT void name(__VA_ARGS__);                                                                                     \
    void name(__VA_ARGS__)                                                                                             \
    {                                                                                                                  \
        hit_release(p, array ? "operator delete[]" : "operator delete", array ? KIND_NEW_ARRAY : KIND_NEW, size,       \
                    alignment);                                                                                        \
    }
#define ANY RELEASE_ANY_SIZE
#define UNUSED __attribute__((unused))

NEW(_Znwm, KIND_NEW)                                                       /* new(size) */
NEW(_Znam, KIND_NEW_ARRAY)                                                 /* new[](size) */
NEW_NOTHROW(_ZnwmRKSt9nothrow_t, KIND_NEW)                                 /* new(size, nothrow) */
NEW_NOTHROW(_ZnamRKSt9nothrow_t, KIND_NEW_ARRAY)                           /* new[](size, nothrow) */
NEW_ALIGNED(_ZnwmSt11align_val_t, KIND_NEW)                                /* new(size, align) */
NEW_ALIGNED(_ZnamSt11align_val_t, KIND_NEW_ARRAY)                          /* new[](size, align) */
NEW_ALIGNED_NOTHROW(_ZnwmSt11align_val_tRKSt9nothrow_t, KIND_NEW)          /* new(size, align, nothrow) */
NEW_ALIGNED_NOTHROW(_ZnamSt11align_val_tRKSt9nothrow_t, KIND_NEW_ARRAY)    /* new[](size, align, nothrow) */
DELETE(_ZdlPv, false, ANY, 1, void *p)                                     /* delete(p) */
DELETE(_ZdaPv, true, ANY, 1, void *p)                                      /* delete[](p) */
DELETE(_ZdlPvm, false, n, 1, void *p, size_t n)                            /* delete(p, size) */
DELETE(_ZdaPvm, true, n, 1, void *p, size_t n)                             /* delete[](p, size) */
DELETE(_ZdlPvRKSt9nothrow_t, false, ANY, 1, void *p, UNUSED const void *t) /* delete(p, nothrow) */
DELETE(_ZdaPvRKSt9nothrow_t, true, ANY, 1, void *p, UNUSED const void *t)  /* delete[](p, nothrow) */
DELETE(_ZdlPvSt11align_val_t, false, ANY, a, void *p, size_t a)            /* delete(p, align) */
DELETE(_ZdaPvSt11align_val_t, true, ANY, a, void *p, size_t a)             /* delete[](p, align) */
DELETE(_ZdlPvmSt11align_val_t, false, n, a, void *p, size_t n, size_t a)   /* delete(p, size, align) */
DELETE(_ZdaPvmSt11align_val_t, true, n, a, void *p, size_t n, size_t a)    /* delete[](p, size, align) */
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, false, ANY, a, void *p, size_t a,
       UNUSED const void *t) /* delete(p, align, nothrow) */
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, true, ANY, a, void *p, size_t a,
       UNUSED const void *t) /* delete[](p, align, nothrow) */
