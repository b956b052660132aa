"""_map_browser.py PAGE SAMPLES - what a reader can do with the page of `hakmem map`, done; SAMPLES is what --json said meanwhile.

Called by  map_browser.sh.     With the environment variable PICTURES set, screenshots are put into that directory.
"""
import json
import os
import sys
import time

from _browser import Browser

PAGE, SAMPLES = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
LAST = len(SAMPLES) - 1
PICTURES = os.environ.get("PICTURES")


def check(truth, what):
    if not truth:
        raise SystemExit("map_browser: " + what)


def wait_until(browser, script, what):
    """A page may need a moment, on a busy machine many."""
    for _ in range(600):
        if browser.run("return " + script):
            return
        time.sleep(0.05)
    raise SystemExit("map_browser: not within 30 s: " + what)


def picture(browser, name):
    if PICTURES:
        browser.screenshot(os.path.join(PICTURES, name + ".png"))


def canvas(browser):
    """The points of the canvas as a number that changes when they do."""
    return hash(browser.run("return document.getElementById('map').toDataURL()"))


def text(browser, selector):
    return browser.run("return document.querySelector(arguments[0]).innerText", selector)


def details(browser):
    """What the box beside the pointer says: its title, its address, and its lines by name."""
    return browser.run("""
        const box = document.getElementById('detail');
        if (box.hidden) return null;
        const lines = {};
        box.querySelectorAll('dt').forEach((term) => (lines[term.textContent] = term.nextSibling.textContent));
        return { title: box.querySelector('h3').textContent, address: box.querySelector('.address').textContent, lines };""")


def point_at(browser, row, slot):
    at = browser.run("""
        const at = hakmemMap.view.show(arguments[0], arguments[1]), box = document.getElementById('map').getBoundingClientRect();
        return [box.left + at.x, box.top + at.y];""", row, slot)
    browser.point(*at)
    return at


def row_number(browser, address):
    return browser.run("return hakmemMap.info.rows.indexOf(arguments[0])", address[2:])


def loads(browser):
    browser.open(PAGE)
    wait_until(browser, "typeof window.hakmemMap === 'object'", "the page starts")
    check(browser.run("return document.getElementById('failure').hidden"), "it says that it failed")
    check(browser.run("return performance.getEntriesByType('resource').length") == 0, "the page asked for something")
    check(browser.run("return hakmemMap.info.samples.length") == len(SAMPLES), "not all samples are there")
    # The name is text, whatever it looks like; the system keeps 15 bytes of it.
    check(text(browser, "h1") == "<b>&\"?[1m</b>", "the name is " + text(browser, "h1"))
    check(browser.run("return document.querySelectorAll('b').length") == 0, "the name became an element")


def sums_agree(browser):
    """What the page adds up from its cells is what the command added up, in each sample."""
    got = browser.run("""
        const heap = hakmemMap.heap, before = hakmemMap.index, sums = [];
        hakmemMap.info.samples.forEach((sample, index) => {
            heap.seek(index);
            const sum = { memory: 0, used: 0, free: 0, idle: 0 };
            for (let row = 0; row < heap.n; row++)
                for (const [name, bytes] of Object.entries(heap.rowSums(row))) if (name in sum) sum[name] += bytes;
            const classes = heap.classSums().reduce((all, one) => all + one.free, 0);
            sums.push([sum.memory, sum.used, sum.free, sum.idle, classes]);
        });
        for (const index of [3, 0, sums.length - 1, 1]) { // forth and back
            if (index >= sums.length) continue;
            heap.seek(index);
            let free = 0;
            for (let row = 0; row < heap.n; row++) free += heap.rowSums(row).free;
            if (free !== sums[index][2]) sums.push(['seek', index]);
        }
        heap.seek(before);
        return sums;""")
    for sample, sums in zip(SAMPLES, got):
        totals = sample["totals"]
        wanted = [totals[name] for name in ("memory_bytes", "used_bytes", "free_bytes", "idle_bytes", "free_bytes")]
        check(sums == wanted, "sums %s, and the command has %s" % (sums, wanted))
    check(len(got) == len(SAMPLES), "after going forth and back: %s" % got[len(SAMPLES):])


