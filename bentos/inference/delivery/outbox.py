"""The outbox on disk: a SQLite file for each worker.

Table `outbox` holds predictions that the logging service has not acknowledged, `dead_letters`
those it refused for good. WAL with `synchronous=FULL`: what a method has committed survives a
power cut. Ids grow and are never used twice. `progress.floor` says up to which id everything has
left the outbox, so that the salvage of a damaged file does not bring back what was delivered.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import orjson

from bentos.process.directories import make_directory, sync_directory

_ROWS_A_STATEMENT = 250
_LOCK_SECONDS = 5.0
PAGE_BYTES = 4_096
LOG_BYTES = 1_000 * PAGE_BYTES
_FILE_NAME = re.compile(
    r"outbox-(?P<worker>[0-9]+)(?P<recovered>\.recovered-[0-9]+)?\.db"
    r"(?P<damaged>\.damaged-[0-9]+(-wal)?)?"
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, prediction BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    refused_at REAL NOT NULL,
    status INTEGER NOT NULL,
    reason TEXT NOT NULL,
    prediction BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS progress (
    id INTEGER PRIMARY KEY, floor INTEGER NOT NULL, trials INTEGER NOT NULL
);
INSERT OR IGNORE INTO progress VALUES (1, 0, 0);
"""
_FLOOR = """
UPDATE progress SET floor = max(floor, coalesce(
    (SELECT min(id) - 1 FROM outbox), (SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0))
"""


@dataclass(frozen=True)
class Batch:
    """Waiting predictions, oldest first: their ids, and their JSON joined by commas.

    `more` tells whether others wait behind them, `file` in which of the outbox's files they are.
    """

    ids: tuple[int, ...]
    body: bytes
    more: bool = False
    file: int = 0


@dataclass(frozen=True)
class Refusal:
    """A prediction that the logging service refused for good, and why; `refused_at` in Unix s."""

    id: int
    status: int
    reason: str
    refused_at: float


@dataclass(frozen=True)
class DeadLetter(Refusal):
    """A refused prediction as it is kept; its id is one of its own."""

    prediction: bytes


@dataclass(frozen=True)
class Settlement:
    """What became of predictions that were sent: these leave the outbox."""

    delivered: tuple[int, ...] = ()
    refused: tuple[Refusal, ...] = ()
    file: int = 0

    @property
    def ids(self) -> list[int]:
        """The ids of all of them."""
        return [*self.delivered, *(one.id for one in self.refused)]


@dataclass(frozen=True)
class Applied:
    """How many predictions left the outbox, and how."""

    delivered: int
    refused: int


@dataclass(frozen=True)
class Counts:
    """Rows of both tables."""

    waiting: int
    dead_letters: int


@dataclass(frozen=True)
class Size:
    """Bytes of the pages in use and of the write-ahead log, and of pages that are free."""

    used: int
    free: int


class Outbox:
    """One open file; an object belongs to one thread at a time.

    Every method raises sqlite3.Error, or OSError, where the disk or the file fails. With `create`
    False only a file that is there is opened. The write-ahead log comes into the file when it has
    `log_bytes`, 0 for never.
    """

    def __init__(self, path: Path, *, create: bool = True, log_bytes: int = LOG_BYTES) -> None:
        if create:
            make_directory(path.parent)
        self.path = path
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=_LOCK_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_ROWS_A_STATEMENT + 50,
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA journal_size_limit = {log_bytes}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {log_bytes // PAGE_BYTES}")
            self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        except BaseException:
            self._connection.close()
            raise
        self._inode = path.stat().st_ino

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, records: Sequence[bytes]) -> None:
        """Store predictions, each as JSON; all of them are on disk afterwards, or none is."""
        if not records:
            return
        if len(records) <= _ROWS_A_STATEMENT:
            # One statement is one transaction. It is also one call of SQLite, which gives the
            # interpreter lock back only once: a busy event loop takes its time to return it.
            self._connection.execute(_insert(len(records)), records)
            return
        with self._transaction():
            self._insert(records)

    def apply(self, settlement: Settlement) -> Applied:
        """Remove predictions that were settled; keep those refused among the dead letters."""
        refused = 0
        with self._transaction():
            for one in settlement.refused:
                refused += self._connection.execute(
                    "INSERT INTO dead_letters (refused_at, status, reason, prediction)"
                    " SELECT ?, ?, ?, prediction FROM outbox WHERE id = ?",
                    (one.refused_at, one.status, one.reason, one.id),
                ).rowcount
            removed = self._delete("outbox", settlement.ids)
            self._connection.execute(_FLOOR)
        return Applied(removed - refused, refused)

    def drop_oldest(self, rows: int) -> int:
        """Delete so many of the oldest predictions; return how many there were."""
        with self._transaction():
            dropped = self._connection.execute(
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT ?)",
                (rows,),
            ).rowcount
            self._connection.execute(_FLOOR)
        return dropped

    def read(self, *, after: int = 0, rows: int, limit_bytes: int) -> Batch | None:
        """Return the oldest predictions whose id is above `after`, or None.

        At least one, at most `rows`, and no more than `limit_bytes` where it is not one alone.
        """
        # Two statements that return one row each, however many predictions they are: a row at a
        # time would take the interpreter lock from the event loop for each of them.
        with self._transaction("BEGIN"):
            ids_json, sizes_json = self._connection.execute(
                "SELECT json_group_array(id), json_group_array(size) FROM ("
                " SELECT id, length(prediction) AS size FROM outbox WHERE id > ?"
                " ORDER BY id LIMIT ?)",
                (after, rows + 1),
            ).fetchone()
            ids, sizes = orjson.loads(ids_json), orjson.loads(sizes_json)
            if not ids:
                return None
            count, total = 1, sizes[0]
            while count < min(len(ids), rows) and total + sizes[count] < limit_bytes:
                total += sizes[count] + 1
                count += 1
            (body,) = self._connection.execute(
                "SELECT CAST(group_concat(prediction, ',') AS BLOB) FROM ("
                " SELECT prediction FROM outbox WHERE id BETWEEN ? AND ? ORDER BY id)",
                (ids[0], ids[count - 1]),
            ).fetchone()
        return Batch(tuple(ids[:count]), body, more=count < len(ids))

    def count(self) -> Counts:
        """Return how many predictions wait, and how many were refused."""
        waiting, dead = self._connection.execute(
            "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead_letters)"
        ).fetchone()
        return Counts(waiting, dead)

    def size(self) -> Size:
        """Return how much of the file is in use and how much is free."""
        pages, free = self._connection.execute(
            "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"
        ).fetchone()
        log = _size_of(wal_path(self.path))
        return Size(used=(pages - free) * PAGE_BYTES + log, free=free * PAGE_BYTES)

    def dead_letters(self, *, after: int = 0, rows: int = 100) -> list[DeadLetter]:
        """Return refused predictions whose id is above `after`, oldest first."""
        found = self._connection.execute(
            "SELECT id, status, reason, refused_at, prediction FROM dead_letters WHERE id > ?"
            " ORDER BY id LIMIT ?",
            (after, rows),
        )
        return [DeadLetter(*row) for row in found]

    def resend(self, ids: Sequence[int]) -> int:
        """Put refused predictions back to be sent again; return how many there were."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO outbox (prediction) SELECT prediction FROM dead_letters"
                " WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
                (orjson.dumps(ids).decode(),),
            )
            return self._delete("dead_letters", ids)

    def discard(self, ids: Sequence[int]) -> int:
        """Delete refused predictions; return how many there were."""
        with self._transaction():
            return self._delete("dead_letters", ids)

    def oldest(self, rows: int) -> list[tuple[int, bytes]]:
        """Return the oldest predictions one by one, each with its id."""
        return self._connection.execute(
            "SELECT id, prediction FROM outbox ORDER BY id LIMIT ?", (rows,)
        ).fetchall()

    def adopt(self, records: Sequence[bytes], dead_letters: Sequence[DeadLetter]) -> None:
        """Store what comes from another file."""
        with self._transaction():
            self._insert(records)
            self._connection.executemany(
                "INSERT INTO dead_letters (refused_at, status, reason, prediction)"
                " VALUES (?, ?, ?, ?)",
                [(one.refused_at, one.status, one.reason, one.prediction) for one in dead_letters],
            )

    def try_to_write(self) -> None:
        """Write a number that means nothing, to find out whether the disk takes it."""
        self._connection.execute("UPDATE progress SET trials = trials + 1")

    def shrink(self) -> None:
        """Give the file's free pages back to the disk; what is in use is written anew."""
        self._connection.execute("VACUUM")

    def changes_elsewhere(self) -> int:
        """Return a number that is another one after another process has written to the file."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def is_in_place(self) -> bool:
        """Whether the path still names the file that is open."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def copy_to(self, path: Path) -> None:
        """Copy the whole content to a new file, also where the open one was deleted."""
        with made_whole(path) as partial, closing(Outbox(partial)) as other:
            self._connection.backup(other._connection)

    def _insert(self, records: Sequence[bytes]) -> None:
        for at in range(0, len(records), _ROWS_A_STATEMENT):
            part = records[at : at + _ROWS_A_STATEMENT]
            self._connection.execute(_insert(len(part)), part)

    def _delete(self, table: str, ids: Sequence[int]) -> int:
        return self._connection.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
            (orjson.dumps(ids).decode(),),
        ).rowcount

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


