"""Predictions on their way to the logging service, on disk until they are acknowledged.

A queue in a SQLite file of each worker's own. Its thread writes what was put, many at a time,
so that no prediction waits for the disk. WAL with `synchronous=NORMAL` keeps what was committed
when the process is killed, though not always when the machine loses power.
"""

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue

from bentos.health.encoding import encode_json

_MEMORY_ROWS = 20_000
_WRITE_AT_ONCE = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, prediction BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Waiting:
    """Predictions to be handed over: the greatest row id among them, and their JSON."""

    ids: tuple[int, ...]
    predictions: tuple[bytes, ...]

    def halves(self) -> "tuple[Waiting, Waiting]":
        """Return the first and the second half."""
        middle = len(self.ids) // 2
        return (
            Waiting(self.ids[:middle], self.predictions[:middle]),
            Waiting(self.ids[middle:], self.predictions[middle:]),
        )


class Outbox:
    """A bounded queue on disk; `put` never blocks, all else is for one background thread."""

    def __init__(self, path: Path, *, max_rows: int) -> None:
        self._path = path
        self._max_rows = max_rows
        self._memory: Queue[dict[str, object]] = Queue(_MEMORY_ROWS)
        self._connection: sqlite3.Connection | None = None
        self._stored = 0
        # Taken out of memory and not yet on disk, because the disk failed.
        self._unwritten: list[dict[str, object]] = []
        self._lock = threading.Lock()
        self._dropped = 0

    def put(self, record: dict[str, object]) -> bool:
        """Take a prediction's record; False where it was dropped for want of room."""
        try:
            self._memory.put_nowait(record)
        except Full:
            self._drop(1)
            return False
        return True

    @property
    def backlog(self) -> int:
        """Predictions not yet acknowledged, on disk and on their way there."""
        return self._stored + len(self._unwritten) + self._memory.qsize()

    def take_dropped(self) -> int:
        """Return how many were dropped since it was last asked."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def write(self, *, wait_seconds: float = 0.0) -> int:
        """Write what was put, waiting for a first one; return how many were written.

        Raises sqlite3.Error or OSError where the disk fails; what could not be written is kept
        and written first the next time.
        """
        if not self._unwritten:
            self._unwritten = self._gather(wait_seconds)
        if not self._unwritten:
            return 0
        try:
            connection = self._open()
            kept = self._unwritten[: max(0, self._max_rows - self._stored)]
            with connection:
                connection.executemany(
                    "INSERT INTO outbox (prediction) VALUES (?)",
                    [(encode_json(record),) for record in kept],
                )
        except (sqlite3.Error, OSError):
            self.close()
            raise
        self._drop(len(self._unwritten) - len(kept))
        self._unwritten = []
        self._stored += len(kept)
        return len(kept)

    def peek(self, most: int) -> Waiting:
        """Return the oldest predictions, which stay until they are removed."""
        if not self._stored and self._connection is not None:
            return Waiting((), ())
        rows = self._open().execute(
            "SELECT id, prediction FROM outbox ORDER BY id LIMIT ?", (most,)
        )
        found: Sequence[tuple[int, bytes]] = rows.fetchall()
        return Waiting(tuple(row[0] for row in found), tuple(row[1] for row in found))

    def remove(self, waiting: Waiting) -> None:
        """Forget predictions that were acknowledged, or given up."""
        if not waiting.ids:
            return
        connection = self._open()
        with connection:
            gone = connection.execute(
                "DELETE FROM outbox WHERE id BETWEEN ? AND ?", (waiting.ids[0], waiting.ids[-1])
            ).rowcount
        self._stored = max(0, self._stored - gone)

    def drop(self, waiting: Waiting) -> None:
        """Give predictions up and count them as dropped."""
        self.remove(waiting)
        self._drop(len(waiting.ids))

    def adopt(self, other: Path) -> int:
        """Take over the predictions of a worker that is no more, and remove its file.

        A crash in between leaves them in both; the logging service stores each once.
        """
        abandoned = Outbox(other, max_rows=self._max_rows)
        try:
            waiting = abandoned.peek(-1)
        finally:
            abandoned.close()
        connection = self._open()
        with connection:
            connection.executemany(
                "INSERT INTO outbox (prediction) VALUES (?)",
                [(prediction,) for prediction in waiting.predictions],
            )
        self._stored += len(waiting.ids)
        for suffix in ("", "-wal", "-shm"):
            other.with_name(other.name + suffix).unlink(missing_ok=True)
        return len(waiting.ids)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _gather(self, wait_seconds: float) -> list[dict[str, object]]:
        records: list[dict[str, object]] = []
        try:
            first = self._memory.get(timeout=wait_seconds) if wait_seconds else None
            if first is not None:
                records.append(first)
            while len(records) < _WRITE_AT_ONCE:
                records.append(self._memory.get_nowait())
        except Empty:
            pass
        return records

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            self._stored = int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
            self._connection = connection
        return self._connection

    def _drop(self, count: int) -> None:
        with self._lock:
            self._dropped += count


def outbox_path(directory: Path, worker: int) -> Path:
    """Return the file of a worker, 1 the first."""
    return directory / f"outbox-{worker}.db"


def abandoned_paths(directory: Path, *, workers: int) -> list[Path]:
    """Return the files of workers beyond those the pod has now."""
    kept = {outbox_path(directory, worker) for worker in range(1, workers + 1)}
    return sorted(path for path in directory.glob("outbox-*.db") if path not in kept)


def set_aside(path: Path) -> Path:
    """Rename an outbox that cannot be read, so that a new one can begin, and return its name."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        # What had not come from the log into the file may be all that can still be read.
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside
