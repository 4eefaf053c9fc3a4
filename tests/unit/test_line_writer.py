"""Lines to a stream that may be read slowly, or not at all."""

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from bentos.process.line_writer import LineWriter

SECONDS = 30.0


class Pipe:
    """A stream that ends in a pipe, which holds what is not read."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self.stream: TextIO = os.fdopen(writer, "w")

    def read(self, most: int = 1 << 20) -> str:
        """Wait for something and return it."""
        return os.read(self._reader, most).decode()

    def read_until(self, text: str) -> str:
        """Return everything up to and with a text."""
        found = ""
        while f"{text}\n" not in found:
            found += self.read()
        return found

    def leave(self) -> None:
        """Stop reading for good."""
        os.close(self._reader)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    os.closerange(one._reader, one._reader + 1)


def told(lost: int) -> str:
    return f"{lost} lost"


def test_lines_come_in_their_order() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream, told)
    for number in range(100):
        writer.put(str(number))
    assert writer.flush(SECONDS)
    assert stream.getvalue().splitlines() == [str(number) for number in range(100)]


def test_nobody_waits_for_a_reader_that_does_not_read_and_the_loss_is_told(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, told, most_characters=1 << 20)
    line = "x" * 1023
    for _ in range(4_096):  # 4 MiB: more than the pipe and the writer hold
        writer.put(line)
    assert not writer.flush(0.1)
    found = pipe.read_until("lost")
    lost = int(found.splitlines()[-1].removesuffix(" lost"))
    assert lost > 2_000
    writer.put("again")
    found += pipe.read_until("again")
    assert found.count("x" * 1023) == 4_096 - lost


def test_a_reader_that_left_ends_nothing(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream, told)
    pipe.leave()
    for _ in range(3):
        writer.put("x")
        assert writer.flush(SECONDS)


def test_after_the_close_what_waited_is_written_and_the_thread_ends() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream, told)
    writer.put("last")
    writer.close()
    writer._thread.join(SECONDS)
    assert not writer._thread.is_alive()
    assert stream.getvalue() == "last\n"