@lru_cache(maxsize=_ROWS_A_STATEMENT)
def _insert(rows: int) -> str:
    return f"INSERT INTO outbox (prediction) VALUES {','.join(['(?)'] * rows)}"  # noqa: S608


def outbox_path(directory: Path, worker: int) -> Path:
    """Return the file of a worker, 1 the first."""
    return directory / f"outbox-{worker}.db"


def outboxes_in(directory: Path) -> dict[int, Path]:
    """Return the files of all workers, by the worker's number."""
    names = ((_FILE_NAME.fullmatch(path.name), path) for path in directory.glob("outbox-*.db"))
    found = {int(name["worker"]): path for name, path in names if name and not name["recovered"]}
    return dict(sorted(found.items()))


def recovered_path(path: Path, number: int) -> Path:
    """Return the name for what was recovered of a worker's file; it is adopted like a file."""
    return path.with_name(f"{path.name.split('.')[0]}.recovered-{number}.db")


def wal_path(path: Path) -> Path:
    """Return the write-ahead log that belongs to a file."""
    return path.with_name(path.name + "-wal")


def files_to_adopt(directory: Path, *, worker: int, workers: int) -> list[Path]:
    """Return files that this worker takes over at its start, sound and damaged ones.

    What was recovered of its own file, and for worker 1 all that is left of workers that the pod
    no longer has.
    """
    found = set()
    for path in directory.glob("outbox-*"):
        name = _FILE_NAME.fullmatch(path.name)
        if name is None:
            continue
        owner = int(name["worker"])
        left = name["recovered"] or name["damaged"]
        if (owner == worker and left) or (worker == 1 and owner > workers):
            # A log may stand alone: a crash came between the two renames of `set_aside`.
            found.add(path.with_name(path.name.removesuffix("-wal")))
    return sorted(found)


def is_set_aside(path: Path) -> bool:
    """Tell whether `set_aside` gave the file its name."""
    return ".damaged-" in path.name


def set_aside(path: Path, number: int) -> Path:
    """Rename a damaged outbox, its log first, so that a new one can begin; return its name."""
    aside = path.with_name(f"{path.name}.damaged-{number}")
    rename(path, aside)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    sync_directory(path.parent)
    return aside


def rename(path: Path, target: Path) -> None:
    """Rename a damaged file and its log; either may be missing."""
    # The log first: what had not come from it into the file may be all that can still be read.
    for old, new in ((wal_path(path), wal_path(target)), (path, target)):
        if old.exists():
            old.rename(new)


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Give another name for a file to be made; it gets its own once all of it is on disk."""
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    yield partial
    sync_directory(path.parent)
    partial.rename(path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Delete a file and what belongs to it."""
    # The log first: SQLite would take one that stands alone for that of a new file.
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_directory(path.parent)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
