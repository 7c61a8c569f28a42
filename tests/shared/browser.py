"""A real browser without a window: headless Chromium, driven by its DevTools protocol over two pipes.

The protocol is https://chromedevtools.github.io/devtools-protocol/; messages are JSON, each ended by a zero byte.
"""

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
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync")
PIPES = 'exec "$0" "$@" 3<&"$BROWSER_READS" 4>&"$BROWSER_WRITES"'
"""Chromium takes orders from file 3 and answers in file 4."""
WAITS_S = 30.0


class Browser:
    """One page in a browser.

    Attributes:
        complaints: Errors of the page's script, and what its console was told.

    Args:
        orders: Number of the file that it reads.
        answers: Number of the file that it writes.
    """

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers = orders, answers
        self._number, self._unread, self._session = 0, b"", ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Log.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result. What the page complains of meanwhile is noted."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return dict(message["result"])

    def _message(self) -> dict[str, Any]:
        end_s = time.monotonic() + WAITS_S
        while b"\0" not in self._unread:
            assert select.select([self._answers], [], [], max(0.0, end_s - time.monotonic()))[0], "it does not answer"
            got = os.read(self._answers, 1 << 20)
            assert got, "the browser ended"
            self._unread += got
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))

    def open(self, address: str) -> None:
        """Goes to a page, and waits until it is there."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && /^(http|file)/.test(location.protocol)")

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript, in the page; of a promise when it is there."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Waits until an expression is true, and gives its value."""
        end_s = time.monotonic() + WAITS_S
        while not (value := self.value(expression)):
            assert time.monotonic() < end_s, f"{expression}: {self.text()}"
            time.sleep(0.02)
        return value

    def text(self) -> str:
        """What the page shows, as text."""
        return str(self.value("document.body.innerText"))

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Gives the window a size in pixels and a scheme of colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """Writes what the window shows, to the page's end, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile in this folder; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None or shutil.which("bash") is None:
        pytest.skip("no Chromium is installed here (apt install chromium-headless-shell)")
    reads, orders = os.pipe()
    answers, writes = os.pipe()
    try:
        process = subprocess.Popen(
            ["bash", "-c", PIPES, program, *OPTIONS, f"--user-data-dir={folder}", "--remote-debugging-pipe"],
            env={**os.environ, "BROWSER_READS": str(reads), "BROWSER_WRITES": str(writes)},
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(reads)
        os.close(writes)
    try:
        yield Browser(orders, answers)
    finally:
        process.kill()
        process.wait()
        os.close(orders)
        os.close(answers)
