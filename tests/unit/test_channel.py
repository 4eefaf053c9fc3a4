"""The stream between a worker and its model process: what one end writes the other reads."""

import os
import socket
import threading
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.edge.http import ServiceError
from bentos.inference.channel import (
    Answers,
    Beat,
    Connection,
    Deferred,
    Input,
    InputKind,
    Installed,
    LoadChanged,
    Progress,
    Reader,
    Refused,
    RegistryChecked,
    ToModel,
    ToWorker,
    Withdrawn,
    Writer,
)
from bentos.inference.model.spec import Metadata, ModelIdentity, ModelSpec, ServedModel, picture_of

LARGER_THAN_ONE_READ = 3_000_000
SHAPE = (3, 4, 5)
MODEL = ServedModel(
    ModelIdentity("steel", "production", "7", "2026 run"),
    ModelSpec(
        SHAPE,
        "float16",
        ("ok", "scratch é"),
        (False, True),
        picture_of(SHAPE, "float16", Metadata(mean=(0.4, 0.5, 0.6), channels="BGR")),
    ),
)


def frames(*messages: ToModel | ToWorker) -> bytes:
    written = bytearray()
    Writer(written.extend).write(*messages)
    return bytes(written)


def read(data: bytes, cut: int, kind: object = ToWorker) -> list[ToWorker]:
    """Return the messages in a stream that comes in pieces of `cut` bytes at most."""
    reader: Reader[ToWorker] = Reader(kind)
    messages: list[ToWorker] = []
    for at in range(0, len(data), cut):
        reader.received(data[at : at + cut])
        messages += reader
    return messages


@pytest.mark.parametrize(
    "message",
    [
        Installed(3, MODEL),
        LoadChanged("waiting"),
        LoadChanged("failed", "7", 2, "no signature", 12.5, False, 0.25),
        LoadChanged("loaded", "7", 1, succeeded=True, seconds=3.5),
        RegistryChecked(accessible=False, note="no answer"),
        RegistryChecked(accessible=True, version="12"),
        Answers(2, 16, 0.125),
        Deferred([1, 2**40]),
        Beat(),
    ],
)
def test_what_one_end_writes_the_other_reads(message: ToWorker) -> None:
    assert read(frames(message), 1 << 20) == [message]


@pytest.mark.parametrize("count", [1, 2, 64])
def test_each_answer_stays_with_its_input(count: int) -> None:
    rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    ids = [2**40 + number for number in range(count)]
    classes = [number % 3 for number in range(count)]
    (answers,) = read(frames(Answers(1, count, 0.5, ids, classes, rows.tobytes())), 1 << 20)
    assert isinstance(answers, Answers)
    assert (answers.ids, answers.classes) == (ids, classes)
    np.testing.assert_array_equal(answers.rows(), rows)


def test_a_refusal_keeps_all_that_the_client_gets() -> None:
    error = ServiceError(
        400, "bad_input", "data: no", headers={"Retry-After": "1"}, field="data[3]"
    )
    (refused,) = read(frames(Refused.of(9, error)), 1 << 20)
    assert isinstance(refused, Refused)
    assert refused.id == 9
    assert refused.error().response().body == error.response().body
    assert refused.error().headers == error.headers
    assert refused.error().__cause__ is None


def test_the_cause_of_a_failure_comes_as_its_traceback() -> None:
    try:
        raise ValueError("shapes cannot be multiplied")
    except ValueError as error:
        (refused,) = read(frames(Refused.of(9, error)), 1 << 20)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.reason) == (500, "model_failure")
    assert "ValueError: shapes cannot be multiplied" in str(refused.error().__cause__)
    assert "test_channel.py" in str(refused.error().__cause__)


@given(
    st.lists(st.integers(0, 300) | st.just(1_100_000), max_size=12),
    st.integers(1, 400) | st.just(1 << 20),
)
def test_messages_are_the_same_however_the_stream_is_cut(sizes: list[int], cut: int) -> None:
    cut = max(cut, sum(sizes) // 200)
    sent = [RegistryChecked(accessible=True, note=str(size % 10) * size) for size in sizes]
    assert read(frames(*sent), cut) == sent


def test_a_message_that_is_none_of_the_known_ones_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        read(frames(Withdrawn(1)), 1 << 20)


@pytest.mark.case(64)
def test_a_frame_of_gigabytes_ends_the_stream_and_takes_no_memory() -> None:
    """A damaged stream announces a frame of 4 GB: it ends, where 4 GB had been taken."""
    with pytest.raises(ValueError, match="frame of 4294967299 bytes"):
        read(b"\xff" * 8, 1 << 20)


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


def inputs_of(*sizes: int) -> list[ToModel]:
    return [
        Input(InputKind.JSON, bytes([size % 251]) * size, number)
        for number, size in enumerate(sizes)
    ]


@given(
    st.lists(st.integers(0, 300), max_size=20),
    st.integers(1, 400),
    st.integers(1, 5),
)
def test_every_input_comes_once_and_in_order(sizes: list[int], piece: int, most: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = inputs_of(*sizes)
        thread = send(ours, frames(*sent), piece)
        connection = Connection(theirs)
        received: list[ToModel] = []
        while batch := connection.receive(most):
            assert len(batch) <= most
            received += batch
        thread.join()
        assert received == sent


def test_inputs_larger_than_the_buffer_come_whole(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    sent = inputs_of(10, LARGER_THAN_ONE_READ, 700_000, 2 * LARGER_THAN_ONE_READ, 900_000, 5)
    thread = send(ours, frames(*sent), 65_536)
    connection = Connection(theirs)
    received: list[ToModel] = []
    while batch := connection.receive(16):
        received += batch
    thread.join()
    assert received == sent


def test_all_that_is_there_is_one_batch(streams: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = streams
    sent = [*inputs_of(*[50] * 7), Withdrawn(3)]
    ours.sendall(frames(*sent))
    assert Connection(theirs).receive(16) == sent


def test_a_process_shares_how_far_it_came(streams: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = streams
    progress, descriptor = Progress.make()
    connection = Connection(theirs, Progress(descriptor))
    os.close(descriptor)
    assert progress.taken == -1
    ours.sendall(frames(*inputs_of(5, 5, 5), Withdrawn(1)))
    assert progress.taken == -1
    connection.receive(2)
    assert progress.taken == 1
    connection.receive(2)
    assert progress.taken == 2


def test_a_worker_that_is_gone_ends_the_stream(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    ours.sendall(frames(*inputs_of(500))[:100])
    ours.close()
    connection = Connection(theirs)
    assert connection.receive(4) == []


def test_messages_of_several_threads_are_not_mixed(
    streams: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = streams
    connection = Connection(theirs)

    def send_as(version: str) -> None:
        for _ in range(20):
            connection.send(*[RegistryChecked(accessible=True, version=version)] * 3)

    threads = [threading.Thread(target=send_as, args=(str(number) * 5_000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    reader: Reader[ToWorker] = Reader(ToWorker)
    received: list[ToWorker] = []
    while len(received) < 4 * 20 * 3:
        reader.received(ours.recv(1 << 20))
        received += reader
    for thread in threads:
        thread.join()
    assert all(
        isinstance(message, RegistryChecked) and len(set(message.version or "ab")) == 1
        for message in received
    )
