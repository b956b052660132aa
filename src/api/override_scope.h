/* override_scope.h - whether the program's files find this library's malloc and operators, or some that the program brings.
 *
 * A program may define operator new and delete for itself, but seldom all of their forms: the others are made of those few, says
 * the standard. So where somebody else's are found first, the forms that come to us go on to the C++ runtime, which makes them so.
 * And a program that brings its own malloc gives us blocks of it by the forms of delete that it does not define.
 */
#ifndef HAKMEM_API_OVERRIDE_SCOPE_H
#define HAKMEM_API_OVERRIDE_SCOPE_H

#include "base/base.h"

/* The names that make the others. */
/* clang-format off */
#define SCOPE_NAMES(X)                                                                                                 \
    X(free) X(realloc) X(_Znwm) X(_Znam) X(_ZdlPv) X(_ZdaPv) X(_ZnwmSt11align_val_t) X(_ZnamSt11align_val_t)           \
    X(_ZdlPvSt11align_val_t) X(_ZdaPvSt11align_val_t)
/* clang-format on */
#define SCOPE_NAME(name) SCOPE_##name,
enum scope_name { SCOPE_NAMES(SCOPE_NAME) SCOPE_N_NAMES };

enum { SCOPE_UNKNOWN = 0, SCOPE_OURS, SCOPE_SHARED };
extern _Atomic uint8_t scope_state __attribute__((visibility("hidden")));

/* Whether all of those names are found here. Any thread; what the dynamic linker found when it loaded us, so
 * the answer is always the same. */
NOINLINE bool scope_find(void);

/* The same, for hit paths: two instructions. */
static ALWAYS_INLINE bool scope_is_ours(void)
{
    /* relaxed: a constant, once it is known */
    return likely(atomic_load_explicit(&scope_state, memory_order_relaxed) == SCOPE_OURS);
}

/* Whether the program's free is ours. If not, its malloc isn't either, and may not be ready for calls before main. */
bool scope_has_free(void);

/* The function that the program's files find by a name: ours, or another. */
typedef void scope_function(void);
scope_function *scope_found(enum scope_name name);

/* Remembers, where not all names are found here, what the files behind us in the order of search define: for each name the next, and at
 * the end the last, which has dlerror forget what is not there. When the library is loaded: they take the dynamic linker's lock. */
void scope_prepare(void);
void scope_find_next(const char *name, void *_Atomic *found);
void scope_forget_errors(void);

/* What it found; NULL: none defines the name, or it is not known yet. */
static inline void *scope_next_known(void *_Atomic *found)
{
    return atomic_load_explicit(found, memory_order_relaxed); /* relaxed: a constant */
}

/* Gives a block to the program's free, if that is not ours and the block neither. False: nothing has happened. */
bool scope_free(void *block);

#endif
