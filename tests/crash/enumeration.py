"""Power cuts, one after another: every moment of a recording, and what the disk may hold then."""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk import Content
from tests.crash.recorder import Moment, record, replay

Check = Callable[[Path, Iterable[str]], str | None]
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Workload:
    """A module that is recorded, and the check of what it leaves."""

    module: str
    check: Check


@dataclass
class Outcome:
    """How many states were looked at, in how many moments, and what was wrong in which of them."""

    moments: int = 0
    states: int = 0
    broken: list[str] = field(default_factory=list)


class Recording:
    """A workload that has run once."""

    def __init__(self, workload: Workload, directory: Path, *options: str) -> None:
        self._workload = workload
        self._directory = directory / "files"
        others = directory / "others"
        others.mkdir(parents=True)
        self._markers = others / "markers"
        self._trace = directory / "trace"
        record(workload.module, [self._directory, others, *options], self._trace, seconds=300.0)
        self.moments = sum(1 for _ in self._moments())

    def cut(self, *, states: int, seed: int = 1, stop_at_first: bool = False) -> Outcome:
        """Look at so many different states, spread evenly over the moments of the recording."""
        chance = random.Random(seed)
        outcome = Outcome()
        seen: set[int] = set()
        for position, moment in enumerate(self._moments()):
            left = self.moments - position
            # With fewer states than moments, a moment is looked at with this chance.
            wanted = (states - outcome.states) / left
            most = int(wanted) + (chance.random() < wanted % 1)
            if most == 0:
                continue
            outcome.moments += 1
            for content in _different(moment.disk.states(chance, 4 * most), seen, most):
                outcome.states += 1
                wrong = self._look_at(content, moment.said)
                if wrong is not None:
                    outcome.broken.append(f"after call {moment.step}: {wrong}")
                    if stop_at_first:
                        return outcome
        return outcome

    def _moments(self) -> Iterator[Moment]:
        return replay(self._trace, self._directory, self._markers)

    def _look_at(self, content: Content, said: Iterable[str]) -> str | None:
        scratch = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        try:
            for path, data in content.items():
                place = scratch / Path(path).relative_to(self._directory)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            return self._workload.check(scratch, said)
        finally:
            shutil.rmtree(scratch)


def _different(states: Iterator[Content], seen: set[int], most: int) -> Iterator[Content]:
    """Yield up to `most` states that were not seen before, here or at another moment."""
    for content in states:
        key = hash(tuple(sorted(content.items())))
        if key not in seen:
            seen.add(key)
            yield content
            most -= 1
        if most == 0:
            return
