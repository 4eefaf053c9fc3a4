"""The model process's end of the stream."""

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.inference.model_process.connection import Connection
from bentos.inference.wire import (
    Frames,
    Input,
    InputKind,
    Message,
    RegistryChecked,
    frame,
    pack_input,
    unpack,
)

LARGER_THAN_THE_BUFFER = 3_000_000


@pytest.fixture
def streams() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def send(stream: socket.socket, data: bytes, piece: int) -> threading.Thread:
    """Send in pieces from another thread, then close."""

    def work() -> None:
        for at in range(0, len(data), piece):
            stream.sendall(data[at : at + piece])
        stream.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def json_input(size: int) -> Input:
    return Input(InputKind.JSON, bytes(size % 251 for _ in range(size)))


@given(
    st.lists(st.integers(0, 300), max_size=20),
    st.integers(1, 400),
    st.integers(1, 5),
)
def test_every_input_comes_once_and_in_order(sizes: list[int], piece: int, most: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inputs = [(number, json_input(size)) for number, size in enumerate(sizes)]
        thread = send(ours, b"".join(pack_input(*one) for one in inputs), piece)
        connection = Connection(theirs)
        heard = []
        while batch := connection.receive(most):
            assert len(batch) <= most
            heard += batch
        thread.join()
        assert heard == inputs


def test_inputs_larger_than_the_buffer_come_whole(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    sizes = (10, LARGER_THAN_THE_BUFFER, 700_000, 2 * LARGER_THAN_THE_BUFFER, 900_000, 5)
    inputs = [(number, Input(InputKind.TENSOR, b"x" * size)) for number, size in enumerate(sizes)]
    thread = send(ours, b"".join(pack_input(*one) for one in inputs), 65_536)
    connection = Connection(theirs)
    heard = []
    while batch := connection.receive(16):
        heard += batch
    thread.join()
    assert heard == inputs


def test_all_that_is_there_is_one_batch(streams: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = streams
    ours.sendall(b"".join(pack_input(number, json_input(50)) for number in range(7)))
    connection = Connection(theirs)
    assert [number for number, _ in connection.receive(16)] == list(range(7))


def test_the_settings_come_before_any_input(streams: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = streams
    ours.sendall(frame(b"{}") + pack_input(1, json_input(5)))
    connection = Connection(theirs)
    assert connection.receive_settings() == b"{}"
    assert connection.receive(1) == [(1, json_input(5))]


def test_a_worker_that_is_gone_ends_the_stream(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    ours.sendall(pack_input(1, json_input(500))[:100])
    ours.close()
    assert Connection(theirs).receive(4) == []


def test_messages_of_several_threads_are_not_mixed(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    connection = Connection(theirs)

    def send_as(version: str) -> None:
        for _ in range(20):
            connection.send([RegistryChecked(accessible=True, version=version)] * 3)

    threads = [threading.Thread(target=send_as, args=(str(number) * 5_000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    frames = Frames()
    heard: list[Message] = []
    while len(heard) < 4 * 20 * 3:
        heard += [unpack(content) for content in frames.feed(ours.recv(65_536))]
    for thread in threads:
        thread.join()
    assert all(
        isinstance(message, RegistryChecked) and len(set(message.version or "ab")) == 1
        for message in heard
    )
