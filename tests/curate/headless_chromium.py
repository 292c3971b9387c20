"""Drive a headless Chromium over its debugging pipe: what a page asked for, what it complained about, how it looks."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 60


def find_chromium() -> str | None:
    """Path of the first Chromium on this machine, None without one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Page:
    """A tab: addresses it asked for, and every message that a developer would see in its console, in order."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loaded: bool = False
    _send: int = -1
    _receive: int = -1
    _session: str | None = None
    _number: int = 0
    _buffer: bytes = b""

    def open(self, address: str) -> None:
        """Go there and wait until everything is loaded and the network has been silent for a moment."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        end = time.monotonic() + _SECONDS
        while not self.loaded:
            self._event(end)
        self.evaluate("new Promise(done => setTimeout(done, 500))")

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Size of the window in pixels, and the colours that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, or of the promise it is."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, or of the window only."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; events that arrive meanwhile are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while True:
            answer = self._event(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def attach(self) -> None:
        """Start listening on a new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")

    def _event(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium said nothing for {_SECONDS} s"
            data = os.read(self._receive, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(line)
        self._note(event.get("method"), event.get("params", {}))
        return event

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Audits.issueAdded":
            self.complaints.append(json.dumps(params["issue"]))


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Page]:
    """A tab of a new Chromium that finds no host at all, not even to call home.

    Args:
        program: What `find_chromium` found.
        profile: Folder to make for its own files.
    """
    to_browser, from_browser = os.pipe(), os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",  # root in a container has none; the page is our own
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    shell = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'  # the pipe is file descriptors 3 and 4
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *options, "about:blank"],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        page = Page(_send=to_browser[1], _receive=from_browser[0])
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait(timeout=_SECONDS)
        os.close(to_browser[1])
        os.close(from_browser[0])
