"""Uvicorn's protocol as a worker uses it: a probe is answered as soon as it is read."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from bentos.edge.pace import Pace
from uvicorn.server import ServerState

from bentos.edge.protocol import ProbeFirstProtocol, WorkerTransport, start_at_once


class FakeTransport(asyncio.Transport):
    """Notes what is written, each call for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.reading = True

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
        """Note that nothing is read."""
        self.reading = False

    def resume_reading(self) -> None:
        """Note that it is read on."""
        self.reading = True


async def connected(app: Any) -> tuple[ProbeFirstProtocol, FakeTransport]:
    """Return a protocol that has a connection."""
    config = uvicorn.Config(app, log_config=None)
    config.load()
    protocol = ProbeFirstProtocol(
        config=config, server_state=ServerState(), app_state={}, _loop=None, pace=Pace(2)
    )
    protocol.headers_seconds = 0.05
    transport = FakeTransport()
    protocol.connection_made(transport)
    return protocol, transport


def asked(
    path: str, *, app: Any, turns: int, method: bytes = b"GET", more: bytes = b""
) -> list[bytes]:
    """Return what was written so many turns of the loop after a request was read."""

    async def scenario() -> list[bytes]:
        protocol, transport = await connected(app)
        protocol.data_received(
            method + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n" + more
        )
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


@pytest.mark.parametrize("path", ["/ready", "/predict"])
def test_a_request_for_the_head_gets_it_at_once(path: str) -> None:
    (answer,) = asked(path, app=app, method=b"HEAD", turns=3)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


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


class Body:
    """An app that notes how much of a body has come, and answers when it is whole."""

    def __init__(self) -> None:
        self.size = 0
        self.whole = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body and answer."""
        while not self.whole:
            message = await receive()
            self.size += len(message["body"])
            self.whole = not message["more_body"]
        await app(scope, receive, send)


CHUNKED = b"POST /log HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
PLAIN = b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
END = b"0\r\n\r\n"


async def turns_for(body: Body, *data: bytes) -> int:
    """Return how many turns of the loop it takes until a body is whole; each datum is one read."""
    protocol, transport = await connected(body)
    for one in data:
        protocol.data_received(one)
    turns = 0
    while not transport.written:
        await asyncio.sleep(0)
        turns += 1
    assert transport.reading
    return turns


def test_a_body_of_tiny_chunks_is_parsed_a_slice_at_a_time_and_comes_whole() -> None:
    body = Body()
    tiny = b"1\r\nx\r\n" * 40_000
    turns = asyncio.run(turns_for(body, CHUNKED + tiny[:100_000], tiny[100_000:] + END))
    assert body.size == 40_000
    assert turns > 10


def test_a_plain_body_is_parsed_at_once_however_large() -> None:
    body = Body()
    size = 250_000
    assert asyncio.run(turns_for(body, PLAIN % size + b"x" * size)) < 10
    assert body.size == size


def test_requests_that_follow_a_chunked_one_are_answered_in_their_order() -> None:
    async def scenario() -> list[bytes]:
        protocol, transport = await connected(Body())
        protocol.data_received(CHUNKED + b"1\r\nx\r\n" * 2_000)
        protocol.data_received(END + REQUEST)
        while len(transport.written) < 2:  # noqa: ASYNC110 - a turn of the loop is what counts
            await asyncio.sleep(0)
        return transport.written

    first, second = asyncio.run(scenario())
    assert b"/log" in first
    assert b"/ready" in second


def test_a_connection_that_is_lost_leaves_nothing_to_parse() -> None:
    async def scenario() -> int:
        body = Body()
        protocol, _ = await connected(body)
        protocol.data_received(CHUNKED + b"1\r\nx\r\n" * 40_000)
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(200):
            await asyncio.sleep(0)
        return body.size

    assert asyncio.run(scenario()) < 40_000


def test_a_body_that_breaks_the_protocol_is_refused_once_and_parsed_no_further() -> None:
    async def scenario() -> list[bytes]:
        protocol, transport = await connected(Body())
        protocol.data_received(CHUNKED + b"no size\r\n" * 20_000)
        for _ in range(200):
            await asyncio.sleep(0)
        return transport.written.copy()

    (answer,) = asyncio.run(scenario())
    assert answer.startswith(b"HTTP/1.1 400 ")


class TestTransport:
    def written(self, *data: bytes, close: bool = False) -> list[bytes]:
        transport = FakeTransport()
        joined = WorkerTransport(transport)
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

    def test_reading_that_is_held_is_resumed_by_nobody_else(self) -> None:
        transport = FakeTransport()
        ours = WorkerTransport(transport)
        ours.hold_reading()
        ours.resume_reading()
        assert not transport.reading
        ours.let_read(wanted=False)
        assert not transport.reading
        ours.resume_reading()
        assert transport.reading

    def test_all_else_is_the_transports_own(self) -> None:
        joined = WorkerTransport(FakeTransport())
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
