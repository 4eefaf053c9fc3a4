"""A second model process, for work that may be late, fail or be left out.

Nothing of it reaches the pod: neither its probes, nor its counts, nor what it answers. Its state is
in memory of its own, which no probe and no scrape reads.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from bentos.edge.http import ServiceError
from bentos.inference.channel import Input, ModelProcess
from bentos.inference.engine import Engine, Prediction
from bentos.inference.model.spec import ServedModel
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.inference.state import LOAD, SERVICE_NAME, InferenceState

_LOWEST_PRIORITY = 19
# A process says something every second. On a busy machine one of the lowest priority may be late,
# and most of all while it starts.
_SILENT_SECONDS = 120.0
_LOOK_SECONDS = 1.0
# One that ends sooner, with a model or not, is started again after growing pauses: a start takes
# seconds of a core.
_PROVEN_SECONDS = 600.0


class SideModel:
    """A model of the registry in a process of the lowest priority, asked one request at a time.

    It follows the alias `stage`, and runs on the CPU with one thread. A process that hangs is
    ended. `name` is what log lines call it. All of it runs on the event loop.
    """

    def __init__(
        self, settings: InferenceSettings, *, name: str, stage: str, worker: int, most_rows: int
    ) -> None:
        self._name = name
        own = settings.model_copy(
            update={
                "model_stage": stage,
                "shadow_stage": "",
                # They may be of classes that this model has not; its verdicts go to nobody.
                "thresholds": {},
                # A GPU knows no priorities, and its memory is the served model's.
                "device": "cpu",
                "torch_threads": 1,
                "model_spread_seconds": 0.0,
            }
        )
        given = ModelProcessSettings(
            settings=own,
            service=f"{SERVICE_NAME} {name}",
            worker=worker,
            niceness=_LOWEST_PRIORITY,
            data_bytes=settings.side_memory_bytes,
        )
        with tempfile.TemporaryDirectory(prefix="side-") as directory:
            self._state = InferenceState(Path(directory), service=SERVICE_NAME)
        self._engine = Engine(
            self._state, queue_size=most_rows, max_batch=own.max_batch_size, wait_seconds=0.0
        )
        self._process = ModelProcess(
            given.model_dump_json(),
            self._engine,
            self._state,
            name=f"{name}'s process",
            proven_seconds=_PROVEN_SECONDS,
        )
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid

    @property
    def model(self) -> ServedModel | None:
        """The model that would answer now, None while there is none."""
        return self._engine.model

    @property
    def error(self) -> str | None:
        """Why there is no model, None where nothing has failed."""
        load = self._state.text(LOAD) or {}
        return load.get("error")

    def start(self) -> None:
        """Start the process; nothing waits for its model."""
        self._process.start()
        self._watch = asyncio.get_running_loop().create_task(self._end_when_silent())

    async def stop(self) -> None:
        """End the process at once."""
        if self._watch is not None:
            self._watch.cancel()
        await self._process.stop()

    async def predict(self, given: Input, *, seconds: float) -> list[Prediction]:
        """Return the predictions for the inputs of a request.

        Raises ServiceError: 504 where it takes longer than `seconds`, and what `Engine.predict`
        raises. A process that nobody waits for any more is ended: it may hang.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._engine.predict(given)
        except TimeoutError:
            self._process.kill()
            raise ServiceError(
                504, "timeout", f"the {self._name} gave no answer within {seconds:g} seconds"
            ) from None
        except asyncio.CancelledError:
            self._process.kill()
            raise

    async def _end_when_silent(self) -> None:
        """End a process that says nothing any more, as one that is stopped or stuck in a load."""
        started: tuple[int | None, float] = (None, 0.0)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            if self.pid != started[0]:
                started = (self.pid, now)
            silent_since = max(started[1], self._state.model_heard_at.get())
            if self.pid is not None and now - silent_since > _SILENT_SECONDS:
                self._process.kill()
