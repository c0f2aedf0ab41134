"""What a headless Chromium makes of a page, through its DevTools protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/: JSON messages, each ended by a zero byte.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--disable-background-networking")
SENT = "Network.requestWillBeSent"
SAID = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")  # all that a console shows


class Seen(NamedTuple):
    """Of a page once it was loaded and has settled."""

    requests: tuple[str, ...]  # URLs, the page's own first
    console: tuple[str, ...]  # messages and errors, as JSON
    width: int  # of what there is to scroll to, in pixels
    window: int  # of it without its scroll bar
    text: str
    screenshot: bytes  # PNG of the whole page


def program() -> str:
    """The browser's path; skips the test that asks where there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("Chromium is not on the path")
    return found


def look_at(*pages: Path, width: int) -> list[Seen]:
    """Loads each of the files into a window of its own, `width` pixels wide."""
    with _browser() as browser:
        return [_look(browser, page, width) for page in pages]


def _look(browser: "_Browser", page: Path, width: int) -> Seen:
    browser.open_window()
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    opened = browser.call("Page.navigate", url=page.resolve().as_uri())
    assert "errorText" not in opened, opened["errorText"]
    browser.wait_for("Page.loadEventFired")
    # A failed request is said after the page has loaded; two frames later all is drawn.
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    widths = [browser.evaluate(f"document.documentElement.{name}") for name in ("scrollWidth", "clientWidth")]
    text = browser.evaluate("document.body.innerText")
    picture = browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
    sent = [event["params"]["request"]["url"] for event in browser.events if event["method"] == SENT]
    said = [json.dumps(event["params"]) for event in browser.events if event["method"] in SAID]
    return Seen(tuple(sent), tuple(said), *widths, text, base64.b64decode(picture))


class _Browser:
    """Sends commands to a window, and keeps the events that come from it meanwhile."""

    def __init__(self, to: BinaryIO, answers: BinaryIO):
        self.events: list[dict[str, Any]] = []  # of the window
        self._session: dict[str, str] = {}  # none: the browser itself
        self._to, self._messages, self._numbers = to, _messages(answers), itertools.count(1)

    def open_window(self) -> None:
        """A new one, which all that follows is about."""
        self._session = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.events = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        for answer in self._messages:
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._keep(answer)
        raise AssertionError("the browser went away")

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self._keep(next(self._messages))

    def _keep(self, event: dict[str, Any]) -> None:
        if "sessionId" in self._session and event.get("sessionId") == self._session["sessionId"]:
            self.events.append(event)


def _messages(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    waiting = b""
    while part := stream.read1(1 << 16):
        *whole, waiting = (waiting + part).split(b"\0")
        yield from map(json.loads, whole)


@contextlib.contextmanager
def _browser() -> Iterator[_Browser]:
    """A browser that reads its commands from descriptor 3 and answers in 4, as --remote-debugging-pipe has it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        to, answers = Path(folder) / "to", Path(folder) / "answers"
        os.mkfifo(to)
        os.mkfifo(answers)
        flags = [*FLAGS, f"--user-data-dir={folder}/profile", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        command = ["sh", "-c", f'exec "$@" 3<{to} 4>{answers}', "sh", program(), *flags, "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                with to.open("wb") as sending, answers.open("rb") as receiving:
                    yield _Browser(sending, receiving)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
