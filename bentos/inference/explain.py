"""Which part of a picture decided: `POST /explain`."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.evidence import HeatMap
from bentos.inference.channel import Input, InputKind
from bentos.inference.engine import Prediction
from bentos.inference.model.spec import ModelSpec
from bentos.inference.request import check_sees_images
from bentos.inference.side import SideModel

IDLE_SECONDS = 60.0
_LOOK_SECONDS = 0.05
# The smallest probability that float32 holds in full, instead of none at all.
_LEAST = 2.0**-126


def heat_map_of(predictions: Sequence[Prediction], columns: int) -> HeatMap:
    """Return the heat map of what a model said of a picture, and of it with each part masked.

    `predictions` are in the order of `MaskedPictures`, `columns` the grid's.
    """
    seen, *masked = predictions
    odds = _log_odds(seen.probabilities, seen.class_index)
    drops = [round(odds - _log_odds(one.probabilities, seen.class_index), 6) for one in masked]
    return HeatMap(
        class_name=seen.class_name,
        confidence=seen.confidence,
        model_version=seen.model.identity.version,
        rows=len(drops) // columns,
        columns=columns,
        drops=[drops[at : at + columns] for at in range(0, len(drops), columns)],
    )


class Explainer:
    """Makes one heat map at a time, in a process that is there only while it is used.

    `make` returns that process, which is started for the first request and ended when nobody has
    asked for `idle_seconds`; a request gets its answer, or an error, within `seconds`. All of it
    runs on the event loop.
    """

    def __init__(
        self,
        make: Callable[[], SideModel],
        *,
        seconds: float,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._make = make
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        self._side: SideModel | None = None
        self._busy = False
        self._end: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, None while there is none."""
        return self._side.pid if self._side is not None else None

    async def explain(self, content: bytes) -> HeatMap:
        """Return the heat map of an image file.

        Raises ServiceError: 400 and 413 for a file that is refused, 429 where another one is
        being explained, 503 while the process starts, 504 where it takes too long.
        """
        if self._busy:
            raise ServiceError(
                429,
                "explain_busy",
                "another picture is being explained; try again later",
                headers=RETRY_LATER,
            )
        self._busy = True
        ends = time.monotonic() + self._seconds
        try:
            side = self._started()
            spec = await _spec_of(side, ends)
            check_sees_images(spec)
            rows, columns = spec.picture.grid if spec.picture else (0, 0)
            given = Input(InputKind.MASKED, content, rows=1 + rows * columns)
            seconds = max(0.0, ends - time.monotonic())
            return heat_map_of(await side.predict(given, seconds=seconds), columns)
        finally:
            self._busy = False
            self._end = asyncio.get_running_loop().create_task(self._end_when_idle())

    async def stop(self) -> None:
        """End the process, if there is one."""
        self._cancel_end()
        side, self._side = self._side, None
        if side is not None:
            await side.stop()

    def _started(self) -> SideModel:
        self._cancel_end()
        if self._side is None:
            self._side = self._make()
            self._side.start()
        return self._side

    def _cancel_end(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._idle_seconds)
        self._end = None  # from here on a request gets another process
        await self.stop()


async def _spec_of(side: SideModel, ends: float) -> ModelSpec:
    """Return what the model takes, once there is one.

    Raises ServiceError 503 where there is none when the time ends.
    """
    while (model := side.model) is None:
        if time.monotonic() > ends:
            why = f"; the last attempt: {side.error}" if side.error else ""
            raise ServiceError(
                503,
                "explain_starting",
                f"the model is being loaded for this{why}; try again later",
                headers={"Retry-After": "2"},
            )
        await asyncio.sleep(_LOOK_SECONDS)
    return model.spec


def _log_odds(probabilities: Sequence[float], index: int) -> float:
    """Return the log odds of a class, with as many digits as float32 has of the others.

    1 - p has none where p is next to 1; the sum of the others' probabilities has all of them.
    """
    others = sum(probabilities[:index]) + sum(probabilities[index + 1 :])
    return math.log(max(probabilities[index], _LEAST)) - math.log(max(others, _LEAST))
