"""Requests, responses and errors as the services' routes see them: bytes in, bytes out."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import orjson

from bentos.edge.limits import FREE_BYTES, BodyRoom
from bentos.process.encoding import encode_json

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# A client that is still sending reads no answer: what is refused is read and thrown away for this
# long and this far, so that it sees the 413 or 429 and not a broken connection.
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
    """One HTTP request; its body is read once, at most `limit` bytes of it.

    The body takes its place in `room` until `release`.
    """

    __slots__ = ("_receive", "_request_id", "_room", "_taken", "receiving", "scope")

    def __init__(self, scope: Scope, receive: Receive, room: BodyRoom | None = None) -> None:
        self.scope = scope
        self._receive = receive
        self._room = room
        self._taken = 0
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
        announced with, 429 where there is no room for it, and ClientDisconnected where it never
        became whole.
        """
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            await self._refuse(_too_large(limit))
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._next(size)
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            refusal = self._refusal(size, limit)
            if refusal is not None:
                chunks.clear()  # or it would be kept for as long as the rest is thrown away
                del message, chunk
                self.release()
                await self._refuse(refusal, more=more)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self) -> None:
        """Give the body's room back: nothing holds the body any more."""
        if self._room is not None and self._taken:
            self._room.give_back(self._taken)
            self._taken = 0

    def _refusal(self, size: int, limit: int) -> ServiceError | None:
        """Take room for a body of which so much has come; return why it has none."""
        if size > limit:
            return _too_large(limit)
        if self._room is not None and size > FREE_BYTES:
            if not self._room.take(size - FREE_BYTES - self._taken):
                return _no_room(self._room)
            self._taken = size - FREE_BYTES
        return None

    async def _next(self, size: int) -> dict[str, Any]:
        """Return the next part of a body of which so much has come."""
        self.receiving = True
        if self._room is not None and size > FREE_BYTES:
            await self._room.turn()
        message = await self._receive()
        self.receiving = False
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message

    async def _refuse(self, error: ServiceError, *, more: bool = True) -> None:
        # Whoever asks before sending is told at once and sends nothing.
        if (self.header(b"expect") or b"").lower() != b"100-continue":
            with suppress(TimeoutError):
                async with asyncio.timeout(_DISCARD_SECONDS):
                    more = await self._discard(more=more)
        if more:
            error.headers |= CLOSE
        raise error

    async def _discard(self, *, more: bool) -> bool:
        """Read what is sent and throw it away; tell whether some of it is still to come."""
        discarded = 0
        while more and discarded <= _DISCARD_BYTES:
            message = await self._next(discarded)
            more = message.get("more_body", False)
            discarded += len(message.get("body", b""))
        return more


def _too_large(limit: int) -> ServiceError:
    return ServiceError(
        413, "too_large", f"the body may have at most {limit} bytes (MAX_BODY_BYTES); send less"
    )


def _no_room(room: BodyRoom) -> ServiceError:
    return ServiceError(
        429,
        "queue_full",
        f"large request bodies take all of the {room.most_bytes} bytes that they may "
        "(MAX_BODIES_BYTES); try again later",
        headers=RETRY_LATER,
    )


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
