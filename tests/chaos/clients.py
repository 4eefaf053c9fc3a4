"""Clients that predict without a pause and remember what was acknowledged."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.support.inference import channel

_PAUSE_SECONDS = 0.03
_BACK_OFF_SECONDS = 0.3


@dataclass
class Answers:
    """What clients were answered: ids of 200s, other answers by reason, and how often nothing."""

    acknowledged: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0

    @property
    def count(self) -> int:
        """Requests that were sent."""
        return len(self.acknowledged) + self.refused.total() + self.unanswered


class Clients:
    """So many clients at once, in a thread of their own, from `with` to its end.

    They send `inputs` in turns, by default one of each class of the colour model.
    """

    def __init__(
        self, url: str, *, count: int, inputs: Sequence[Sequence[float]] | None = None
    ) -> None:
        self.answers = Answers()
        self._url = url
        self._count = count
        self._inputs = inputs or [channel(index) for index in range(3)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Clients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._predict(index) for index in range(self._count)))

    async def _predict(self, index: int) -> None:
        body = np.array(self._inputs[index % len(self._inputs)], dtype="<f4").tobytes()
        headers = {"Content-Type": "application/octet-stream"}
        client = httpx.AsyncClient(timeout=20.0, trust_env=False, headers=headers)
        async with client:
            while not self._stop.is_set():
                await asyncio.sleep(_PAUSE_SECONDS)
                try:
                    answer = await client.post(f"{self._url}/predict", content=body)
                    content = answer.json()
                except (httpx.HTTPError, ValueError):
                    self.answers.unanswered += 1
                    await asyncio.sleep(_BACK_OFF_SECONDS)
                    continue
                if answer.status_code == 200:
                    self.answers.acknowledged.add(content["prediction_id"])
                else:
                    self.answers.refused[f"{answer.status_code} {content.get('reason')}"] += 1
                    await asyncio.sleep(_BACK_OFF_SECONDS)
