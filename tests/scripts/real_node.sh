#!/bin/bash
# real_node.sh - node on hakmem: worker threads that allocate, hand buffers over, compress and hash at the same time.
#
# The memory of JavaScript objects comes from V8's own heap by mmap. What is tested here is the rest: array buffers,
# which one thread allocates and another frees, zlib's state, the C++ side of the runtime, and the start and end of
# threads.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require node

cat > work.js << 'EOF'
"use strict";
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
const zlib = require("zlib");
const crypto = require("crypto");

// Numbers that follow from a seed, the same in every run.
function numbers(seed) {
    let x = seed >>> 0;
    return () => (x = (Math.imul(x, 1103515245) + 12345) >>> 0) >>> 8;
}
const sha256 = (data) => crypto.createHash("sha256").update(data).digest("hex");

function work({ index, rounds }) {
    const next = numbers(index + 1);
    const hash = crypto.createHash("sha256");
    const kept = [];
    for (let round = 0; round < rounds; round++) {
        const record = { round, list: [], text: "t".repeat(next() % 500) };
        for (let i = 0; i < 200; i++) record.list.push({ id: next(), name: "n" + next() });
        const text = JSON.stringify(record);
        if (JSON.stringify(JSON.parse(text)) !== text) throw new Error("JSON");
        const packed = zlib.gzipSync(text, { level: 1 + (round % 9) });
        if (zlib.gunzipSync(packed).toString() !== text) throw new Error("gzip");
        const brotli = zlib.brotliCompressSync(text, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } });
        if (zlib.brotliDecompressSync(brotli).toString() !== text) throw new Error("brotli");
        hash.update(text);
        // Buffers of many sizes, some of which live for a while.
        const buffer = Buffer.alloc(1 + (next() % 100000), index);
        if (buffer[buffer.length - 1] !== index) throw new Error("Buffer.alloc");
        kept[round % 50] = Buffer.concat([buffer, packed]);
        hash.update(sha256(buffer));
        // A buffer that this thread allocates and the main thread frees.
        const given = new ArrayBuffer(8 * (1000 + (next() % 20000)));
        const view = new Float64Array(given);
        for (let i = 0; i < view.length; i += 1) view[i] = (i * (index + 1)) % 1009;
        parentPort.postMessage({ given }, [given]);
        if (given.byteLength !== 0) throw new Error("a buffer was copied, not handed over");
    }
    parentPort.postMessage({ digest: hash.digest("hex"), kept: kept.length });
}

async function run(index, rounds) {
    const worker = new Worker(__filename, { workerData: { index, rounds } });
    let digest = "none", sum = 0, n_bytes = 0;
    worker.on("message", (message) => {
        if (message.given === undefined) { digest = message.digest; return; }
        n_bytes += message.given.byteLength;
        for (const value of new Float64Array(message.given)) sum += value;
    });
    await new Promise((resolve, reject) => {
        worker.on("error", reject);
        worker.on("exit", (code) => (code === 0 ? resolve() : reject(new Error("exit " + code))));
    });
    return `worker ${index}: ${n_bytes} bytes, sum ${sum}, ${digest}`;
}

async function main() {
    // Two waves of four threads, then forty short ones.
    for (let wave = 0; wave < 2; wave++) {
        const lines = await Promise.all([0, 1, 2, 3].map((i) => run(4 * wave + i, 120)));
        for (const line of lines) console.log(line);
    }
    for (let i = 0; i < 40; i += 4) {
        const lines = await Promise.all([0, 1, 2, 3].map((k) => run(100 + i + k, 2)));
        console.log(sha256(lines.join("\n")));
    }
    // zlib and the key derivation run in the pool of threads behind the event loop.
    const inputs = Array.from({ length: 64 }, (_, i) => Buffer.alloc(20000 + 977 * i, "text " + i));
    const outputs = await Promise.all(inputs.map((input) => new Promise((resolve, reject) =>
        zlib.deflate(input, (error, packed) => error ? reject(error) :
            zlib.inflate(packed, (error2, back) => error2 ? reject(error2) : resolve(back.equals(input)))))));
    console.log("pool", outputs.filter(Boolean).length);
    const keys = await Promise.all(Array.from({ length: 16 }, (_, i) => new Promise((resolve, reject) =>
        crypto.pbkdf2("password", "salt", 1, 20, "sha1", (error, key) => error ? reject(error) : resolve(key.toString("hex"))))));
    console.log("keys", new Set(keys).size, keys[0]);
    // 300 MB in blocks of 3 MB, of which few are in use at a time.
    let total = 0;
    for (let i = 0; i < 100; i++) total += new Uint8Array(3000000).fill(1).reduce((a, b) => a + b, 0);
    console.log("filled", total);
    const shared = new Int32Array(new SharedArrayBuffer(4096));
    Atomics.add(shared, 0, 41);
    console.log("shared", structuredClone({ shared }).shared[0] + 1);
}

if (isMainThread) main(); else work(workerData);
EOF

step "two waves of workers, on the system's malloc and on hakmem"
on_system node work.js > system.out 2> system.err || fail "node fails on the system's malloc: $(tail -n 5 system.err)"
on_hakmem_with_stats "$work/stats.json" node work.js > hakmem.out 2> hakmem.err \
    || fail "node ended with status $? on hakmem: $(tail -n 20 hakmem.err)"
assert_same system.out hakmem.out
assert_no_report hakmem.err
assert_stats stats.json
# Array buffers of some 10 MB are alive at a time, none of which V8's own heap holds.
[[ $(stat_of peak_committed_bytes stats.json) -gt 10000000 ]] || fail "node's buffers were not in hakmem's memory"
assert_line "pool 64" hakmem.out
# The first test vector of RFC 6070.
assert_line "keys 1 0c60c80f961f0e71f3a9b524af6012062fe037a6" hakmem.out
assert_line "filled 300000000" hakmem.out
assert_line "shared 42" hakmem.out
[[ $(grep -c '^worker [0-7]: [0-9]* bytes, sum [0-9]*, [0-9a-f]\{64\}$' hakmem.out) -eq 8 ]] || fail "eight workers did not answer"
echo "node: the same output"
