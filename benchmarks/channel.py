"""The stream between worker and model process beside one packed by hand, in processor time.

Run `python -m benchmarks.channel`. Both send pictures of 3x32x32 as raw float32, one or sixteen at
a time, over a socket pair, and get ten classes' probabilities back. What is packed by hand is what
this project had before: its frames are as small as they can be.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bentos.inference.channel import Answers, Connection, Input, InputKind, Reader, ToWorker, Writer

_CLASSES = 10
_ROUNDS = 30
_CALLS = 400
_BATCHES = (1, 16)
_LENGTH = struct.Struct("<I")
_INPUT = struct.Struct("<QB")
_ANSWERS = struct.Struct("<IIIId")


@dataclass(frozen=True, slots=True)
class _Given:
    kind: InputKind
    content: bytes


@dataclass(frozen=True, slots=True)
class _Said:
    generation: int
    seconds: float
    ids: list[int]
    classes: list[int]
    rows: NDArray[np.float32]


class ByHand:
    """Both ends of a stream of frames packed by hand."""

    def __init__(self) -> None:
        self._worker, self._model = socket.socketpair()
        self._buffer = bytearray(1 << 20)

    def ask(self, ids: Sequence[int], bodies: Sequence[bytes]) -> None:
        for identifier, body in zip(ids, bodies, strict=True):
            given = _Given(InputKind.TENSOR, body)
            head = _LENGTH.pack(_INPUT.size + len(body)) + _INPUT.pack(identifier, given.kind)
            self._worker.sendall(head + given.content)

    def take(self, count: int) -> list[tuple[int, _Given]]:
        inputs: list[tuple[int, _Given]] = []
        start = end = 0
        while len(inputs) < count:
            if end - start >= 4:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if end - start >= 4 + length:
                    content = memoryview(self._buffer)[start + 4 : start + 4 + length]
                    identifier, kind = _INPUT.unpack_from(content)
                    given = _Given(InputKind(kind), bytes(content[_INPUT.size :]))
                    inputs.append((identifier, given))
                    start += 4 + length
                    continue
            end += self._model.recv_into(memoryview(self._buffer)[end:])
        return inputs

    def answer(self, ids: Sequence[int], classes: Sequence[int], rows: NDArray[np.float32]) -> None:
        said = _Said(1, 0.001, list(ids), list(classes), rows)
        content = b"".join(
            (
                _ANSWERS.pack(1, len(ids), len(ids), said.rows.shape[1], said.seconds),
                np.asarray(said.ids, np.uint64).tobytes(),
                np.asarray(said.classes, np.int32).tobytes(),
                said.rows.astype(np.float32, copy=False).tobytes(),
            )
        )
        self._model.sendall(_LENGTH.pack(len(content) + 1) + b"a" + content)

    def hear(self) -> tuple[list[int], list[int], NDArray[np.float32]]:
        data = self._worker.recv(1 << 18)
        (length,) = _LENGTH.unpack_from(data)
        content = data[5 : 4 + length]
        generation, _, count, classes, seconds = _ANSWERS.unpack_from(content)
        at = _ANSWERS.size
        ids = np.frombuffer(content, np.uint64, count, at).tolist()
        indices = np.frombuffer(content, np.int32, count, at + 8 * count).tolist()
        rows = np.frombuffer(content, np.float32, count * classes, at + 12 * count)
        said = _Said(generation, seconds, ids, indices, rows.reshape(count, classes))
        return said.ids, said.classes, said.rows


class Channel:
    """Both ends of the service's own stream."""

    def __init__(self) -> None:
        self._worker, model = socket.socketpair()
        self._write = Writer(self._worker.sendall).write
        self._reader: Reader[ToWorker] = Reader(ToWorker)
        self._model = Connection(model)

    def ask(self, ids: Sequence[int], bodies: Sequence[bytes]) -> None:
        for identifier, body in zip(ids, bodies, strict=True):
            self._write(Input(InputKind.TENSOR, body, identifier))

    def take(self, count: int) -> list[object]:
        inputs: list[object] = []
        while len(inputs) < count:
            inputs += self._model.receive(count - len(inputs))
        return inputs

    def answer(self, ids: Sequence[int], classes: Sequence[int], rows: NDArray[np.float32]) -> None:
        answers = Answers(1, len(ids), 0.001, list(ids), list(classes), rows.tobytes())
        self._model.send(answers)

    def hear(self) -> tuple[list[int], list[int], list[Sequence[float]]]:
        self._reader.received(self._worker.recv(1 << 18))
        (answers,) = self._reader
        if not isinstance(answers, Answers):
            raise TypeError(answers)
        return answers.ids, answers.classes, answers.rows()


def measure(end: ByHand | Channel, batch: int) -> float:
    """Return the processor time of one call, both ends together, in microseconds."""
    body = np.random.default_rng(0).random((3, 32, 32), np.float32).tobytes()
    rows = np.random.default_rng(1).random((batch, _CLASSES), np.float32)
    bodies = [body] * batch
    started = time.process_time()
    for call in range(_CALLS):
        ids = range(call * batch, (call + 1) * batch)
        end.ask(ids, bodies)
        if len(end.take(batch)) != batch:
            raise RuntimeError("an input was lost")
        end.answer(ids, [0] * batch, rows)
        if end.hear()[0] != list(ids):
            raise RuntimeError("an answer was lost")
    return (time.process_time() - started) / _CALLS * 1e6


def main() -> int:
    """Print both for each batch, measured in turns; fail where ours takes 3% more."""
    makers: tuple[Callable[[], ByHand | Channel], ...] = (ByHand, Channel)
    slower = False
    print("batch  by hand  channel  ratio   (microseconds of processor time a call)")
    for batch in _BATCHES:
        times: tuple[list[float], list[float]] = ([], [])
        ends = [make() for make in makers]
        for _ in range(_ROUNDS):
            for end, found in zip(ends, times, strict=True):
                found.append(measure(end, batch))
        by_hand, ours = map(median, times)
        ratio = median(b / a for a, b in zip(*times, strict=True))
        slower = slower or ratio > 1.03
        print(f"{batch:>5}  {by_hand:>7.1f}  {ours:>7.1f}  {ratio:>5.2f}")
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
