"""A Store on an event loop of its own, and rows to put into it."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

from msgspec import Raw
from msgspec.structs import replace

from bentos.logging.state import LoggingState
from bentos.logging.store import (
    PageQuery,
    StatsQuery,
    Store,
    Stored,
    StoredPrediction,
)
from bentos.logging.store.database import Database
from bentos.logging.store.sqlite import SqliteDatabase
from tests.support.event_loop import EventLoop
from tests.support.postgres import locked_tables, query
from tests.support.servers import wait_until

# Generous: it ends a test whose store hangs, on a machine that does ten other things.
WAIT_SECONDS = 60.0
_numbers = count()


def row(prediction_id: str | None = None, **changes: Any) -> StoredPrediction:
    """Return a prediction's row with an id of its own, changed as asked."""
    number = next(_numbers)
    standard = StoredPrediction(
        prediction_id=prediction_id or f"prediction-{number}",
        image_id=f"image-{number}.png",
        timestamp=1_750_000_000.0 + number,
        received_at=1_750_000_000.5 + number,
        sent_at=None,
        edge_device_id="edge-1",
        model_name="steel-defects",
        model_version="3",
        inference_time_ms=2.5,
        defect_detected=False,
        detections=Raw(b'[{"class":"scratch","confidence":0.9,"bbox":null,"uncertain":false}]'),
        confidence_scores=Raw(b"[0.9,0.1]"),
        processing_notes=None,
        request_id=None,
    )
    return replace(standard, **changes)


class RunningStore:
    """A store whose coroutines are called from the test's thread.

    `where` is the path of an SQLite database, or the URL of a PostgreSQL one.
    """

    def __init__(self, where: Path | str, directory: Path, **options: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._where = where
        self.state = LoggingState(directory, worker=1, workers=1)
        self._loop = EventLoop()
        database = make_database(where, options.pop("busy_timeout_seconds", 0.2))
        settings = {"queue_rows": 1_000, "check_seconds": 0.05, "query_timeout_seconds": 2.0}
        self.store = Store(database, self.state, **(settings | options))
        self._loop.run(self._start())
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def path(self) -> Path:
        """The file of its database."""
        assert isinstance(self._where, Path)
        return self._where

    @property
    def url(self) -> str:
        """The URL of its database."""
        assert isinstance(self._where, str)
        return self._where

    async def _start(self) -> None:
        self.store.start()

    def begin(self, rows: Sequence[StoredPrediction]) -> "Future[Stored]":
        """Hand a batch in and return at once."""
        return self._loop.begin(self.store.store(rows))

    def put(self, *rows: StoredPrediction) -> Stored:
        """Hand a batch in and return what became of it."""
        return self.begin(rows).result(WAIT_SECONDS)

    def page(self, asked: PageQuery) -> dict[str, Any]:
        """Return a page of predictions."""
        return dict(json.loads(self._loop.run(self.store.page(asked))))

    def stats(self, asked: StatsQuery) -> dict[str, Any]:
        """Return the totals."""
        return dict(json.loads(self._loop.run(self.store.stats(asked))))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as the condition holds."""
        wait_until(condition, "it is so", seconds=WAIT_SECONDS)

    def commits(self) -> list[float]:
        """Return how many transactions committed and how many predictions they stored."""
        ((_, buckets, total),) = self.state.commit_predictions.series()
        return [buckets[-1][1], total]

    def stop(self) -> None:
        """Store what waits and close the database."""
        if not self._stopped:
            self._stopped = True
            self._loop.run(self.store.stop(WAIT_SECONDS))
            self._loop.close()

    def wait_until_accessible(self) -> None:
        """Return as soon as the database works."""
        wait_until(
            lambda: bool(self.state.db_accessible), "the database works", seconds=WAIT_SECONDS
        )

    def wait_for_failure(self, reason: str) -> None:
        """Return as soon as the database fails for the reason."""
        wait_until(
            lambda: not self.state.db_accessible and self.state.db_failure_reason == reason,
            f"the database fails: {reason}",
            seconds=WAIT_SECONDS,
            describe=lambda: f"it is {self.state.db_failure_reason!r}",
        )

    def ids(self) -> set[str]:
        """Return the ids of the predictions that stand in the database."""
        if isinstance(self._where, str):
            return {
                found for (found,) in query(self._where, "SELECT prediction_id FROM predictions")
            }
        return stored_ids(self._where)

    @contextmanager
    def locked_by_another(self) -> Iterator[None]:
        """Have somebody else hold the database's strongest lock for the block."""
        if isinstance(self._where, str):
            with locked_tables(self._where, "predictions"):
                yield
        else:
            with locked_by_another_process(self._where):
                yield


@contextmanager
def running_store(where: Path | str, directory: Path, **options: Any) -> Iterator[RunningStore]:
    """Run a store for the block, which begins when its database works."""
    with RunningStore(where, directory, **options) as store:
        store.wait_until_accessible()
        yield store


def make_database(where: Path | str, busy_timeout_seconds: float = 5.0) -> Database:
    """Return a database that is to be opened."""
    if isinstance(where, str):
        from bentos.logging.store.postgres import PostgresDatabase

        return PostgresDatabase(where, busy_timeout_seconds=busy_timeout_seconds)
    return SqliteDatabase(where, busy_timeout_seconds=busy_timeout_seconds)


@contextmanager
def opened(where: Path | str) -> Iterator[Database]:
    """Open a database without a store for the block; close it in order."""
    database = make_database(where)
    database.open()
    try:
        yield database
    finally:
        database.close()


def stored_ids(path: Path) -> set[str]:
    """Return the ids of the predictions that another connection sees in the database."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return {found for (found,) in connection.execute("SELECT prediction_id FROM predictions")}
    finally:
        connection.close()


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    """Hold the database's exclusive lock in another process."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()
