"""Asks the model process for predictions: bounded in number, in the order they came."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bentos.health.http import RETRY_LATER, ServiceError
from bentos.inference.model import ModelSpec, ServedModel
from bentos.inference.wire import Answers, Input, InputRefused, pack_input

# Answers of a batch are handed on a few at a time, so that a probe that came meanwhile waits for
# those few requests on the event loop and not for all of them.
_ANSWERS_AT_ONCE = 2
# While one batch is in the model the next is on its way. More would only wait out of our reach.
_BATCHES_SENT = 2
# Answers of a model that was just replaced may still come.
_GENERATIONS_KNOWN = 4


class EngineObserver(Protocol):
    """What the engine tells of the model's work."""

    def model_busy(self, since: float | None) -> None:
        """Note since when, in monotonic seconds, the model owes an answer; None: it owes none."""

    def model_called(self, *, inputs: int, seconds: float) -> None:
        """Note one call of the model."""


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


@dataclass(frozen=True, slots=True)
class _Job:
    given: Input
    answer: "asyncio.Future[Prediction]"


class Engine:
    """Gives inputs to the model process; all of it runs on the event loop.

    `connected` and `disconnected` say whether there is a process, the other two what it told.
    """

    def __init__(self, *, queue_size: int, max_batch: int, observer: EngineObserver) -> None:
        self._queue_size = queue_size
        self._most_sent = _BATCHES_SENT * max_batch
        self._observer = observer
        self._write: Callable[[bytes], None] | None = None
        self._queued: dict[int, _Job] = {}
        self._sent: dict[int, asyncio.Future[Prediction]] = {}
        self._models: dict[int, ServedModel] = {}
        self._model: ServedModel | None = None
        self._next_id = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Inputs that were taken and have no answer yet."""
        return len(self._queued) + len(self._sent)

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
        if self.waiting >= self._queue_size:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._queue_size} inputs wait for the model; try again later",
                headers=RETRY_LATER,
            )
        if self._model is None:
            raise no_model()
        identifier = self._next_id
        self._next_id += 1
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._idle.clear()
        self._queued[identifier] = _Job(given, answer)
        self._send()
        try:
            return await answer
        finally:
            # Given up while it was queued: nobody waits for it, so the model never sees it.
            self._queued.pop(identifier, None)
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
        queued, self._queued = self._queued, {}
        self._observer.model_busy(None)
        for answer in sent.values():
            _fail(answer, ServiceError(500, "model_failure", "the model's process died meanwhile"))
        for job in queued.values():
            _fail(job.answer, no_model())
        self._note_idle()

    def install(self, generation: int, model: ServedModel) -> None:
        """Take inputs for this model from now on."""
        self._models[generation] = self._model = model
        self._models.pop(generation - _GENERATIONS_KNOWN, None)

    def refused(self, refused: InputRefused) -> None:
        """Hand on why an input got no answer."""
        answer = self._sent.pop(refused.id, None)
        self._progressed()
        if answer is not None:
            _fail(answer, refused.error)

    def answered(self, answers: Answers) -> None:
        """Hand on the answers of one call of the model."""
        self._observer.model_called(inputs=answers.inputs, seconds=answers.seconds)
        model = self._models.get(answers.generation)
        rows = answers.probabilities
        if model is None or rows is None:
            return
        done = [
            (future, Prediction(index, row, model))
            for number, index, row in zip(answers.ids, answers.classes, rows, strict=True)
            if (future := self._sent.pop(number, None)) is not None
        ]
        self._progressed()
        _deliver(done)

    def _progressed(self) -> None:
        self._send()
        self._observer.model_busy(time.monotonic() if self._sent else None)
        self._note_idle()

    def _send(self) -> None:
        """Send as much of what is queued as the process should have."""
        if self._write is None:
            return
        if not self._sent and self._queued:
            self._observer.model_busy(time.monotonic())
        while self._queued and len(self._sent) < self._most_sent:
            identifier = next(iter(self._queued))
            job = self._queued.pop(identifier)
            self._sent[identifier] = job.answer
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


def no_model() -> ServiceError:
    """Return the refusal of an input while there is no model."""
    return ServiceError(
        503,
        "model_not_loaded",
        "there is no model yet; /ready says why",
        headers={"Retry-After": "5"},
    )
