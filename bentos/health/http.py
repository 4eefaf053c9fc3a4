"""Requests, responses and errors as the services' routes see them: bytes in, bytes out."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import orjson

from bentos.health.encoding import encode_json

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# A client that is still sending reads no answer: what is too large is read and thrown away for
# this long and this far, so that it sees the 413 and not a broken connection.
_DISCARD_SECONDS = 5.0
_DISCARD_BYTES = 1 << 29
_REQUEST_ID_LENGTH = 128
# Of a connection on which part of a body is still to come: what follows could be that or the
# next request, and nobody can tell which.
CLOSE = {"Connection": "close"}
RETRY_LATER = {"Retry-After": "1"}


class ClientDisconnected(Exception):  # noqa: N818 - an event of the connection, not an error
    """The client went away before its request was whole."""


class ServiceError(Exception):
    """A request that ends in an error body, `{"error": message, "reason": reason}`."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **details: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = dict(headers or {})
        self.details = details

    def response(self) -> "Response":
        """Return the error in the one shape that all errors have."""
        return json_response(
            {"error": self.message, "reason": self.reason, **self.details},
            status=self.status,
            headers=self.headers,
            log={"reason": self.reason, "error": self.message},
        )


@dataclass(frozen=True)
class Response:
    """A whole answer. `log` holds fields for the request's log line and is not sent."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    log: Mapping[str, object] = field(default_factory=dict)


def json_response(
    content: object,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    log: Mapping[str, object] | None = None,
) -> Response:
    """Return content as JSON."""
    return Response(
        body=encode_json(content),
        status=status,
        headers=tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ),
        log=log or {},
    )


class Request:
    """One HTTP request; its body is read once, at most `limit` bytes of it."""

    __slots__ = ("_receive", "_request_id", "receiving", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self._request_id: str | None = None
        # Whether the service waits for the client to send, and not the client for the service.
        self.receiving = False

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    @property
    def content_type(self) -> bytes:
        """The media type without its parameters, lower case; empty where none was sent."""
        return (self.header(b"content-type") or b"").split(b";", 1)[0].strip().lower()

    @property
    def query(self) -> bytes:
        return bytes(self.scope.get("query_string", b""))

    @property
    def request_id(self) -> str:
        """The client's `X-Request-ID` where it is printable and short, else one of our own."""
        if self._request_id is None:
            sent = (self.header(b"x-request-id") or b"").decode("latin-1")
            usable = sent.isascii() and sent.isprintable() and 0 < len(sent) <= _REQUEST_ID_LENGTH
            self._request_id = sent if usable else uuid4().hex
        return self._request_id

    async def body(self, limit: int) -> bytes:
        """Return the whole body.

        Raises ServiceError 413 where it is larger than `limit` bytes, whatever length it was
        announced with, and ClientDisconnected where it never became whole.
        """
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            await self._refuse_larger(limit)
        message = await self._next()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > limit:
                await self._refuse_larger(limit, more=False)
            return body
        chunks = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await self._next()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                await self._refuse_larger(limit, more=message.get("more_body", False))
            chunks.append(chunk)
        return b"".join(chunks)

    async def _next(self) -> dict[str, Any]:
        self.receiving = True
        message = await self._receive()
        self.receiving = False
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message

    async def _refuse_larger(self, limit: int, *, more: bool = True) -> None:
        # Whoever asks before sending is told at once and sends nothing.
        if (self.header(b"expect") or b"").lower() != b"100-continue":
            with suppress(TimeoutError):
                async with asyncio.timeout(_DISCARD_SECONDS):
                    more = await self._discard(more=more)
        raise ServiceError(
            413,
            "too_large",
            f"the body may have at most {limit} bytes (MAX_BODY_BYTES); send less",
            headers=CLOSE if more else {},
        )

    async def _discard(self, *, more: bool) -> bool:
        """Read what is sent and throw it away; tell whether some of it is still to come."""
        discarded = 0
        while more and discarded <= _DISCARD_BYTES:
            message = await self._next()
            more = message.get("more_body", False)
            discarded += len(message.get("body", b""))
        return more


def parse_json(body: bytes) -> Any:
    """Return the body's JSON value.

    Raises ServiceError 400 with the position of the fault.
    """
    if not body:
        raise ServiceError(400, "bad_input", "the body is empty; send a JSON object")
    try:
        return orjson.loads(body)
    except json.JSONDecodeError as error:
        raise ServiceError(400, "bad_input", f"the body is not valid JSON: {error}") from None
