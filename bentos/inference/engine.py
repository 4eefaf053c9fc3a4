"""One thread that owns the model and answers inputs in micro-batches.

A batch is whatever waits when the model comes free: alone, an input waits for nobody; under
load batches grow by themselves up to the model's own or the configured limit.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bentos.health.http import ServiceError
from bentos.inference.model import LoadedModel, ModelSpec, NotFinite

RETRY_AFTER_SECONDS = 1
# From here on float32 no longer tells one whole number from the next: no input of a model that
# was trained on it, so where the output is not finite the input is at fault and not the model.
EXTREME_INPUT = 2.0**24

Prepare: TypeAlias = Callable[[ModelSpec], NDArray[Any]]


class BatchObserver(Protocol):
    """What the engine tells of its work; called from the model thread."""

    def batch_started(self) -> None:
        """Note that the model was called."""

    def batch_ended(self, *, inputs: int, seconds: float) -> None:
        """Note that the call returned, or raised."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one input, and which model said it."""

    class_index: int
    probabilities: NDArray[np.float32]
    model: LoadedModel

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
    prepare: Prepare
    answer: "asyncio.Future[Prediction]"


@dataclass(frozen=True, slots=True)
class _Retired:
    model: LoadedModel


_Outcome = Prediction | BaseException


class Engine:
    """Gives inputs to the model, bounded in number, in the order they came."""

    def __init__(self, *, queue_size: int, max_batch: int, observer: BatchObserver) -> None:
        self._queue: SimpleQueue[_Job | _Retired | None] = SimpleQueue()
        self._queue_size = queue_size
        self._max_batch = max_batch
        self._observer = observer
        self._model: LoadedModel | None = None
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def waiting(self) -> int:
        """Inputs that were taken and have no answer yet."""
        return self._waiting

    @property
    def model(self) -> LoadedModel | None:
        return self._model

    @property
    def spec(self) -> ModelSpec | None:
        """What inputs have to look like; None while there is no model."""
        model = self._model
        return model.spec if model is not None else None

    def install(self, model: LoadedModel) -> None:
        """Serve this model from the next batch on; callable from any thread.

        The model that it replaces is released once no batch can be using it.
        """
        replaced, self._model = self._model, model
        if replaced is not None:
            self._queue.put(_Retired(replaced))

    def start(self) -> None:
        """Start the model thread; call it on the event loop that will ask for predictions."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, timeout_seconds: float) -> None:
        """Answer what waits, then end the thread; a stuck one is left behind after the time."""
        self._queue.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_seconds)

    async def predict(self, prepare: Prepare) -> Prediction:
        """Return the prediction for one input.

        `prepare` returns the input for the model that will see it; it is called in the model
        thread, so that reading a body does not keep probes waiting on the event loop. What it
        raises is raised here. Raises ServiceError 429 where too many wait, and 500 where the
        model failed.
        """
        if self._waiting >= self._queue_size:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._queue_size} inputs wait for the model; try again later",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        loop = asyncio.get_running_loop()
        job = _Job(prepare, loop.create_future())
        self._waiting += 1
        self._queue.put(job)
        return await job.answer

    def _run(self) -> None:
        while True:
            jobs, last = self._next_batch()
            if jobs:
                self._hand_back(jobs, self._answer_all(jobs))
            if last:
                return

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for work; return what there is of it and whether it is the last."""
        jobs: list[_Job] = []
        while len(jobs) < self._max_batch:
            try:
                item = self._queue.get(block=not jobs)
            except Empty:
                break
            if item is None:
                return jobs, True
            if isinstance(item, _Retired):
                item.model.release()
            else:
                jobs.append(item)
        return jobs, False

    def _answer_all(self, jobs: Sequence[_Job]) -> list[_Outcome]:
        model = self._model
        if model is None:
            return [RuntimeError("an input was taken without a model")] * len(jobs)
        outcomes: list[_Outcome | None] = [None] * len(jobs)
        inputs: dict[int, NDArray[Any]] = {}
        for index, job in enumerate(jobs):
            if job.answer.cancelled():
                outcomes[index] = asyncio.CancelledError()  # nobody waits for it any more
                continue
            try:
                inputs[index] = _prepared(job.prepare, model.spec)
            except Exception as error:
                outcomes[index] = error
        waiting = list(inputs)
        for first in range(0, len(waiting), model.max_batch):
            batch = waiting[first : first + model.max_batch]
            answers = self._answer(model, [inputs[index] for index in batch])
            for index, answer in zip(batch, answers, strict=True):
                outcomes[index] = answer
        return [outcome for outcome in outcomes if outcome is not None]

    def _answer(self, model: LoadedModel, inputs: Sequence[NDArray[Any]]) -> list[_Outcome]:
        try:
            return list(self._call(model, inputs))
        except Exception as error:
            if len(inputs) == 1:
                return [_blamed(error, inputs[0])]
        # One input that the model cannot bear is no reason to fail its neighbours.
        outcomes: list[_Outcome] = []
        for one in inputs:
            outcomes += self._answer(model, [one])
        return outcomes

    def _call(self, model: LoadedModel, inputs: Sequence[NDArray[Any]]) -> list[Prediction]:
        started = time.perf_counter()
        self._observer.batch_started()
        try:
            probabilities = model.probabilities(np.stack(inputs))
        finally:
            self._observer.batch_ended(inputs=len(inputs), seconds=time.perf_counter() - started)
        classes = probabilities.argmax(axis=1).tolist()
        return [
            Prediction(index, row, model) for index, row in zip(classes, probabilities, strict=True)
        ]

    def _hand_back(self, jobs: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver, jobs, outcomes)

    def _deliver(self, jobs: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
        self._waiting -= len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.answer.done():
                continue  # its client timed out or left
            if isinstance(outcome, BaseException):
                job.answer.set_exception(_as_service_error(outcome))
            else:
                job.answer.set_result(outcome)


def _prepared(prepare: Prepare, spec: ModelSpec) -> NDArray[Any]:
    inputs = prepare(spec)
    if inputs.shape != spec.input_shape:
        # Decoded for a model that was replaced while the input waited.
        raise ServiceError(
            503,
            "model_not_loaded",
            "the model was replaced by one of another input shape; send the request again",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    return inputs.astype(spec.dtype, copy=False)


def _blamed(error: Exception, inputs: NDArray[Any]) -> Exception:
    """Tell an input that makes any model overflow from a model that fails."""
    if not isinstance(error, NotFinite) or float(np.abs(inputs).max()) < EXTREME_INPUT:
        return error
    return ServiceError(
        400,
        "bad_input",
        f"data: the model overflows on numbers of {EXTREME_INPUT:g} and more; scale them as in "
        "training",
        field="data",
    )


def _as_service_error(error: BaseException) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    failure = ServiceError(500, "model_failure", "the model failed on this input")
    failure.__cause__ = error
    return failure
