"""_browser.py - a headless Chromium that a test drives, by the WebDriver protocol of chromedriver.

Needs   chromium, chromedriver (Debian: chromium, chromium-driver); of Python the standard library alone.
Gives   Browser, to be used in a `with`: it ends the two programs that it started, and removes their directory.
"""
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars", "--force-device-scale-factor=1",
]


class Browser:
    def __init__(self, width=1280, height=800):
        self.directory = tempfile.mkdtemp(prefix="hakmem-browser.")
        self.driver = None
        self.session = None
        self.size = (width, height)

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.session is not None:
            try:
                self._call("DELETE", "")
            except OSError:
                pass
        if self.driver is not None:
            # A group of its own: Chromium's processes go with it, whatever they are doing.
            os.killpg(self.driver.pid, signal.SIGKILL)
            self.driver.wait()
            self.driver.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self):
        environment = dict(os.environ, HOME=self.directory, TMPDIR=self.directory)
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True, env=environment, start_new_session=True)
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                self.base = "http://127.0.0.1:" + line.split("port")[1].strip(" .\n")
                break
        else:
            raise RuntimeError("chromedriver did not start")
        options = {"args": ARGUMENTS + ["--user-data-dir=" + os.path.join(self.directory, "profile"),
                                        "--window-size=%d,%d" % self.size]}
        binary = shutil.which("chromium")
        if binary is not None:
            options["binary"] = binary
        answer = self._request("POST", self.base + "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = answer["sessionId"]
        self.resize(*self.size)

    @staticmethod
    def _request(method, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
        # No proxy: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError("%s %s: %s" % (method, url, error.read().decode()[:2000])) from None

    def _call(self, method, path, body=None):
        return self._request(method, "%s/session/%s%s" % (self.base, self.session, path), body)

    def command(self, name, **parameters):
        """A command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def resize(self, width, height, scale=1):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def prefer(self, scheme):
        """'light' or 'dark'."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, path):
        self._call("POST", "/url", {"url": "file://" + os.path.abspath(path)})

    def run(self, script, *arguments):
        """What a function body returns, given `arguments`; a promise is waited for."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def point(self, x, y, click=False):
        actions = [{"type": "pointerMove", "duration": 0, "x": int(x), "y": int(y)}]
        if click:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse",
                                                     "parameters": {"pointerType": "mouse"}, "actions": actions}]})

    def type(self, *keys):
        """Keys by the names of WebDriver's table, or characters, to whatever has the focus."""
        codes = {"Tab": "\ue004", "Escape": "\ue00c", "Enter": "\ue007", "Space": "\ue00d", "PageUp": "\ue00e", "PageDown": "\ue00f",
                 "End": "\ue010", "Home": "\ue011", "Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}
        actions = []
        for key in keys:
            code = codes.get(key, key)
            actions += [{"type": "keyDown", "value": code}, {"type": "keyUp", "value": code}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def screenshot(self, path=None):
        data = base64.b64decode(self._call("GET", "/screenshot"))
        if path is not None:
            with open(path, "wb") as out:
                out.write(data)
        return data

    def errors(self):
        """What the page wrote to the console since the last call, but for plain messages; a refused request is among it."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
