/* unwind.c - see unwind.h.
 * Owns       the table of rules.     Called by  stack.c, front/profile.c     Calls  os.h
 * Threads    any, and signal handlers. The table is a cache: an entry that is being written is taken as missing, and one that
 *            cannot be written now is not kept.
 * I1  A rule is used only for the module that it was read from: another one may lie there later.
 * I2  What cannot be told with certainty makes unwind_take give up; it never guesses.
 * That is for x86-64. On arm64 the frames' own records are followed, where a signal handler is among them; otherwise, and elsewhere,
 * it gives up at once.
 *
 * A rule says how a function's caller is found at one instruction. The frame's address (CFA) is the stack or the base pointer and
 * a distance; the return address lies below it; the caller's base pointer is saved somewhere near it, or is still the same.
 *
 *   edge  release                     acquire                         what becomes visible
 *   V1    keep: version even      ->  look_up: version even           the entry's two words, as they belong together
 */
#include "service/unwind.h"

#include "meta/layout.h"
#include "os/os.h"

#if defined(__x86_64__) || defined(__aarch64__)
/* Code that changes stacks behind its tables' back leads beyond the end of the one that it came to, where nothing may lie. *page was there. */
static bool is_there(uint64_t *page, uint64_t address)
{
    if (likely(address / os_page_bytes() == *page))
        return true;
    if (!os_is_readable((const void *)(uintptr_t)(address & ~(uint64_t)7))) /* NOLINT: a place on a stack */
        return false;
    *page = address / os_page_bytes();
    return true;
}
#endif

#if defined(__x86_64__)

#include <string.h>

#define MEMO_SLOTS 8192
#define STATES_MAX 8                                                     /* that a function's instructions remember */
#define AUGMENTATION_MAX 8                                               /* letters; there are five */
#define NO_SANITIZE __attribute__((no_sanitize("address", "undefined"))) /* reads of other functions' frames */

enum base { BASE_UNKNOWN = 0, BASE_SP, BASE_BP, BASE_END }; /* END: nobody has called this function */
enum { REGISTER_BP = 6, REGISTER_SP = 7, REGISTER_PC = 16 };

struct rule {
    enum base base;
    bool bp_is_saved;
    int32_t cfa_bytes; /* from the base to the CFA */
    int32_t bp_bytes;  /* from the CFA to the saved base pointer */
};

/* ---- Reading tables ------------------------------------------------------------------------------------------------ */

struct reader {
    const unsigned char *at, *end;
    bool failed; /* it went beyond the end, or met what it does not know */
};

static uint64_t read_bytes(struct reader *r, size_t n)
{
    uint64_t value = 0;
    if (r->failed || (size_t)(r->end - r->at) < n) {
        r->failed = true;
        return 0;
    }
    memcpy(&value, r->at, n); /* little-endian */
    r->at += n;
    return value;
}

static uint64_t read_unsigned(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint64_t byte = read_bytes(r, 1);
        value |= (byte & 127) << shift;
        if (byte < 128)
            return value;
    }
    r->failed = true;
    return 0;
}

static int64_t read_signed(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint64_t byte = read_bytes(r, 1);
        value |= (byte & 127) << shift;
        if (byte >= 128)
            continue;
        if (byte >= 64 && shift + 7 < 64)
            value |= UINT64_MAX << (shift + 7);
        return (int64_t)value;
    }
    r->failed = true;
    return 0;
}

static void skip(struct reader *r, uint64_t n)
{
    if (r->failed || (uint64_t)(r->end - r->at) < n)
        r->failed = true;
    else
        r->at += n;
}

