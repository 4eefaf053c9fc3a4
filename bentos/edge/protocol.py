"""Uvicorn's HTTP protocol, with waits of a probe taken out and a bound on silence put in."""

import asyncio
import time
import types
from collections import deque
from collections.abc import Coroutine, Generator, Iterator
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bentos.edge.pace import Pace
from bentos.health.probes import HEALTH_PATH, READY_PATH

# Routes that wait for nothing. `/metrics` is made on a thread.
_AT_ONCE = frozenset({HEALTH_PATH, READY_PATH})
# Uvicorn waits for ever for the first request of a connection: those of clients that vanished
# would pile up until there is no descriptor left for a probe's.
HEADERS_SECONDS = 30.0
# The parser calls back for every chunk of a chunked body, and a quarter of a megabyte that is read
# at once may hold forty thousand: such data is parsed a slice at a time, for so long in a turn.
_SLICE_BYTES = 4_096
_SLICES_SECONDS = 0.0005
_CHUNKED = b"chunked"
_TRANSFER_ENCODING = b"transfer-encoding"
_STATUS_LINE = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 1"


class ProbeFirstProtocol(HttpToolsProtocol):
    """Answers a probe as soon as it is read, where others wait for the loop's next turn.

    A connection on which the head of a request is not whole in time is closed. Connections with
    chunked bodies are parsed at a `pace` that they have in common.
    """

    headers_seconds = HEADERS_SECONDS
    _waiting_for_headers: asyncio.TimerHandle | None = None
    _within_headers = False
    _unparsed: deque[memoryview]
    _parsing: asyncio.Task[None] | None = None

    def __init__(self, *arguments: Any, pace: Pace, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._pace = pace
        self._unparsed = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection."""
        self._ours = WorkerTransport(transport)
        super().connection_made(cast("asyncio.Transport", self._ours))
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._stop_waiting()
        self._unparsed.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._parsing is None and (len(data) <= _SLICE_BYTES or not self._is_chunked(data)):
            self._parse(data)
            return
        self._unparsed.extend(_slices(data))
        self._ours.hold_reading()
        if self._parsing is None:
            self._parsing = self.loop.create_task(self._parse_in_turns())

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._within_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start a request whose head is whole."""
        self._within_headers = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """End an answer, of which a head may be all: a HEAD request gets no body."""
        self._ours.send_kept()
        super().on_response_complete()

    def _is_chunked(self, data: bytes) -> bool:
        """Tell whether data is of a chunked body, or of a request that says it will be."""
        known = any(name == _TRANSFER_ENCODING for name, _ in self.headers or ())
        return known or _CHUNKED in data[:_SLICE_BYTES].lower()

    def _parse(self, data: bytes | memoryview) -> None:
        super().data_received(cast("bytes", data))
        if self._within_headers and self._waiting_for_headers is None:
            self._wait_for_headers()

    async def _parse_in_turns(self) -> None:
        while self._unparsed:
            await self._pace.step()
            ends = time.perf_counter() + _SLICES_SECONDS
            while self._unparsed and time.perf_counter() < ends:
                self._parse(self._unparsed.popleft())
                if self.transport.is_closing():  # what follows is for nobody
                    self._unparsed.clear()
        self._parsing = None
        self._ours.let_read(wanted=not self.flow.read_paused)

    def _wait_for_headers(self) -> None:
        if not self.transport.is_closing():
            self._waiting_for_headers = self.loop.call_later(
                self.headers_seconds, self.transport.close
            )

    def _stop_waiting(self) -> None:
        if self._waiting_for_headers is not None:
            self._waiting_for_headers.cancel()
            self._waiting_for_headers = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["path"] not in _AT_ONCE:
            super()._start_asgi_task(cycle, app)
            return
        task = start_at_once(self.loop, cycle.run_asgi(app))
        if task is not None:
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)


def _slices(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[at : at + _SLICE_BYTES] for at in range(0, len(data), _SLICE_BYTES))


class WorkerTransport:
    """A transport that sends the head of an answer together with the body that follows.

    Each of two system calls would wake the client, and a client on the same core then takes
    turns with the worker, twice for each answer. While reading is held nobody else resumes it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or keep it where it is a head; uvicorn writes that in one piece."""
        if self._head:
            self._send_head_with(data)
        elif data.startswith(_STATUS_LINE) and not data.startswith(_INTERIM):
            self._head = data
        else:
            self._transport.write(data)

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        if not self._held:
            self._transport.resume_reading()

    def hold_reading(self) -> None:
        """Read no more, whoever wants to."""
        self._held = True
        self._transport.pause_reading()

    def let_read(self, *, wanted: bool) -> None:
        """Hold reading no longer, and read on where that is wanted."""
        self._held = False
        if wanted and not self._transport.is_closing():
            self._transport.resume_reading()

    def send_kept(self) -> None:
        """Send a head that nothing follows."""
        if self._head:
            self._send_head_with(b"")

    def close(self) -> None:
        """Send what was kept and close."""
        self.send_kept()
        self._transport.close()

    def _send_head_with(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self._transport.write(head + data)


def start_at_once(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]
) -> "asyncio.Task[None] | None":
    """Run a coroutine now up to its first wait; return a task of the rest, None for no rest.

    Python 3.12 calls this an eager task.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return loop.create_task(_rest_of(coroutine, awaited))


async def _rest_of(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _resumed(coroutine, awaited)


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Hand on what a started coroutine awaits, and to it what comes of that."""
    while True:
        try:
            result = yield awaited
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, result)
        try:
            awaited = step()
        except StopIteration:
            return
