/* override_cxx.c - the C++ operators new and delete, all twenty, defined directly: no detour through malloc's PLT
 * entry. All are weak: linked statically, a program that defines some for itself has those.
 * Owns     nothing.     Called by  C++ programs.     Calls  front/hit.h; libstdc++ only if the program has loaded it.
 * Threads  any.
 * The names are those of the Itanium C++ ABI: _Zn = new, _Zd = delete, w = single, a = array, m = size_t,
 * St11align_val_t = alignment, RKSt9nothrow_t = nothrow.
 * Source   ISO C++20 [new.delete]: on failure the program's new_handler is called again and again; without one,
 *          std::bad_alloc is thrown, or NULL returned by the nothrow forms. Four forms stand for themselves, new and delete of one
 *          object, without and with an alignment; the others are made of them, or of the forms of arrays, should the program
 *          define those (override_scope.h).
 */
#include "api/override_scope.h"
#include "front/hit.h"
#include "hakmem/hakmem.h"
#include "service/report.h"

#include <dlfcn.h>
#include <stdlib.h>

#pragma weak dlsym /* NULL in a fully static program that has no other use for it */

#define EXPORT HIT_TEXT __attribute__((weak, visibility("default")))

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

/* A block that this library's delete, of the simplest form, does not take back at once: it may be the program's malloc's. */
static void return_rest(void *block, const struct release *release)
{
    if (scope_is_ours() || scope_find() || !scope_free(block))
        front_return_as(block, release);
}

#define ANY RELEASE_ANY_SIZE
#define UNUSED __attribute__((unused))
#define CALL_OF(array) ((array) ? "operator delete[]" : "operator delete")
#define KIND_OF(array) ((array) ? KIND_NEW_ARRAY : KIND_NEW)

/* The forms that stand for themselves. */
#define NEW(name, alignment, ...)                                                                                      \
    EXPORT void *name(__VA_ARGS__);                                                                                    \
    void *name(__VA_ARGS__)                                                                                            \
    {                                                                                                                  \
        return new_throwing(n, alignment, KIND_NEW);                                                                   \
    }
#define DELETE(name, alignment, ...)                                                                                   \
    EXPORT void name(__VA_ARGS__);                                                                                     \
    void name(__VA_ARGS__)                                                                                             \
    {                                                                                                                  \
        if (unlikely(!cache_push(cache_behind_door(), registry_class_offset(p), p)))                                   \
            return_rest(p, &(struct release){CALL_OF(false), KIND_NEW, ANY, alignment});                               \
    }

/* A form that is made of another one: `of` is that call, `parameters` and `arguments` are its own, in parentheses. claim is how this
 * library serves it, where all names are ours. The runtime's, if there is one, also catches what the program's
 * throws. */
