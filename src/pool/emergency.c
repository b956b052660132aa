/* emergency.c - see emergency.h.
 * Owns     the mappings it makes.     Called by  front/refill.c, front/large_block.c, large.c     Calls  os.h, registry.h
 * Threads  any, no lock.
 *
 *   mapping   | ... | header | block ...            |
 *             ^ 2 MiB-aligned  ^ aligned as asked for
 * The registry knows these addresses under an arena of their own, which has no class map and no slabs.
 *
 * The header alone of all records lies where the program writes: a write before the block may reach it, and what the program writes into a
 * block may look like one. So it has a keyed hash of what it says and of its place, without which it is none.
 */
#include "pool/emergency.h"

#include "meta/registry.h"
#include "os/os.h"

struct header {
    _Atomic uint64_t seal; /* 0: the block has been freed */
    void *mapping;
    size_t mapping_bytes, usable_bytes;
};

static SELDOM_USED struct arena emergency_arena; /* never linked, all zero: a name for the registry */

/* What the seals are keyed with: an odd number, drawn by the first who asks. */
static uint64_t secret(void)
{
    static _Atomic uint64_t drawn;
    uint64_t known = atomic_load(&drawn);
    if (known != 0)
        return known;
    uint64_t fresh = os_random() | 1;
    return atomic_compare_exchange_strong(&drawn, &known, fresh) ? fresh : known;
}

static uint64_t hash_further(uint64_t hash, uint64_t what, uint64_t key)
{
    __extension__ typedef unsigned __int128 product;
    product p = (product)(hash ^ what) * key;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t seal_of(const struct header *header)
{
    uint64_t key = secret(), hash = hash_further(key, (uintptr_t)header, key);
    hash = hash_further(hash, (uintptr_t)header->mapping, key);
    hash = hash_further(hash, header->mapping_bytes, key);
    return hash_further(hash, header->usable_bytes, key) | 1; /* never 0 */
}

void *emergency_claim(size_t size_bytes, size_t alignment)
{
    if (size_bytes > PTRDIFF_MAX / 2 || alignment > PTRDIFF_MAX / 4)
        return NULL;
    size_bytes = max_size(size_bytes, 1); /* so that the block lies in its mapping */
    size_t offset_bytes = max_size(alignment, CACHE_LINE_BYTES);
    size_t mapping_bytes = round_up(offset_bytes + size_bytes, SUPERSLAB_BYTES);
    char *mapping = os_reserve(mapping_bytes, max_size(alignment, SUPERSLAB_BYTES));
    if (mapping == NULL)
        return NULL;
    if (!os_commit(mapping, round_up(offset_bytes + size_bytes, os_page_bytes())) ||
        !registry_enter(mapping, mapping_bytes >> SUPERSLAB_SHIFT, &emergency_arena)) {
        registry_enter(mapping, mapping_bytes >> SUPERSLAB_SHIFT, NULL); /* as far as it came */
        os_unreserve(mapping, mapping_bytes);
        return NULL;
    }
    struct header *header = (struct header *)(void *)(mapping + offset_bytes) - 1;
    header->mapping = mapping;
    header->mapping_bytes = mapping_bytes;
    header->usable_bytes = size_bytes;
    atomic_store(&header->seal, seal_of(header));
    return header + 1;
}

/* The header of a block; NULL when no block begins at the address. */
static struct header *header_of(const void *block)
{
    if ((uintptr_t)block < sizeof(struct header))
        return NULL;
    struct header *header =
        (struct header *)(uintptr_t)block - 1; /* in the same mapping, or the address is its first */
    if (registry_arena(block) != &emergency_arena || registry_arena(header) != &emergency_arena ||
        ((uintptr_t)block & (CACHE_LINE_BYTES - 1)) != 0 ||
        !os_is_readable(header)) /* behind the block the mapping is only reserved */
        return NULL;
    return atomic_load(&header->seal) == seal_of(header) ? header : NULL;
}

bool emergency_return(void *block)
{
    struct header *header = header_of(block);
    if (header == NULL)
        return false;
    void *mapping = header->mapping;
    size_t mapping_bytes = header->mapping_bytes;
    uint64_t seal = seal_of(header);
    if (!atomic_compare_exchange_strong(&header->seal, &seal, 0))
        /* another thread is just freeing it: the second to unmap it might unmap what lies there by then */
        return false;
    registry_enter(mapping, mapping_bytes >> SUPERSLAB_SHIFT, NULL); /* The leaves are there: it cannot fail. */
    os_unreserve(mapping, mapping_bytes);
    return true;
}

size_t emergency_usable_bytes(const void *block)
{
    const struct header *header = header_of(block);
    return header == NULL ? 0 : header->usable_bytes;
}
