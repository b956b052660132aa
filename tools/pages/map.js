/* map_page.js - the page of `hakmem map -o FILE.html`: unpacks the samples, draws the one that is chosen, tells what is pointed at.
 *
 * Owns      the state of the page.     Reads  the JSON in #data, whose form map_page.c describes; nothing else, and no network.
 * I1  Text from the other process reaches the page by textContent alone.
 * I2  Cells are drawn for what is in sight only, so that a heap of ten thousand SuperSlabs scrolls.
 * I3  memory == used + free (+ idle), by the rules of map_model.c: what a test compares.
 * Why a canvas: half a million elements are more than a browser bears. What a canvas does not tell to those who do not see it,
 * the keyboard's cursor and the live region (#detail) do. */
'use strict';

const SLABS = 32, SLAB_BYTES = 65536, SUPERSLAB_BYTES = 2097152;
const NOTHING = 0, SLAB = 1, SPAN = 2, IDLE = 3, TORN = 4; // enum map_cell_kind
const ABSENT = 0, HOT = 1, DRAINING = 2, FREE = 3, CACHED = 4, RUN = 5, MOVING = 6, ROW_TORN = 7; // enum map_row_kind, plus 1
const KIND_NAMES = ['absent', 'HOT', 'DRAINING', 'FREE', 'CACHED', 'RUN', 'MOVING', 'TORN'];
const STATE_NAMES = ['unused', 'empty', 'taken', 'owned by a thread', 'partly free', 'full', 'being released', 'span', 'span',
    'held by a thread', 'pages of spans that share slabs'];
const HELD = 9, PACKED = 10; // enum slab_state
const KEYFRAME_EVERY = 16;

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
}

function bytesText(bytes) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let unit = 0;
    while (bytes >= 1023.95 && unit < units.length - 1) {
        bytes /= 1024;
        unit++;
    }
    return (unit === 0 ? bytes.toFixed(0) : bytes.toFixed(1)) + ' ' + units[unit];
}

const plural = (n, what) => n.toLocaleString('en') + ' ' + what + (n === 1 ? '' : 's');

function countBits(word) {
    let n = 0;
    for (; word !== 0; word &= word - 1) n++;
    return n;
}

/* ---- Unpacking --------------------------------------------------------------------------------------------------------- */

