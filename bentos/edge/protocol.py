"""Uvicorn's HTTP protocol with bounds on what one connection, and all of them, may take.

The parser below it, httptools, bounds nothing: neither the size of a head nor the number of its
headers nor how many requests are sent ahead of their answers. It also drops the body of a request
that offers an upgrade. So a head is collected here first, up to a limit, and given to the parser
when it is whole.
"""

import asyncio
import re
from collections import OrderedDict
from functools import partial
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536
HEADERS = 256
HEAD_SECONDS = 30.0
# A client that reads an answer more slowly than this is cut off: what it has not read is memory.
_UNREAD_SECONDS = 10.0
_UNREAD_BYTES = 65_536
# The parser calls back for every chunk of a chunked body: this much is parsed before others are.
_CHUNKED_BYTES = 16_384

_HEAD_END = b"\r\n\r\n"
# Not of an interim answer, as 100 Continue: the client waits for that.
_FINAL_HEAD = tuple(b"HTTP/1.1 %d" % first for first in range(2, 6))
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:[^\r\n]*", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)


class Connections:
    """A worker's open connections, at most `limit`: the one that is idle longest gives way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: OrderedDict[BoundedProtocol, None] = OrderedDict()
        self._count = 0

    def opened(self, connection: "BoundedProtocol") -> None:
        """Take a new connection, and close another, or this one, where there are too many."""
        self._count += 1
        self.idle(connection)
        if self._count > self._limit:
            longest_idle, _ = self._idle.popitem(last=False)
            longest_idle.transport.abort()

    def closed(self, connection: "BoundedProtocol") -> None:
        """Forget a connection."""
        self._count -= 1
        self._idle.pop(connection, None)

    def idle(self, connection: "BoundedProtocol") -> None:
        """Note that a connection is at no request, from now on."""
        self._idle[connection] = None
        self._idle.move_to_end(connection)

    def busy(self, connection: "BoundedProtocol") -> None:
        """Note that a connection is at a request."""
        self._idle.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """Collects a request's head, parses one request at a time, cuts off who does not read."""

    def __init__(self, *arguments: Any, open_connections: Connections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._open = open_connections
        # Bytes that the parser has not been given yet: a head that is not whole, requests that
        # were sent ahead, or what follows the slice of a chunked body that is being parsed.
        self._unparsed = bytearray()
        self._searched = 0
        # Bytes of the present body that are still to come, negative for a chunked one.
        self._body_left = 0
        self._in_message = False
        self._in_head = False
        self._head_bytes = 0
        self._scheduled = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection."""
        self._joined = JoinedWrites(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))
        self._open.opened(self)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._open.closed(self)
        self._head_received()
        self._stop_watching_reader()
        self._unparsed.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._unset_keepalive_if_required()
        if not self._unparsed:
            if self._in_message and 0 < len(data) <= self._body_left:
                self._body_left -= len(data)
                self._parse(data)
                return
            if not self._in_message and self._is_answered():
                end = data.find(_HEAD_END)
                if end >= 0 and self._is_whole_request(data, end + len(_HEAD_END)):
                    # The usual request needs no collecting and no cutting.
                    self._begin()
                    self._parse(data)
                    return
        self._unparsed += data
        self._parse_more()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_message = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request whose head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request, whose answer may still be to come."""
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer, and turn to what was sent ahead of it."""
        self._joined.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._unparsed:
            self._schedule()
        elif not self._in_message:
            self._open.idle(self)

    def pause_writing(self) -> None:
        """Watch whether a client that is behind with reading gets on."""
        super().pause_writing()
        self._stop_watching_reader()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read what there was."""
        super().resume_writing()
        self._stop_watching_reader()

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_whole_request(self, data: bytes, size: int) -> bool:
        """Tell whether data is one request, its head of `size` bytes within the limits."""
        head = data[:size]
        return (
            size <= HEAD_BYTES
            and len(data) - size == _body_length(head)
            and head.count(b"\r\n") <= HEADERS + 2
            and _UPGRADE.search(head) is None
        )

    def _parse_more(self) -> None:
        """Parse what can be parsed now: the rest of a body, or one more request."""
        while self._unparsed and not self.transport.is_closing():
            if self.pipeline or (not self._in_message and not self._is_answered()):
                # Requests that are sent ahead wait unparsed until their predecessor is answered.
                self.flow.pause_reading()
                return
            if not (self._parse_body() if self._in_message else self._parse_head()):
                return

    def _parse_body(self) -> bool:
        """Parse of the present body what is there; return whether to go on at once."""
        bounded = self._body_left > 0
        size = min(self._body_left, len(self._unparsed)) if bounded else _CHUNKED_BYTES
        part = bytes(self._unparsed[:size])
        del self._unparsed[:size]
        self._body_left -= size if bounded else 0
        self._parse(part)
        # A request that follows a chunked one at once has its head parsed as it comes.
        self._head_bytes = self._head_bytes + len(part) if self._in_head else 0
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431)
        elif not bounded and self._unparsed:
            self._schedule()  # other connections come in between
            return False
        return True

    def _parse_head(self) -> bool:
        """Parse the next head once it is whole; return whether it was."""
        while self._unparsed.startswith(b"\r\n"):
            del self._unparsed[:2]
        start = max(0, self._searched - len(_HEAD_END) + 1)
        size = self._unparsed.find(_HEAD_END, start) + len(_HEAD_END)
        if size < len(_HEAD_END) and len(self._unparsed) <= HEAD_BYTES:
            self._searched = len(self._unparsed)
            if self._unparsed and not self._unparsed[:1].isalpha():
                self._refuse(400)
            elif self._head_timer is None:
                self._wait_for_head()
            return False
        if not len(_HEAD_END) <= size <= HEAD_BYTES:
            self._refuse(431 if b"\r\n" in self._unparsed[:HEAD_BYTES] else 414)
            return False
        head = bytes(self._unparsed[:size])
        del self._unparsed[:size]
        self._searched = 0
        if head.count(b"\r\n") > HEADERS + 2:
            self._refuse(431)
            return False
        self._begin()
        # An offer to upgrade may be ignored (RFC 9110, 7.8); the parser would drop the body.
        self._parse(_UPGRADE.sub(b"", head))
        self._body_left = _body_length(head)
        return True

    def _begin(self) -> None:
        """Note that a request begins."""
        self._body_left = 0
        self._head_received()
        self._unset_keepalive_if_required()
        self._open.busy(self)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)

    def _schedule(self) -> None:
        """Parse more in the event loop's next turn; what comes meanwhile waits."""
        self.flow.pause_reading()
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._scheduled = False
        if self.parser is None or self.transport.is_closing():
            return
        self._parse_more()
        if not self._unparsed or (not self._in_message and self._is_answered()):
            self.flow.resume_reading()

    def _refuse(self, status: int) -> None:
        """Answer a request that cannot be read, and close the connection."""
        self._unparsed.clear()
        if self.transport.is_closing():
            return
        if not self._is_answered():
            self.cycle.keep_alive = False  # closed when the answer that is under way is sent
            return
        body = b'{"error":"%s","reason":"%s"}' % (_MESSAGES[status], _REASONS[status])
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, _PHRASES[status], len(body), body)
        )
        self.transport.close()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_received(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(_UNREAD_SECONDS, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - _UNREAD_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching_reader(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


class JoinedWrites:
    """A transport that sends the head of an answer together with the body that follows.

    Uvicorn writes the two one after the other. Each of two system calls wakes the client, and a
    client on the same core then takes turns with the worker, twice for each answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or keep it where it is a final answer's head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_FINAL_HEAD):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing follows, as that of an answer to HEAD."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Send what was kept and close."""
        self.flush()
        self._transport.close()


def _body_length(head: bytes) -> int:
    """Return the bytes of the body that a head announces, -1 where it is chunked.

    It only decides where the next head is looked for; the parser judges both headers itself.
    """
    if _CHUNKED.search(head) is not None:
        return -1
    length = _CONTENT_LENGTH.search(head)
    return int(length[1]) if length is not None else 0


_PHRASES = {
    400: b"Bad Request",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
}
_REASONS = {400: b"bad_request", 414: b"too_large", 431: b"too_large"}
_MESSAGES = {
    400: b"this is not a valid HTTP request",
    414: b"the request line may have at most %d bytes" % HEAD_BYTES,
    431: b"the headers may have at most %d bytes and be at most %d" % (HEAD_BYTES, HEADERS),
}


def use_bounded_protocol(server: uvicorn.Server, *, max_connections: int) -> None:
    """Let all connections that the server takes from now on be bounded.

    Raises RuntimeError where an upgrade of uvicorn has changed what this builds on.
    """
    config = server.config
    if config.http_protocol_class is not HttpToolsProtocol:
        raise RuntimeError(
            f"uvicorn speaks HTTP with {config.http_protocol_class!r}, not httptools' protocol, so "
            "heads and connections would not be bounded; install httptools or adapt "
            "bentos/edge/protocol.py"
        )
    # It is only ever called, to make a connection's protocol.
    bounded = partial(BoundedProtocol, open_connections=Connections(max_connections))
    config.http_protocol_class = cast("type[asyncio.Protocol]", bounded)
