/* other.c - another library that allocates: it is built without any knowledge of hakmem. */
#include <stdlib.h>

void *other_allocate(size_t size_bytes);
void other_release(void *block);

void *other_allocate(size_t size_bytes)
{
    return malloc(size_bytes);
}

void other_release(void *block)
{
    free(block);
}
