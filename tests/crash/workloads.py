"""What is recorded, and how what it leaves is read, with the service's own code."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson

from bentos.inference.delivery.outbox import (
    Outbox,
    files_to_adopt,
    is_set_aside,
    outbox_path,
    outboxes_in,
)
from bentos.logging.store.sqlite import SqliteDatabase
from tests.crash.enumeration import BrokenPromise, Workload
from tests.crash.predictions_workload import DATABASE

# Variants that are broken on purpose: one that leaves it to the system when content reaches the
# disk, and one when names do.
VARIANTS = ("no-fsync", "no-names")
_ALL = 1_000_000


def _outboxes(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    files = [*outboxes_in(directory).values(), *files_to_adopt(directory, worker=1, workers=1)]
    if any(is_set_aside(path) for path in files):
        raise BrokenPromise("a file was set aside")
    # The service makes its own file where there is none.
    for path in {*files, outbox_path(directory, 1)}:
        with closing(Outbox(path)) as outbox:
            predictions = [prediction for _, prediction in outbox.oldest(_ALL)]
            predictions += [one.prediction for one in outbox.dead_letters(rows=_ALL)]
        yield path, [str(orjson.loads(one)["prediction_id"]) for one in predictions]


def _database(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    path = directory / DATABASE
    database = SqliteDatabase(path, busy_timeout_seconds=5.0)
    database.open()
    with closing(database), closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT prediction_id FROM predictions").fetchall()
    yield path, [str(row[0]) for row in rows]


WORKLOADS = {
    "outbox": Workload("tests.crash.outbox_workload", _outboxes),
    "predictions": Workload("tests.crash.predictions_workload", _database),
}