#define NEW_OF(name, of, claim, parameters, arguments)                                                                 \
    EXPORT void *name parameters;                                                                                      \
    static void *_Atomic next_##name;                                                                                  \
    static COLD void *name##_of parameters                                                                             \
    {                                                                                                                  \
        if (scope_find())                                                                                              \
            return name arguments;                                                                                     \
        __typeof__(name) *next = (__typeof__(name) *)scope_next_known(&next_##name);                                   \
        return next != NULL ? next arguments : of;                                                                     \
    }                                                                                                                  \
    void *name parameters                                                                                              \
    {                                                                                                                  \
        return scope_is_ours() ? claim : name##_of arguments;                                                          \
    }
/* `size` and `alignment` are expressions of the parameters n and a, or what stands for "not told". */
#define DELETE_OF(name, of, array, size, alignment, parameters, arguments)                                             \
    EXPORT void name parameters;                                                                                       \
    static void *_Atomic next_##name;                                                                                  \
    static COLD void name##_of parameters                                                                              \
    {                                                                                                                  \
        bool ours = scope_find();                                                                                      \
        __typeof__(name) *next = ours ? NULL : (__typeof__(name) *)scope_next_known(&next_##name);                     \
        if (ours)                                                                                                      \
            front_return_as(p, &(struct release){CALL_OF(array), KIND_OF(array), size, alignment});                    \
        else if (next != NULL)                                                                                         \
            next arguments;                                                                                            \
        else                                                                                                           \
            of;                                                                                                        \
    }                                                                                                                  \
    void name parameters                                                                                               \
    {                                                                                                                  \
        if (likely(scope_is_ours()))                                                                                   \
            hit_release(p, CALL_OF(array), KIND_OF(array), size, alignment);                                           \
        else                                                                                                           \
            name##_of arguments;                                                                                       \
    }

#define FOUND(name) ((__typeof__(name) *)scope_found(SCOPE_##name))

/* new(size), new(size, align), delete(p), delete(p, align) */
NEW(_Znwm, 1, size_t n)
NEW(_ZnwmSt11align_val_t, a, size_t n, size_t a)
DELETE(_ZdlPv, 1, void *p)
DELETE(_ZdlPvSt11align_val_t, a, void *p, size_t a)

/* new[](size), new(size, nothrow), new[](size, nothrow); and with an alignment */
NEW_OF(_Znam, FOUND(_Znwm)(n), new_throwing(n, 1, KIND_NEW_ARRAY), (size_t n), (n))
NEW_OF(_ZnwmRKSt9nothrow_t, FOUND(_Znwm)(n), new_nothrow(n, 1, KIND_NEW, "_ZnwmRKSt9nothrow_t"),
       (size_t n, UNUSED const void *t), (n, t))
NEW_OF(_ZnamRKSt9nothrow_t, FOUND(_Znam)(n), new_nothrow(n, 1, KIND_NEW_ARRAY, "_ZnamRKSt9nothrow_t"),
       (size_t n, UNUSED const void *t), (n, t))
NEW_OF(_ZnamSt11align_val_t, FOUND(_ZnwmSt11align_val_t)(n, a), new_throwing(n, a, KIND_NEW_ARRAY),
       (size_t n, size_t a), (n, a))
NEW_OF(_ZnwmSt11align_val_tRKSt9nothrow_t, FOUND(_ZnwmSt11align_val_t)(n, a),
       new_nothrow(n, a, KIND_NEW, "_ZnwmSt11align_val_tRKSt9nothrow_t"), (size_t n, size_t a, UNUSED const void *t),
       (n, a, t))
NEW_OF(_ZnamSt11align_val_tRKSt9nothrow_t, FOUND(_ZnamSt11align_val_t)(n, a),
       new_nothrow(n, a, KIND_NEW_ARRAY, "_ZnamSt11align_val_tRKSt9nothrow_t"),
       (size_t n, size_t a, UNUSED const void *t), (n, a, t))

/* delete[](p), then (p, size) and (p, nothrow) of one object and of arrays; and with an alignment */
DELETE_OF(_ZdaPv, FOUND(_ZdlPv)(p), true, ANY, 1, (void *p), (p))
DELETE_OF(_ZdlPvm, FOUND(_ZdlPv)(p), false, n, 1, (void *p, size_t n), (p, n))
DELETE_OF(_ZdaPvm, FOUND(_ZdaPv)(p), true, n, 1, (void *p, size_t n), (p, n))
DELETE_OF(_ZdlPvRKSt9nothrow_t, FOUND(_ZdlPv)(p), false, ANY, 1, (void *p, UNUSED const void *t), (p, t))
DELETE_OF(_ZdaPvRKSt9nothrow_t, FOUND(_ZdaPv)(p), true, ANY, 1, (void *p, UNUSED const void *t), (p, t))
DELETE_OF(_ZdaPvSt11align_val_t, FOUND(_ZdlPvSt11align_val_t)(p, a), true, ANY, a, (void *p, size_t a), (p, a))
DELETE_OF(_ZdlPvmSt11align_val_t, FOUND(_ZdlPvSt11align_val_t)(p, a), false, n, a, (void *p, size_t n, size_t a),
          (p, n, a))
DELETE_OF(_ZdaPvmSt11align_val_t, FOUND(_ZdaPvSt11align_val_t)(p, a), true, n, a, (void *p, size_t n, size_t a),
          (p, n, a))
DELETE_OF(_ZdlPvSt11align_val_tRKSt9nothrow_t, FOUND(_ZdlPvSt11align_val_t)(p, a), false, ANY, a,
          (void *p, size_t a, UNUSED const void *t), (p, a, t))
DELETE_OF(_ZdaPvSt11align_val_tRKSt9nothrow_t, FOUND(_ZdaPvSt11align_val_t)(p, a), true, ANY, a,
          (void *p, size_t a, UNUSED const void *t), (p, a, t))

/* The dynamic linker is asked before there are other threads, for dlsym takes dlopen's lock: a thread that deletes something, for which a
 * constructor in another one's dlopen waits, would wait for ever. */
#define FIND(name) scope_find_next(#name, &next_##name);
void scope_prepare(void)
{
    /* without a runtime there is none; and a dlsym that fails allocates */
    if (_ZSt15get_new_handlerv == NULL || scope_find())
        return;
    FIND(_Znam)
    FIND(_ZnwmRKSt9nothrow_t)
    FIND(_ZnamRKSt9nothrow_t)
    FIND(_ZnamSt11align_val_t)
    FIND(_ZnwmSt11align_val_tRKSt9nothrow_t)
    FIND(_ZnamSt11align_val_tRKSt9nothrow_t)
    FIND(_ZdaPv)
    FIND(_ZdlPvm)
    FIND(_ZdaPvm)
    FIND(_ZdlPvRKSt9nothrow_t)
    FIND(_ZdaPvRKSt9nothrow_t)
    FIND(_ZdaPvSt11align_val_t)
    FIND(_ZdlPvmSt11align_val_t)
    FIND(_ZdaPvmSt11align_val_t)
    FIND(_ZdlPvSt11align_val_tRKSt9nothrow_t)
    FIND(_ZdaPvSt11align_val_tRKSt9nothrow_t)
    scope_forget_errors();
}

/* ---- For override_scope.c ---------------------------------------------------------------------------------------- */

#define OWN(name) extern __typeof__(name) own_##name __attribute__((alias(#name), visibility("hidden")));
OWN(_Znwm)
OWN(_Znam)
OWN(_ZdlPv)
OWN(_ZdaPv)
OWN(_ZnwmSt11align_val_t)
OWN(_ZnamSt11align_val_t)
OWN(_ZdlPvSt11align_val_t)
OWN(_ZdaPvSt11align_val_t)