def pointing(browser):
    """Slabs, a span's cell and a run, in the last and in the first sample, say what --json says of them."""
    rows = SAMPLES[LAST]["superslabs"]
    chosen = [(row, slot) for row in rows for slot in row.get("slots", []) if slot.get("block_bytes") == 96][:3]
    chosen += [(row, slot) for row in rows for slot in row.get("slots", []) if slot.get("block_bytes", 96) != 96][:2]
    check(len(chosen) == 5, "too little to point at")
    for row, slot in chosen:
        point_at(browser, row_number(browser, row["address"]), slot["slot"])
        box = details(browser)
        check(box is not None, "nothing is shown at %s, slab %d" % (row["address"], slot["slot"]))
        check(int(box["address"], 16) == int(row["address"], 16) + slot["slot"] * 65536, "address %s" % box["address"])
        check(box["title"] == "%d B slab" % slot["block_bytes"], "title %s" % box["title"])
        check(box["lines"]["block size"] == "%s bytes" % format(slot["block_bytes"], ","), "block size %s" % box["lines"])
        check(box["lines"]["blocks used"].startswith("%d of %d " % (slot["used"], slot["room"])), "blocks %s" % box["lines"])
        pages = bin(slot["pages"]).count("1")
        check(box["lines"]["pages in memory"] == "%d of 16" % pages, "pages %s" % box["lines"])
        check(browser.run("return document.querySelectorAll('.pages .in').length") == pages, "the strip of pages")
        check(box["lines"]["SuperSlab"].startswith(row["kind"].upper()), "tier %s" % box["lines"])
        check("state" in box["lines"], "no state in %s" % box["lines"])
    picture(browser, "pointing")
    browser.point(2, 2)
    check(details(browser) is None, "the box stays when the pointer has gone")


def slider(browser):
    """From the last sample to the first, by the keyboard: picture, totals and details change; and back."""
    before, live = canvas(browser), text(browser, "#totals")
    browser.run("document.getElementById('sample').focus()")
    browser.type("Home")
    check(text(browser, "#when").startswith("sample 1 of %d," % len(SAMPLES)), "it says " + text(browser, "#when"))
    check(canvas(browser) != before, "the picture stays as it was")
    check(text(browser, "#totals") != live, "the totals stay as they were")
    run = next(row for row in SAMPLES[0]["superslabs"] if row["kind"] == "run")
    point_at(browser, row_number(browser, run["address"]), 5)
    box = details(browser)
    check(box["title"].startswith("run") and box["lines"]["length"] == "3 SuperSlabs", "a run says %s" % box)
    span = next((row, slot) for row in SAMPLES[0]["superslabs"] for slot in row.get("slots", []) if slot.get("span_distance") == 1)
    point_at(browser, row_number(browser, span[0]["address"]), span[1]["slot"])
    check(details(browser)["lines"]["slab"] == "2 of %d" % span[1]["span_slabs"], "a span says %s" % details(browser))
    picture(browser, "first-sample")
    browser.type("End")
    browser.point(2, 2)
    check(canvas(browser) == before and text(browser, "#totals") == live, "the last sample is not what it was")
    browser.type("Left")
    check(text(browser, "#when").startswith("sample %d of" % LAST), "one step to the left")
    browser.type("Right")
    # A click into the chart goes there, too.
    box = browser.run("const box = document.getElementById('chart').getBoundingClientRect(); return [box.left, box.top, box.width]")
    browser.point(box[0] + 1, box[1] + 20, click=True)
    check(text(browser, "#when").startswith("sample 1 of"), "a click into the chart")
    browser.run("document.getElementById('play').click()")
    wait_until(browser, "hakmemMap.index === %d" % LAST, "playing comes to the end")
    wait_until(browser, "document.getElementById('play').textContent === 'Play'", "playing ends")


