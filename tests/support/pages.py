"""Pages for people without a server and a browser, and what their service asks another one for."""

import base64
import contextlib
import html
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from bentos.edge.http import Request, Response, ServiceError
from local.browser import Page
from tests.support import http_server
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

    def answer(asked: http_server.Request) -> http_server.Answer:
        status = made.statuses.pop(0) if made.statuses else 200
        if asked.method == "GET":
            page = b"<!DOCTYPE html><title>evil</title>"
            return http_server.Answer(page, status, {"content-type": "text/html"})
        sent = (asked.headers["content-type"], asked.headers.get("authorization"))
        made.asked.append((asked.path, *sent, asked.body))
        return http_server.Answer(made.body, status, {"content-type": "application/json"})

    with http_server.HttpServer(answer) as server:
        made = Explainer(server.url, list(statuses))
        yield made