/* A pointer as an encoding byte says; of its kinds those that compilers use: absolute, or from where it stands. */
static uint64_t read_pointer(struct reader *r, uint8_t encoding, bool is_address)
{
    const unsigned char *here = r->at;
    uint64_t value;
    switch (encoding & 15) {
    case 0x0:
    case 0x4:
    case 0xc:
        value = read_bytes(r, 8);
        break;
    case 0x3:
        value = read_bytes(r, 4);
        break;
    case 0xb:
        value = (uint64_t)(int64_t)(int32_t)read_bytes(r, 4);
        break;
    default:
        r->failed = true;
        return 0;
    }
    if (is_address && (encoding & 0x70) == 0x10)
        value += (uint64_t)(uintptr_t)here;
    else if (is_address && (encoding & 0xf0) != 0)
        r->failed = true;
    return value;
}

/* An entry of .eh_frame: what stands behind its length. */
static struct reader entry_at(const unsigned char *address)
{
    struct reader r = {address, address + 4, false};
    uint64_t len_bytes = read_bytes(&r, 4);
    r.failed |= len_bytes == 0 || len_bytes >= 0xfffffff0;
    r.end = r.failed ? r.at : r.at + len_bytes;
    return r;
}

/* ---- What functions have in common (CIE) --------------------------------------------------------------------------- */

struct common {
    struct reader instructions;
    uint64_t code_factor;
    int64_t data_factor;
    uint8_t pointer_encoding;
    bool has_augmentation;
};

static void read_augmentation(struct reader *r, const char *letters, struct common *common)
{
    uint64_t len_bytes = read_unsigned(r);
    struct reader data = {r->at, r->failed || (uint64_t)(r->end - r->at) < len_bytes ? r->at : r->at + len_bytes,
                          r->failed};
    for (; *letters != 0; letters++)
        switch (*letters) {
        case 'R':
            common->pointer_encoding = (uint8_t)read_bytes(&data, 1);
            break;
        case 'L':
            skip(&data, 1);
            break;
        case 'P':
            read_pointer(&data, (uint8_t)(read_bytes(&data, 1) & 15), false);
            break;
        default: /* 'S' is a signal handler's frame */
            data.failed = true;
        }
    skip(r, len_bytes);
    r->failed |= data.failed;
}

static bool read_common(const unsigned char *address, struct common *common)
{
    struct reader r = entry_at(address);
    char letters[AUGMENTATION_MAX];
    size_t n = 0;
    if (read_bytes(&r, 4) != 0)
        return false;
    uint64_t version = read_bytes(&r, 1);
    do
        letters[n] = (char)read_bytes(&r, 1);
    while (letters[n] != 0 && ++n < AUGMENTATION_MAX);
    if ((version != 1 && version != 3) || n == AUGMENTATION_MAX)
        return false;
    common->code_factor = read_unsigned(&r);
    common->data_factor = read_signed(&r);
    uint64_t return_register = version == 1 ? read_bytes(&r, 1) : read_unsigned(&r);
    common->pointer_encoding = 0;
    common->has_augmentation = letters[0] == 'z';
    if (common->has_augmentation)
        read_augmentation(&r, letters + 1, common);
    else if (letters[0] != 0)
        return false;
    common->instructions = r;
    return !r.failed && return_register == REGISTER_PC;
}

/* ---- A function's rules -------------------------------------------------------------------------------------------- */

enum kept { KEPT_SAME, KEPT_AT_OFFSET, KEPT_NOWHERE, KEPT_OTHERWISE };

struct state {
    uint64_t cfa_register;
    int64_t cfa_bytes;
    bool cfa_is_known;
    enum kept bp, pc;
    int64_t bp_bytes, pc_bytes; /* KEPT_AT_OFFSET: from the CFA */
};

struct machine {
    struct state state, initial, remembered[STATES_MAX];
    unsigned n_remembered;
    uint64_t address; /* from which on the state holds */
    const struct common *common;
};

/* An offset in the unit of the record, in bytes; of one that no file can mean, any. */
static int64_t scaled(const struct machine *m, uint64_t offset)
{
    return (int64_t)(offset * (uint64_t)m->common->data_factor);
}

