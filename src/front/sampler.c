/* sampler.c - see sampler.h.
 * Owns     the chance of a pick; each thread's count.     Called by  thread.c, harden.c, profile.c; hit.h and doors.c (sampler_hit)
 * Calls    os.h
 * Threads  each on its own record.
 */
#include "front/sampler.h"

#include "os/os.h"

#include <string.h>

#define LEFT_MAX ((int64_t)1 << 60)

_Atomic uint32_t sampler_epoch;

/* What is left until the next pick is what is whole in -ln(u) times `stretch`, u being uniform in (0, 1): n with the chance
 * q^n - q^(n+1), q being exp(-1/stretch), that of a unit not to be picked. 0: each is picked. */
static double stretch;
static uint64_t cost_mask;
static _Atomic bool picks;

/* The natural logarithm of x > 0, to 7 digits. libm has a better one, and hakmem needs libc alone. */
static double logarithm(double x)
{
    const double ln_2 = 0.69314718055994531;
    double shift = 0;
    for (; x < 1; x *= 2)
        shift -= ln_2;
    for (; x >= 2; x /= 2)
        shift += ln_2;
    double t = (x - 1) / (x + 1), square = t * t; /* ln x = 2 (t + t^3/3 + t^5/5 + ...), t at most 1/3 */
    return shift +
           2 * t * (1 + square * (1 / 3. + square * (1 / 5. + square * (1 / 7. + square * (1 / 9. + square / 11)))));
}

/* 1 - exp(-x), for x > 0, to 9 digits. */
static double one_minus_exp(double x)
{
    unsigned halvings = 0;
    if (x > 40)
        return 1;
    for (; x > 0.25; x /= 2)
        halvings++;
    /* m = 1 - exp(-x) by its series; exp(-2x) = (1 - m)^2, so m becomes 2m - m^2. */
    double m = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6 * (1 - x / 7))))));
    for (; halvings != 0; halvings--)
        m = m * (2 - m);
    return m;
}

static int64_t draw(struct thread *thread)
{
    uint64_t x = thread->random; /* xorshift64* */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    thread->random = x;
    double uniform = ((double)(x * 0x2545f4914f6cdd1du >> 11) + 0.5) / 9007199254740992.; /* in (0, 1), of 53 bits */
    double n = -logarithm(uniform) * stretch;
    return n < (double)LEFT_MAX ? (int64_t)n : LEFT_MAX;
}

/* Threads see a new epoch after what it stands for. */
static void change(bool on)
{
    /* S1: who sees it before the epoch finds what goes with it */
    atomic_store_explicit(&picks, on, memory_order_release);
    atomic_fetch_add_explicit(&sampler_epoch, 1, memory_order_release);
}

/* From here on by the beginning of a series: so near to 1 the logarithm has no digits left. */
#define MANY 1000

void sampler_start_by_count(uint32_t n)
{
    stretch = n == 1 ? 0 : n >= MANY ? n - 0.5 : -1 / logarithm(1 - 1. / n);
    cost_mask = 0;
    change(true);
}

/* An allocation of b bytes costs b + 1, so that one of no bytes may be picked, too. */
void sampler_start_by_bytes(size_t interval_bytes)
{
    stretch = interval_bytes == 1 ? 0 : (double)interval_bytes;
    cost_mask = UINT64_MAX;
    change(true);
}

double sampler_chance(size_t size_bytes, size_t interval_bytes)
{
    return interval_bytes == 1 ? 1 : one_minus_exp(((double)size_bytes + 1) / (double)interval_bytes);
}

void sampler_stop(void)
{
    change(false);
}

static void begin(struct thread *thread)
{
    thread->random = os_random() | 1;
    thread->cache.cost_mask = cost_mask;
    thread->cache.left = draw(thread);
    memset(thread->cache.claim_offset, 0, sizeof thread->cache.claim_offset);
    memset(thread->cache.claim_offset_of_class, 0, sizeof thread->cache.claim_offset_of_class);
    thread->samples = true;
}

void sampler_open_magazines(struct thread *thread)
{
    thread->samples = false;
    thread->cache.left = 0;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        thread->cache.claim_offset_of_class[c] = (uint8_t)(c * CLASS_OFFSET_SCALE);
    memcpy(thread->cache.claim_offset, small_class_offset, sizeof thread->cache.claim_offset);
}

void sampler_follow(struct thread *thread)
{
    uint32_t epoch = atomic_load_explicit(&sampler_epoch, memory_order_acquire);
    bool on = atomic_load_explicit(&picks, memory_order_acquire); /* S1 */
    /* What an earlier thread's record has still holds: the counts have no memory. relaxed: our own */
    if (atomic_load_explicit(&thread->sampler_epoch, memory_order_relaxed) == epoch && thread->samples == on)
        return;
    atomic_store(&thread->sampler_epoch, epoch);
    atomic_store(&thread->door, &thread->cache); /* after the epoch: see keep_door_closed in thread.c */
    if (on)
        begin(thread);
    else
        sampler_open_magazines(thread);
}

bool sampler_picks(struct thread *thread, size_t size_bytes)
{
    if (!thread->samples)
        return false;
    int64_t left = thread->cache.left - sampler_cost(&thread->cache, size_bytes);
    thread->cache.left = left >= 0 ? left : draw(thread);
    return left < 0;
}