async function inflate(base64) {
    const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* The heap as it was at one sample, and the way to any other. */
class Heap {
    constructor(info, bytes) {
        const n = info.rows.length;
        this.info = info;
        this.bytes = bytes;
        this.n = n;
        this.fields = {
            rowKind: new Uint8Array(n), // ABSENT, or one of enum map_row_kind
            rowSuperslabs: new Uint32Array(n), // of a run
            rowRunBytes: new Float64Array(n),
            rowMemory: new Float64Array(n), // where there are no cells
            kindState: new Uint8Array(n * SLABS), // kind << 4 | state
            second: new Uint8Array(n * SLABS), // class, or in a span the distance from its head
            used: new Uint16Array(n * SLABS),
            pages: new Uint16Array(n * SLABS),
            spanSlabs: new Uint8Array(n * SLABS), // head of a span
            spanBytes: new Uint32Array(n * SLABS),
        };
        Object.assign(this, this.fields);
        this.classBytes = new Uint32Array(256);
        this.classRoom = new Uint32Array(256);
        info.classes.forEach(([id, blockBytes, room]) => {
            this.classBytes[id] = blockBytes;
            this.classRoom[id] = room;
        });
        this.sample = -1;
        this.at = 0; // in bytes: where the next sample begins
        this.keyframes = []; // of every so many samples, in full; of a huge heap each takes some 10 MiB
        this.every = n > 20000 ? 8 * KEYFRAME_EVERY : KEYFRAME_EVERY;
        this.seek(0);
    }

    number() {
        let value = 0, scale = 1, byte;
        do {
            byte = this.bytes[this.at++];
            value += (byte & 127) * scale;
            scale *= 128;
        } while (byte >= 128);
        return value;
    }

    takeRow(row) {
        const kind = this.bytes[this.at++];
        this.rowKind[row] = kind;
        this.rowSuperslabs[row] = kind === RUN ? this.number() : 1;
        this.rowRunBytes[row] = kind === RUN ? this.number() : 0;
        this.rowMemory[row] = this.hasCells(row) ? 0 : this.number();
        if (this.hasCells(row)) return;
        for (const field of ['kindState', 'second', 'used', 'pages', 'spanSlabs', 'spanBytes'])
            this[field].fill(0, row * SLABS, (row + 1) * SLABS);
    }

    takeCell(cell, what) {
        if (what & 1) {
            this.kindState[cell] = this.bytes[this.at++];
            this.second[cell] = this.bytes[this.at++];
            const isHead = this.kindState[cell] >> 4 === SPAN && this.second[cell] === 0;
            this.spanSlabs[cell] = isHead ? this.number() : 0;
            this.spanBytes[cell] = isHead ? this.number() : 0;
        }
        if (what & 2) {
            const zigzag = this.number();
            this.used[cell] += zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2;
        }
        if (what & 4) this.pages[cell] ^= this.number();
    }

    takeSample() {
        let next = 0;
        for (let left = this.number(); left > 0; left--) {
            next += this.number();
            this.takeRow(next++);
        }
        next = 0;
        for (let left = this.number(); left > 0; left--) {
            const word = this.number(); // below 2^31: a gap of cells and three bits
            next += word >> 3;
            this.takeCell(next++, word & 7);
        }
        this.sample++;
    }

    keep() {
        const copies = {};
        for (const [name, array] of Object.entries(this.fields)) copies[name] = array.slice();
        this.keyframes[this.sample / this.every] = { at: this.at, copies };
    }

    restore(keyframe, sample) {
        for (const [name, array] of Object.entries(keyframe.copies)) this[name].set(array);
        this.at = keyframe.at;
        this.sample = sample;
    }

    seek(sample) {
        const index = Math.floor(sample / this.every), known = Math.min(index, this.keyframes.length - 1);
        if (sample < this.sample || known * this.every > this.sample)
            this.restore(this.keyframes[known], known * this.every);
        while (this.sample < sample) {
            this.takeSample();
            if (this.sample % this.every === 0 && this.keyframes.length <= this.sample / this.every) this.keep();
        }
    }

    hasCells(row) {
        return this.rowKind[row] >= HOT && this.rowKind[row] <= FREE;
    }

    kind(cell) {
        return this.kindState[cell] >> 4;
    }

    /* What of a cell is in memory, and of that in blocks. */
    cellMemory(cell) {
        return countBits(this.pages[cell]) * this.info.page_bytes;
    }

    cellUsed(cell) {
        const memory = this.cellMemory(cell), kind = this.kind(cell);
        if (kind === SLAB) return Math.min(memory, this.used[cell] * this.classBytes[this.second[cell]]);
        if (kind !== SPAN) return 0;
        const left = this.spanBytes[cell - this.second[cell]] - this.second[cell] * SLAB_BYTES;
        return Math.min(memory, Math.max(0, Math.min(SLAB_BYTES, left)));
    }

    isPacked(cell) {
        return (this.kindState[cell] & 15) === PACKED;
    }

    isHeld(cell) {
        return (this.kindState[cell] & 15) === HELD;
    }

    /* How much of a slab's room or a span is in use: a span is, as a whole; of a slot with packed ones, its pages in spans. */
    cellFullness(cell) {
        if (this.kind(cell) === SLAB) return this.used[cell] / this.classRoom[this.second[cell]];
        return this.isPacked(cell) ? this.spanBytes[cell] / SLAB_BYTES : 1;
    }

    /* The sums of a row: what map_model.c calls by the same names. */
    rowSums(row) {
        const sums = { memory: 0, used: 0, free: 0, idle: 0, capacity: 0 };
        if (this.rowKind[row] === RUN) {
            sums.memory = this.rowMemory[row];
            sums.used = Math.min(sums.memory, this.rowRunBytes[row]);
            sums.free = sums.memory - sums.used;
            sums.capacity = this.rowSuperslabs[row] * SUPERSLAB_BYTES;
        } else if (!this.hasCells(row)) {
            sums.memory = sums.idle = this.rowMemory[row];
        } else {
            for (let cell = row * SLABS; cell < (row + 1) * SLABS; cell++) this.addCell(sums, cell);
        }
        return sums;
    }

    addCell(sums, cell) {
        const memory = this.cellMemory(cell), kind = this.kind(cell);
        sums.memory += memory;
        if (kind !== SLAB && kind !== SPAN) {
            sums.idle += memory;
            return;
        }
        const used = this.cellUsed(cell);
        sums.used += used;
        sums.free += memory - used;
        sums.capacity += SLAB_BYTES;
    }

    /* Per class id, spans and runs with the ids that the page's data names: slabs and bytes. */
    classSums() {
        const sums = new Map();
        const of = (id) => {
            if (!sums.has(id)) sums.set(id, { id, slabs: 0, memory: 0, used: 0, free: 0 });
            return sums.get(id);
        };
        const add = (id, slabs, memory, used) => {
            const sum = of(id);
            sum.slabs += slabs;
            sum.memory += memory;
            sum.used += used;
            sum.free += memory - used;
        };
        for (let row = 0; row < this.n; row++) {
            if (this.rowKind[row] === RUN) {
                const run = this.rowSums(row);
                add(this.info.run_id, this.rowSuperslabs[row] * SLABS, run.memory, run.used);
            }
            if (!this.hasCells(row)) continue;
            for (let cell = row * SLABS; cell < (row + 1) * SLABS; cell++) {
                const kind = this.kind(cell);
                if (kind === SLAB) add(this.second[cell], 1, this.cellMemory(cell), this.cellUsed(cell));
                else if (kind === SPAN) add(this.info.span_id, 1, this.cellMemory(cell), this.cellUsed(cell));
            }
        }
        return [...sums.values()].sort((a, b) => b.free - a.free || a.id - b.id);
    }

    className(id) {
        return id === this.info.span_id ? 'spans' : id === this.info.run_id ? 'runs' : this.classBytes[id] + ' B';
    }
}

/* ---- Colours ------------------------------------------------------------------------------------------------------------- */

const dark = window.matchMedia('(prefers-color-scheme: dark)');

class Colors {
    constructor(info) {
        this.info = info;
        this.by = info.by;
        this.choose();
    }

    choose() {
        const theme = this.info.palette[dark.matches ? 'dark' : 'light'];
        this.tone = theme.tones;
        this.ramps = theme;
        for (const [name, color] of Object.entries(theme.tones)) document.documentElement.style.setProperty('--' + name, color);
    }

    ofClass(id) {
        if (id === this.info.span_id) return this.tone.span;
        if (id === this.info.run_id) return this.tone.run;
        return this.ramps.classes[this.info.class_step[id]];
    }

    ofOccupancy(part) {
        return this.ramps.occupancy[Math.round(Math.min(1, Math.max(0, part)) * (this.ramps.occupancy.length - 1))];
    }

    ofRow(kind) {
        const tones = ['nothing', 'hot', 'draining', 'muted', 'idle', 'run', 'muted', 'torn'];
        return this.tone[tones[kind]];
    }

    ofCell(heap, cell, rowKind) {
        if (this.by === 'tier') return this.ofRow(rowKind);
        const isSlab = heap.kind(cell) === SLAB;
        if (this.by === 'occupancy') return this.ofOccupancy(heap.cellFullness(cell));
        return isSlab ? this.ofClass(heap.second[cell]) : this.tone.span;
    }
}

/* ---- The map ------------------------------------------------------------------------------------------------------------- */

/* How rows are laid out, from large to small; in the last one a row is a cell. */
const SIZES = [
    { cellWidth: 18, cellHeight: 18, gap: 2, rowHeight: 23, label: 104, tag: 76, columnGap: 28, font: 12, maxStretch: 1.6 },
    { cellWidth: 9, cellHeight: 13, gap: 1, rowHeight: 16, label: 88, tag: 20, columnGap: 24, font: 10.5, maxStretch: 1.5 },
    { cellWidth: 5, cellHeight: 8, gap: 0, rowHeight: 10, label: 0, tag: 7, columnGap: 10, font: 8, maxStretch: 1.4 },
    { cellWidth: 14, cellHeight: 13, gap: 2, rowHeight: 18, label: 0, tag: 0, columnGap: 0, font: 8, maxStretch: 1, coarse: true },
];
const PADDING = 4;

class MapView {
    constructor(heap, colors) {
        this.heap = heap;
        this.colors = colors;
        this.canvas = byId('map');
        this.scroll = byId('scroll');
        this.space = byId('space');
        this.context = this.canvas.getContext('2d');
        this.order = heap.info.rows.map((address, row) => row);
        const padded = heap.info.rows.map((address) => address.padStart(16, '0'));
        this.order.sort((a, b) => (padded[a] < padded[b] ? -1 : 1));
        this.wantedSize = 'auto';
        this.onlyClass = null;
        this.chosen = null; // { row, slot }
        this.resize();
    }

    /* ---- Layout ---- */

    columnsOf(size, width) {
        if (size.coarse) return Math.max(1, Math.floor(width / size.cellWidth));
        const rowWidth = size.label + size.tag + SLABS * size.cellWidth;
        return Math.max(1, Math.floor((width + size.columnGap) / (rowWidth + size.columnGap)));
    }

    pickSize(width, height) {
        if (this.wantedSize !== 'auto') return SIZES[Number(this.wantedSize)];
        const fits = (size) => Math.ceil(this.order.length / this.columnsOf(size, width)) * size.rowHeight <= height;
        return SIZES.find((size, i) => fits(size) || (i === 2 && this.order.length <= 4000)) || SIZES[3];
    }

    /* By how much rows can be wider and higher in so many columns. */
    roomFor(size, columns, width, height) {
        const rowWidth = (width - (columns - 1) * size.columnGap) / columns;
        return {
            across: (rowWidth - size.label - size.tag) / (SLABS * size.cellWidth),
            down: height / (Math.ceil(this.order.length / columns) * size.rowHeight),
        };
    }

    /* The number of columns that lets rows be largest, and the size that they have then. */
    stretch(size, width, height) {
        const most = Math.min(this.columnsOf(size, width), Math.max(1, this.order.length));
        if (size.coarse || this.order.length === 0) return { ...size, columns: most };
        let best = { columns: most, scale: 0, across: 1 };
        for (let columns = most; columns > 0; columns--) {
            const { across, down } = this.roomFor(size, columns, width, height);
            const scale = Math.min(across, down, size.maxStretch);
            if (scale > best.scale) best = { columns, scale, across };
        }
        if (best.scale < 1) best = { columns: most, scale: 1, across: this.roomFor(size, most, width, height).across };
        return {
            ...size,
            columns: best.columns,
            cellWidth: Math.max(2, size.cellWidth * Math.min(best.across, best.scale * 1.3)),
            cellHeight: Math.round(size.cellHeight * best.scale),
            rowHeight: Math.round(size.rowHeight * best.scale),
        };
    }

    resize() {
        const width = this.scroll.clientWidth - 2 * PADDING, height = this.scroll.clientHeight;
        const size = this.stretch(this.pickSize(width, height - 2 * PADDING), width, height - 2 * PADDING);
        this.size = size;
        this.columns = size.columns;
        this.cellWidth = size.cellWidth;
        this.columnWidth = size.coarse ? size.cellWidth : size.label + size.tag + SLABS * size.cellWidth + size.columnGap;
        this.lines = Math.ceil(this.order.length / this.columns);
        this.space.style.height = Math.max(height, this.lines * size.rowHeight + 2 * PADDING) + 'px';
        const ratio = this.ratio = window.devicePixelRatio || 1;
        this.canvas.style.width = this.scroll.clientWidth + 'px';
        this.canvas.style.height = height + 'px';
        this.canvas.width = Math.round(this.scroll.clientWidth * ratio);
        this.canvas.height = Math.round(height * ratio);
        this.draw();
    }

    /* Of the row at a position of the order, on the canvas as it is scrolled. */
    placeOf(position) {
        const column = position % this.columns, line = Math.floor(position / this.columns);
        return {
            x: PADDING + column * this.columnWidth,
            y: PADDING + line * this.size.rowHeight - this.scroll.scrollTop,
        };
    }

    cellsLeft() {
        return this.size.coarse ? 0 : this.size.label + this.size.tag;
    }

    /* What lies at a point of the canvas: { row, slot }, or null. */
    find(x, y) {
        const line = Math.floor((y + this.scroll.scrollTop - PADDING) / this.size.rowHeight);
        const column = Math.floor((x - PADDING) / this.columnWidth);
        const position = line * this.columns + column;
        if (line < 0 || column < 0 || column >= this.columns || position >= this.order.length) return null;
        const slot = Math.floor((x - PADDING - column * this.columnWidth - this.cellsLeft()) / this.cellWidth);
        if (this.size.coarse) return { row: this.order[position], slot: 0 };
        return slot < SLABS ? { row: this.order[position], slot: Math.max(0, slot) } : null;
    }

    /* The middle of a slab on the canvas, after it was brought into sight: for the keyboard, and for tests. */
    show(row, slot) {
        const position = this.order.indexOf(row), top = Math.floor(position / this.columns) * this.size.rowHeight;
        const height = this.scroll.clientHeight;
        if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
        else if (top + this.size.rowHeight + 2 * PADDING > this.scroll.scrollTop + height)
            this.scroll.scrollTop = top + this.size.rowHeight + 2 * PADDING - height;
        const at = this.placeOf(position);
        return { x: at.x + this.cellsLeft() + (slot + 0.5) * this.cellWidth - this.size.gap / 2, y: at.y + this.size.cellHeight / 2 };
    }

    /* ---- Drawing ---- */

    /* On whole points of the screen, so that no seam is seen between what touches; what is there has one at least. */
    fill(color, x, y, w, h) {
        if (w <= 0 || h <= 0) return;
        const snap = (at) => Math.round(at * this.ratio) / this.ratio, point = 1 / this.ratio;
        this.context.fillStyle = color;
        this.context.fillRect(snap(x), snap(y), Math.max(snap(x + w) - snap(x), point), Math.max(snap(y + h) - snap(y), point));
    }

    hatch(x, y, w, h) {
        if (w < 6 || h < 3) return;
        const c = this.context;
        c.save();
        c.beginPath();
        c.rect(x, y, w, h);
        c.clip();
        c.beginPath();
        for (let at = -h; at < w; at += 5) {
            c.moveTo(x + at, y + h);
            c.lineTo(x + at + h, y);
        }
        c.strokeStyle = 'rgb(0 0 0 / 40%)';
        c.lineWidth = 1;
        c.stroke();
        c.restore();
    }

    tag(kind, x, y, h) {
        const c = this.context, size = this.size, color = this.colors.ofRow(kind), loud = kind === DRAINING || kind === ROW_TORN;
        if (size.tag < 16) {
            if (kind !== HOT) this.fill(color, x, y, size.tag - 2, h);
            return;
        }
        const text = size.tag > 40 ? KIND_NAMES[kind] : KIND_NAMES[kind][0];
        c.font = '700 ' + (size.font - 2) + 'px system-ui, sans-serif';
        const w = size.tag > 40 ? c.measureText(text).width + 10 : size.tag - 5;
        c.beginPath();
        c.roundRect(x + 0.5, y + 1.5, w, h - 3, 4);
        c.strokeStyle = c.fillStyle = color;
        c.lineWidth = 1;
        c.stroke();
        if (loud) c.fill();
        c.fillStyle = loud ? this.colors.tone.ground : this.colors.tone.text;
        c.textAlign = 'center';
        c.fillText(text, x + 0.5 + w / 2, y + h / 2 + 0.5);
    }

    label(row, x, y) {
        const c = this.context;
        if (this.size.label === 0) return;
        c.font = this.size.font + 'px ui-monospace, "DejaVu Sans Mono", monospace';
        c.textAlign = 'left';
        c.fillStyle = this.colors.tone.muted;
        c.fillText(this.heap.info.rows[row], x, y + this.size.cellHeight / 2 + 0.5);
    }

    fades(classId) {
        return this.onlyClass !== null && this.onlyClass !== classId;
    }

    /* From the bottom: what is used, what is free, what is not in memory. */
    parts(x, y, w, used, free, idle, whole, usedColor) {
        const tone = this.colors.tone, h = this.size.cellHeight, scale = h / whole;
        this.fill(tone.nothing, x, y, w, h);
        this.fill(this.colors.by === 'occupancy' ? usedColor : tone.free, x, y + h - (used + free) * scale, w, (used + free) * scale);
        this.fill(usedColor, x, y + h - used * scale, w, used * scale);
        if (idle <= 0) return;
        this.fill(tone.idle, x, y + h - (used + free + idle) * scale, w, idle * scale);
        this.hatch(x, y + h - (used + free + idle) * scale, w, idle * scale);
    }

    drawCell(cell, rowKind, x, y) {
        const heap = this.heap, kind = heap.kind(cell), memory = heap.cellMemory(cell), used = heap.cellUsed(cell);
        const isBlock = kind === SLAB || kind === SPAN;
        const goesOn = kind === SPAN && (cell + 1) % SLABS !== 0 && heap.kind(cell + 1) === SPAN && heap.second[cell + 1] > 0;
        const w = this.cellWidth - (goesOn ? 0 : this.size.gap);
        const classId = kind === SLAB ? heap.second[cell] : kind === SPAN ? heap.info.span_id : -1;
        this.context.globalAlpha = this.fades(classId) ? 0.18 : 1;
        if (kind === TORN) this.fill(this.colors.tone.torn, x, y, w, this.size.cellHeight);
        else if (isBlock) this.parts(x, y, w, used, memory - used, 0, SLAB_BYTES, this.colors.ofCell(heap, cell, rowKind));
        else this.parts(x, y, w, 0, 0, memory, SLAB_BYTES, '');
        this.context.globalAlpha = 1;
    }

    drawPrefix(row, x, y) {
        const waits = this.heap.rowKind[row] !== ROW_TORN;
        for (let slot = 0; slot < SLABS; slot++) {
            const memory = Math.max(0, Math.min(SLAB_BYTES, this.heap.rowMemory[row] - slot * SLAB_BYTES));
            const at = x + slot * this.cellWidth, w = this.cellWidth - this.size.gap;
            this.context.globalAlpha = this.fades(-1) ? 0.18 : 1;
            if (waits) this.parts(at, y, w, 0, 0, memory, SLAB_BYTES, '');
            else this.fill(this.colors.tone.torn, at, y, w, this.size.cellHeight);
        }
        this.context.globalAlpha = 1;
    }

    drawRun(row, x, y) {
        const sums = this.heap.rowSums(row), whole = this.heap.rowSuperslabs[row] * SUPERSLAB_BYTES, tone = this.colors.tone;
        const w = SLABS * this.cellWidth - this.size.gap, h = this.size.cellHeight, scale = w / whole;
        this.context.globalAlpha = this.fades(this.heap.info.run_id) ? 0.18 : 1;
        this.fill(tone.nothing, x, y, w, h);
        this.fill(tone.run, x, y, sums.used * scale, h);
        this.fill(tone.free, x + sums.used * scale, y, sums.free * scale, h);
        if (h >= 12) {
            this.context.font = '600 ' + (this.size.font - 1) + 'px system-ui, sans-serif';
            this.context.textAlign = 'left';
            this.context.fillStyle = '#000';
            this.context.fillText('run of ' + plural(this.heap.rowSuperslabs[row], 'SuperSlab'), x + 6, y + h / 2 + 0.5);
        }
        this.context.globalAlpha = 1;
    }

    /* A row as one cell: in the colour of what has most of it. */
    mainColor(row, sums) {
        const heap = this.heap, kind = heap.rowKind[row];
        if (kind === RUN || this.colors.by === 'tier') return this.colors.ofRow(kind);
        if (this.colors.by === 'occupancy') return this.colors.ofOccupancy(sums.capacity === 0 ? 0 : sums.used / sums.capacity);
        const used = new Map();
        for (let cell = row * SLABS; cell < (row + 1) * SLABS; cell++) {
            const id = heap.kind(cell) === SLAB ? heap.second[cell] : heap.info.span_id;
            used.set(id, (used.get(id) || 0) + heap.cellUsed(cell));
        }
        return this.colors.ofClass([...used.entries()].sort((a, b) => b[1] - a[1])[0][0]);
    }

    hasClass(row, id) {
        const heap = this.heap;
        if (heap.rowKind[row] === RUN) return id === heap.info.run_id;
        for (let cell = row * SLABS; cell < (row + 1) * SLABS; cell++) {
            const kind = heap.kind(cell);
            if ((kind === SLAB && heap.second[cell] === id) || (kind === SPAN && id === heap.info.span_id)) return true;
        }
        return false;
    }

    drawCoarse(row, x, y) {
        const kind = this.heap.rowKind[row], w = this.cellWidth - this.size.gap, sums = this.heap.rowSums(row);
        const whole = this.heap.rowSuperslabs[row] * SUPERSLAB_BYTES;
        this.context.globalAlpha = this.onlyClass !== null && !this.hasClass(row, this.onlyClass) ? 0.18 : 1;
        if (kind === ROW_TORN) this.fill(this.colors.tone.torn, x, y, w, this.size.cellHeight);
        else this.parts(x, y, w, sums.used, sums.free, sums.idle, whole, this.mainColor(row, sums));
        if (kind === DRAINING) this.fill(this.colors.tone.draining, x, y + this.size.cellHeight + 1, w, 2.5);
        this.context.globalAlpha = 1;
    }

    drawRow(row, x, y) {
        const kind = this.heap.rowKind[row], left = x + this.cellsLeft();
        if (kind === ABSENT) {
            this.label(row, x, y);
            const w = (this.size.coarse ? this.cellWidth : SLABS * this.cellWidth) - this.size.gap;
            this.context.strokeStyle = this.colors.tone.line;
            this.context.lineWidth = 1;
            this.context.strokeRect(left + 0.5, y + 0.5, w - 1, this.size.cellHeight - 1);
            return;
        }
        if (this.size.coarse) {
            this.drawCoarse(row, x, y);
            return;
        }
        this.label(row, x, y);
        this.tag(kind, x + this.size.label, y, this.size.cellHeight);
        if (kind === RUN) this.drawRun(row, left, y);
        else if (!this.heap.hasCells(row)) this.drawPrefix(row, left, y);
        else for (let slot = 0; slot < SLABS; slot++) this.drawCell(row * SLABS + slot, kind, left + slot * this.cellWidth, y);
    }

    drawChosen() {
        if (this.chosen === null) return;
        const at = this.placeOf(this.order.indexOf(this.chosen.row)), c = this.context;
        const wide = !this.size.coarse && !this.heap.hasCells(this.chosen.row);
        const x = at.x + this.cellsLeft() + (wide || this.size.coarse ? 0 : this.chosen.slot * this.cellWidth);
        const w = (wide ? SLABS : 1) * this.cellWidth - this.size.gap, h = this.size.cellHeight;
        c.lineWidth = 4;
        c.strokeStyle = this.colors.tone.ground;
        c.strokeRect(x - 1.5, at.y - 1.5, w + 3, h + 3);
        c.lineWidth = 2;
        c.strokeStyle = this.colors.tone.text;
        c.strokeRect(x - 1.5, at.y - 1.5, w + 3, h + 3);
    }

    draw() {
        const c = this.context, height = this.scroll.clientHeight;
        c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
        c.textBaseline = 'middle';
        this.fill(this.colors.tone.ground, 0, 0, this.scroll.clientWidth, height);
        if (this.order.length === 0) {
            c.font = '14px system-ui, sans-serif';
            c.textAlign = 'left';
            c.fillStyle = this.colors.tone.muted;
            c.fillText('The heap has no SuperSlab.', PADDING, 20);
        }
        const first = Math.max(0, Math.floor((this.scroll.scrollTop - PADDING) / this.size.rowHeight)) * this.columns;
        const last = Math.ceil((this.scroll.scrollTop + height) / this.size.rowHeight) * this.columns;
        for (let position = first; position < Math.min(last, this.order.length); position++) {
            const at = this.placeOf(position);
            this.drawRow(this.order[position], at.x, at.y);
        }
        this.drawChosen();
    }
}

/* ---- What is pointed at ---------------------------------------------------------------------------------------------------- */

class Detail {
    constructor(view) {
        this.view = view;
        this.heap = view.heap;
        this.box = byId('detail');
    }

    hide() {
        this.box.hidden = true;
    }

    address(row, slot) {
        return '0x' + (BigInt('0x' + this.heap.info.rows[row]) + BigInt(slot * SLAB_BYTES)).toString(16);
    }

    slabLines(cell) {
        const heap = this.heap, id = heap.second[cell], room = heap.classRoom[id], used = heap.used[cell];
        return [
            ['class', heap.className(id)],
            ['block size', plural(heap.classBytes[id], 'byte')],
            ['blocks used', used + ' of ' + room + ' (' + Math.floor((used * 100) / room) + ' %)'],
        ];
    }

    spanLines(cell) {
        if (this.heap.isHeld(cell)) return []; // no block, but room that a thread keeps
        if (this.heap.isPacked(cell)) return [['in spans', bytesText(this.heap.spanBytes[cell])]];
        const head = cell - this.heap.second[cell];
        return [
            ['block size', bytesText(this.heap.spanBytes[head])],
            ['slab', this.heap.second[cell] + 1 + ' of ' + this.heap.spanSlabs[head]],
        ];
    }

    pageLines(cell) {
        const heap = this.heap, memory = heap.cellMemory(cell), used = heap.cellUsed(cell);
        const nPages = SLAB_BYTES / heap.info.page_bytes, kind = heap.kind(cell);
        const lines = [['pages in memory', countBits(heap.pages[cell]) + ' of ' + nPages]];
        if (kind === SLAB || kind === SPAN) lines.push(['not used', bytesText(memory - used)]);
        lines.push(['state', kind === TORN ? 'changed while it was read' : STATE_NAMES[heap.kindState[cell] & 15]]);
        return lines;
    }

    rowLines(row) {
        const heap = this.heap, kind = heap.rowKind[row], sums = heap.rowSums(row), lines = [];
        if (kind === RUN) lines.push(['length', plural(heap.rowSuperslabs[row], 'SuperSlab')], ['block size', bytesText(heap.rowRunBytes[row])]);
        lines.push(['in memory', bytesText(sums.memory)], ['not used', bytesText(sums.free + sums.idle)]);
        if (sums.capacity > 0) lines.push(['full', Math.floor((sums.used * 100) / sums.capacity) + ' %']);
        return lines;
    }

    title(row, cell) {
        const names = ['nothing', 'slab', 'span', 'waits', 'torn'];
        if (!this.heap.hasCells(row) || this.view.size.coarse)
            return this.heap.rowKind[row] === RUN ? 'run' : this.heap.rowKind[row] === ABSENT ? 'not there in this sample' : 'SuperSlab';
        const kind = this.heap.kind(cell);
        return kind === SLAB ? this.heap.className(this.heap.second[cell]) + ' slab' : kind === SPAN && this.heap.isPacked(cell) ? 'packed spans' : names[kind];
    }

    lines(row, cell) {
        const kind = this.heap.rowKind[row];
        if (kind === ABSENT) return [];
        if (!this.heap.hasCells(row) || this.view.size.coarse) return this.rowLines(row);
        const cellKind = this.heap.kind(cell);
        const lines = cellKind === SLAB ? this.slabLines(cell) : cellKind === SPAN ? this.spanLines(cell) : [];
        const full = this.rowLines(row).find((line) => line[0] === 'full');
        return lines.concat(this.pageLines(cell), full ? [['SuperSlab', KIND_NAMES[kind] + ', ' + full[1] + ' full']] : [['SuperSlab', KIND_NAMES[kind]]]);
    }

    fill(row, slot) {
        const cell = row * SLABS + slot, isCell = this.heap.hasCells(row) && !this.view.size.coarse;
        const list = make('dl'), title = make('h3', '', this.title(row, cell));
        if (!isCell && this.heap.rowKind[row] !== ABSENT) {
            const tag = make('span', 'tag', KIND_NAMES[this.heap.rowKind[row]]);
            tag.style.borderColor = this.view.colors.ofRow(this.heap.rowKind[row]);
            title.append(tag);
        }
        for (const [term, value] of this.lines(row, cell)) list.append(make('dt', '', term), make('dd', '', value));
        this.box.replaceChildren(title, make('p', 'address', this.address(row, isCell ? slot : 0)), list);
        if (isCell) this.box.append(this.pages(cell));
    }

    pages(cell) {
        const strip = make('div', 'pages');
        for (let page = 0; page < SLAB_BYTES / this.heap.info.page_bytes; page++)
            strip.append(make('span', (this.heap.pages[cell] >> page) & 1 ? 'in' : ''));
        return strip;
    }

    /* Beside a point of the window, inside of it. */
    show(row, slot, x, y) {
        this.fill(row, slot);
        this.box.hidden = false;
        const w = this.box.offsetWidth, h = this.box.offsetHeight;
        this.box.style.left = Math.max(4, x + 18 + w > window.innerWidth ? x - 18 - w : x + 18) + 'px';
        this.box.style.top = Math.max(4, Math.min(y + 18, window.innerHeight - h - 8)) + 'px';
    }
}

/* ---- Totals, tiers, legend, classes ------------------------------------------------------------------------------------------ */

/* Name, its figure, what of it is in memory, tone. The first two differ where blocks are not in memory as a whole. */
const PARTS = [
    ['live', 'live', 'live_memory', 'used'],
    ['cached by threads', 'cached', 'cached_memory', 'magazine'],
    ['free in slabs', 'free', 'free', 'free'],
    ['waiting to go back', 'idle', 'idle', 'idle'],
];

const memoryOf = (sample) => PARTS.reduce((sum, part) => sum + sample[part[2]], 0);

function swatch(color, hatched) {
    const box = make('span', hatched ? 'swatch idle-hatch' : 'swatch');
    box.style.backgroundColor = color;
    return box;
}

function showTotals(sample, colors) {
    const whole = memoryOf(sample), list = byId('totals'), bar = byId('bar');
    list.replaceChildren();
    bar.replaceChildren();
    const add = (name, bytes, inMemory, tone) => {
        const term = make('dt');
        term.append(tone ? swatch(colors.tone[tone], tone === 'idle') : make('span', 'no-swatch'), name);
        const share = tone && whole > 0 ? Math.round((inMemory * 100) / whole) + ' %' : '';
        list.append(term, make('dd', 'amount', bytesText(bytes)), make('dd', 'share', share));
        if (!tone || whole === 0) return;
        const part = make('span', tone === 'idle' ? 'idle-hatch' : '');
        part.style.backgroundColor = colors.tone[tone];
        part.style.width = (inMemory * 100) / whole + '%';
        bar.append(part);
    };
    for (const [name, field, memory, tone] of PARTS) add(name, sample[field], sample[memory], tone);
    add('committed', sample.committed);
    if (sample.resident > 0) add('resident (process)', sample.resident);
}

function showTiers(sample, colors) {
    const list = byId('tiers');
    list.replaceChildren();
    for (const kind of [HOT, DRAINING, FREE, CACHED, MOVING]) {
        const n = sample.rows[kind - 1];
        if (kind === MOVING && n === 0) continue;
        const item = make('li'), tag = make('span', kind === DRAINING ? 'tag loud' : 'tag', KIND_NAMES[kind]);
        tag.style.borderColor = colors.ofRow(kind);
        if (kind === DRAINING) tag.style.backgroundColor = colors.ofRow(kind);
        item.append(tag, String(n));
        list.append(item);
    }
    const run = make('li'), tag = make('span', 'tag', 'RUN');
    tag.style.borderColor = colors.tone.run;
    run.append(tag, sample.run_superslabs + ' in ' + plural(sample.runs, 'run') + ', ' + bytesText(sample.run_bytes));
    list.append(run, make('li', '', plural(sample.spans, 'span') + ', ' + bytesText(sample.span_bytes)));
    if (sample.torn > 0) list.append(make('li', 'torn-note', plural(sample.torn, 'record') + ' changed while they were read'));
}

function key(color, text, hatched) {
    const line = make('div');
    line.append(swatch(color, hatched), text);
    return line;
}

function ramp(colors, from, to) {
    const box = make('div'), strip = make('div', 'ramp'), ends = make('div', 'ramp-ends');
    for (const color of colors) strip.append(make('span')), (strip.lastChild.style.backgroundColor = color);
    ends.append(make('span', '', from), make('span', '', to));
    box.append(strip, ends);
    return box;
}

function sampleCell(colors) {
    const box = make('div', 'sample-cell'), tone = colors.tone;
    const used = colors.by === 'tier' ? tone.hot : colors.by === 'occupancy' ? colors.ofOccupancy(0.6) : colors.ramps.classes[4];
    const parts = colors.by === 'occupancy' ? [[tone.nothing, 'not in memory'], [used, 'in memory']]
        : [[tone.nothing, 'not in memory'], [tone.free, 'in memory, not used'], [used, 'blocks in use, cached ones too']];
    for (const [color, text] of parts) {
        const cell = make('div');
        cell.style.backgroundColor = color;
        box.append(cell, make('p', '', text));
    }
    return box;
}

function showLegend(colors) {
    const tone = colors.tone, keys = make('div', 'keys'), by = colors.by;
    const scale = by === 'class' ? ramp(colors.ramps.classes, 'blocks of 8 B', '32 KiB')
        : by === 'occupancy' ? ramp(colors.ramps.occupancy, 'no block used', 'all') : make('div');
    if (by === 'tier') keys.append(key(tone.hot, 'used, HOT'), key(tone.draining, 'used, DRAINING: no new blocks, so it empties'));
    if (by === 'class') keys.append(key(tone.span, 'span: one block above 32 KiB'));
    keys.append(key(tone.run, 'run: one block above 1.9 MiB'), key(tone.idle, 'no block, waits to go back', true), key(tone.torn, 'changed while it was read'));
    byId('legend').replaceChildren(sampleCell(colors), scale, keys);
}

function classRow(sum, heap, view, onChoose) {
    const row = make('tr'), name = make('td'), button = make('button', '', ''), bar = make('td', 'bar'), strip = make('div');
    button.type = 'button';
    button.dataset.classId = sum.id;
    button.setAttribute('aria-pressed', String(view.onlyClass === sum.id));
    button.append(swatch(view.colors.ofClass(sum.id)), heap.className(sum.id));
    button.addEventListener('click', () => onChoose(sum.id));
    name.append(button);
    for (const [bytes, tone] of [[sum.used, 'used'], [sum.free, 'free']]) {
        const part = make('span');
        part.style.width = sum.memory === 0 ? '0' : (bytes * 100) / sum.memory + '%';
        part.style.backgroundColor = view.colors.tone[tone];
        strip.append(part);
    }
    bar.append(strip);
    row.append(name, make('td', '', String(sum.slabs)), bar, make('td', '', bytesText(sum.memory)), make('td', 'unused', bytesText(sum.free)));
    return row;
}

function showClasses(heap, view, onChoose) {
    const body = byId('classes').tBodies[0], sums = heap.classSums();
    const focused = document.activeElement && document.activeElement.dataset.classId;
    body.replaceChildren(...sums.map((sum) => classRow(sum, heap, view, onChoose)));
    if (focused !== undefined) body.querySelector('[data-class-id="' + focused + '"]')?.focus();
}

/* ---- Time ------------------------------------------------------------------------------------------------------------------- */

class Timeline {
    constructor(info, colors, onSeek) {
        this.info = info;
        this.colors = colors;
        this.slider = byId('sample');
        this.slider.max = info.samples.length - 1;
        this.slider.value = info.samples.length - 1;
        this.timer = 0;
        byId('time').hidden = info.samples.length < 2;
        this.slider.addEventListener('input', () => onSeek(Number(this.slider.value)));
        byId('play').addEventListener('click', () => this.toggle(onSeek));
        byId('chart').addEventListener('pointerdown', (event) => {
            const box = byId('chart').getBoundingClientRect();
            onSeek(Math.round(((event.clientX - box.left) / box.width) * (info.samples.length - 1)));
        });
    }

    toggle(onSeek) {
        const last = this.info.samples.length - 1;
        if (this.timer !== 0) {
            this.stop();
            return;
        }
        if (Number(this.slider.value) === last) onSeek(0);
        byId('play').textContent = 'Pause';
        byId('play').setAttribute('aria-pressed', 'true');
        this.timer = setInterval(() => {
            if (Number(this.slider.value) >= last) this.stop();
            else onSeek(Number(this.slider.value) + 1);
        }, Math.max(60, Math.min(500, 12000 / (last + 1))));
    }

    stop() {
        clearInterval(this.timer);
        this.timer = 0;
        byId('play').textContent = 'Play';
        byId('play').setAttribute('aria-pressed', 'false');
    }

    /* Stacked areas of the four parts. */
    chart() {
        const samples = this.info.samples, chart = byId('chart'), n = samples.length;
        const sums = samples.map(memoryOf);
        const most = Math.max(1, ...sums), base = new Array(n).fill(0);
        byId('most').textContent = bytesText(most);
        chart.setAttribute('viewBox', '0 0 1000 100');
        chart.replaceChildren();
        const add = (name, attributes) => {
            const element = document.createElementNS('http://www.w3.org/2000/svg', name);
            for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
            chart.append(element);
            return element;
        };
        const x = (i) => (((n === 1 ? 0 : i / (n - 1))) * 1000).toFixed(2), y = (bytes) => (100 - (bytes * 100) / most).toFixed(2);
        for (const [, , field, tone] of PARTS) {
            const below = base.slice();
            samples.forEach((sample, i) => (base[i] += sample[field]));
            const over = base.map((bytes, i) => x(i) + ' ' + y(bytes)), under = below.map((bytes, i) => x(i) + ' ' + y(bytes)).reverse();
            add('path', { d: 'M' + over.concat(under).join('L') + 'Z', fill: this.colors.tone[tone] });
        }
        this.marker = add('line', { y1: 0, y2: 100, stroke: this.colors.tone.text, 'stroke-width': 2, 'vector-effect': 'non-scaling-stroke' });
    }

    show(index) {
        const samples = this.info.samples, n = samples.length;
        const text = 'sample ' + (index + 1) + ' of ' + n + ', ' + (samples[index].seconds - samples[0].seconds).toFixed(1) + ' s';
        const x = n === 1 ? 0 : (index / (n - 1)) * 1000;
        this.slider.value = index;
        this.slider.setAttribute('aria-valuetext', text);
        byId('when').textContent = text;
        this.marker.setAttribute('x1', x);
        this.marker.setAttribute('x2', x);
    }
}

/* ---- All of it ---------------------------------------------------------------------------------------------------------------- */

class Page {
    constructor(info, bytes) {
        this.info = info;
        this.colors = new Colors(info);
        this.heap = new Heap(info, bytes);
        this.index = info.samples.length - 1;
        this.heap.seek(this.index);
        this.timeline = new Timeline(info, this.colors, (index) => this.seek(index));
        this.view = new MapView(this.heap, this.colors);
        this.detail = new Detail(this.view);
        this.title();
        this.listen();
        this.recolor();
    }

    title() {
        const {name, pid, library, profile, when, by} = this.info;
        document.title = name + ' (' + pid + ') - hakmem map';
        byId('name').textContent = name;
        byId('about').textContent = 'pid ' + pid + ', hakmem ' + library + ', profile ' + profile;
        byId('taken').textContent = when;
        byId('map').setAttribute('aria-label', 'Map of the heap, ' + plural(this.heap.n, 'row') + ' of 32 slabs');
        document.querySelector('input[name="by"][value="' + by + '"]').checked = true;
    }

    seek(index) {
        this.index = Math.max(0, Math.min(this.info.samples.length - 1, index));
        this.heap.seek(this.index);
        this.refresh();
    }

    refresh() {
        const sample = this.info.samples[this.index];
        showTotals(sample, this.colors);
        showTiers(sample, this.colors);
        showClasses(this.heap, this.view, (id) => this.choose(id));
        this.timeline.show(this.index);
        this.view.draw();
        if (!this.detail.box.hidden && this.pointed) this.detail.fill(this.pointed.row, this.pointed.slot);
    }

    recolor() {
        this.colors.choose();
        showLegend(this.colors);
        this.timeline.chart();
        this.refresh();
    }

    choose(id) {
        this.view.onlyClass = this.view.onlyClass === id ? null : id;
        this.refresh();
    }

    /* ---- Pointer and keyboard ---- */

    point(event) {
        const box = this.view.canvas.getBoundingClientRect();
        this.pointed = this.view.find(event.clientX - box.left, event.clientY - box.top);
        if (this.pointed === null) this.detail.hide();
        else this.detail.show(this.pointed.row, this.pointed.slot, event.clientX, event.clientY);
    }

    /* Moves the keyboard's cursor to a position of the order and a slot. */
    moveTo(position, slot) {
        const n = this.view.order.length;
        if (n === 0) return;
        const row = this.view.order[Math.max(0, Math.min(n - 1, position))];
        this.view.chosen = this.pointed = { row, slot: Math.max(0, Math.min(SLABS - 1, slot)) };
        const at = this.view.show(row, this.view.chosen.slot), box = this.view.canvas.getBoundingClientRect();
        this.view.draw();
        this.detail.show(row, this.view.chosen.slot, box.left + at.x, box.top + at.y);
    }

    key(event) {
        const view = this.view, chosen = view.chosen, columns = view.columns;
        const position = chosen === null ? 0 : view.order.indexOf(chosen.row), slot = chosen === null ? 0 : chosen.slot;
        const one = chosen === null ? 0 : 1, screen = columns * Math.max(1, Math.floor(view.scroll.clientHeight / view.size.rowHeight) - 1);
        const coarse = view.size.coarse;
        const step = (by) => {
            const to = slot + by * one;
            if (coarse) return [position + by * one, 0];
            if (to < 0) return position > 0 ? [position - 1, SLABS - 1] : [0, 0];
            if (to >= SLABS) return position + 1 < view.order.length ? [position + 1, 0] : [position, SLABS - 1];
            return [position, to];
        };
        const moves = {
            ArrowLeft: () => step(-1),
            ArrowRight: () => step(1),
            ArrowUp: () => [position - columns >= 0 ? position - columns * one : position, slot],
            ArrowDown: () => [position + columns < view.order.length ? position + columns * one : position, slot],
            PageUp: () => [position - screen, slot],
            PageDown: () => [position + screen, slot],
            Home: () => [0, 0],
            End: () => [view.order.length - 1, SLABS - 1],
        };
        if (event.key === 'Escape') {
            view.chosen = null;
            this.detail.hide();
            view.draw();
        } else if (moves[event.key] !== undefined) {
            event.preventDefault();
            this.moveTo(...moves[event.key]());
        }
    }

    listen() {
        const canvas = this.view.canvas;
        canvas.addEventListener('pointermove', (event) => this.point(event));
        canvas.addEventListener('pointerdown', (event) => {
            this.point(event);
            this.view.chosen = this.pointed;
            this.view.draw();
        });
        canvas.addEventListener('pointerleave', () => this.detail.hide());
        canvas.addEventListener('blur', () => this.detail.hide());
        canvas.addEventListener('keydown', (event) => this.key(event));
        this.view.scroll.addEventListener('scroll', () => this.view.draw());
        new ResizeObserver(() => this.view.resize()).observe(this.view.scroll);
        dark.addEventListener('change', () => this.recolor());
        byId('size').addEventListener('change', (event) => {
            this.view.wantedSize = event.target.value;
            this.view.resize();
        });
        byId('by').addEventListener('change', (event) => {
            this.colors.by = event.target.value;
            this.recolor();
        });
    }
}

async function start() {
    const info = JSON.parse(byId('data').textContent);
    if (typeof DecompressionStream === 'undefined') throw new Error('this browser cannot unpack it (Chromium 99, Firefox 113, Safari 16.4 or later can)');
    window.hakmemMap = new Page(info, await inflate(info.packed)); // also for tests
}

start().catch((error) => {
    byId('app').hidden = true;
    byId('failure').textContent = 'The map cannot be shown: ' + error.message;
    byId('failure').hidden = false;
});