static void keep_register(struct machine *m, uint64_t number, enum kept kept, int64_t offset_bytes)
{
    if (number == REGISTER_BP) {
        m->state.bp = kept;
        m->state.bp_bytes = offset_bytes;
    } else if (number == REGISTER_PC) {
        m->state.pc = kept;
        m->state.pc_bytes = offset_bytes;
    } else if (number == REGISTER_SP && kept != KEPT_SAME) {
        m->state.cfa_is_known = false; /* the caller's is not the CFA */
    }
}

static void restore_register(struct machine *m, uint64_t number)
{
    if (number == REGISTER_BP) {
        m->state.bp = m->initial.bp;
        m->state.bp_bytes = m->initial.bp_bytes;
    } else if (number == REGISTER_PC) {
        m->state.pc = m->initial.pc;
        m->state.pc_bytes = m->initial.pc_bytes;
    }
}

static void define_cfa(struct machine *m, uint64_t number, int64_t offset_bytes)
{
    m->state.cfa_register = number;
    m->state.cfa_bytes = offset_bytes;
    m->state.cfa_is_known = true;
}

static void remember_state(struct machine *m, struct reader *r)
{
    if (m->n_remembered == STATES_MAX)
        r->failed = true;
    else
        m->remembered[m->n_remembered++] = m->state;
}

static void restore_state(struct machine *m, struct reader *r)
{
    if (m->n_remembered == 0)
        r->failed = true;
    else
        m->state = m->remembered[--m->n_remembered];
}

static void skip_block(struct reader *r)
{
    skip(r, read_unsigned(r));
}

/* The instructions that have no operand in their first byte. */
static void run_extended(struct machine *m, struct reader *r, uint64_t code)
{
    uint64_t number;
    switch (code) {
    case 0x00: /* nop */
        break;
    case 0x01: /* set_loc */
        m->address = read_pointer(r, m->common->pointer_encoding, true);
        break;
    case 0x02: /* advance_loc1, 2, 4 */
    case 0x03:
    case 0x04:
        m->address += read_bytes(r, (size_t)1 << (code - 2)) * m->common->code_factor;
        break;
    case 0x05: /* offset_extended, and with a signed offset */
        number = read_unsigned(r);
        keep_register(m, number, KEPT_AT_OFFSET, scaled(m, read_unsigned(r)));
        break;
    case 0x11:
        number = read_unsigned(r);
        keep_register(m, number, KEPT_AT_OFFSET, scaled(m, (uint64_t)read_signed(r)));
        break;
    case 0x06: /* restore_extended */
        restore_register(m, read_unsigned(r));
        break;
    case 0x07: /* undefined */
        keep_register(m, read_unsigned(r), KEPT_NOWHERE, 0);
        break;
    case 0x08: /* same_value */
        keep_register(m, read_unsigned(r), KEPT_SAME, 0);
        break;
    case 0x09: /* register */
        number = read_unsigned(r);
        read_unsigned(r);
        keep_register(m, number, KEPT_OTHERWISE, 0);
        break;
    case 0x0a:
        remember_state(m, r);
        break;
    case 0x0b:
        restore_state(m, r);
        break;
    case 0x0c: /* def_cfa, and with a signed offset */
        number = read_unsigned(r);
        define_cfa(m, number, (int64_t)read_unsigned(r));
        break;
    case 0x12:
        number = read_unsigned(r);
        define_cfa(m, number, scaled(m, (uint64_t)read_signed(r)));
        break;
    case 0x0d: /* def_cfa_register */
        m->state.cfa_register = read_unsigned(r);
        break;
    case 0x0e: /* def_cfa_offset, and with a signed one */
        m->state.cfa_bytes = (int64_t)read_unsigned(r);
        break;
    case 0x13:
        m->state.cfa_bytes = scaled(m, (uint64_t)read_signed(r));
        break;
    case 0x0f: /* def_cfa_expression */
        skip_block(r);
        m->state.cfa_is_known = false;
        break;
    case 0x10: /* expression, val_expression */
    case 0x16:
        number = read_unsigned(r);
        skip_block(r);
        keep_register(m, number, KEPT_OTHERWISE, 0);
        break;
    case 0x14: /* val_offset, and with a signed one */
    case 0x15:
        number = read_unsigned(r);
        read_unsigned(r);
        keep_register(m, number, KEPT_OTHERWISE, 0);
        break;
    case 0x2e: /* GNU_args_size: what is pushed is in the CFA's distance already */
        read_unsigned(r);
        break;
    default:
        r->failed = true;
    }
}

