"""The model process's work: takes inputs from the worker and answers them with the model.

A batch is whatever waits when the model comes free: alone, an input waits for nobody; under load
batches grow by themselves up to the model's own or the configured limit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.channel import (
    Answers,
    Connection,
    Deferred,
    Input,
    InputKind,
    Installed,
    Refused,
    ToWorker,
    Withdrawn,
)
from bentos.inference.images import ImageFile, open_image, read_and_measure, read_input
from bentos.inference.model.numbers import NumberReader
from bentos.inference.model.occlusion import MaskedPictures
from bentos.inference.model.spec import ServedModel
from bentos.inference.model.warm_up import LoadedModel
from bentos.inference.request import check_sees_images

# Decoding so little takes less than a place among the large pictures.
_SMALL_PIXELS = 128 * 128
_SMALL_BYTES = 65_536
# Large pictures wait in memory, and one of them may take a second to decode: more of them than
# these would only wait for their time-outs.
_MOST_FILES = 32
_MOST_BYTES = 64 * 1024 * 1024
_LARGEST_FILES = 4
# A model whose warm-up input fails this often in a row will not recover, as a GPU's context that
# died: only a new process has a new one.
BROKEN_AFTER = 3


class _Rows(Protocol):
    """The inputs of a request; some are made only when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> NDArray[Any]: ...


# The inputs of a request, and what was measured of its picture, nothing where there is none.
_Read: TypeAlias = tuple[_Rows, list[float]]
# The id of a request, what was read, and which of the inputs.
_Ready: TypeAlias = tuple[int, _Read, int]


