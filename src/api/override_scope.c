/* override_scope.c - see override_scope.h.
 * Owns     scope_state.     Called by  override.c, override_cxx.c, sleepers.c     Calls  the dynamic linker; registry.h
 * Threads  any.
 * The names below are the only ones of which a reference from inside the library is not bound to its own definition
 * (cmake/dynamic.list). Weak: linked statically, this file fetches none of them.
 */
#include "api/override_scope.h"

#include "front/hit.h"
#include "front/sampled.h"
#include "meta/registry.h"

#include <dlfcn.h>
#include <stdlib.h>

#pragma weak dlsym /* NULL in a fully static program that has no other use for them */
#pragma weak dlerror

/* own_NAME is another name of ours, which nobody else can define. */
#define DECLARE(name)                                                                                                  \
    extern scope_function found_##name __asm__(#name) __attribute__((weak));                                           \
    extern scope_function own_##name __attribute__((weak, visibility("hidden")));
SCOPE_NAMES(DECLARE)

#define ROW(name) [SCOPE_##name] = {found_##name, own_##name},
static const struct {
    scope_function *found, *own;
} names[SCOPE_N_NAMES] = {SCOPE_NAMES(ROW)};

_Atomic uint8_t scope_state;

/* Read as if it could change: no compiler is to think it knows that it is not the other one. */
scope_function *scope_found(enum scope_name name)
{
    return *(scope_function *const volatile *)&names[name].found;
}

bool scope_find(void)
{
    uint8_t known = atomic_load_explicit(&scope_state, memory_order_relaxed); /* relaxed, both: a constant */
    bool ours = true;
    if (known != SCOPE_UNKNOWN)
        return known == SCOPE_OURS;
    for (unsigned i = 0; i < SCOPE_N_NAMES; i++)
        ours &= scope_found((enum scope_name)i) == names[i].own;
    atomic_store_explicit(&scope_state, ours ? SCOPE_OURS : SCOPE_SHARED, memory_order_relaxed);
    return ours;
}

void scope_find_next(const char *name, void *_Atomic *found)
{
    if (dlsym != NULL)
        atomic_store_explicit(found, dlsym(RTLD_NEXT, name), memory_order_relaxed); /* relaxed: a constant */
}

void scope_forget_errors(void)
{
    if (dlerror != NULL)
        dlerror();
}

bool scope_has_free(void)
{
    return scope_found(SCOPE_free) == names[SCOPE_free].own;
}

bool scope_free(void *block)
{
    scope_function *found = scope_found(SCOPE_free);
    if (found == names[SCOPE_free].own || block == NULL || registry_arena(block) != NULL || sampled_has(block))
        return false;
    ((void (*)(void *))found)(block);
    return true;
}

bool hit_is_entry(uintptr_t address)
{
    bool is_entry = address == (uintptr_t)malloc || address == (uintptr_t)calloc;
    for (unsigned i = 0; i < SCOPE_N_NAMES; i++)
        is_entry |= address == (uintptr_t)names[i].own;
    return is_entry;
}