/* Runs instructions for as long as what they say holds at the address. False: one of them is not known. */
static bool run(struct machine *m, struct reader r, uint64_t address)
{
    while (r.at < r.end && !r.failed && m->address <= address) {
        uint64_t code = read_bytes(&r, 1), operand = code & 63;
        switch (code >> 6) {
        case 1: /* advance_loc */
            m->address += operand * m->common->code_factor;
            break;
        case 2: /* offset */
            keep_register(m, operand, KEPT_AT_OFFSET, scaled(m, read_unsigned(&r)));
            break;
        case 3: /* restore */
            restore_register(m, operand);
            break;
        default:
            run_extended(m, &r, code);
        }
    }
    return !r.failed;
}

/* I2 */
static struct rule rule_of_state(const struct state *state)
{
    const struct rule unknown = {.base = BASE_UNKNOWN};
    if (state->pc == KEPT_NOWHERE)
        return (struct rule){.base = BASE_END};
    if (!state->cfa_is_known || state->pc != KEPT_AT_OFFSET || state->pc_bytes != -8 ||
        state->cfa_bytes <= -INT32_MAX || state->cfa_bytes >= INT32_MAX || state->bp_bytes <= INT16_MIN ||
        state->bp_bytes >= INT16_MAX)
        return unknown;
    if ((state->cfa_register != REGISTER_SP && state->cfa_register != REGISTER_BP) ||
        (state->bp != KEPT_SAME && state->bp != KEPT_AT_OFFSET))
        return unknown;
    return (struct rule){.base = state->cfa_register == REGISTER_SP ? BASE_SP : BASE_BP,
                         .bp_is_saved = state->bp == KEPT_AT_OFFSET,
                         .cfa_bytes = (int32_t)state->cfa_bytes,
                         .bp_bytes = (int32_t)state->bp_bytes};
}

/* By the entry of a function (FDE). */
static struct rule rule_by_entry(const unsigned char *entry, uint64_t address)
{
    const struct rule unknown = {.base = BASE_UNKNOWN};
    struct common common;
    struct reader r = entry_at(entry);
    const unsigned char *here = r.at;
    uint64_t distance = read_bytes(&r, 4); /* back to what it has in common with others */
    if (r.failed || distance == 0 || !read_common(here - distance, &common))
        return unknown;
    uint64_t begin = read_pointer(&r, common.pointer_encoding, true);
    uint64_t len_bytes = read_pointer(&r, common.pointer_encoding & 15, false);
    if (common.has_augmentation)
        skip(&r, read_unsigned(&r));
    if (r.failed || address - begin >= len_bytes)
        return unknown;
    struct machine m = {.common = &common, .address = begin, .state = {.bp = KEPT_SAME, .pc = KEPT_SAME}};
    if (!run(&m, common.instructions, UINT64_MAX))
        return unknown;
    m.initial = m.state;
    m.address = begin;
    return run(&m, r, address) ? rule_of_state(&m.state) : unknown;
}