class ModelServer:
    """Owns the model in use; `serve` belongs to one thread, `install` may come from another.

    `on_broken` is called once the model answers nothing any more.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        max_batch: int,
        max_pixels: int,
        on_broken: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._max_batch = max_batch
        self._max_pixels = max_pixels
        self._on_broken = on_broken
        self._numbers = NumberReader()
        self._files = _LargePictures(_LARGEST_FILES * max_pixels, self._answer_picture)
        self._next = Lock()
        self._in_use = Lock()
        self._model: LoadedModel | None = None
        self._generation = 0
        self._failures = 0

    def install(self, model: LoadedModel) -> None:
        """Answer with this model from the next batch on, and release the one it replaces."""
        with self._model_held():
            replaced, self._model = self._model, model
            self._generation += 1
            self._failures = 0
            served = ServedModel(model.identity, model.spec)
            self._connection.send(Installed(self._generation, served))
        if replaced is not None:
            replaced.release()

    def serve(self) -> None:
        """Answer inputs until the worker closes the stream."""
        self._files.start()
        while messages := self._connection.receive(self._max_batch):
            for one in messages:
                if isinstance(one, Withdrawn):
                    self._files.withdraw(one.id)
            self._answer([one for one in messages if isinstance(one, Input)])
        self._files.stop()

    def _answer(self, inputs: Sequence[Input]) -> None:
        said: list[ToWorker] = []
        deferred: list[int] = []
        with self._model_held():
            ready: list[_Ready] = []
            for given in inputs:
                try:
                    read = self._read(given)
                except Exception as error:
                    said.append(Refused.of(given.id, error))
                else:
                    rows = len(read[0])
                    ready += [(given.id, read, row) for row in range(rows)]
                    deferred += [] if rows else [given.id]
            if deferred:
                self._send([Deferred(deferred)])
            # Each batch is answered when it is done, or a long request would look like a model
            # that is stuck.
            for answers in self._call(ready):
                self._send([*said, *answers])
                said = []
        self._send(said)

    def _read(self, given: Input) -> _Read:
        """Return what the model is given, nothing for a large picture, which is answered later."""
        spec = self._current().spec
        if given.kind not in (InputKind.FILE, InputKind.MASKED):
            return list(self._numbers.read(given, spec)), []
        check_sees_images(spec)
        file = open_image(given.content, max_pixels=self._max_pixels)
        if given.kind == InputKind.MASKED:
            return MaskedPictures(read_input(file, spec), spec, rows=given.rows), []
        if file.pixels <= _SMALL_PIXELS and len(given.content) <= _SMALL_BYTES:
            values, measured = read_and_measure(file, spec)
            return [values], measured
        self._files.put(given.id, file)
        return [], []

    def _answer_picture(self, identifier: int, file: ImageFile) -> None:
        """Decode a large picture, without the model, and answer it."""
        said: list[ToWorker] = []
        try:
            while not said:
                spec = self._current().spec
                check_sees_images(spec)
                values, measured = read_and_measure(file, spec)
                with self._model_held():
                    if self._current().spec == spec:  # not replaced meanwhile
                        (said,) = self._call([(identifier, ([values], measured), 0)])
        except Exception as error:
            said = [Refused.of(identifier, error)]
        self._send(said)

    def _call(self, ready: Sequence[_Ready]) -> Iterator[list[ToWorker]]:
        """Yield the answers of the model, which is held, to inputs with their ids, by batches."""
        if not ready:
            return
        model = self._current()
        refused: set[int] = set()
        size = min(self._max_batch, model.max_batch)
        for first in range(0, len(ready), size):
            yield self._call_once(model, ready[first : first + size], refused)

    def _call_once(
        self, model: LoadedModel, ready: Sequence[_Ready], refused: set[int]
    ) -> list[ToWorker]:
        """Return the answers to at most a batch; a request that is refused gets no more calls."""
        if refused:
            ready = [one for one in ready if one[0] not in refused]
        if not ready:
            return []
        started = time.perf_counter()
        try:
            inputs = [rows[row] for _, (rows, _), row in ready]
            # Not np.stack, which takes two to eight times as long.
            probabilities = model.probabilities(np.array(inputs))
        except Exception as error:
            seconds = time.perf_counter() - started
            said: list[ToWorker] = [Answers(self._generation, len(ready), seconds)]
            if len(ready) == 1:
                identifier, (rows, _), row = ready[0]
                refused.add(identifier)
                # A masked picture is no field of the request.
                several = isinstance(rows, list) and len(rows) > 1
                blamed = self._blamed(model, error, row if several else None)
                return [*said, Refused.of(identifier, blamed)]
            # One input that the model cannot bear is no reason to fail its neighbours.
            for one in ready:
                said += self._call_once(model, [one], refused)
            return said
        seconds = time.perf_counter() - started
        self._failures = 0
        measures = [measured for _, (_, measured), _ in ready]
        return [
            Answers(
                self._generation,
                len(ready),
                seconds,
                [identifier for identifier, _, _ in ready],
                probabilities.argmax(axis=1).tolist(),
                probabilities.astype(np.float32, copy=False).tobytes(),
                measures if any(measures) else [],
            )
        ]

    def _blamed(self, model: LoadedModel, error: Exception, row: int | None) -> Exception:
        """Tell an input that the model cannot bear from a model that fails.

        The second is what a model has that does not answer its warm-up input either.
        """
        if model.answers():
            self._failures = 0
            field = f"data[{row}]"
            rejected = ServiceError(
                422,
                "model_rejected_input",
                "the model fails on these numbers, or answers them with NaN, while it answers "
                "others; are they scaled, and in the range, as in training?",
            )
            if row is not None:
                rejected.message = f"{field}: {rejected.message}"
                rejected.details["field"] = field
            rejected.__cause__ = error
            return rejected
        self._failures += 1
        return error

    def _send(self, messages: Sequence[ToWorker]) -> None:
        # Where the worker went without waiting, the next `receive` finds the stream's end.
        with suppress(ConnectionError):
            if messages:
                self._connection.send(*messages)
        if self._failures >= BROKEN_AFTER:
            self._on_broken()

    def _current(self) -> LoadedModel:
        if self._model is None:
            raise ServiceError(503, "model_not_loaded", "there is no model", headers=RETRY_LATER)
        return self._model

    @contextmanager
    def _model_held(self) -> Iterator[None]:
        """Hold the model; whoever waits for it holds the place behind, so that none is starved."""
        with self._next:
            self._in_use.acquire()
        try:
            yield
        finally:
            self._in_use.release()


class _LargePictures:
    """Large pictures, read one after the other on a thread: they keep no other input waiting."""

    def __init__(self, most_pixels: int, answer: Callable[[int, ImageFile], None]) -> None:
        self._most_pixels = most_pixels
        self._answer = answer
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        # Those that wait, and the one that is read; every use is one step of the interpreter.
        self._files: dict[int, ImageFile] = {}
        self._thread = Thread(target=self._run, name="pictures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the picture it reads."""
        self._queue.put(None)
        self._thread.join()

    def put(self, identifier: int, file: ImageFile) -> None:
        """Take a picture.

        Raises ServiceError 429 where too many wait.
        """
        files = [*self._files.values(), file]
        pixels = sum(one.pixels for one in files)
        full = pixels > self._most_pixels or sum(len(one.data) for one in files) > _MOST_BYTES
        if len(files) > _MOST_FILES or (full and len(files) > 1):
            raise ServiceError(
                429,
                "queue_full",
                f"{len(files) - 1} large images of {pixels - file.pixels} pixels wait to be "
                "decoded; try again later",
                headers=RETRY_LATER,
            )
        self._files[identifier] = file
        self._queue.put(identifier)

    def withdraw(self, identifier: int) -> None:
        """Leave a picture unread that nobody waits for."""
        self._files.pop(identifier, None)

    def _run(self) -> None:
        while (identifier := self._queue.get()) is not None:
            file = self._files.get(identifier)
            if file is not None:
                self._answer(identifier, file)
                self._files.pop(identifier, None)
