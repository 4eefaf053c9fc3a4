"""A fake model behind a real model server, on a thread, and an engine that asks it."""

import asyncio
import inspect
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from bentos.inference.channel import (
    Answers,
    Connection,
    Deferred,
    Input,
    InputKind,
    Installed,
    Refused,
    ToWorker,
    Writer,
    _WorkerEnd,
)
from bentos.inference.engine import Engine, Prediction
from bentos.inference.model.answering import ModelServer
from bentos.inference.model.spec import Metadata, ModelIdentity, ModelSpec, picture_of
from bentos.inference.model.warm_up import LoadedModel
from bentos.inference.state import InferenceState

FAILS = 666.0
GIVES_NAN = 13.0
BREAKS = 999.0
MAX_PIXELS = 1_000_000
WAIT_SECONDS = 30.0

P = ParamSpec("P")


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
        self.broken = False
        self.called = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.loaded = LoadedModel(
            identity=ModelIdentity("model", "production", version),
            spec=ModelSpec(
                shape, dtype, ("no", "yes"), (False, True), picture_of(shape, dtype, Metadata())
            ),
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
        self.broken = self.broken or bool((inputs == BREAKS).any())
        if self.broken or (inputs == FAILS).any():
            raise ValueError("the model cannot bear this input")
        flat = inputs.reshape(len(inputs), -1).astype(np.float32)
        flat[flat == GIVES_NAN] = np.nan
        with np.errstate(over="ignore"):
            return np.stack([flat[:, 0], flat[:, 1] ** 2], axis=1)

    def hold(self) -> None:
        """Let the next call not return before `free` is set."""
        self.called.clear()
        self.free.clear()


def make_state(directory: Path) -> InferenceState:
    """Return a state of its own, in a directory."""
    return InferenceState(directory, labels={"model": "model", "stage": "production"})


class Bench:
    """An engine, the server it asks, and what is asked of it."""

    def __init__(self, directory: Path, *, queue_size: int, max_batch: int) -> None:
        self.state = make_state(directory)
        self.engine = Engine(
            self.state, queue_size=queue_size, max_batch=max_batch, wait_seconds=WAIT_SECONDS
        )
        self.model = Model()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.broken = threading.Event()
        self._installed = asyncio.Event()
        self._ours, theirs = socket.socketpair()
        self._theirs = theirs
        self._server = ModelServer(
            Connection(theirs),
            max_batch=max_batch,
            max_pixels=MAX_PIXELS,
            on_broken=self.broken.set,
        )
        self._thread = threading.Thread(target=self._server.serve, daemon=True)
        self._transport: asyncio.Transport | None = None

    @property
    def calls(self) -> tuple[int, float]:
        """How often the model was called, and with how many inputs in all."""
        ((_, counts, inputs),) = self.state.batch_size.series()
        return int(counts[-1][1]), inputs

    @property
    def busy_since(self) -> float:
        return self.state.model_busy_since.get()

    @property
    def deferred(self) -> int:
        """How many inputs wait apart from the others."""
        return sum(job.deferred for job in self.engine._sent.values())

    async def start(self) -> None:
        """Connect the two and let the first model answer."""
        self._ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(
            lambda: _WorkerEnd(self._received, self.ended), sock=self._ours
        )
        self.engine.connected(Writer(self._transport.write))
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
        """Ask for the prediction of raw numbers."""
        return self.ask_input(Input(InputKind.TENSOR, np.array([values], np.float32).tobytes()))

    def ask_input(self, given: Input) -> "asyncio.Task[Prediction]":
        """Ask for the prediction of one input."""

        async def ask() -> Prediction:
            (prediction,) = await self.engine.predict(given)
            return prediction

        return asyncio.ensure_future(ask())

    async def settle(self) -> None:
        """Let what was asked go as far as it can without the model."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def hold(self) -> "asyncio.Task[Prediction]":
        """Ask for a first prediction that stays in the model until `free` is called."""
        self.model.hold()
        first = self.ask(1.0, 0.0)
        assert await asyncio.to_thread(self.model.called.wait, WAIT_SECONDS)
        return first

    def free(self) -> None:
        """Let the model answer what it holds."""
        self.model.free.set()

    def _received(self, message: ToWorker) -> None:
        if isinstance(message, Answers):
            self.engine.answered(message)
        elif isinstance(message, Refused):
            self.engine.refused(message)
        elif isinstance(message, Deferred):
            self.engine.deferred(message)
        else:
            assert isinstance(message, Installed)
            self.engine.install(message)
            self._installed.set()


def on_bench(
    *, queue_size: int = 100, max_batch: int = 64
) -> Callable[[Callable[Concatenate[Bench, P], Awaitable[None]]], Callable[P, None]]:
    """Make a coroutine function a test: its first argument is a bench that has its first model."""

    def decorate(test: Callable[Concatenate[Bench, P], Awaitable[None]]) -> Callable[P, None]:
        @wraps(test)
        def on_its_own(*arguments: P.args, **named: P.kwargs) -> None:
            async def main(directory: str) -> None:
                bench = Bench(Path(directory), queue_size=queue_size, max_batch=max_batch)
                await bench.start()
                try:
                    await asyncio.wait_for(test(bench, *arguments, **named), WAIT_SECONDS)
                finally:
                    bench.free()
                    await bench.stop()

            with tempfile.TemporaryDirectory() as directory:
                asyncio.run(main(directory))

        # The other arguments are fixtures, which pytest finds by these names.
        signature = inspect.signature(test)
        _, *fixtures = signature.parameters.values()
        on_its_own.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return on_its_own

    return decorate