/* By the sorted table of .eh_frame_hdr: pairs of where a function begins and where its entry lies, from the table's own beginning. */
static struct rule rule_by_tables(const unsigned char *table, uint64_t address)
{
    const struct rule unknown = {.base = BASE_UNKNOWN};
    enum { UNSIGNED_4 = 0x03, SIGNED_4_FROM_TABLE = 0x3b };
    uint32_t n;
    if (table == NULL || table[0] != 1 || (table[1] & 7) != 3 || table[2] != UNSIGNED_4 ||
        table[3] != SIGNED_4_FROM_TABLE)
        return unknown;
    memcpy(&n, table + 8, sizeof n);
    const int32_t(*row)[2] = (const int32_t(*)[2])(const void *)(table + 12);
    int64_t wanted = (int64_t)(address - (uint64_t)(uintptr_t)table);
    uint32_t low = 0, high = n; /* rows below `low` begin at the address or before it */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (row[middle][0] <= wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? unknown : rule_by_entry(table + row[low - 1][1], address);
}

/* ---- The table of rules ---------------------------------------------------------------------------------------------- */

/* Two words: which module, 17 bits of it | the instruction's address 47; CFA's distance 32 | base pointer's 16 | base 2 | saved 1 | which
 * module, the other 13. */
struct memo {
    _Atomic uint64_t address, rule;
};

#define NUMBER_BITS 30
#define NUMBER_LOW_BITS 13
#define NO_NUMBER 0 /* of a module whose rules are not kept */
_Static_assert(ADDRESS_BITS + NUMBER_BITS - NUMBER_LOW_BITS <= 64, "they have room beside an address");

static struct memo memo[MEMO_SLOTS];
static _Atomic uint32_t version; /* odd: an entry is being written */

static uint64_t pack(const struct rule *rule, uint64_t module)
{
    return (uint64_t)(uint32_t)rule->cfa_bytes << 32 | (uint64_t)(uint16_t)rule->bp_bytes << 16 |
           (uint64_t)rule->base << 14 | (uint64_t)rule->bp_is_saved << 13 | (module & ((1u << NUMBER_LOW_BITS) - 1));
}

static struct rule unpack(uint64_t word)
{
    return (struct rule){.cfa_bytes = (int32_t)(uint32_t)(word >> 32),
                         .bp_bytes = (int16_t)(uint16_t)(word >> 16),
                         .base = (enum base)(word >> 14 & 3),
                         .bp_is_saved = (word >> 13 & 1) != 0};
}

static uint64_t keyed_address(uint64_t address, uint64_t module)
{
    return module >> NUMBER_LOW_BITS << ADDRESS_BITS | address;
}

static uint64_t mix(uint64_t h)
{
    h *= 0x9fb21c651e98df25u;
    return h ^ h >> 32;
}

/* I1: by where its table and its end lie, and by its build id, for the next version of a plug-in may lie just as the last one did. One without
 * an id cannot be told from it; but those that are never unloaded need none. */
static uint64_t number_of_module(const struct os_module *module, bool lasts)
{
    uint64_t h = mix((uint64_t)(uintptr_t)module->unwind_table ^ module->end << 20 ^ module->bias), word = 0;
    size_t id_bytes = 0;
    const unsigned char *id = lasts ? NULL : os_module_build_id(module, &id_bytes);
    if (!lasts && (id == NULL || id_bytes == 0))
        return NO_NUMBER;
    for (size_t i = 0; i < id_bytes; i += sizeof word) {
        memcpy(&word, id + i, min_size(sizeof word, id_bytes - i));
        h = mix(h ^ word);
    }
    h >>= 64 - NUMBER_BITS;
    return h == NO_NUMBER ? 1 : h;
}

static struct memo *memo_of(uint64_t address)
{
    return &memo[address * 0x9e3779b97f4a7c15u >> 51];
}
_Static_assert(MEMO_SLOTS == 1 << (64 - 51), "a slot for each hash");

static bool look_up(uint64_t address, uint64_t module, struct rule *rule)
{
    struct memo *entry = memo_of(address);
    uint32_t before = atomic_load_explicit(&version, memory_order_acquire);     /* V1 */
    uint64_t own = atomic_load_explicit(&entry->address, memory_order_relaxed); /* relaxed: the version tells */
    uint64_t word = atomic_load_explicit(&entry->rule, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (own != keyed_address(address, module) || ((word ^ module) & ((1u << NUMBER_LOW_BITS) - 1)) != 0 ||
        before % 2 != 0 || atomic_load_explicit(&version, memory_order_relaxed) != before)
        return false;
    *rule = unpack(word);
    return true;
}

static void keep(uint64_t address, uint64_t module, const struct rule *rule)
{
    struct memo *entry = memo_of(address);
    uint32_t before = atomic_load_explicit(&version, memory_order_relaxed); /* relaxed: the exchange looks again */
    if (before % 2 != 0 || !atomic_compare_exchange_strong(&version, &before, before + 1))
        return;
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&entry->address, keyed_address(address, module), memory_order_relaxed);
    atomic_store_explicit(&entry->rule, pack(rule, module), memory_order_relaxed);
    atomic_store_explicit(&version, before + 2, memory_order_release); /* V1 */
}

void unwind_fork_child(void)
{
    if (atomic_load(&version) % 2 == 0)
        return;
    for (size_t i = 0; i < MEMO_SLOTS; i++) /* one of them may be half written */
        atomic_store_explicit(&memo[i].address, 0, memory_order_relaxed);
    atomic_fetch_add(&version, 1);
}

/* ---- Walking ----------------------------------------------------------------------------------------------------------- */

/* A module as a walk needs it. */
struct place {
    uint64_t start, end, number;
    const unsigned char *table;
};

struct walk {
    uint64_t pc, sp, bp;
    struct place place; /* of the last frame */
    uint64_t page;      /* of the stack, the last one that was seen to be there */
};

/* Those that are never unloaded: ours, libc, the program. They are learned once, and are most of any stack. */
#define N_LASTING 3
static struct place lasting[N_LASTING];
static _Atomic bool lasting_are_known;

static bool is_in(uint64_t address, const struct place *place)
{
    return address - place->start < place->end - place->start;
}

static bool find_place(uint64_t address, struct place *place, bool lasts)
{
    struct os_module module;
    *place = (struct place){.start = 0};
    if (!os_module_of((const void *)(uintptr_t)address, &module))
        return false;
    *place = (struct place){module.start, module.end, number_of_module(&module, lasts), module.unwind_table};
    return true;
}

void unwind_prepare(void)
{
    const uint64_t address[N_LASTING] = {(uint64_t)(uintptr_t)unwind_take, (uint64_t)(uintptr_t)memcpy,
                                         os_program_entry()};
    if (atomic_load_explicit(&lasting_are_known, memory_order_acquire))
        return;
    for (unsigned i = 0; i < N_LASTING; i++)
        find_place(address[i], &lasting[i], true);
    atomic_store_explicit(&lasting_are_known, true, memory_order_release);
}

/* Makes walk->place the one of an instruction. */
static bool go_to_place(struct walk *walk, uint64_t address)
{
    if (likely(is_in(address, &walk->place)))
        return true;
    if (atomic_load_explicit(&lasting_are_known, memory_order_acquire))
        for (unsigned i = 0; i < N_LASTING; i++)
            if (is_in(address, &lasting[i])) {
                walk->place = lasting[i];
                return true;
            }
    return find_place(address, &walk->place, false);
}

/* The rule for an instruction. */
static struct rule find_rule(struct walk *walk, uint64_t address)
{
    struct rule rule = {.base = BASE_UNKNOWN};
    if (!go_to_place(walk, address))
        return rule;
    if (walk->place.number == NO_NUMBER)
        return rule_by_tables(walk->place.table, address);
    if (!look_up(address, walk->place.number, &rule)) {
        rule = rule_by_tables(walk->place.table, address);
        keep(address, walk->place.number, &rule);
    }
    return rule;
}

NO_SANITIZE static uint64_t word_at(uint64_t address)
{
    return *(const uint64_t *)(uintptr_t)address; /* NOLINT: on our own stack */
}

/* To the caller; pc is 0 where the stack ends. False: there is none that the rule leads to. */
static bool step(struct walk *walk, const struct rule *rule)
{
    uint64_t cfa = (rule->base == BASE_SP ? walk->sp : walk->bp) + (uint64_t)(int64_t)rule->cfa_bytes;
    if (cfa <= walk->sp || cfa % 8 != 0)
        return false; /* stacks grow down */
    uint64_t bp_at = cfa + (uint64_t)(int64_t)rule->bp_bytes;
    if ((rule->bp_is_saved && !is_there(&walk->page, bp_at)) || !is_there(&walk->page, cfa - 8)) {
        walk->pc = 0;
        return true;
    }
    walk->pc = word_at(cfa - 8);
    if (rule->bp_is_saved)
        walk->bp = word_at(bp_at);
    walk->sp = cfa;
    return true;
}

int unwind_take(void **frame, int n)
{
    struct walk walk = {.pc = 0};
    int n_taken = 0;
    __asm__ volatile("lea 0(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2"
                     : "=r"(walk.pc), "=r"(walk.sp), "=r"(walk.bp));
    walk.page = walk.sp / os_page_bytes();
    for (uint64_t address = walk.pc; n_taken < n; address = walk.pc - 1) { /* a call lies before where it returns to */
        struct rule rule = find_rule(&walk, address);
        /* NOLINT */
        if (rule.base == BASE_END || (rule.base == BASE_UNKNOWN && os_is_linker((const void *)(uintptr_t)address)))
            return n_taken; /* The linker's own beginning, from where it calls constructors, has no rule. */
        if (rule.base == BASE_UNKNOWN || !step(&walk, &rule))
            return -1;
        if (walk.pc == 0)
            return n_taken;
        frame[n_taken++] = (void *)(uintptr_t)walk.pc; /* NOLINT: an address of code */
    }
    return n_taken;
}

#else

void unwind_prepare(void) {}

#if defined(__aarch64__)

/* A return address without its signature, on processors that sign (PAC). */
static uint64_t unsigned_address(uint64_t address)
{
    register uint64_t x30 __asm__("x30") = address;
    __asm__("hint 7" : "+r"(x30)); /* xpaclri; elsewhere nothing */
    return x30;
}

/* What a signal handler returns to. */
static bool is_signal_return(uint64_t pc)
{
    const uint32_t *code = (const uint32_t *)(uintptr_t)pc; /* NOLINT: an address of code */
    return pc % 4 == 0 && os_is_readable(code) && os_is_readable(code + 1) && code[0] == 0xd2801168 /* mov x8, 139 */ &&
           code[1] == 0xd4000001 /* svc 0 */;
}

/* A signal can come where the tables do not tell how the stack lies, and backtrace() reads where they lead to, whether anything is there or
 * not: then the frames' records are followed, which functions that call others have there, as the platform's rules have it. */
int unwind_take(void **frame, int n)
{
    const uint64_t *record = __builtin_frame_address(0); /* of the caller's, and the address to return to */
    uint64_t page = (uintptr_t)record / os_page_bytes();
    bool any_handler = false, from_handler = false;
    int n_taken = 0;
    while (n_taken < n && record != NULL && (uintptr_t)record % 16 == 0 && is_there(&page, (uintptr_t)record)) {
        const uint64_t *next = (const uint64_t *)(uintptr_t)record[0]; /* NOLINT: a place on a stack */
        uint64_t pc = unsigned_address(record[1]);
        if (pc == 0)
            break;
        bool to_kernel = is_signal_return(pc);
        any_handler |= to_kernel;
        frame[n_taken++] = (void *)(uintptr_t)pc; /* NOLINT: an address of code */
        /* stacks grow down; a handler may have one of its own */
        if (next <= record && !from_handler)
            break;
        from_handler = to_kernel;
        record = next;
    }
    return any_handler ? n_taken : -1;
}

#else

int unwind_take(void **frame, int n)
{
    (void)frame;
    (void)n;
    return -1;
}

#endif

void unwind_fork_child(void) {}

#endif
