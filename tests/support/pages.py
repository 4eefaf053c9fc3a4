"""Pages for people without a server and a browser, and what their service asks another one for."""

import base64
import contextlib
import html
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from bentos.edge.http import Request, Response, ServiceError
from local.browser import Page
from tests.support.requests import request
from tests.support.servers import Server

DESKTOP, PHONE = (1280, 800), (360, 740)
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])


def check_page(page: Page, server: Server, *, scripts: int) -> None:
    """Raise AssertionError where something is amiss that a person or a closed network notices.

    A page has this many scripts, of which none is what a client sent.
    """
    assert not page.is_wider_than_the_screen
    assert page.complaints == []
    assert {httpx.URL(url).netloc for url in page.requests} == {httpx.URL(server.url).netloc}
    assert page.evaluate("document.scripts.length") == scripts
    assert page.evaluate("window.hurt") is None


async def ask(
    handler: Callable[[Request], Awaitable[Response]], query: str = "", **headers: str
) -> Response:
    """Return what a page's handler answers, an error's answer as well; empty headers are none."""
    sent = {name: value for name, value in headers.items() if value}
    try:
        return await handler(request(method="GET", path="/", query=query, headers=sent))
    except ServiceError as error:
        return error.response()


def basic(password: str) -> str:
    """Return the Authorization header of a browser that was given a password."""
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


def text_of(page: str) -> str:
    """Return what a person reads on a page, without its marks."""
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_style)))


MAP = {
    "class_name": "crack",
    "confidence": 0.9,
    "model_version": "3",
    "rows": 2,
    "columns": 3,
    "drops": [[0.0, 0.1, 0.5], [-0.2, 0.0, 0.0]],
}


@dataclass
class Explainer:
    """A server that answers POST with `body`, and GET with a page of another site.

    The first answers have the `statuses`, all others 200. `asked` has of each POST the path, the
    type, the Authorization header and the body.
    """

    url: str
    statuses: list[int] = field(default_factory=list)
    body: bytes = json.dumps(MAP).encode()
    asked: list[tuple[str, str, str | None, bytes]] = field(default_factory=list)


@contextlib.contextmanager
def explainer(*statuses: int) -> Iterator[Explainer]:
    """Run such a server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = (self.headers["content-type"], self.headers["authorization"])
            body = self.rfile.read(int(self.headers["content-length"]))
            made.asked.append((self.path, *sent, body))
            self.answer(made.body, "application/json")

        def do_GET(self) -> None:
            self.answer(b"<!DOCTYPE html><title>evil</title>", "text/html")

        def answer(self, body: bytes, content_type: str) -> None:
            self.send_response(made.statuses.pop(0) if made.statuses else 200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Explainer(f"http://127.0.0.1:{server.server_port}", list(statuses))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
