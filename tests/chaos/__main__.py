"""`make chaos`: everything that can go wrong between a prediction and the database, on purpose.

Exit status: 0 where every acknowledged prediction was stored once, 1 otherwise. The table goes to
the page named by `--page`.
"""

import argparse
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import faults
from tests.chaos.run import CLIENTS, Row, run, world
from tests.support.models import make_store

_PAGE = """\
# What was broken, and what was stored

`make chaos` starts both services as `bentoml serve` does, with {clients} clients that predict all
the time and a small proxy between the services, and breaks things at random moments. After each
fault it waits until the outbox is empty and compares: every prediction that was answered with 200
must stand in the database, none twice; the counters, `/stats` and the database must say the same;
nothing may have been dropped, lost or refused; `PRAGMA integrity_check` must say `ok`.

A request that got no answer, because its worker was killed, may have been stored or not: nobody
was promised anything. Refused are requests that got an error with a reason, as 503 while there is
no model or the outbox's disk is full.

Last run: {date}, seed {seed}, {minutes:.0f} minutes.

{head}
|---|---|---|---|---|---|---|---|---|---|
{lines}

The same in a short run in `make test` (`tests/chaos/test_chaos.py`). Power cuts are another matter:
`make crash-test` (`tests/crash`) enumerates them.
"""


_HEAD = (
    *("fault", "times", "requests", "acknowledged", "refused", "unanswered"),
    *("stored", "lost", "stored twice", "verdict"),
)


def main() -> int:
    """Make every fault, print a line for each, and store the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="random moments")
    parser.add_argument("--times", type=int, help="instead of each fault's own number")
    parser.add_argument("--away", type=float, default=600.0, help="seconds without logging (600)")
    parser.add_argument("--only", default="", help="faults with one of these texts, a|b, in them")
    parser.add_argument("--page", type=Path, help="where the table goes, e.g. docs/chaos.md")
    options = parser.parse_args()
    # SIGTERM ends the run in order: services are stopped and disks unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    print(f"seed {options.seed}", flush=True)
    started = time.monotonic()
    plan = [
        (fault, min(options.times or fault.times, fault.times))
        for fault in faults(away_seconds=options.away)
        if any(text in fault.name for text in options.only.split("|"))
    ]
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as scratch:
        store = make_store(Path(scratch) / "models")
        with world(Path(scratch), store) as services:
            rows = run(
                services, plan, seed=options.seed, report=lambda row: print(_line(row), flush=True)
            )
    if options.page:
        options.page.write_text(
            _PAGE.format(
                clients=CLIENTS,
                head=f"| {' | '.join(_HEAD)} |",
                date=datetime.now(UTC).date(),
                seed=options.seed,
                minutes=(time.monotonic() - started) / 60,
                lines="\n".join(map(_line, rows)),
            )
        )
    return 1 if any(row.wrong for row in rows) else 0


def _line(row: Row) -> str:
    answers = row.answers
    cells = [
        row.fault,
        *map(str, (row.times, answers.count, len(answers.acknowledged))),
        *map(str, (answers.refused.total(), answers.unanswered, row.stored)),
        *map(str, (row.lost, row.duplicates)),
        "; ".join(row.wrong) or "as promised",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
