"""Asks the model process for predictions: bounded in number, in the order they came."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import getrandbits

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.channel import (
    Answers,
    Deferred,
    Input,
    Installed,
    Refused,
    Withdrawn,
    Writer,
)
from bentos.inference.model.spec import ModelSpec, ServedModel
from bentos.inference.state import InferenceState
from bentos.messages import Verdict

# Answers of a batch are handed on a few at a time: while the worker answers those, new requests are
# read and the model gets its next inputs. All at once, raw tensors came at 0.76 times the rate.
_ANSWERS_AT_ONCE = 2
# While one batch is in the model the next is on its way. More would only wait out of our reach.
_BATCHES_SENT = 2
# Of one request: 10 MB of JSON in its answer, and as much in the outbox.
_MOST_PROBABILITIES = 1 << 20
# Answers of a model that was just replaced may still come.
_GENERATIONS_KNOWN = 4
_LOOK_SECONDS = 0.01


def new_prediction_id() -> str:
    """Return a unique id that sorts by time, so that a database's index grows at one end."""
    return f"{time.time_ns():016x}{getrandbits(64):016x}"


# Not frozen, which would take three times as long to make.
@dataclass(slots=True)
class Prediction:
    """What the model said of one input, which model said it, and in which batch.

    `measures` are those of a picture, where its model has a profile; see `images.measure`.
    `confidence` is rounded as it is answered and stored, and the verdict is by that.
    """

    class_index: int
    probabilities: Sequence[float]
    model: ServedModel
    batch_size: int = 1
    model_seconds: float = 0.0
    measures: Sequence[float] = ()
    id: str = field(default_factory=new_prediction_id)
    confidence: float = field(init=False)
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        self.confidence = round(self.probabilities[self.class_index], 6)
        self.verdict = self.model.spec.verdict(self.class_index, self.confidence)

    @property
    def class_name(self) -> str:
        return self.model.spec.class_names[self.class_index]

    @property
    def defect(self) -> bool:
        return self.model.spec.defects[self.class_index]

    def answer(self, milliseconds: float) -> dict[str, object]:
        """Return the body that answers a request."""
        return {
            "class": self.class_index,
            "class_name": self.class_name,
            "confidence": self.confidence,
            "defect_detected": self.defect,
            "verdict": self.verdict,
            "model_version": self.model.identity.version,
            "prediction_id": self.id,
            "inference_time_ms": round(milliseconds, 3),
        }

    def record(self, milliseconds: float, *, image_id: str, request_id: str) -> dict[str, object]:
        """Return what the logging service keeps of a prediction made now."""
        return {
            "prediction_id": self.id,
            "image_id": image_id or self.id,
            "request_id": request_id,
            "timestamp": time.time(),
            "model_name": self.model.identity.name,
            "model_version": self.model.identity.version,
            "inference_time_ms": round(milliseconds, 3),
            "detections": [
                {
                    "class": self.class_name,
                    "confidence": self.confidence,
                    "bbox": None,
                    "uncertain": self.verdict == "review",
                }
            ],
            "defect_detected": self.defect,
            "verdict": self.verdict,
            "confidence_scores": [round(score, 6) for score in self.probabilities],
        }


@dataclass(frozen=True, slots=True)
class Predicted:
    """The predictions of one request, in the order of its inputs."""

    predictions: Sequence[Prediction]
    milliseconds: float

    @property
    def model(self) -> ServedModel:
        """The one model that made all of them."""
        return self.predictions[0].model

    def bodies(self) -> list[dict[str, object]]:
        """Return the answer of `/predict` for each."""
        return [one.answer(self.milliseconds) for one in self.predictions]

    def records(self, *, image_id: str, request_id: str) -> list[dict[str, object]]:
        """Return what the logging service keeps of each.

        Several inputs that the client calls `image_id` are told apart by their place; those that
        it does not name are called by their prediction's id.
        """
        told_apart = image_id and len(self.predictions) > 1
        names = [
            f"{image_id}[{row}]" if told_apart else image_id for row in range(len(self.predictions))
        ]
        return [
            one.record(self.milliseconds, image_id=name, request_id=request_id)
            for one, name in zip(self.predictions, names, strict=True)
        ]

    def log(self) -> dict[str, object]:
        """Return what the log says of a request with several inputs."""
        return {
            "predictions": len(self.predictions),
            "first_prediction_id": self.predictions[0].id,
            "model_version": self.model.identity.version,
            "inference_time_ms": round(self.milliseconds, 3),
        }


