"""_profile_browser.py PAGE IMAGE - what a reader can do with the flame graphs of `hakmem profile`, done in both.

Called by  profile_browser.sh, which has made them.     With the environment variable PICTURES set, screenshots are put into that
directory.
"""
import os
import sys
import time

from _browser import Browser

PICTURES = os.environ.get("PICTURES")
EVIL = "]]><img src=x onerror=alert(1)>&\"'.so"


def check(truth, what):
    if not truth:
        raise SystemExit("profile_browser: " + what)


def picture(browser, name):
    if PICTURES:
        browser.screenshot(os.path.join(PICTURES, name + ".png"))


def frames(browser):
    """All frames: name, what the row is, left edge, width, and the colour's class."""
    return browser.run("""
        return [...document.querySelectorAll('#graph .frame')].map((frame) => {
            const rect = frame.querySelector('rect'), box = rect.getBoundingClientRect(), text = frame.querySelector('text');
            return { label: frame.getAttribute('aria-label'), text: text ? text.textContent : '', x: box.left, y: box.top,
                     width: box.width, height: box.height, colour: rect.getAttribute('class'),
                     above: frame.classList.contains('above') };
        });""")


def frame_of(browser, name):
    found = [frame for frame in frames(browser) if frame["label"].split("  ·  ")[0] == name]
    check(found, "no frame of " + name + " among " + str([frame["label"] for frame in frames(browser)]))
    return found[0]


def middle(frame):
    return frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2


def details(browser):
    return browser.run("return document.getElementById('details').textContent")


def found(browser):
    return browser.run("return document.getElementById('found').textContent")


def say(browser, control, value):
    """Gives a control a value, as a reader does."""
    browser.run("""
        const control = document.getElementById(arguments[0]);
        control.value = arguments[1];
        control.dispatchEvent(new Event(control.localName === 'select' ? 'change' : 'input', { bubbles: true }));""", control, value)


def rest(browser, frame):
    """Waits until the browser has told the page what lies under a pointer that did not move since it clicked `frame`."""
    browser.run("""
        document.elementFromPoint(arguments[0], arguments[1]).dispatchEvent(
            new MouseEvent('mouseover', { bubbles: true, clientX: arguments[0], clientY: arguments[1] }));
        return new Promise((done) => setTimeout(done, 200));""", *[int(at) for at in middle(frame)])


def loads(browser, path):
    browser.open(path)
    for _ in range(600):
        if browser.run("return document.querySelectorAll('#graph .frame[data-node]').length") > 0:
            break
        time.sleep(0.05)
    else:
        check(False, "the graph is not drawn within 30 s")
    check(browser.run("return performance.getEntriesByType('resource').length") == 0, "the page asked for something")
    check("Heap of prog, process 77" in browser.run("return document.documentElement.textContent"), "the title")


def shows_the_whole(browser):
    all_frames = frames(browser)
    root = all_frames[0]
    check(root["label"] == "all  ·  976.6 KiB (100.0 %)", "the root: " + root["label"])
    evil = frame_of(browser, EVIL + "+0x100")
    check("585.9 KiB (60.0 %)" in evil["label"] and EVIL in evil["label"].split("  ·  ")[-1], "the evil frame: " + evil["label"])
    check(abs(evil["width"] / root["width"] - 0.6) < 0.01, "its width is %f of all" % (evil["width"] / root["width"]))
    check(evil["text"].startswith("]]><img"), "the name is text: " + evil["text"])
    check(not any(frame["label"].startswith("plain.so+0x400") for frame in all_frames), "a frame without live bytes is drawn")
    # The program's frames have its own colour, and others another.
    check(frame_of(browser, "prog+0x500")["colour"].startswith("m0 "), "the program's colour")
    check(not evil["colour"].startswith("m0 "), "a library has the program's colour")
    # Children are below their parent, the largest first.
    parent, child = frame_of(browser, "prog+0x500"), frame_of(browser, EVIL + "+0x100")
    check(child["y"] > parent["y"] and abs(child["x"] - parent["x"]) < 1, "the largest child is not below its parent's beginning")


def hovers(browser):
    browser.point(*middle(frame_of(browser, "plain.so+0x200")))
    check(details(browser).startswith("plain.so+0x200  ·  96.7 KiB (9.9 %)"), "hovered: " + details(browser))
    browser.point(*middle(frames(browser)[0]))
    check(details(browser).startswith("all  ·  976.6 KiB"), "hovered: " + details(browser))


