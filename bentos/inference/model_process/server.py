"""The model process's work: takes batches from the worker and answers them with the model.

A batch is whatever waits when the model comes free: alone, an input waits for nobody; under load
batches grow by themselves up to the model's own or the configured limit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.model import LoadedModel, ModelSpec, ServedModel
from bentos.inference.model_process.batches import Read, answer, refusal
from bentos.inference.model_process.connection import Connection
from bentos.inference.model_process.files import FileReader
from bentos.inference.model_process.inputs import InputReader
from bentos.inference.wire import Input, InputKind, InputRefused, Message, ModelInstalled


class ModelServer:
    """Owns the model in use; `serve` belongs to one thread, `install` may come from another."""

    def __init__(self, connection: Connection, *, max_batch: int, max_pixels: int) -> None:
        self._connection = connection
        self._max_batch = max_batch
        self._reader = InputReader()
        self._files = FileReader(
            max_pixels=max_pixels,
            find_spec=self._spec,
            on_input=lambda number, given: self._answer([(number, given)], InputReader().read),
            on_error=lambda number, error: self._tell([refusal(number, error)]),
        )
        self._next = Lock()
        self._in_use = Lock()
        self._model: LoadedModel | None = None
        self._generation = 0

    def install(self, model: LoadedModel) -> None:
        """Answer with this model from the next batch on, and release the one it replaces."""
        with self._turn():
            replaced, self._model = self._model, model
            self._generation += 1
            told = ModelInstalled(self._generation, ServedModel(model.identity, model.spec))
            self._connection.send([told])
        if replaced is not None:
            replaced.release()

    def serve(self) -> None:
        """Answer inputs until the worker closes the stream."""
        self._files.start()
        while inputs := self._connection.receive(self._max_batch):
            batch = []
            for number, given in inputs:
                if given.kind is InputKind.FILE:
                    self._files.put(number, given)
                else:
                    batch.append((number, given))
            if batch:
                self._answer(batch, self._reader.read)
        self._files.stop()

    def _answer(self, inputs: Sequence[tuple[int, Input]], read: Read) -> None:
        with self._turn():
            if self._model is None:
                told: list[Message] = [InputRefused(number, _no_model()) for number, _ in inputs]
            else:
                told = answer(self._model, self._generation, inputs, read)
        self._tell(told)

    def _tell(self, messages: Sequence[Message]) -> None:
        # Where the worker went without waiting, the next `receive` finds the stream's end.
        with suppress(ConnectionError):
            self._connection.send(messages)

    def _spec(self) -> ModelSpec:
        if self._model is None:
            raise _no_model()
        return self._model.spec

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the model; whoever waits for it holds the place behind, so that none is starved."""
        with self._next:
            self._in_use.acquire()
        try:
            yield
        finally:
            self._in_use.release()


def _no_model() -> ServiceError:
    return ServiceError(503, "model_not_loaded", "there is no model", headers=RETRY_LATER)
