/* plugin.c - the shared library that dlopen.c loads and unloads again and again: it allocates when it is loaded,
 * frees when it is unloaded, hands out blocks and takes blocks, and has thread-local storage of its own.
 */
#include <stdlib.h>
#include <string.h>

void *plugin_make(size_t size_bytes, int byte);
void plugin_take(void *block);
size_t plugin_touch(void);

static char *from_start[20];
static __thread char local[512] = "thread-local";
static __thread char *local_block;

__attribute__((constructor)) static void load(void)
{
    for (size_t i = 0; i < 20; i++) {
        from_start[i] = malloc(i * 500 + 1);
        if (from_start[i] != NULL)
            memset(from_start[i], (int)i, i * 500 + 1);
    }
}

/* A block that has changed ends the process: the test sees it. */
__attribute__((destructor)) static void unload(void)
{
    for (size_t i = 0; i < 20; i++) {
        if (from_start[i] == NULL || from_start[i][0] != (char)i || from_start[i][i * 500] != (char)i)
            abort();
        free(from_start[i]);
    }
    free(local_block);
}

void *plugin_make(size_t size_bytes, int byte)
{
    void *block = malloc(size_bytes);
    if (block != NULL)
        memset(block, byte, size_bytes);
    return block;
}

void plugin_take(void *block)
{
    free(block);
}

size_t plugin_touch(void)
{
    free(local_block);
    local_block = malloc(strlen(local) * 100);
    local[511] = local_block != NULL;
    return strlen(local);
}
