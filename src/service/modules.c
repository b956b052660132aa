/* modules.c - see modules.h.
 * Owns     nothing: the table is the caller's.     Called by  front/profile.c, front/harden.c     Calls  os.h
 * Threads  any: an entry is taken by a counter, filled, and then valid for ever.
 */
#include "service/modules.h"

#include "os/os.h"

#include <string.h>
#include <unistd.h>

/* The linker's path, from the root on. A relative one, of dlopen("./x.so"), is taken from where the process is now. */
static void copy_path(char *to, const char *path)
{
    size_t len = 0;
    if (path[0] != '/' && strchr(path, '/') != NULL) {
        if (getcwd(to, MODULE_PATH_BYTES) == NULL) {
            to[0] = 0; /* it has no room, or is gone: not a path from the root */
            return;
        }
        len = strlen(to);
        if (len + 1 < MODULE_PATH_BYTES)
            to[len++] = '/';
    }
    if (len + strlen(path) < MODULE_PATH_BYTES)
        strcpy(to + len, path); /* NOLINT: it fits */
    else
        to[0] = 0;
}

/* Whether the entry is of this module, and not of one that lay there before. */
static bool is_of(const struct module *entry, const struct os_module *module)
{
    size_t id_bytes;
    const unsigned char *id = os_module_build_id(module, &id_bytes);
    if (entry->start != module->start || entry->end != module->end ||
        entry->build_id_bytes != min_size(id_bytes, MODULE_BUILD_ID_BYTES) ||
        (id != NULL && memcmp(entry->build_id, id, entry->build_id_bytes) != 0))
        return false;
    if (module->path[0] != '/' || entry->path[0] == 0)
        return true; /* it cannot be told more exactly */
    return strcmp(entry->path, module->path) == 0;
}

/* The youngest entry that has the address. */
static const struct module *find(const struct modules *modules, uintptr_t address)
{
    for (size_t i = min_size(atomic_load(&modules->n), MODULES_MAX); i-- > 0;) {
        const struct module *entry = &modules->module[i];
        if (atomic_load_explicit(&entry->valid, memory_order_acquire) != 0 &&
            address - entry->start < entry->end - entry->start)
            return entry;
    }
    return NULL;
}

static void enter(struct modules *modules, const struct os_module *module, uint32_t since)
{
    uint32_t i = atomic_load(&modules->n);
    do {
        if (i >= MODULES_MAX)
            return;
    } while (!atomic_compare_exchange_weak(&modules->n, &i, i + 1));
    size_t id_bytes;
    const unsigned char *id = os_module_build_id(module, &id_bytes);
    struct module *entry = &modules->module[i];
    entry->since = since;
    entry->start = module->start;
    entry->end = module->end;
    entry->bias = module->bias;
    entry->build_id_bytes = (uint32_t)min_size(id_bytes, MODULE_BUILD_ID_BYTES);
    if (id != NULL)
        memcpy(entry->build_id, id, entry->build_id_bytes);
    copy_path(entry->path, module->path);
    atomic_store_explicit(&entry->valid, 1, memory_order_release);
}

void modules_enter(struct modules *modules, void *const *frame, uint32_t n_frames, uint32_t since)
{
    struct os_module module = {.start = 0, .end = 0};
    for (uint32_t i = 0; i < n_frames; i++) {
        uintptr_t address = (uintptr_t)frame[i] - 1; /* of the call */
        if (address - module.start < module.end - module.start)
            continue; /* the module of the frame before */
        if (!os_module_of((const void *)address, &module)) {
            module.start = module.end = 0;
            continue;
        }
        const struct module *entry = find(modules, address);
        if (entry == NULL || !is_of(entry, &module))
            enter(modules, &module, since);
    }
}

struct search {
    const char *const *name, *const *except;
    const char *text;
};

static bool begins_with_one(const char *text, const char *const *beginning)
{
    for (; *beginning != NULL; beginning++)
        if (strncmp(text, *beginning, strlen(*beginning)) == 0)
            return true;
    return false;
}

static bool defines_one(const struct os_module *module, const void *want)
{
    const struct search *search = want;
    const char *slash = strrchr(module->path, '/');
    bool is_own = (uintptr_t)modules_define - module->start < module->end - module->start;
    if (is_own || begins_with_one(slash == NULL ? module->path : slash + 1, search->except))
        return false;
    for (const char *const *name = search->name; *name != NULL; name++)
        if (os_module_defines(module, *name))
            return true;
    return search->text != NULL && os_module_contains(module, search->text, strlen(search->text + 1) + 2);
}

bool modules_define(const char *const *name, const char *text, const char *const *except)
{
    struct search search = {name, except, text};
    return os_module_any(defines_one, &search);
}
