"""Uvicorn's protocol as a worker uses it: a probe is answered as soon as it is read."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from bentos.health.protocol import JoinedWrites, ProbeFirstProtocol, start_at_once


class FakeTransport(asyncio.Transport):
    """Notes what is written, each call for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        """Note data."""
        self.written.append(bytes(data))

    def close(self) -> None:
        """Note the end."""
        self.closed = True

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


async def connected(app: Any) -> tuple[ProbeFirstProtocol, FakeTransport]:
    """Return a protocol that has a connection."""
    config = uvicorn.Config(app, log_config=None)
    config.load()
    protocol = ProbeFirstProtocol(
        config=config, server_state=ServerState(), app_state={}, _loop=None
    )
    protocol.headers_seconds = 0.05
    transport = FakeTransport()
    protocol.connection_made(transport)
    return protocol, transport


def asked(path: str, *, app: Any, turns: int, more: bytes = b"") -> list[bytes]:
    """Return what was written so many turns of the loop after a request was read."""

    async def scenario() -> list[bytes]:
        protocol, transport = await connected(app)
        protocol.data_received(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n" + more)
        for _ in range(turns):
            await asyncio.sleep(0)
        return transport.written.copy()

    return asyncio.run(scenario())


async def app(scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await app(scope, receive, send)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_probe_is_answered_before_the_loops_next_turn_and_in_one_piece(path: str) -> None:
    (answer,) = asked(path, app=app, turns=0)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert path.encode() in answer


def test_probes_that_were_sent_in_one_go_are_answered_in_order() -> None:
    second = b"GET /health?x HTTP/1.1\r\nHost: x\r\n\r\n"
    first, then = asked("/ready", app=app, turns=0, more=second)
    assert b"/ready" in first
    assert b"/health" in then


def test_other_requests_wait_for_their_turn() -> None:
    assert asked("/predict", app=app, turns=0) == []
    (answer,) = asked("/predict", app=app, turns=3)
    assert b"/predict" in answer


def test_a_probe_that_has_to_wait_is_answered_all_the_same() -> None:
    assert asked("/ready", app=slow_app, turns=0) == []
    (answer,) = asked("/ready", app=slow_app, turns=3)
    assert b"/ready" in answer


REQUEST = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([], False),
        ([REQUEST[:10]], False),
        ([REQUEST], True),
        ([REQUEST[:10], REQUEST[10:]], True),
        ([REQUEST, REQUEST[:10]], False),
        ([REQUEST, REQUEST[:10], REQUEST[10:]], True),
    ],
    ids=["nothing", "half", "whole", "in-two", "whole-and-half", "whole-and-in-two"],
)
def test_a_connection_whose_request_does_not_come_is_closed(sent: list[bytes], kept: bool) -> None:
    async def scenario() -> bool:
        protocol, transport = await connected(app)
        for data in sent:
            protocol.data_received(data)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        return not transport.closed

    assert asyncio.run(scenario()) is kept


def test_a_connection_that_was_lost_is_not_waited_for() -> None:
    async def scenario() -> bool:
        protocol, transport = await connected(app)
        protocol.connection_lost(ConnectionResetError())
        await asyncio.sleep(0.1)
        return transport.closed

    assert asyncio.run(scenario()) is False


class TestJoinedWrites:
    def written(self, *data: bytes, close: bool = False) -> list[bytes]:
        transport = FakeTransport()
        joined = JoinedWrites(transport)
        for one in data:
            joined.write(one)
        if close:
            joined.close()
            assert transport.closed
        return transport.written

    def test_a_head_goes_out_with_what_follows_it(self) -> None:
        head, body = b"HTTP/1.1 200 OK\r\n\r\n", b"body"
        assert self.written(head) == []
        assert self.written(head, b"") == [head]
        assert self.written(head, body, b"more", head, body) == [
            head + body,
            b"more",
            head + body,
        ]

    def test_a_head_that_nothing_follows_goes_out_at_the_end(self) -> None:
        assert self.written(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True) == [
            b"HTTP/1.1 400 Bad Request\r\n\r\n"
        ]

    def test_a_client_that_asks_before_sending_is_told_at_once(self) -> None:
        assert self.written(b"HTTP/1.1 100 Continue\r\n\r\n") == [b"HTTP/1.1 100 Continue\r\n\r\n"]

    def test_all_else_is_the_transports_own(self) -> None:
        joined = JoinedWrites(FakeTransport())
        assert joined.is_closing() is False


def run(scenario: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
    async def main() -> Any:
        return await scenario(asyncio.get_running_loop())

    return asyncio.run(main())


def test_a_coroutine_that_waits_for_nothing_is_over_at_once() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("all")

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        assert start_at_once(loop, work()) is None
        assert done == ["all"]

    run(scenario)


def test_a_coroutine_that_waits_goes_on_as_a_task_with_what_came_of_it() -> None:
    got: list[object] = []

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        first: asyncio.Future[int] = loop.create_future()
        second: asyncio.Future[int] = loop.create_future()

        async def work() -> None:
            got.append(await first)
            try:
                await second
            except ValueError as error:
                got.append(str(error))
            await asyncio.sleep(0)

        task = start_at_once(loop, work())
        assert task is not None
        loop.call_soon(first.set_result, 1)
        loop.call_later(0.01, second.set_exception, ValueError("no"))
        await task

    run(scenario)
    assert got == [1, "no"]


def test_a_started_coroutine_can_be_cancelled() -> None:
    ended: list[str] = []

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        async def work() -> None:
            try:
                await loop.create_future()
            finally:
                ended.append("cancelled")

        task = start_at_once(loop, work())
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario)
    assert ended == ["cancelled"]
