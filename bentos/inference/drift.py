"""How far what is served is from what the model was trained on, over a sliding window.

Every worker counts its predictions by the buckets of the model's profile, in the pod's memory, and
works out the pod's drift every few seconds.
"""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from bentos.health.values import Counter
from bentos.inference.engine import Prediction
from bentos.inference.model.profile import Profile
from bentos.inference.model.spec import ServedModel
from bentos.inference.state import DRIFT, QUANTITIES, InferenceState

LEAST_PICTURES = 200
_PAUSE_SECONDS = 5.0
# The window moves on in steps of this share of it.
_STEP = 1 / 60


class DriftWatch:
    """Counts predictions and says how far they are from the profile; for one worker's event loop.

    Without a profile it does nothing.
    """

    def __init__(
        self,
        state: InferenceState,
        *,
        window_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._window_seconds = window_seconds
        self._clock = clock
        self._profile: Profile | None = None
        # By quantity, its place among QUANTITIES, its edges, what was counted since the last beat,
        # and where that is added to the pod's memory: for each prediction it would take several
        # times as long.
        self._watched: dict[str, tuple[int, Sequence[float], list[int], list[Counter]]] = {}
        self._snapshots: deque[tuple[float, Mapping[str, list[float]]]] = deque()
        self._next_at = float("-inf")

    def count(self, prediction: Prediction) -> None:
        """Count a prediction by its model's profile, if there is one; numbers have no measures."""
        profile = prediction.model.spec.profile
        if profile is None:
            return
        if profile is not self._profile:
            self._follow(profile)
        values = (prediction.class_index, prediction.confidence, *prediction.measures)
        for place, edges, counts, _ in self._watched.values():
            if place < len(values):
                counts[bisect_right(edges, values[place])] += 1

    def beat(self, model: ServedModel | None) -> None:
        """Bring the pod's drift up to date, every few seconds; call it more often."""
        now = self._clock()
        if now < self._next_at or model is None:
            return
        self._next_at = now + _PAUSE_SECONDS
        if model.spec.profile is not self._profile:
            self._follow(model.spec.profile)
        if self._profile is None:
            return
        self._add_pending()
        counts, snapshots = self._counts(), self._snapshots
        if now - snapshots[-1][0] >= self._window_seconds * _STEP:
            snapshots.append((now, counts))
        while len(snapshots) > 1 and snapshots[1][0] <= now - self._window_seconds:
            snapshots.popleft()
        before = snapshots[0][1]
        known: dict[str, float] = {}
        for name, buckets in self._profile.items():
            new = [after - old for after, old in zip(counts[name], before[name], strict=True)]
            if sum(new) >= LEAST_PICTURES:
                known[name] = buckets.drift(new)
        self._state.write_text(DRIFT, known or None)

    def _follow(self, profile: Profile | None) -> None:
        """Count by the profile of a model that has just come; another one begins a new window."""
        changed = profile != self._profile
        self._profile = profile
        self._watched = {}
        for name, buckets in (profile or {}).items():
            places = range(len(buckets.shares))
            cells = [self._state.drift_counts[name, str(place)] for place in places]
            self._watched[name] = (QUANTITIES.index(name), buckets.edges, [0 for _ in cells], cells)
        if changed:
            self._state.write_text(DRIFT, None)
            self._snapshots = deque([(self._clock(), self._counts())])

    def _add_pending(self) -> None:
        for _, _, counts, cells in self._watched.values():
            for cell, count in zip(cells, counts, strict=True):
                if count:
                    cell.add(count)
            counts[:] = [0] * len(counts)

    def _counts(self) -> Mapping[str, list[float]]:
        """Return what the pod has counted since it started."""
        return {
            name: [cell.value for cell in cells] for name, (_, _, _, cells) in self._watched.items()
        }
