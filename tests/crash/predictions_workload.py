"""A logging service's store that batches flow into, to be recorded.

Arguments: the directory of the database, one for other files, and `no-fsync` or `no-names` for a
variant that is broken on purpose. The file `markers` of the other directory says what has been
promised until then: `answered ID` of each prediction whose batch was answered.
"""

import asyncio
import contextlib
import random
import sqlite3
import sys
from functools import partial
from pathlib import Path
from unittest import mock

from bentos.logging.state import LoggingState
from bentos.logging.store import Store, StoredPrediction, schema
from bentos.logging.store.sqlite import SqliteDatabase
from tests.crash.outbox_workload import Markers, syncing
from tests.support.logging_store import row
from tests.support.servers import wait_until

DATABASE = "predictions.db"
CLIENTS = 4
BATCHES = 40


def main(databases: Path, others: Path, variant: str = "") -> None:
    """Run two stores on one database, one after the other."""
    markers = Markers(others / "markers")
    with contextlib.ExitStack() as stack:
        stack.enter_context(syncing(variant))
        # A small log comes into the database again and again.
        stack.enter_context(mock.patch.object(schema, "_CHECKPOINT_PAGES", 30))
        if variant == "no-fsync":
            module = "bentos.logging.store.sqlite.configure"
            stack.enter_context(mock.patch(module, _configure_without_fsync))
        for seed in (1, 2):
            asyncio.run(_flow(databases / DATABASE, others, markers, seed))


async def _flow(path: Path, others: Path, markers: Markers, seed: int) -> None:
    chance = random.Random(seed)
    store = Store(
        SqliteDatabase(path, busy_timeout_seconds=5.0),
        LoggingState(others, worker=1, workers=1),
        queue_rows=10_000,
        query_timeout_seconds=2.0,
        check_seconds=0.1,
    )
    store.start()
    opened = partial(wait_until, lambda: store.unavailable() is None, "an open database")
    await asyncio.to_thread(opened)
    sent: list[StoredPrediction] = []
    batches = iter(range(BATCHES))

    async def client() -> None:
        for _ in batches:
            rows = [row(processing_notes="x" * chance.choice((0, 5_000)))]
            rows += [row() for _ in range(chance.randrange(12))]
            # What got no answer is sent again, with others.
            rows += chance.sample(sent, min(len(sent), chance.choice((0, 0, 3))))
            sent.extend(rows)
            await store.store(rows)
            markers.say(*(f"answered {one.prediction_id}" for one in rows))
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.02)))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await store.stop(30.0)


def _configure_without_fsync(connection: sqlite3.Connection) -> None:
    schema.configure(connection)
    connection.execute("PRAGMA synchronous = OFF")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
