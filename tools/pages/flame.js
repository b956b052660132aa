/* flame.js - draws the flame graph of a page and lets it be looked at: hover, click, search, other amounts.
 *
 * The page has an element "data" of JSON, "graph" to draw into, and controls; see flame.html and flame.svg. Names in the data come
 * from programs: they are set as text, never as markup. */
"use strict";
(() => {
    const data = JSON.parse(document.getElementById("data").textContent);
    const graph = document.getElementById("graph");
    const choice = document.getElementById("value");
    const search = document.getElementById("search");
    const reset = document.getElementById("reset");
    const details = document.getElementById("details");
    const found = document.getElementById("found");
    const SVG = "http://www.w3.org/2000/svg";
    const FRAME_HEIGHT = 18, CHARACTER_WIDTH = 7.3, LEAST_WIDTH = 0.4;
    const FIXED_WIDTH = graph.localName === "g" ? 1180 : 0; /* an image scales as a whole */

    /* Rows of the data are [name, file, module, depth, amounts...], each node before its children. */
    const nodes = [];
    const path = [];
    for (let i = 0; i < data.nodes.length; i += 4 + data.values.length) {
        const [name, file, module, depth] = data.nodes.slice(i, i + 4);
        const node = {
            index: nodes.length, name: data.texts[name], file: data.texts[file], module: data.texts[module], depth,
            amounts: data.nodes.slice(i + 4, i + 4 + data.values.length), children: [], parent: null
        };
        path.length = depth;
        if (depth > 0) {
            node.parent = path[depth - 1];
            node.parent.children.push(node);
        }
        path.push(node);
        nodes.push(node);
    }
    const root = nodes[0];
    let shown = data.shown, zoomed = root, pattern = "";

    function amountText(amount, unit) {
        if (unit !== "bytes")
            return amount.toLocaleString("en-US") + (amount === 1 ? " block" : " blocks");
        const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let power = 0;
        for (; amount >= 1023.95 && power + 1 < units.length; power++)
            amount /= 1024;
        return amount.toFixed(power === 0 ? 0 : 1) + " " + units[power];
    }

    function percent(part, whole) {
        return whole === 0 ? "0 %" : (100 * part / whole).toFixed(1) + " %";
    }

    function describe(node) {
        const unit = data.values[shown].unit, amount = node.amounts[shown];
        const parts = [node.name, amountText(amount, unit) + " (" + percent(amount, root.amounts[shown]) + ")"];
        if (node.file !== "")
            parts.push(node.file);
        if (node.module !== "")
            parts.push(node.module);
        return parts.join("  ·  ");
    }

    function matches(node) {
        return pattern !== "" && node !== root && node.name.toLowerCase().includes(pattern);
    }

    /* What matching functions and those that they call have; the matching ones below others count once. */
    function matchedAmount(node) {
        if (matches(node))
            return node.amounts[shown];
        return node.children.reduce((sum, child) => sum + matchedAmount(child), 0);
    }

    function hash(text) {
        let h = 2166136261;
        for (let i = 0; i < text.length; i++)
            h = Math.imul(h ^ text.charCodeAt(i), 16777619) >>> 0;
        return h;
    }

    /* A colour for each module, its own for the program; a shade for each function. */
    function colour(node) {
        if (node === root)
            return "root";
        if (matches(node))
            return "hit";
        const number = node.module === data.program ? 0 : 1 + data.modules.indexOf(node.module) % 7;
        return "m" + number + " s" + hash(node.name) % 3;
    }

    function element(name, attributes) {
        const own = document.createElementNS(SVG, name);
        for (const key in attributes)
            own.setAttribute(key, attributes[key]);
        return own;
    }

    function drawFrame(into, node, x, width) {
        const frame = element("g", {
            "class": "frame" + (node.depth < zoomed.depth ? " above" : ""), "data-node": node.index, "tabindex": "0",
            "role": "button", "aria-label": describe(node)
        });
        const y = node.depth * FRAME_HEIGHT;
        frame.append(element("rect", {
            x: x.toFixed(2), y, width: Math.max(width - 0.5, 0.3).toFixed(2), height: FRAME_HEIGHT - 1, rx: 2,
            "class": colour(node)
        }));
        const room = Math.floor((width - 6) / CHARACTER_WIDTH);
        if (room >= 3) {
            const text = element("text", {x: (x + 4).toFixed(2), y: y + 13});
            text.textContent = node.name.length <= room ? node.name : node.name.slice(0, room - 1) + "…";
            frame.append(text);
        }
        into.append(frame);
    }

    function drawBelow(into, node, x, width) {
        drawFrame(into, node, x, width);
        const whole = node.amounts[shown];
        const children = node.children.filter(child => child.amounts[shown] > 0);
        children.sort((a, b) => b.amounts[shown] - a.amounts[shown] || a.index - b.index);
        for (const child of children) {
            const own = width * child.amounts[shown] / whole;
            if (own < LEAST_WIDTH)
                break; /* the others are no wider */
            drawBelow(into, child, x, own);
            x += own;
        }
    }

    function deepest(node) {
        return node.children.reduce((most, child) => Math.max(most, deepest(child)), node.depth);
    }

    function draw() {
        const width = FIXED_WIDTH || graph.clientWidth || 1180;
        const focused = graph.contains(document.activeElement) ? zoomed.index : -1;
        const into = document.createDocumentFragment();
        for (let above = zoomed.parent; above !== null; above = above.parent)
            drawFrame(into, above, 0, width);
        drawBelow(into, zoomed, 0, width);
        graph.replaceChildren(into);
        if (!FIXED_WIDTH)
            graph.setAttribute("height", (deepest(root) + 1) * FRAME_HEIGHT);
        reset.disabled = zoomed === root;
        found.textContent = pattern === "" ? "" :
            "found: " + amountText(matchedAmount(root), data.values[shown].unit) + " (" +
            percent(matchedAmount(root), root.amounts[shown]) + ")";
        details.textContent = describe(zoomed);
        if (focused >= 0)
            graph.querySelector("[data-node='" + focused + "']").focus();
    }

    function nodeOf(event) {
        const frame = event.target.closest("[data-node]");
        return frame === null ? null : nodes[frame.getAttribute("data-node")];
    }

    function zoomTo(node) {
        zoomed = node;
        draw();
    }

    function showDetails(event) {
        const node = nodeOf(event);
        if (node !== null)
            details.textContent = describe(node);
    }

    /* A drawing puts other frames under a pointer that rests, and the browser tells of it later: who has the focus goes first. */
    let pointer = [-1, -1];
    function showPointed(event) {
        const rests = event.clientX === pointer[0] && event.clientY === pointer[1];
        if (!rests || !graph.contains(document.activeElement))
            showDetails(event);
    }

    for (let i = 0; i < data.values.length; i++) {
        const option = document.createElementNS("http://www.w3.org/1999/xhtml", "option");
        option.value = i;
        option.textContent = data.values[i].title;
        option.selected = i === shown;
        choice.append(option);
    }
    choice.addEventListener("change", () => {
        shown = Number(choice.value);
        draw();
    });
    search.addEventListener("input", () => {
        pattern = search.value.trim().toLowerCase();
        draw();
    });
    reset.addEventListener("click", () => zoomTo(root));
    graph.addEventListener("mouseover", showPointed);
    graph.addEventListener("mousemove", event => { pointer = [event.clientX, event.clientY]; });
    graph.addEventListener("focusin", showDetails);
    graph.addEventListener("mouseleave", () => { details.textContent = describe(zoomed); });
    graph.addEventListener("click", event => {
        const node = nodeOf(event);
        if (node !== null)
            zoomTo(node);
    });
    graph.addEventListener("keydown", event => {
        const node = nodeOf(event);
        if (node !== null && (event.key === "Enter" || event.key === " ")) {
            event.preventDefault();
            zoomTo(node);
        }
    });
    document.addEventListener("keydown", event => {
        if (event.key === "Escape") {
            search.value = pattern = "";
            zoomTo(root);
        }
    });
    if (!FIXED_WIDTH)
        window.addEventListener("resize", draw);
    draw();
})();