def zooms(browser):
    whole = frames(browser)[0]["width"]
    before = frame_of(browser, "prog+0x500")
    check(browser.run("return document.getElementById('reset').disabled"), "there is something to reset at first")
    browser.point(*middle(before), click=True)
    after = frame_of(browser, "prog+0x500")
    check(abs(after["width"] - whole) < 2, "clicked, it has %f of %f" % (after["width"], whole))
    check(frames(browser)[0]["above"], "what is above is not paler")
    check(not any("prog+0x600" in frame["label"] for frame in frames(browser)), "what is beside it is still there")
    inner = frame_of(browser, EVIL + "+0x100")
    check(abs(inner["width"] / whole - 600 / 900) < 0.01, "a child has %f of the width" % (inner["width"] / whole))
    picture(browser, "zoomed")
    browser.run("document.getElementById('reset').click()")
    check(abs(frame_of(browser, "prog+0x500")["width"] - before["width"]) < 1, "reset does not show all again")
    # By the keyboard: Enter on a frame, Escape.
    browser.run("document.querySelector('#graph [aria-label^=\"prog+0x600\"]').focus()")
    # The pointer still lies where it clicked, on another frame since the graph was drawn again; the browser says so a moment later.
    rest(browser, before)
    check(details(browser).startswith("prog+0x600"), "focus says " + details(browser))
    browser.type("Enter")
    check(abs(frame_of(browser, "prog+0x600")["width"] - whole) < 2, "Enter does not zoom")
    browser.type("Escape")
    check(abs(frame_of(browser, "prog+0x500")["width"] - before["width"]) < 1, "Escape does not show all again")


def searches(browser):
    say(browser, "search", "PLAIN")
    check(found(browser) == "found: 390.6 KiB (40.0 %)", "found: " + found(browser))
    hits = [frame for frame in frames(browser) if frame["colour"] == "hit"]
    check(len(hits) == 3 and all("plain" in frame["label"] for frame in hits), "%d hits" % len(hits))
    picture(browser, "found")
    say(browser, "search", "prog")  # matching frames below matching ones count once
    check(found(browser) == "found: 976.6 KiB (100.0 %)", "found: " + found(browser))
    say(browser, "search", "<img")
    check(found(browser) == "found: 878.9 KiB (90.0 %)", "found: " + found(browser))
    say(browser, "search", "")
    check(found(browser) == "" and not any(frame["colour"] == "hit" for frame in frames(browser)), "nothing is looked for")


def changes_the_amount(browser):
    say(browser, "value", "2")
    check(frames(browser)[0]["label"] == "all  ·  3.8 MiB (100.0 %)", "allocated: " + frames(browser)[0]["label"])
    check("1.9 MiB (50.0 %)" in frame_of(browser, "plain.so+0x400")["label"], "what was freed is not there")
    say(browser, "value", "1")
    check(frames(browser)[0]["label"] == "all  ·  1,100 blocks (100.0 %)", "blocks: " + frames(browser)[0]["label"])
    check("1 block (0.1 %)" in frame_of(browser, "plain.so+0x300")["label"], "one block")
    say(browser, "value", "0")


def is_readable(browser):
    """The contrast of each text and its ground, by the formula of the WCAG; and the picture of either scheme."""
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        worst = browser.run("""
            const luminance = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => {
                    c /= 255;
                    return c <= 0.03928 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4);
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const contrast = (a, b) => {
                const [x, y] = [luminance(a), luminance(b)];
                return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
            };
            const frame = document.querySelector('#graph .frame'), rect = frame.querySelector('rect'),
                  text = frame.querySelector('text'), before = rect.getAttribute('class');
            let worst = 100;
            for (let m = 0; m < 8; m++)
                for (let s = 0; s < 3; s++) {
                    rect.setAttribute('class', 'm' + m + ' s' + s);
                    worst = Math.min(worst, contrast(getComputedStyle(rect).fill, getComputedStyle(text).fill));
                }
            rect.setAttribute('class', before);
            return worst;""")
        check(worst >= 4.5, "%s: a contrast of %.1f" % (scheme, worst))
        picture(browser, scheme)
    browser.prefer("light")


def follows_the_window(browser):
    before = frames(browser)[0]["width"]
    browser.resize(700, 600)
    for _ in range(100):
        if frames(browser)[0]["width"] < 700:
            break
        time.sleep(0.05)
    check(before > 900 and frames(browser)[0]["width"] < 700, "the graph keeps its width in a smaller window")
    picture(browser, "narrow")
    browser.resize(1200, 500)


with Browser(1200, 500) as browser:
    for path in sys.argv[1:]:
        kind = path.rsplit(".", 1)[-1]
        print("   " + kind)
        if PICTURES:
            os.makedirs(os.path.join(PICTURES, kind), exist_ok=True)
        loads(browser, path)
        shows_the_whole(browser)
        hovers(browser)
        zooms(browser)
        searches(browser)
        changes_the_amount(browser)
        is_readable(browser)
        follows_the_window(browser)
        check(browser.run("return document.querySelectorAll('img').length") == 0, "a name became an element")
        complaints = browser.errors()
        check(complaints == [], "the console has: " + "; ".join(complaints))
        if PICTURES:
            for name in os.listdir(PICTURES):
                if name.endswith(".png"):
                    os.replace(os.path.join(PICTURES, name), os.path.join(PICTURES, kind, name))
