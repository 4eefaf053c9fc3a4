"""Requests, responses and errors as the services' routes see them: bytes in, bytes out."""

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, TypeAlias

import orjson

from bentos.health.encoding import encode_json

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# A client that is still sending reads no answer: what is refused is read and thrown away for this
# long and this far, so that it sees the 413 or 429 and not a broken connection.
_DISCARD_SECONDS = 5.0
_DISCARD_BYTES = 1 << 29
_REQUEST_ID_LENGTH = 128
FREE_BYTES = 65_536
_GZIP = (b"gzip", b"x-gzip")  # the same (RFC 9110, 8.4.1.3)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
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


# Not frozen, which would take twice as long to make.
@dataclass(slots=True)
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


class BodyMemory:
    """How much memory the bodies of all requests of a worker may take together.

    The first FREE_BYTES of each are not counted, or a few large ones would keep all small ones out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes; False, and nothing reserved, where the limit does not allow it."""
        allowed = self.reserved + size <= self.limit
        self.reserved += size if allowed else 0
        return allowed


class Request:
    """One HTTP request; its body is read once and counts in `memory` until `release`."""

    __slots__ = ("_memory", "_receive", "_request_id", "_reserved", "receiving", "scope")

    def __init__(self, scope: Scope, receive: Receive, memory: BodyMemory | None = None) -> None:
        self.scope = scope
        self._receive = receive
        self._memory = memory
        self._reserved = 0
        self._request_id: str | None = None
        # Whether the service waits for the client to send, and not the client for the service.
        self.receiving = False

    @property
    def method(self) -> str:
        """The method in upper case."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """The path, decoded."""
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
        """The query string, encoded as it came."""
        return bytes(self.scope.get("query_string", b""))

    @property
    def request_id(self) -> str:
        """The client's `X-Request-ID` where it is printable and short, else one of our own."""
        if self._request_id is None:
            sent = (self.header(b"x-request-id") or b"").decode("latin-1")
            usable = sent.isascii() and sent.isprintable() and 0 < len(sent) <= _REQUEST_ID_LENGTH
            self._request_id = sent if usable else f"{getrandbits(128):032x}"
        return self._request_id

    async def body(self, limit: int) -> bytes:
        """Return the whole body, at most `limit` bytes of it, a gzip body decoded.

        Raises ServiceError 413 for a larger one, whatever length it was announced with, 415 for
        an encoding that is not gzip, 429 where the memory for bodies is used up, and
        ClientDisconnected where it never became whole.
        """
        encoding = (self.header(b"content-encoding") or b"identity").strip().lower()
        if encoding not in (b"identity", *_GZIP):
            await self._refuse(_unknown_encoding(encoding))
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            await self._refuse(_too_large(limit))
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._next()
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            if (refusal := self._reserve(size, limit)) is not None:
                chunks.clear()  # or it would be kept for as long as the rest is thrown away
                del message, chunk
                self.release()
                await self._refuse(refusal, more=more)
            chunks.append(chunk)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return body if encoding == b"identity" else await self._decoded(body, limit)

    def release(self) -> None:
        """Give the body's memory back: nothing holds the body any more."""
        if self._memory is not None:
            self._memory.reserved -= self._reserved
            self._reserved = 0

    def _reserve(self, size: int, limit: int) -> ServiceError | None:
        """Reserve memory for `size` received bytes; return the 413 or 429 to answer, or None."""
        if size > limit:
            return _too_large(limit)
        needed = max(0, size - FREE_BYTES - self._reserved)
        if self._memory is None or not needed:
            return None
        if not self._memory.reserve(needed):
            return _no_memory()
        self._reserved += needed
        return None

    async def _decoded(self, body: bytes, limit: int) -> bytes:
        """Return what a gzip body holds; no byte beyond the limit is ever decoded."""
        decoder = zlib.decompressobj(_GZIP_WINDOW)
        try:
            # A thread: a few megabytes take as long as many small requests.
            decoded = await asyncio.to_thread(decoder.decompress, body, limit + 1)
        except zlib.error as error:
            raise ServiceError(400, "bad_input", f"the body is not valid gzip: {error}") from None
        if (refusal := self._reserve(len(decoded), limit)) is not None:
            raise refusal
        if not decoder.eof:
            raise ServiceError(400, "bad_input", "the gzip body is cut short")
        if decoder.unused_data:
            raise ServiceError(400, "bad_input", "something follows the end of the gzip body")
        return decoded

    async def _next(self) -> MutableMapping[str, Any]:
        """Return the next part of the body."""
        self.receiving = True
        message = await self._receive()
        self.receiving = False
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message

    async def _refuse(self, error: ServiceError, *, more: bool = True) -> None:
        # Whoever asks before sending is answered at once and sends nothing.
        if (self.header(b"expect") or b"").lower() != b"100-continue":
            with suppress(TimeoutError):
                async with asyncio.timeout(_DISCARD_SECONDS):
                    more = await self._discard(more=more)
        if more:
            # What follows could be the rest of the body or the next request.
            error.headers |= CLOSE
        raise error

    async def _discard(self, *, more: bool) -> bool:
        """Read the rest of the body and drop it; return whether some of it is still to come."""
        discarded = 0
        while more and discarded <= _DISCARD_BYTES:
            message = await self._next()
            more = message.get("more_body", False)
            discarded += len(message.get("body", b""))
        return more


def _too_large(limit: int) -> ServiceError:
    return ServiceError(
        413, "too_large", f"the body may have at most {limit} bytes (MAX_BODY_BYTES); send less"
    )


def _no_memory() -> ServiceError:
    return ServiceError(
        429,
        "queue_full",
        "the memory for large request bodies is in use (MAX_BODIES_BYTES); try again later",
        headers=RETRY_LATER,
    )


def _unknown_encoding(encoding: bytes) -> ServiceError:
    shown = encoding.decode("latin-1")[:60]
    return ServiceError(
        415,
        "bad_input",
        f"Content-Encoding is {shown!r}; send the body as it is, or with gzip",
        headers={"Accept-Encoding": "gzip"},
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