def colors(browser):
    """Three ways of colouring: three pictures and legends. By a click, and by the keyboard."""
    seen = {"class": (canvas(browser), text(browser, "#legend"))}
    at = browser.run("const box = document.querySelector('input[value=occupancy] + span').getBoundingClientRect();"
                     "return [box.left + box.width / 2, box.top + box.height / 2]")
    browser.point(*at, click=True)
    browser.point(2, 2)
    seen["occupancy"] = (canvas(browser), text(browser, "#legend"))
    picture(browser, "occupancy")
    browser.type("Right")
    check(browser.run("return document.querySelector('input[name=by]:checked').value") == "tier", "the arrow key does not switch")
    seen["tier"] = (canvas(browser), text(browser, "#legend"))
    picture(browser, "tier")
    check(len({one[0] for one in seen.values()}) == 3, "colourings look alike")
    check(len({one[1] for one in seen.values()}) == 3, "legends are alike")
    browser.type("Left", "Left")
    check((canvas(browser), text(browser, "#legend")) == seen["class"], "by class it does not look as before")


def classes(browser):
    """A class that is chosen stands out; chosen again, everything is as it was."""
    before = canvas(browser)
    browser.run("document.querySelector('#classes button').focus()")
    browser.type("Enter")
    check(browser.run("return document.activeElement.getAttribute('aria-pressed')") == "true", "the class is not marked, or lost the focus")
    check(canvas(browser) != before, "the class does not stand out")
    picture(browser, "one-class")
    browser.type("Enter")
    check(canvas(browser) == before, "the map does not come back")


def keyboard(browser):
    """The map is reached by Tab, and walked over by arrows."""
    browser.run("document.getElementById('sample').focus()")
    browser.type("Tab")
    check(browser.run("return document.activeElement.id") == "map", "Tab leads to %s" % browser.run("return document.activeElement.id"))
    browser.type("Down")
    first = details(browser)
    check(first is not None and int(first["address"], 16) % (2 << 20) == 0, "the first slab is not told: %s" % first)
    browser.type("Right")
    second = details(browser)
    if "pages in memory" in first["lines"]:
        check(int(second["address"], 16) == int(first["address"], 16) + 65536, "the next slab is not told: %s" % second)
    browser.type("End")
    check(int(details(browser)["address"], 16) > int(second["address"], 16), "End does not lead to the end")
    picture(browser, "keyboard")
    browser.type("Escape")
    check(details(browser) is None, "Escape does not close the box")


def sizes(browser):
    """Each size draws something else, and in each what is pointed at is what is told."""
    seen = set()
    row = SAMPLES[LAST]["superslabs"][-1]
    for size in ("0", "1", "2", "3", "auto"):
        browser.run("const size = document.getElementById('size'); size.value = arguments[0];"
                    "size.dispatchEvent(new Event('change', { bubbles: true }))", size)
        seen.add(canvas(browser))
        point_at(browser, row_number(browser, row["address"]), 0)
        check(int(details(browser)["address"], 16) == int(row["address"], 16), "size %s: %s" % (size, details(browser)))
    check(len(seen) >= 4, "sizes look alike")
    browser.point(2, 2)


def themes_and_screens(browser):
    light = browser.run("return getComputedStyle(document.body).backgroundColor"), canvas(browser)
    browser.prefer("dark")
    wait_until(browser, "getComputedStyle(document.body).backgroundColor !== '%s'" % light[0], "the dark theme")
    check(canvas(browser) != light[1], "the map stays light")
    picture(browser, "dark")
    browser.prefer("light")
    wait_until(browser, "getComputedStyle(document.body).backgroundColor === '%s'" % light[0], "the light theme")
    for width, height, scale in ((400, 800, 2), (900, 700, 1), (2200, 1300, 1)):
        browser.resize(width, height, scale)
        wait_until(browser, "document.getElementById('map').width === Math.round(document.getElementById('scroll').clientWidth * %d)"
                   % scale, "the map takes its width")
        check(browser.run("return document.documentElement.scrollWidth") <= width, "wider than a screen of %d" % width)
        picture(browser, "width-%d" % width)


def main():
    check(len(SAMPLES) >= 6, "only %d samples" % len(SAMPLES))
    with Browser(1280, 800) as browser:
        for part in (loads, sums_agree, pointing, slider, colors, classes, keyboard, sizes, themes_and_screens):
            print("   " + part.__name__.replace("_", " "), flush=True)
            part(browser)
            errors = browser.errors()
            check(not errors, "on the console: %s" % errors)


main()
