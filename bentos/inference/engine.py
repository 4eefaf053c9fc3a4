"""Asks the model process for predictions: bounded in number, in the order they came."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.model import ModelSpec, ServedModel
from bentos.inference.state import InferenceState
from bentos.inference.wire import Answers, Input, InputKind, InputRefused, pack_input

# Answers of a batch are handed on a few at a time, so that a probe that came meanwhile waits for
# those few requests on the event loop and not for all of them.
_ANSWERS_AT_ONCE = 2
# While one batch is in the model the next is on its way. More would only wait out of our reach.
_BATCHES_SENT = 2
# Large images wait in memory, and one of them may take a second to decode: more of them than
# these would only wait for their time-outs. While one is decoded the next is on its way.
_MOST_FILES = 32
_LARGEST_FILES = 4
_FILES_SENT = 2
# Answers of a model that was just replaced may still come.
_GENERATIONS_KNOWN = 4


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one input, and which model said it."""

    class_index: int
    probabilities: NDArray[np.float32]
    model: ServedModel

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.class_index])

    @property
    def class_name(self) -> str:
        return self.model.spec.class_names[self.class_index]

    @property
    def defect(self) -> bool:
        return self.model.spec.defects[self.class_index]


class _Lane:
    """Inputs of one sort: those queued here, and how many of those sent have no answer yet."""

    def __init__(self, *, most_sent: int) -> None:
        self.most_sent = most_sent
        self.sent = 0
        self.queued: dict[int, _Job] = {}

    @property
    def waiting(self) -> int:
        return self.sent + len(self.queued)


@dataclass(frozen=True, slots=True)
class _Job:
    given: Input
    answer: "asyncio.Future[Prediction]"
    lane: _Lane


class Engine:
    """Gives inputs to the model process; all of it runs on the event loop.

    `connected` and `disconnected` say whether there is a process, the other two what it told.
    """

    def __init__(
        self, *, queue_size: int, max_batch: int, max_pixels: int, state: InferenceState
    ) -> None:
        self._queue_size = queue_size
        self._most_pixels = _LARGEST_FILES * max_pixels
        self._state = state
        self._write: Callable[[bytes], None] | None = None
        # An image that is decoded for a second keeps no other input waiting.
        self._inputs = _Lane(most_sent=_BATCHES_SENT * max_batch)
        self._files = _Lane(most_sent=_FILES_SENT)
        self._sent: dict[int, _Job] = {}
        self._models: dict[int, ServedModel] = {}
        self._model: ServedModel | None = None
        self._next_id = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Inputs that were taken and have no answer yet."""
        return self._inputs.waiting + self._files.waiting

    @property
    def model(self) -> ServedModel | None:
        return self._model

    @property
    def spec(self) -> ModelSpec | None:
        """What inputs have to look like; None while there is no model."""
        return self._model.spec if self._model is not None else None

    async def predict(self, given: Input) -> Prediction:
        """Return the prediction for one input.

        Raises ServiceError: 429 where too many wait, 503 where there is no model, 500 where the
        model failed, and what the input was refused with.
        """
        lane = self._inputs
        if self.waiting >= self._queue_size:
            raise _queue_full(f"{self._queue_size} inputs wait for the model")
        if given.kind is InputKind.FILE:
            lane = self._files
            self._check_room(given)
        if self._model is None:
            raise no_model()
        identifier = self._next_id
        self._next_id += 1
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._idle.clear()
        lane.queued[identifier] = _Job(given, answer, lane)
        self._send(lane)
        try:
            return await answer
        finally:
            # Given up while it was queued: nobody waits for it, so the model never sees it.
            lane.queued.pop(identifier, None)
            self._note_idle()

    async def drained(self, timeout_seconds: float) -> None:
        """Wait until nothing waits for the model, or for so long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            return

    def connected(self, write: Callable[[bytes], None]) -> None:
        """Take the way to a new model process, which has no model yet."""
        self._write = write

    def disconnected(self) -> None:
        """Fail what the process owes: one of the inputs sent may be what ended it."""
        self._write = None
        self._model = None
        self._models.clear()
        sent, self._sent = self._sent, {}
        self._state.model_busy_since.set(0)
        for job in sent.values():
            _fail(
                job.answer, ServiceError(500, "model_failure", "the model's process died meanwhile")
            )
        for lane in (self._inputs, self._files):
            lane.sent = 0
            queued, lane.queued = lane.queued, {}
            for job in queued.values():
                _fail(job.answer, no_model())
        self._note_idle()

    def install(self, generation: int, model: ServedModel) -> None:
        """Take inputs for this model from now on."""
        self._models[generation] = self._model = model
        self._models.pop(generation - _GENERATIONS_KNOWN, None)

    def refused(self, refused: InputRefused) -> None:
        """Hand on why an input got no answer."""
        job = self._taken_back(refused.id)
        self._progressed()
        if job is not None:
            _fail(job.answer, refused.error)

    def answered(self, answers: Answers) -> None:
        """Hand on the answers of one call of the model."""
        self._state.batch_size.observe(answers.inputs)
        self._state.model_duration.observe(answers.seconds)
        model = self._models.get(answers.generation)
        rows = answers.probabilities
        if model is None or rows is None:
            return
        done = [
            (job.answer, Prediction(index, row, model))
            for number, index, row in zip(answers.ids, answers.classes, rows, strict=True)
            if (job := self._taken_back(number)) is not None
        ]
        self._progressed()
        _deliver(done)

    def _check_room(self, file: Input) -> None:
        waiting = (*self._sent.values(), *self._files.queued.values())
        pixels = sum(job.given.pixels for job in waiting)
        if self._files.waiting >= _MOST_FILES or pixels + file.pixels > self._most_pixels:
            raise _queue_full(
                f"{self._files.waiting} large images of {pixels} pixels wait to be decoded"
            )

    def _taken_back(self, identifier: int) -> _Job | None:
        job = self._sent.pop(identifier, None)
        if job is not None:
            job.lane.sent -= 1
        return job

    def _progressed(self) -> None:
        self._send(self._inputs)
        self._send(self._files)
        self._state.model_busy_since.set(time.monotonic() if self._sent else 0)
        self._note_idle()

    def _send(self, lane: _Lane) -> None:
        """Send as much of what is queued as the process should have."""
        if self._write is None:
            return
        if not self._sent and lane.queued:
            self._state.model_busy_since.set(time.monotonic())
        while lane.queued and lane.sent < lane.most_sent:
            identifier = next(iter(lane.queued))
            job = lane.queued.pop(identifier)
            self._sent[identifier] = job
            lane.sent += 1
            self._write(pack_input(identifier, job.given))

    def _note_idle(self) -> None:
        if not self.waiting:
            self._idle.set()


def _deliver(done: "list[tuple[asyncio.Future[Prediction], Prediction]]") -> None:
    for answer, prediction in done[:_ANSWERS_AT_ONCE]:
        if not answer.done():  # its client timed out or left
            answer.set_result(prediction)
    if rest := done[_ANSWERS_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_deliver, rest)


def _fail(answer: "asyncio.Future[Prediction]", error: ServiceError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _queue_full(why: str) -> ServiceError:
    return ServiceError(429, "queue_full", f"{why}; try again later", headers=RETRY_LATER)


def no_model() -> ServiceError:
    """Return the refusal of an input while there is no model."""
    return ServiceError(
        503,
        "model_not_loaded",
        "there is no model yet; /ready says why",
        headers={"Retry-After": "5"},
    )
