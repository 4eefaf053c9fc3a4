"""How many predictions each of the last 60 minutes brought, without a query.

A counter is read every few seconds and what it grew by is kept. The database is not asked, so a
page costs the same however many predictions there are, and shows this while the database is away.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MINUTES = 60
SAMPLE_SECONDS = 5.0
_SAMPLES_A_MINUTE = round(60 / SAMPLE_SECONDS)


@dataclass(frozen=True)
class Minutes:
    """Counts of the last 60 minutes, the oldest first; None for a minute that nobody watched."""

    counts: tuple[int | None, ...]

    @property
    def now(self) -> int:
        """Count of the last 60 seconds."""
        return self.counts[-1] or 0

    @property
    def total(self) -> int:
        """Count of all minutes that were watched."""
        return sum(count or 0 for count in self.counts)

    @property
    def most(self) -> int:
        """Count of the fullest minute."""
        return max(count or 0 for count in self.counts)

    @property
    def watched(self) -> int:
        """Minutes that were watched, the first perhaps in part."""
        return sum(count is not None for count in self.counts)


class MinuteCounts:
    """Follows a counter that only grows; `sample` is to be called every SAMPLE_SECONDS."""

    def __init__(
        self, read: Callable[[], float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._last = read()
        self._slot = self._now()
        # What was counted in the running slot of SAMPLE_SECONDS, and in those before it.
        self._running = 0.0
        self._ended: deque[float] = deque(maxlen=MINUTES * _SAMPLES_A_MINUTE)

    def sample(self) -> None:
        """Note what the counter grew by; what was missed while this was not called counts now."""
        value = self._read()
        slot = self._now()
        for _ in range(min(slot - self._slot, MINUTES * _SAMPLES_A_MINUTE)):
            self._ended.append(self._running)
            self._running = 0.0
        self._slot = slot
        self._running += max(0.0, value - self._last)
        self._last = value

    def minutes(self) -> Minutes:
        """Return the counts as they stand; the last minute ends now."""
        self.sample()
        slots = [*self._ended, self._running][-MINUTES * _SAMPLES_A_MINUTE :]
        counts: list[int | None] = []
        while slots:
            counts.insert(0, round(sum(slots[-_SAMPLES_A_MINUTE:])))
            del slots[-_SAMPLES_A_MINUTE:]
        missing: list[int | None] = [None] * (MINUTES - len(counts))
        return Minutes((*missing, *counts))

    def _now(self) -> int:
        return int(self._clock() / SAMPLE_SECONDS)
