"""Requests as the services' routes see them, made of the messages a server would hand on."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bentos.edge.http import Request


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    """Return a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


class Client:
    """Hands on messages one after the other, and then nothing for ever."""

    def __init__(self, messages: Sequence[dict[str, Any]]) -> None:
        self.messages = list(messages)
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        if self.taken == len(self.messages):
            await asyncio.Event().wait()
        self.taken += 1
        return self.messages[self.taken - 1]


def scope(
    path: str,
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    query: str = "",
) -> dict[str, Any]:
    """Return an ASGI scope."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ],
    }


def request(
    *messages: dict[str, Any],
    method: str = "POST",
    path: str = "/predict",
    headers: Mapping[str, str] | None = None,
    query: str = "",
) -> Request:
    """Return a request whose body comes in these messages."""
    given = scope(path, method=method, headers=headers, query=query)
    return Request(given, Client(messages).receive)
