"""Many schedules, one after another."""

import asyncio
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bentos.inference.state import InferenceState
from bentos.logging.store.sqlite import SqliteDatabase
from tests.simulation.world import PromiseBroken, World

_MEMORY = Path("/dev/shm")


@dataclass
class Result:
    """What happened in all of them together, and which seeds broke which promise."""

    schedules: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)


def run(seeds: Iterable[int], *, stop_at_first: bool = False) -> Result:
    """Let each seed's schedule happen, in memory where there is a disk of it.

    With `stop_at_first`, until one breaks a promise.
    """
    result = Result()
    # What the services would log is a line for each fault.
    level = logging.getLogger("bentos").level
    logging.getLogger("bentos").setLevel(logging.CRITICAL)
    scratch = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        with closing(asyncio.new_event_loop()) as loop:
            template = _empty_database(scratch / "template.db")
            state = InferenceState(scratch, labels={"model": "m", "stage": "s"})
            for seed in seeds:
                directory = scratch / str(seed)
                world = World(seed, directory, state=state, loop=loop, template=template)
                try:
                    world.run()
                except Exception as error:
                    text = str(error) if isinstance(error, PromiseBroken) else repr(error)
                    result.broken[seed] = text
                result.schedules += 1
                result.counts += world.counts
                shutil.rmtree(directory)
                if result.broken and stop_at_first:
                    break
    finally:
        shutil.rmtree(scratch)
        logging.getLogger("bentos").setLevel(level)
    return result


def _empty_database(path: Path) -> Path:
    database = SqliteDatabase(path, busy_timeout_seconds=1.0)
    database.open()
    database.close()
    return path
