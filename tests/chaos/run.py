"""A run: faults while clients predict, and after each the comparison of what must be equal."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.clients import Answers, Clients
from tests.chaos.faults import Fault
from tests.chaos.world import World
from tests.support.disks import small_disk
from tests.support.models import ModelStore

CLIENTS = 16


@dataclass
class Row:
    """One line of the table: a fault, and what came of it."""

    fault: str
    times: int
    answers: Answers
    stored: int = 0
    lost: int = 0
    duplicates: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def world(directory: Path, store: ModelStore) -> Iterator[World]:
    """Start both services, each with a small disk of its own for what it keeps."""
    with ExitStack() as stack:
        outboxes = stack.enter_context(small_disk(directory / "outboxes", size="64M"))
        databases = stack.enter_context(small_disk(directory / "databases", size="256M"))
        made = World(directory, store, outboxes=outboxes, databases=databases)
        stack.callback(made.close)
        made.wait_until_ready()
        yield made


def run(
    services: World,
    faults: Sequence[tuple[Fault, int]],
    *,
    seed: int,
    clients: int = CLIENTS,
    report: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Make each fault so many times at random moments, and compare after each."""
    chance = random.Random(seed)
    rows = []
    for fault, times in faults:
        services.settle()
        before = _Figures(services)
        started = time.monotonic()
        with Clients(services.inference.url, count=clients) as sending:
            for _ in range(times):
                time.sleep(chance.uniform(0.3, 1.5))
                fault.action(services, chance)
            time.sleep(chance.uniform(0.3, 1.0))
        services.settle()
        row = Row(fault.name, times, sending.answers, seconds=time.monotonic() - started)
        _compare(services, before, row, restarts=fault.restarts)
        rows.append(row)
        report(row)
    return rows


class _Figures:
    """What both services have counted, and what is stored."""

    def __init__(self, services: World) -> None:
        self.stored = services.stored()
        self.predictions = services.counted("inference_predictions_total")
        self.logged = services.counted("logging_predictions_total")
        self.given_up = sum(
            services.counted(f"inference_log_{name}")
            for name in ("dropped_total", "refused_total", "lost_total", "dead_letters")
        )


def _compare(services: World, before: _Figures, row: Row, *, restarts: bool) -> None:
    after = _Figures(services)
    new = set(after.stored) - set(before.stored)
    row.stored = len(new)
    acknowledged = row.answers.acknowledged
    row.lost = len(acknowledged - new)
    row.duplicates = len(after.stored) - len(set(after.stored))
    unasked = len(new - acknowledged)
    checks = {
        f"{row.lost} acknowledged and not stored": row.lost == 0,
        f"{row.duplicates} stored twice": row.duplicates == 0,
        # A request that got no answer may have been stored; nothing else may.
        f"{unasked} stored that nobody asked for": unasked
        <= row.answers.unanswered + _refused(row),
        "something was given up": after.given_up == 0,
        f"integrity_check says {services.integrity()}": services.integrity() == "ok",
        "/stats and the database differ": services.total_of_stats() == len(after.stored),
        "nothing was acknowledged": bool(acknowledged),
    }
    if not restarts:
        counted = after.predictions - before.predictions
        logged = after.logged - before.logged
        most = len(acknowledged) + row.answers.unanswered
        checks[f"inference counts {counted} predictions"] = len(acknowledged) <= counted <= most
        checks[f"logging counts {logged} predictions"] = logged == len(new)
    row.wrong = [what for what, holds in checks.items() if not holds]


def _refused(row: Row) -> int:
    """Return the requests that ended in an error although their prediction may be on disk."""
    return sum(count for what, count in row.answers.refused.items() if what.startswith("50"))
