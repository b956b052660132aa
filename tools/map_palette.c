/* map_palette.c - the colours of a heap's map.
 * Owns       the tables below; the page has them too, printed into it by map_page.c.
 * Called by  map_terminal.c, map_drawing.c, map_page.c.     Calls  sizeclass.h.     Threads  one.
 * Why a ramp for the classes instead of a colour for each: nobody tells 55 colours apart, but everybody sees which of two is the
 * darker. The ramp goes by the logarithm of the block size; which class it is exactly, the text says. */
#include "map_palette.h"

#define RGB(hex)                                                                                                       \
    {                                                                                                                  \
        (uint8_t)((hex) >> 16), (uint8_t)((hex) >> 8 & 0xff), (uint8_t)((hex)&0xff)                                    \
    }

static const struct {
    const char *name;
    struct map_color color[MAP_N_THEMES];
} tones[MAP_N_TONES] = {
    [MAP_TONE_GROUND] = {"ground", {RGB(0xffffff), RGB(0x14171c)}},
    [MAP_TONE_PANEL] = {"panel", {RGB(0xf4f5f8), RGB(0x1d2128)}},
    [MAP_TONE_LINE] = {"line", {RGB(0xd5d9e0), RGB(0x363c47)}},
    [MAP_TONE_TEXT] = {"text", {RGB(0x1a1e26), RGB(0xe8ebf0)}},
    [MAP_TONE_MUTED] = {"muted", {RGB(0x5b6472), RGB(0x9aa4b3)}},
    [MAP_TONE_NOTHING] = {"nothing", {RGB(0xe6e9ee), RGB(0x262b34)}},
    [MAP_TONE_USED] = {"used", {RGB(0x3266c4), RGB(0x5a8dee)}},
    [MAP_TONE_MAGAZINE] = {"magazine", {RGB(0x8fb3f0), RGB(0xa9c6fb)}},
    [MAP_TONE_FREE] = {"free", {RGB(0xea7210), RGB(0xf5872b)}},
    [MAP_TONE_IDLE] = {"idle", {RGB(0xf2c62b), RGB(0xf6d968)}},
    [MAP_TONE_SPAN] = {"span", {RGB(0x0b7a67), RGB(0x1fa78d)}},
    [MAP_TONE_RUN] = {"run", {RGB(0x35b39b), RGB(0x74dac5)}},
    [MAP_TONE_HOT] = {"hot", {RGB(0x4a8fe0), RGB(0x6aa8f2)}},
    [MAP_TONE_DRAINING] = {"draining", {RGB(0x96105a), RGB(0xe04c98)}},
    [MAP_TONE_TORN] = {"torn", {RGB(0xd11f1f), RGB(0xff6b6b)}},
};

/* Violet, blue, cyan: darker is smaller. The light theme's stay dark enough for a white ground, the dark theme's the reverse. */
static const struct map_color class_ramp[MAP_N_THEMES][MAP_RAMP_STEPS] = {
    {RGB(0x4a2a8a), RGB(0x4a3a9e), RGB(0x464db1), RGB(0x3d62c0), RGB(0x3178ca), RGB(0x2a8dd0), RGB(0x32a2d4),
     RGB(0x4fb6d8), RGB(0x78cadd)},
    {RGB(0x7d5bd6), RGB(0x7a68de), RGB(0x7177e4), RGB(0x6488e9), RGB(0x559aec), RGB(0x52acee), RGB(0x63bdee),
     RGB(0x83ceee), RGB(0xaadff0)}};

/* Orange for unused, over a grey, to blue for used: yellow against blue, and both ends darker than the middle. */
static const struct map_color occupancy_ramp[MAP_N_THEMES][MAP_RAMP_STEPS] = {
    {RGB(0xe2590a), RGB(0xec7c35), RGB(0xf09c63), RGB(0xeab992), RGB(0xc9c2c4), RGB(0x9db4d6), RGB(0x7199d2),
     RGB(0x4a7dca), RGB(0x2358b8)},
    {RGB(0xf26a1b), RGB(0xef8544), RGB(0xeb9f6e), RGB(0xe0b699), RGB(0xc6c3c6), RGB(0xa5bade), RGB(0x83a9e6),
     RGB(0x6396ea), RGB(0x4382ec)}};

struct map_color map_tone_color(enum map_theme theme, enum map_tone tone)
{
    return tones[tone].color[theme];
}

const char *map_tone_name(enum map_tone tone)
{
    return tones[tone].name;
}

struct map_color map_class_ramp(enum map_theme theme, unsigned step)
{
    return class_ramp[theme][step];
}

struct map_color map_occupancy_ramp(enum map_theme theme, unsigned step)
{
    return occupancy_ramp[theme][step];
}

/* 8 bytes are 2^3, 32 KiB 2^15: the sizes between two powers of two share a colour. */
unsigned map_class_step(unsigned class_id)
{
    if (class_id < CLASS_FIRST || class_id >= CLASS_END)
        return 0;
    return (31 - (unsigned)__builtin_clz(class_table[class_id].bytes) - 3) * (MAP_RAMP_STEPS - 1) / 12;
}

struct map_color map_class_color(enum map_theme theme, unsigned class_id)
{
    if (class_id == CLASS_END)
        return map_tone_color(theme, MAP_TONE_SPAN);
    if (class_id < CLASS_FIRST || class_id > CLASS_END)
        return map_tone_color(theme, MAP_TONE_RUN);
    return class_ramp[theme][map_class_step(class_id)];
}

struct map_color map_occupancy_color(enum map_theme theme, int per_cent)
{
    const unsigned part = per_cent < 0 ? 0 : per_cent > 100 ? 100 : (unsigned)per_cent;
    return occupancy_ramp[theme][(part * (MAP_RAMP_STEPS - 1) + 50) / 100];
}

struct map_color map_row_color(enum map_theme theme, enum map_row_kind kind)
{
    static const enum map_tone of_kind[MAP_N_ROW_KINDS] = {
        [MAP_HOT] = MAP_TONE_HOT,      [MAP_DRAINING] = MAP_TONE_DRAINING, [MAP_FREE] = MAP_TONE_MUTED,
        [MAP_CACHED] = MAP_TONE_IDLE,  [MAP_RUN] = MAP_TONE_RUN,           [MAP_MOVING] = MAP_TONE_MUTED,
        [MAP_ROW_TORN] = MAP_TONE_TORN};
    return map_tone_color(theme, kind < MAP_N_ROW_KINDS ? of_kind[kind] : MAP_TONE_TORN);
}
