/* scope.c - src/api/override_scope.h for a fuzzer, where the names of names.h are all that there is. */
#include "api/override_scope.h"

void *names_realloc(void *block, size_t size_bytes);

_Atomic uint8_t scope_state = SCOPE_OURS;

bool scope_find(void)
{
    return true;
}

scope_function *scope_found(enum scope_name name)
{
    return name == SCOPE_realloc ? (scope_function *)names_realloc : NULL;
}

bool scope_free(void *block)
{
    (void)block;
    return false;
}
