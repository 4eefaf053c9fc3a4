"""Growing pauses between attempts: the one back-off of everything that is tried again."""

import random


class Backoff:
    """Pauses that double from `first` to `longest` seconds, for as long as attempts fail.

    With `jitter` a pause is shortened at random by up to half, so that many clients do not come
    back in the same moment after an outage.
    """

    def __init__(self, first: float, longest: float, *, jitter: bool = False) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._pause = first

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, self._longest)
        return pause * random.uniform(0.5, 1.0) if self._jitter else pause  # noqa: S311

    def reset(self) -> None:
        """Begin with the first pause again: an attempt succeeded."""
        self._pause = self._first
