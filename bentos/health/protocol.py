"""Uvicorn's HTTP protocol, with two waits of a probe taken out and a bound on silence put in."""

import asyncio
import types
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bentos.health.probes import HEALTH_PATH, READY_PATH

# Routes that wait for nothing. `/metrics` is made on a thread.
_AT_ONCE = frozenset({HEALTH_PATH, READY_PATH})
# Uvicorn waits for ever for the first request of a connection: those of clients that vanished
# would pile up until there is no descriptor left for a probe's.
HEADERS_SECONDS = 30.0
_STATUS_LINE = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 1"


class ProbeFirstProtocol(HttpToolsProtocol):
    """Answers a probe as soon as it is read, where others wait for the loop's next turn.

    A connection on which the head of a request is not whole in time is closed.
    """

    headers_seconds = HEADERS_SECONDS
    _waiting_for_headers: asyncio.TimerHandle | None = None
    _within_headers = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport)))
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        if self._within_headers and self._waiting_for_headers is None:
            self._wait_for_headers()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._within_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start a request whose head is whole."""
        self._within_headers = False
        self._stop_waiting()
        super().on_headers_complete()

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


class JoinedWrites:
    """A transport that sends the head of an answer together with the body that follows.

    Each of two system calls would wake the client, and a client on the same core then takes
    turns with the worker, twice for each answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

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

    def close(self) -> None:
        """Send what was kept and close."""
        if self._head:
            self._send_head_with(b"")
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
