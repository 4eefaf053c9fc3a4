"""A headless Chromium, driven by the DevTools protocol: pages are looked at as a person sees them.

    with Browser(folder) as browser, browser.page(width=360, height=800) as page:
        page.open(server.url)
        page.screenshot(folder / "page.png")

It reaches this machine alone, as on a closed network. Protocol:
https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket

from local.process import Process, find_program, wait_until

_SECONDS = 60.0
# What Chromium says of a command that met a page between two documents.
_REPLACED = ("context", "Inspected target navigated")
_REMEDY = "install Chromium: apt-get install chromium"


class Browser:
    """A browser with a profile of its own in `folder`; leaving the `with` block ends it."""

    def __init__(self, folder: Path) -> None:
        """Start it; raises StepError where Chromium is not installed."""
        self._profile = folder / "chromium"
        program = find_program(("chromium", "chromium-browser", "google-chrome"), _REMEDY)
        self._process = Process(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"),
                *("--remote-debugging-port=0", f"--user-data-dir={self._profile}"),
                # Every other name and address is not there.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "about:blank",
            ],
            log=folder / "chromium.log",
            environment={**os.environ, "HOME": str(folder)},
        )
        self._number = 0
        port_file = self._profile / "DevToolsActivePort"
        try:
            self._process.wait_until(
                lambda: port_file.exists() and port_file.read_text().count("\n") == 1,
                "the browser listens",
                seconds=_SECONDS,
            )
            port, path = port_file.read_text().split("\n")
            self._socket = websocket.create_connection(
                f"ws://127.0.0.1:{port}{path}", timeout=_SECONDS, suppress_origin=True
            )
        except BaseException:
            self._process.kill()
            raise
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._socket.close()
        self._process.kill()
        shutil.rmtree(self._profile, ignore_errors=True)

    @contextlib.contextmanager
    def page(self, *, width: int, height: int, dark: bool = False) -> "Iterator[Page]":
        """Open an empty page of a size in CSS pixels that prefers light or dark colours.

        Each has a storage of its own: what is signed in to in one is not in another.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        page.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Return the result of a command; raises RuntimeError where the browser refuses it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = self._receive()
            if answer.get("id") != self._number:
                self._events.append(answer)
                continue
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            return dict(answer["result"])

    def events(self, session: str) -> list[dict[str, Any]]:
        """Return what has happened on a page so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _receive(self) -> dict[str, Any]:
        return dict(json.loads(self._socket.recv()))


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the DevTools protocol."""
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Go to an address and return when everything of the page has been loaded.

        Raises RuntimeError where nothing answers there.
        """
        seen = len(self._browser.events(self._session))
        failure = self.call("Page.navigate", url=url).get("errorText")
        if failure:
            raise RuntimeError(f"{url}: {failure}")
        wait_until(lambda: self._is_loaded(seen), f"{url} is loaded", seconds=_SECONDS)

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression; raises RuntimeError where it fails."""
        ends = time.monotonic() + _SECONDS
        while True:
            try:
                found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            except RuntimeError as error:
                # The page is just being replaced, as one that refreshes itself is.
                replaced = any(words in str(error) for words in _REPLACED)
                if not replaced or time.monotonic() > ends:
                    raise
                continue
            if "exceptionDetails" in found:
                raise RuntimeError(str(found["exceptionDetails"]))
            return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as `1` or `ArrowLeft`, wherever the focus is."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def tap(self, selector: str) -> None:
        """Touch the middle of an element with a finger, scrolled into view.

        Raises RuntimeError where there is none, or where something else lies over it.
        """
        middle = self.evaluate(
            f"""(() => {{
                const one = document.querySelector({json.dumps(selector)});
                if (!one) return null;
                one.scrollIntoView({{ block: "center", behavior: "instant" }});
                const box = one.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                return one.contains(document.elementFromPoint(x, y)) ? {{ x, y }} : null;
            }})()"""
        )
        if middle is None:
            raise RuntimeError(f"nothing can be touched at {selector}")
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[middle])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def write(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    @property
    def text(self) -> str:
        """The text that a person can read."""
        return str(self.evaluate("document.body.innerText"))

    @property
    def is_wider_than_the_screen(self) -> bool:
        """Whether a person would have to scroll sideways."""
        root = "document.documentElement"
        return bool(self.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked, data: left out."""
        asked = (
            event["params"]["request"]["url"]
            for event in self._browser.events(self._session)
            if event["method"] == "Network.requestWillBeSent"
        )
        return [url for url in asked if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """What the browser's console shows: scripts that failed, content that was refused."""
        found = []
        for event in self._browser.events(self._session):
            if event["method"] == "Log.entryAdded":
                found.append(str(event["params"]["entry"]["text"]))
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
        return found

    def _is_loaded(self, seen: int) -> bool:
        # What has happened meanwhile comes with the answer to any command. Those of a page are
        # refused while another document takes its place.
        self._browser.call("Browser.getVersion")
        events = self._browser.events(self._session)[seen:]
        return any(event["method"] == "Page.loadEventFired" for event in events)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, all of it or what fits on the screen."""
        # Fonts and layout settle within a frame or two.
        time.sleep(0.1)
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
