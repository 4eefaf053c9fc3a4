"""The sliding window of outcomes: successes and errors of the last seconds, and their rate."""

import time
from collections.abc import Callable, Iterable, MutableSequence
from dataclasses import dataclass

WINDOW_SECONDS = 60
MINIMUM_REQUESTS = 20
MAXIMUM_ERROR_RATE = 0.5

_CELLS_PER_BUCKET = 3  # the second it stands for, successes, errors


def window_cells(seconds: int = WINDOW_SECONDS) -> int:
    """Return how many float cells a window of `seconds` takes."""
    return (seconds + 1) * _CELLS_PER_BUCKET


@dataclass(frozen=True)
class Outcomes:
    """Successes and errors of the service within the window."""

    successes: int
    errors: int

    @property
    def requests(self) -> int:
        return self.successes + self.errors

    @property
    def error_rate(self) -> float:
        """Errors over all outcomes, 0.0 where there were none."""
        return self.errors / self.requests if self.requests else 0.0

    def is_high(self) -> bool:
        """Return whether the rate is above 50% over at least MINIMUM_REQUESTS."""
        return self.requests >= MINIMUM_REQUESTS and self.error_rate > MAXIMUM_ERROR_RATE


class ErrorWindow:
    """Counts outcomes by second in cells that several processes may read.

    One process writes a window, any process reads it. `clock` gives monotonic seconds and has
    to be the same for all of them, as CLOCK_MONOTONIC is for the processes of one machine.
    """

    def __init__(
        self,
        cells: "MutableSequence[float] | memoryview[float]",
        *,
        seconds: int = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cells = cells
        self._seconds = seconds
        self._clock = clock

    def record(self, *, successes: int = 0, errors: int = 0) -> None:
        """Add outcomes to the present second."""
        second = int(self._clock())
        cells = self._cells
        at = second % (self._seconds + 1) * _CELLS_PER_BUCKET
        if cells[at] != second:
            # The counts are cleared before the bucket is renamed, so that a reader in another
            # process never takes counts of an hour ago for counts of now.
            cells[at + 1] = 0.0
            cells[at + 2] = 0.0
            cells[at] = float(second)
        cells[at + 1] += successes
        cells[at + 2] += errors

    def outcomes(self) -> Outcomes:
        """Return what happened within the last `seconds`."""
        now = int(self._clock())
        oldest = now - self._seconds
        successes = errors = 0.0
        cells = self._cells
        for at in range(0, len(cells), _CELLS_PER_BUCKET):
            if oldest < cells[at] <= now:
                successes += cells[at + 1]
                errors += cells[at + 2]
        return Outcomes(successes=int(successes), errors=int(errors))


def sum_outcomes(windows: Iterable[ErrorWindow]) -> Outcomes:
    """Return the outcomes of several windows, a pod's workers, taken together."""
    found = [window.outcomes() for window in windows]
    return Outcomes(sum(one.successes for one in found), sum(one.errors for one in found))