@dataclass(slots=True)
class _Job:
    given: Input
    answer: "asyncio.Future[list[Prediction]]"
    predictions: list[Prediction] = field(default_factory=list)
    deferred: bool = False


class Engine:
    """Gives inputs to the model process; all of it runs on the event loop.

    `wait_seconds` is how long an input may wait for a model process that is being replaced.
    """

    def __init__(
        self, state: InferenceState, *, queue_size: int, max_batch: int, wait_seconds: float
    ) -> None:
        self._state = state
        self._queue_size = queue_size
        self._most_sent = _BATCHES_SENT * max_batch
        self._wait_seconds = wait_seconds
        self._writer: Writer | None = None
        self._queued: dict[int, _Job] = {}
        self._sent: dict[int, _Job] = {}
        # Inputs that clients wait for, and those of them that were sent and are not deferred.
        self._waiting = self._ahead = 0
        self._models: dict[int, ServedModel] = {}
        self._model: ServedModel | None = None
        # What inputs looked like for a model whose process is being replaced.
        self._expected: ModelSpec | None = None
        self._next_id = 0
        # The most inputs that one request may hold: as many as may wait; of a model with very many
        # classes, as many as have a million probabilities, since all answers are in memory at once.
        self.request_limit = queue_size

    @property
    def waiting(self) -> int:
        """Inputs that were taken and have no answer yet."""
        return self._waiting

    @property
    def model(self) -> ServedModel | None:
        """The model that answers; None while there is none."""
        return self._model

    @property
    def spec(self) -> ModelSpec:
        """What inputs have to look like.

        Raises ServiceError 503 while there is no model and none is expected back at once.
        """
        spec = self._model.spec if self._model is not None else self._expected
        if spec is None:
            raise _no_model()
        return spec

    async def predict(self, given: Input) -> list[Prediction]:
        """Return the predictions of one model for the inputs of a request, in their order.

        Raises ServiceError: 429 where too many wait, 503 where there is no model, 500 where the
        model failed, and what one of the inputs was refused with, for all of them.
        """
        if self._waiting + given.rows > self._queue_size:
            raise queue_full(f"{self._waiting} inputs wait for the model, of {self._queue_size}")
        answer: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        if self._model is None:
            if self._expected is None:
                raise _no_model()
            # One of those that wait for a new process: a client is told before it gives up.
            answer.get_loop().call_later(self._wait_seconds, self._no_longer_queued, given)
        given.id = self._next_id
        self._next_id += 1
        self._waiting += given.rows
        self._queued[given.id] = _Job(given, answer)
        self._send()
        try:
            return await answer
        finally:
            self._waiting -= given.rows
            self._give_up(given.id)

    async def drained(self, timeout_seconds: float) -> None:
        """Wait until nothing waits for the model, or for so long."""
        ends = time.monotonic() + timeout_seconds
        # An event would have to be cleared and set for every request.
        while self._waiting and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    def connected(self, writer: Writer) -> None:
        """Take the way to a new model process, which has no model yet."""
        self._writer = writer

    def disconnected(self, *, taken: int, comes_back: bool) -> None:
        """Fail what the process had taken: one of these inputs may be what ended it.

        `taken` is the last one's id. The others, and those queued, wait for the next process where
        it `comes_back` with a model.
        """
        self._expected = self._model.spec if comes_back and self._model is not None else None
        self._writer = self._model = None
        self._models.clear()
        sent, self._sent = self._sent, {}
        self._queued = {**{one: job for one, job in sent.items() if one > taken}, **self._queued}
        self._ahead = 0
        self._state.model_busy_since.set(0)
        for job in sent.values():
            if job.given.id <= taken:
                died = ServiceError(500, "model_failure", "the model's process died meanwhile")
                _fail(job.answer, died)
        if self._expected is None:
            self.expect_no_model()
        for job in self._queued.values():
            job.answer.get_loop().call_later(self._wait_seconds, self._no_longer_queued, job.given)

    def expect_no_model(self) -> None:
        """Refuse what waits for a new process's model: that one will not come soon."""
        if self._model is not None:
            return
        self._expected = None
        queued, self._queued = self._queued, {}
        for job in queued.values():
            _fail(job.answer, _no_model())

    def install(self, installed: Installed) -> None:
        """Take inputs for this model from now on."""
        self._models[installed.generation] = self._model = installed.model
        self._models.pop(installed.generation - _GENERATIONS_KNOWN, None)
        classes = len(installed.model.spec.class_names)
        self.request_limit = min(self._queue_size, max(1, _MOST_PROBABILITIES // classes))
        self._expected = None
        self._send()

    def deferred(self, deferred: Deferred) -> None:
        """Send others beside inputs that take their time."""
        for identifier in deferred.ids:
            job = self._sent.get(identifier)
            if job is not None:
                job.deferred = True
                self._ahead -= job.given.rows
        self._progressed()

    def refused(self, refused: Refused) -> None:
        """Hand on why an input got no answer."""
        job = self._taken_back(refused.id)
        self._progressed()
        if job is not None:
            _fail(job.answer, refused.error())

    def answered(self, answers: Answers) -> None:
        """Hand on the answers of one call of the model."""
        self._state.batch_size.observe(answers.inputs)
        self._state.model_duration.observe(answers.seconds)
        model = self._models.get(answers.generation)
        if model is None or not answers.ids:
            return
        done: list[_Job] = []
        for place, (identifier, index, row) in enumerate(
            zip(answers.ids, answers.classes, answers.rows(), strict=True)
        ):
            if (job := self._sent.get(identifier)) is not None:
                prediction = Prediction(
                    index,
                    row,
                    model,
                    answers.inputs,
                    answers.seconds,
                    answers.measures[place] if answers.measures else (),
                )
                job.predictions.append(prediction)
                if len(job.predictions) == job.given.rows:
                    self._taken_back(identifier)
                    done.append(job)
        self._progressed()
        _deliver(done)

    def _give_up(self, identifier: int) -> None:
        """Forget an input that nobody waits for any more, unless the model is about to see it."""
        self._queued.pop(identifier, None)
        job = self._sent.get(identifier)
        if job is not None and job.deferred and self._writer is not None:
            self._taken_back(identifier)
            self._writer.write(Withdrawn(identifier))
            self._progressed()

    def _taken_back(self, identifier: int) -> _Job | None:
        job = self._sent.pop(identifier, None)
        if job is not None and not job.deferred:
            self._ahead -= job.given.rows
        return job

    def _progressed(self) -> None:
        self._send()
        self._state.model_busy_since.set(time.monotonic() if self._sent else 0)

    def _send(self) -> None:
        """Send as much of what is queued as the process should have."""
        if self._writer is None or self._model is None or not self._queued:
            return
        if not self._sent:
            self._state.model_busy_since.set(time.monotonic())
        inputs: list[Input] = []
        while self._queued and self._ahead < self._most_sent:
            identifier = next(iter(self._queued))
            job = self._sent[identifier] = self._queued.pop(identifier)
            self._ahead += job.given.rows
            inputs.append(job.given)
        if inputs:
            self._writer.write(*inputs)

    def _no_longer_queued(self, given: Input) -> None:
        if self._model is None and (job := self._queued.pop(given.id, None)) is not None:
            _fail(job.answer, _no_model())


def _deliver(done: list[_Job]) -> None:
    for job in done[:_ANSWERS_AT_ONCE]:
        if not job.answer.done():  # its client timed out or left
            job.answer.set_result(job.predictions)
    if rest := done[_ANSWERS_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_deliver, rest)


def _fail(answer: "asyncio.Future[list[Prediction]]", error: ServiceError) -> None:
    if not answer.done():
        answer.set_exception(error)


def queue_full(why: str) -> ServiceError:
    """Return the refusal of an input because of those that wait already."""
    return ServiceError(429, "queue_full", f"{why}; try again later", headers=RETRY_LATER)


def _no_model() -> ServiceError:
    return ServiceError(
        503,
        "model_not_loaded",
        "there is no model yet; /ready says why",
        headers={"Retry-After": "5"},
    )
