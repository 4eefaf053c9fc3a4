"""A fake model behind a real model server, on a thread, and an engine that asks it."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bentos.inference.engine import Engine, Prediction
from bentos.inference.model import LoadedModel, ModelIdentity, ModelSpec
from bentos.inference.model_process.connection import Connection
from bentos.inference.model_process.server import ModelServer
from bentos.inference.process import Listener
from bentos.inference.wire import Answers, Input, InputRefused, Message, ModelInstalled

FAILS = 666.0
GIVES_NAN = 13.0
MAX_PIXELS = 1_000_000
WAIT_SECONDS = 30.0


class Model:
    """A model that tells the batches it got, and that a test may hold back."""

    def __init__(
        self,
        version: str = "1",
        *,
        shape: tuple[int, ...] = (1, 2),
        max_batch: int = 64,
        dtype: str = "float32",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.batches: list[int] = []
        self.types: list[np.dtype[Any]] = []
        self.called = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.loaded = LoadedModel(
            identity=ModelIdentity("model", "production", version),
            spec=ModelSpec(shape, np.dtype(dtype), ("no", "yes"), (False, True)),
            forward=self.forward,
            output="logits",
            max_batch=max_batch,
            release=release,
        )

    def forward(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        self.called.set()
        assert self.free.wait(WAIT_SECONDS)
        self.batches.append(len(inputs))
        self.types.append(inputs.dtype)
        if len(inputs) > self.loaded.max_batch:
            raise ValueError("more than the model was exported for")
        if (inputs == FAILS).any():
            raise ValueError("the model cannot bear this input")
        flat = inputs.reshape(len(inputs), -1).astype(np.float32)
        flat[flat == GIVES_NAN] = np.nan
        with np.errstate(over="ignore"):
            return np.stack([flat[:, 0], flat[:, 1] ** 2], axis=1)

    def hold(self) -> None:
        """Let the next call not return before `free` is set."""
        self.called.clear()
        self.free.clear()


class Observer:
    """Keeps what the engine tells of the model's work."""

    def __init__(self) -> None:
        self.inputs: list[int] = []
        self.busy: list[float | None] = []

    def model_busy(self, since: float | None) -> None:
        self.busy.append(since)

    def model_called(self, *, inputs: int, seconds: float) -> None:
        assert seconds >= 0
        self.inputs.append(inputs)


class Bench:
    """An engine, the server it asks, and what is asked of it."""

    def __init__(self, *, queue_size: int, max_batch: int) -> None:
        self.observer = Observer()
        self.engine = Engine(
            queue_size=queue_size,
            max_batch=max_batch,
            max_pixels=MAX_PIXELS,
            observer=self.observer,
        )
        self.model = Model()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._installed = asyncio.Event()
        self._ours, theirs = socket.socketpair()
        self._theirs = theirs
        self._server = ModelServer(Connection(theirs), max_batch=max_batch, max_pixels=MAX_PIXELS)
        self._thread = threading.Thread(target=self._server.serve, daemon=True)
        self._transport: asyncio.Transport | None = None

    async def start(self) -> None:
        """Connect the two and let the first model answer."""
        self._ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(
            lambda: Listener(self._hear, self.ended), sock=self._ours
        )
        self.engine.connected(self._transport.write)
        self._thread.start()
        await self.install(self.model)

    async def stop(self) -> None:
        """Close the stream and wait for the server's end."""
        assert self._transport is not None
        self._transport.close()
        await asyncio.to_thread(self._thread.join, WAIT_SECONDS)
        self._theirs.close()
        assert not self._thread.is_alive()

    async def install(self, model: Model) -> None:
        """Let a model answer from now on, and wait until the engine knows it."""
        self._installed.clear()
        await asyncio.to_thread(self._server.install, model.loaded)
        await asyncio.wait_for(self._installed.wait(), WAIT_SECONDS)

    async def install_next(self, model: Model) -> "asyncio.Future[None]":
        """Let a model wait until the one that is busy comes free."""
        installing = asyncio.ensure_future(asyncio.to_thread(self._server.install, model.loaded))
        while not self._server._next.locked():  # noqa: ASYNC110 - a lock of threads
            await asyncio.sleep(0.001)
        return installing

    def ask(self, *values: float) -> "asyncio.Task[Prediction]":
        """Ask for the prediction of an array that was read for a model of its shape."""
        return self.ask_input(Input.from_array(np.array([values], np.float32)))

    def ask_input(self, given: Input) -> "asyncio.Task[Prediction]":
        """Ask for a prediction."""
        return asyncio.ensure_future(self.engine.predict(given))

    async def hold(self) -> "asyncio.Task[Prediction]":
        """Ask for a first prediction that stays in the model until `free` is called."""
        self.model.hold()
        first = self.ask(1.0, 0.0)
        assert await asyncio.to_thread(self.model.called.wait, WAIT_SECONDS)
        return first

    def free(self) -> None:
        """Let the model answer what it holds."""
        self.model.free.set()

    def _hear(self, message: Message) -> None:
        if isinstance(message, Answers):
            self.engine.answered(message)
        elif isinstance(message, InputRefused):
            self.engine.refused(message)
        else:
            assert isinstance(message, ModelInstalled)
            self.engine.install(message.generation, message.model)
            self._installed.set()


def run(
    test: Callable[[Bench], Awaitable[None]], *, queue_size: int = 100, max_batch: int = 64
) -> None:
    """Run a test on an engine whose server has its first model."""

    async def main() -> None:
        bench = Bench(queue_size=queue_size, max_batch=max_batch)
        await bench.start()
        try:
            await asyncio.wait_for(test(bench), WAIT_SECONDS)
        finally:
            bench.free()
            await bench.stop()

    asyncio.run(main())
