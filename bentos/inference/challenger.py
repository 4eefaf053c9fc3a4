"""A second version of the model that is asked what the served one is asked, and only compared.

It gets a sample of the requests, each after its answer was sent, and only while nobody waits for
the served model. What it says goes to nobody but the metrics and the evidence.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bentos.edge.http import ServiceError
from bentos.inference.channel import Input
from bentos.inference.engine import Engine, Prediction
from bentos.inference.side import SideModel
from bentos.inference.state import InferenceState

# Of the time, how much is spent on comparisons at most, unless each takes longer than a fifth of a
# second. Even of the lowest priority they take a part of what a container or a session may use of
# a busy processor; there they also take longer, so that there are fewer of them.
_TIME = 0.02
_LONGEST_PAUSE_SECONDS = 10.0

# Gets what the challenger said of each input of a request, None where it was not asked or failed.
Then: TypeAlias = Callable[[Sequence[Prediction] | None], None]


class Challenger:
    """Compares the model in `side` with the served one of `champion`; all on the event loop.

    `share` is that of the requests that are compared, at most; `seconds` how long an answer may
    take before the process is ended.
    """

    def __init__(
        self,
        side: SideModel,
        champion: Engine,
        state: InferenceState,
        *,
        share: float,
        seconds: float,
    ) -> None:
        self._side = side
        self._champion = champion
        self._state = state
        self._share = share
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._next_at = 0.0

    def start(self) -> None:
        """Start its process; nothing waits for its model."""
        self._side.start()

    async def stop(self) -> None:
        """End its process; what is being compared is left out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._side.stop()

    def beat(self) -> None:
        """Say which version would be asked now; called every second or so."""
        model = self._side.model
        self._state.challenger_is(model.identity.version if model is not None else None)

    def offer(self, given: Input, said: Sequence[Prediction], then: Then) -> None:
        """Have a sample of the requests answered a second time, once their answers are sent.

        `said` is what the served model said of the request's inputs. `then` is called exactly
        once, at once for a request that is not in the sample.
        """
        if random.random() >= self._share:  # noqa: S311 - a sample, no secret
            then(None)
            return
        # The answer is sent before the event loop comes to this.
        asyncio.get_running_loop().call_soon(self._begin, given, said, then)

    def _begin(self, given: Input, said: Sequence[Prediction], then: Then) -> None:
        early = time.monotonic() < self._next_at
        busy = self._task is not None and not self._task.done()
        if early or busy or self._champion.waiting or self._side.model is None:
            self._state.shadow["skipped"].add(len(said))
            then(None)
            return
        # The served model's engine numbered the other one.
        copy = Input(given.kind, given.content, rows=given.rows, dtype=given.dtype)
        self._task = asyncio.get_running_loop().create_task(self._compare(copy, said, then))

    async def _compare(self, given: Input, said: Sequence[Prediction], then: Then) -> None:
        answers: Sequence[Prediction] | None = None
        started = time.monotonic()
        try:
            answers = await self._side.predict(given, seconds=self._seconds)
        except ServiceError:
            self._state.shadow["failed"].add(len(said))
        else:
            pairs = zip(said, answers, strict=True)
            differed = sum(one.class_name != other.class_name for one, other in pairs)
            self._state.shadow["differed"].add(differed)
            self._state.shadow["agreed"].add(len(said) - differed)
        finally:
            ended = time.monotonic()
            pause = (ended - started) * (1 / _TIME - 1)
            self._next_at = ended + min(pause, _LONGEST_PAUSE_SECONDS)
            then(answers)
