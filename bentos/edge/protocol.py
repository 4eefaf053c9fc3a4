"""Uvicorn's HTTP protocol with bounds on what one connection, and all of them, may take.

The parser below it, httptools, bounds nothing: neither the size of a head, nor the number of its
headers, nor how many requests are sent ahead of their answers. It also drops the body of a request
that offers an upgrade. So what comes is cut into heads and bodies here, and the parser is given a
head only when it is whole, within the limits, and its predecessor is answered.
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
# A client has to read this much of an answer in this time; what it has not read is memory.
UNREAD_SECONDS = 10.0
UNREAD_BYTES = 65_536
# The parser calls back for every chunk of a chunked body. After this many, other connections
# are served before it goes on.
CHUNKS = 1_024

_HEAD_END = b"\r\n\r\n"
# Not of an interim answer, as 100 Continue: the client waits for that.
_FINAL_HEAD = tuple(b"HTTP/1.1 %d" % first for first in range(2, 6))
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,20})[ \t]*\r\n")
_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")


class Connections:
    """A worker's open connections, at most `limit`.

    Beyond the limit the one that has waited longest for its client gives way: for a request, or
    for the rest of one. A connection whose request is whole and not answered yet never does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[BoundedProtocol, None] = OrderedDict()
        self._count = 0

    def opened(self, connection: "BoundedProtocol") -> None:
        """Take a new connection, and close one where there are too many."""
        self._count += 1
        self.waiting(connection)
        if self._count > self._limit:
            longest_waiting, _ = self._waiting.popitem(last=False)
            longest_waiting.transport.abort()

    def closed(self, connection: "BoundedProtocol") -> None:
        """Forget a connection."""
        self._count -= 1
        self._waiting.pop(connection, None)

    def waiting(self, connection: "BoundedProtocol") -> None:
        """Note that a connection waits for its client, from now on."""
        self._waiting.setdefault(connection)

    def busy(self, connection: "BoundedProtocol") -> None:
        """Note that a connection's request is whole and waits for the service."""
        self._waiting.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """Collects a request's head, parses one request at a time, cuts off clients that do not read.

    `_parse_more` does the work: it takes from `_unparsed` what may be parsed now.
    """

    def __init__(self, *arguments: Any, open_connections: Connections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._open = open_connections
        # What the parser has not been given: a head that is not whole, or requests sent ahead.
        self._unparsed = b""
        self._searched = 0
        # Bytes of the present body that are still to come; negative for a chunked body, of whose
        # present chunk `_chunk_left` are still to come.
        self._body_left = 0
        self._chunk_left = 0
        self._scheduled = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection."""
        self._shared = SharedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._shared))
        self._wait_for_head()
        self._open.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._open.closed(self)
        self._head_received()
        self._stop_watching_reader()
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._unset_keepalive_if_required()
        self._unparsed = self._unparsed + data if self._unparsed else data
        if not self._scheduled:
            self._parse_more()

    def on_response_complete(self) -> None:
        """End an answer, and begin with a request that was sent ahead."""
        self._shared.flush()
        super().on_response_complete()
        self._open.waiting(self)
        if self._unparsed and not self.transport.is_closing():
            self._schedule()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its client has not read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

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

    def _parse_more(self) -> None:
        """Parse what can be parsed now: the rest of a body, or one more request."""
        more = True
        while more and self._unparsed and not self.transport.is_closing():
            if self._body_left > 0:
                self._parse_body()
            elif self._body_left < 0:
                more = self._parse_chunks()
            else:
                more = self._is_answered() and self._parse_head()
        # What is sent ahead waits, unparsed, until its predecessor is answered.
        ahead = bool(self._unparsed) and not self._body_left and not self._is_answered()
        if ahead or self._scheduled:
            self._shared.pause_reading("protocol")
        else:
            self._shared.resume_reading("protocol")

    def _parse_head(self) -> bool:
        """Parse the next head once it is whole; return whether it was."""
        # Empty lines before a request are ignored (RFC 9112, 2.2).
        data = self._unparsed = self._unparsed.lstrip(b"\r\n")
        size = data.find(_HEAD_END, max(0, self._searched - 3)) + len(_HEAD_END)
        if size < len(_HEAD_END) and len(data) <= HEAD_BYTES:
            self._searched = len(data)
            if data and not data[:1].isalpha():
                self._refuse(400)
            elif self._head_timer is None:
                self._wait_for_head()
            return False
        self._searched = 0
        if not len(_HEAD_END) <= size <= HEAD_BYTES:
            self._refuse(431 if b"\r\n" in data[:HEAD_BYTES] else 414)
            return False
        head = self._take(size)
        if head.count(b"\r\n") > HEADERS + 2:
            self._refuse(431)
            return False
        self._head_received()
        self._unset_keepalive_if_required()
        lower = head.lower()
        if b"\r\nupgrade:" in lower:
            # Such an offer may be ignored (RFC 9110, 7.8); the parser would drop the body.
            head = _UPGRADE.sub(b"", head)
        self._parse(head)
        self._body_left = _body_length(lower)
        self._note_whole()
        return True

    def _parse_body(self) -> None:
        """Parse of a body of known length what is there."""
        part = self._take(min(self._body_left, len(self._unparsed)))
        self._body_left -= len(part)
        self._parse(part)
        self._note_whole()

    def _parse_chunks(self) -> bool:
        """Parse of a chunked body what is there, at most CHUNKS; return whether to go on now.

        Where the body ends is found here, since the parser does not report it (RFC 9112, 7.1).
        """
        data, position = self._unparsed, 0
        for _ in range(CHUNKS):
            step = min(self._chunk_left, len(data) - position)
            position += step
            self._chunk_left -= step
            head = None if self._chunk_left else _CHUNK_HEAD.match(data, position)
            if head is None:
                break
            size = int(head[1], 16)
            if size == 0:
                return self._parse_last_chunk(position, head.end())
            position = head.end()
            self._chunk_left = size + 2  # and the line end behind it
        else:
            self._schedule()
        if position:
            self._parse(self._take(position))
        elif b"\r\n" in data or len(data) > HEAD_BYTES:
            self._refuse(400)  # no chunk begins like this
        return position > 0 and not self._scheduled

    def _parse_last_chunk(self, start: int, end: int) -> bool:
        """Parse up to the last chunk, once the trailer behind it is whole; return whether it is."""
        data = self._unparsed
        trailer_end = data.find(_HEAD_END, end - 2) + len(_HEAD_END)
        if trailer_end < len(_HEAD_END):
            if len(data) - start > HEAD_BYTES:
                self._refuse(431)
            elif start:
                self._parse(self._take(start))
            return False
        # Trailer fields may be ignored (RFC 9110, 6.5.1); uvicorn would take them for headers.
        self._parse(data[:end] + b"\r\n")
        self._take(trailer_end)
        self._body_left = 0
        self._note_whole()
        return True

    def _take(self, size: int) -> bytes:
        """Return the first `size` bytes that are not parsed yet, and forget them."""
        taken, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        return taken

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)

    def _note_whole(self) -> None:
        if not self._body_left and not self._is_answered():
            self._open.busy(self)

    def _schedule(self) -> None:
        """Parse more once the event loop has served other connections; read nothing until then."""
        self._shared.pause_reading("protocol")
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._scheduled = False
        if self.parser is None or self.transport.is_closing():
            return
        self._parse_more()

    def _refuse(self, status: int) -> None:
        """Answer a request that cannot be read, and close the connection."""
        self._unparsed = b""
        if self.transport.is_closing():
            return
        if not self._is_answered() and self.cycle.response_started:
            self.transport.abort()  # its own answer is on its way already
            return
        phrase, reason, error = _ANSWERS[status]
        body = b'{"error":"%s","reason":"%s"}' % (error, reason)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status, phrase, len(body), body)
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
        self._read_timer = self.loop.call_later(UNREAD_SECONDS, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() > self._unread - UNREAD_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching_reader(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


class SharedTransport:
    """A connection's transport, for uvicorn and the protocol above.

    Either may pause reading: uvicorn while an app is behind. And the head of an answer is sent
    together with a body that follows at once, which uvicorn writes one after the other: each of two
    system calls wakes the client, and a client on the same core then takes turns with the worker,
    twice for each answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._paused_by: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pause_reading(self, who: str = "uvicorn") -> None:
        """Read nothing until those who paused have resumed."""
        if not self._paused_by:
            self._transport.pause_reading()
        self._paused_by.add(who)

    def resume_reading(self, who: str = "uvicorn") -> None:
        """Read again, unless another has paused as well; nothing where one has not paused."""
        if who in self._paused_by:
            self._paused_by.remove(who)
            if not self._paused_by:
                self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send data, or keep it where it is a final answer's head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_FINAL_HEAD):
            self._head = data
            self._loop.call_soon(self.flush)  # a body that comes later, as a stream's
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
    """Return the bytes of the body that a head in lower case announces, -1 for a chunked one.

    It only decides where the next head is looked for; the parser judges both headers itself.
    """
    if b"\r\ntransfer-encoding:" in head:
        return -1
    length = _CONTENT_LENGTH.search(head)
    return int(length[1]) if length is not None else 0


# By status its phrase, and the reason and the error in the body.
_ANSWERS = {
    400: (b"Bad Request", b"bad_request", b"this is not a valid HTTP request"),
    414: (
        *(b"URI Too Long", b"too_large"),
        b"the request line may have at most %d bytes" % HEAD_BYTES,
    ),
    431: (
        *(b"Request Header Fields Too Large", b"too_large"),
        b"the headers may have at most %d bytes and be at most %d" % (HEAD_BYTES, HEADERS),
    ),
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
