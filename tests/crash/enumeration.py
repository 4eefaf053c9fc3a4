"""Power cuts, one after another: every moment of a recording, and what the disk may hold then."""

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bentos.logging.store.errors import StoreError
from tests.crash.disk import Content
from tests.crash.recorder import Moment, record, replay

_MEMORY = Path("/dev/shm")


class BrokenPromise(Exception):  # noqa: N818
    """What is left is not what was promised."""


@dataclass(frozen=True)
class Workload:
    """A module that is recorded; `read` gives each file it left, with the ids of predictions."""

    module: str
    read: Callable[[Path], Iterator[tuple[Path, list[str]]]]

    def check(self, directory: Path, said: Iterable[str]) -> None:
        """Raise BrokenPromise unless what was answered is there, or was stored, and once in a file.

        `said` is what was promised till then: `answered ID` and `stored ID`.
        """
        promised = [line.partition(" ") for line in said]
        found = {one for what, _, one in promised if what == "stored"}
        try:
            for path, ids in self.read(directory):
                with closing(sqlite3.connect(path)) as connection:
                    check = connection.execute("PRAGMA integrity_check").fetchall()
                if check != [("ok",)]:
                    raise BrokenPromise(f"{path.name}: {check}")
                if twice := [one for one, count in Counter(ids).items() if count > 1]:
                    raise BrokenPromise(f"{path.name} holds twice: {twice[:3]}")
                found.update(ids)
        except (sqlite3.Error, StoreError, ValueError) as error:
            raise BrokenPromise(f"it cannot be read: {error}") from error
        if lost := {one for what, _, one in promised if what == "answered"} - found:
            raise BrokenPromise(f"answered and lost: {sorted(lost)[:3]}")


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
        self._made = directory / "made"
        self._directory = self._made / "files"
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
            possible = moment.disk.states(chance, 4 * most)
            for content in _different(possible, moment.said, seen, most):
                outcome.states += 1
                try:
                    self._look_at(content, moment.said)
                except BrokenPromise as wrong:
                    outcome.broken.append(f"after call {moment.step}: {wrong}")
                    if stop_at_first:
                        return outcome
        return outcome

    def _moments(self) -> Iterator[Moment]:
        return replay(self._trace, self._made, self._markers)

    def _look_at(self, content: Content, said: Iterable[str]) -> None:
        scratch = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        try:
            for path, data in content.items():
                place = scratch / Path(path).relative_to(self._directory)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            self._workload.check(scratch, said)
        finally:
            shutil.rmtree(scratch)


def _different(
    states: Iterator[Content], said: frozenset[str], seen: set[int], most: int
) -> Iterator[Content]:
    """Yield up to `most` states that were not seen before after the same promises."""
    for content in states:
        key = hash((said, *sorted(content.items())))
        if key not in seen:
            seen.add(key)
            yield content
            most -= 1
        if most == 0:
            return
