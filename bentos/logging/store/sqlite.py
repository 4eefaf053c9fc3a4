"""Predictions in an SQLite file: the default. One connection writes; each query has its own."""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson
import sqlite_utils
from msgspec.structs import astuple

from bentos.logging.store.database import (
    Changes,
    Groups,
    Outcome,
    Retention,
    Sizes,
    Totals,
    adding_statement,
    asked_keys,
    sort_batches,
    totals_by_table,
)
from bentos.logging.store.errors import StoreError, classify
from bentos.logging.store.files import DatabaseFiles, read_only_uri
from bentos.logging.store.queries import Session
from bentos.logging.store.reader import QueryTimeoutError, Reader, ResultT
from bentos.logging.store.schema import (
    INSERT,
    NAMES,
    TOTALS,
    VERSION,
    StoredPrediction,
    configure,
    from_row,
    migrate,
)

# SELECT over json_each: one statement for any number of ids, one look-up in the index each.
_FIND = (
    "SELECT edge_device_id, prediction_id, predictions.id FROM json_each(?) AS asked"
    " CROSS JOIN predictions"
    " ON edge_device_id = json_extract(asked.value, '$[0]')"
    " AND prediction_id = json_extract(asked.value, '$[1]')"
)
_DELETE = (
    "DELETE FROM predictions WHERE id IN"
    " (SELECT id FROM predictions WHERE received_at < ? ORDER BY received_at LIMIT ?)"
    " RETURNING edge_device_id, model_name, model_version, defect_detected, inference_time_ms"
)
# How long one step of pruning deletes before it commits, which takes about as long again, and in
# what portions it looks at the clock. A row of 65,536 scores takes about a millisecond to delete.
_PRUNE_SECONDS = 0.01
_PRUNE_ROWS = 8
# Free pages, 4 KiB each, that are kept for new rows, and that one step gives back beyond them.
_KEPT_PAGES = 1_024
_GIVEN_BACK_PAGES = 512
# Instructions of SQLite's virtual machine between two looks at the clock, about a millisecond.
_INSTRUCTIONS = 20_000


class WriteLock:
    """Lets the workers of a pod, which share `directory`, write one after another, as they ask.

    SQLite lets a writer that finds the database locked sleep and try again, longer each time, so
    that a neighbour that goes on writing may keep it out for seconds. Here a waiting worker holds
    the place behind the writer, and the writer cannot come again before it. The kernel frees the
    locks of a process that dies.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._next = os.open(directory / "writer.next", flags, 0o600)
        self._writing = os.open(directory / "writer.now", flags, 0o600)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it for the block."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._writing, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._writing, fcntl.LOCK_UN)


class SqliteDatabase:
    """The predictions in the file at `path`, and the files beside it.

    `lock_directory` is where the workers of a pod lock one another out; None for a single worker.
    """

    _connection: sqlite3.Connection

    def __init__(
        self, path: Path, *, busy_timeout_seconds: float, lock_directory: Path | None = None
    ) -> None:
        self.name = str(path)
        self.is_open = False
        self._path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._write_lock = (
            WriteLock(lock_directory).held if lock_directory else contextlib.nullcontext
        )
        self._files = DatabaseFiles(path)
        self._proved_at = 0.0

    def open(self) -> None:
        """Open it, made or brought up to date where that is needed; raises StoreError."""
        self._files.prepare()
        with self._failures():
            self._files.require_space()
            self._connection = sqlite3.connect(
                self._path,
                timeout=self._busy_timeout_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._failures(), self._write_lock():
                configure(self._connection)
                migrate(sqlite_utils.Database(self._connection, execute_plugins=False))
            self._files.require_writable()
            self._files.opened()
        except StoreError as failure:
            if failure.lost:
                self._files.protect()
            self._connection.close()
            self._files.mark_lost(failure)
            raise
        self._proved_at = time.monotonic()
        self.is_open = True

    def write(self, batches: Sequence[Sequence[StoredPrediction]]) -> list[Outcome]:
        """Store batches in one transaction; see `Database.write`."""
        with self._failures():
            self._files.verify()
            with self._transaction():
                outcomes, changes = self._sort(batches)
                self._connection.executemany(INSERT, map(astuple, changes.rows))
                self._add_to_totals(changes.groups)
            self._files.verify()
        self._proved_at = time.monotonic()
        return outcomes

    def check(self, *, proof_seconds: float) -> None:
        """Read, and take the write lock; write something after `proof_seconds` without a commit."""
        with self._failures():
            self._files.verify()
            self._files.require_writable()
            proof = time.monotonic() - self._proved_at >= proof_seconds
            with self._transaction(keep=proof):
                self._connection.execute("SELECT id FROM predictions LIMIT 1").fetchone()
                if proof:
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")
            self._files.verify()
        if proof:
            self._proved_at = time.monotonic()

    def retain(self, retention: Retention) -> Iterator[int]:
        """Delete what need not be kept and give its space back; see `Database.retain`.

        Each step is followed by a checkpoint of what it wrote: otherwise the commit of a waiting
        batch would now and then have to copy many steps' worth into the database.
        """
        while deleted := self._prune(retention):
            yield deleted
            self._checkpoint()
            yield 0
        while self._give_space_back():
            yield 0
            self._checkpoint()
            yield 0

    def abandon(self, failure: StoreError) -> None:
        """Close the connection after a failure; to lost files not a byte is written."""
        if not failure.lost:
            self._close()
            return
        if failure.reason == "missing":
            # Where only the log was deleted, it still is open here: save what it holds. A
            # database that was deleted or replaced as well takes no harm from it.
            self._empty_log()
        self._connection.close()
        self.is_open = False
        self._files.mark_lost(failure)

    def close(self) -> None:
        """Close the connection, and the descriptors by which the files are watched."""
        if self.is_open:
            self._close()
        self._files.close()

    def reader(
        self, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> "SqliteReader":
        """Return what answers questions."""
        return SqliteReader(self._path, timeout_seconds=timeout_seconds, on_failure=on_failure)

    def sizes(self) -> Sizes:
        """Return the sizes of the files, 0 for one that is not there, and of the disk.

        Raises OSError where the directory is not there.
        """
        disk = os.statvfs(self._path.parent)
        return Sizes(
            database=_size(self._path),
            log=_size(self._files.log_path),
            disk_free=disk.f_bavail * disk.f_frsize,
            disk_size=disk.f_blocks * disk.f_frsize,
        )

    def _close(self) -> None:
        self._empty_log()
        self._files.unprotect()
        self._connection.close()
        self.is_open = False

    def _empty_log(self) -> None:
        """Copy the write-ahead log into the database."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _prune(self, retention: Retention) -> int:
        """Delete the oldest of what need not be kept in one short transaction; return how many."""
        expired = float("-inf")
        if retention.days is not None:
            expired = time.time() - retention.days * 86_400
        if not self._prunable(retention, expired):
            return 0
        groups: Groups = {}
        deleted = 0
        with self._failures():
            with self._transaction():
                started = time.monotonic()
                while time.monotonic() - started < _PRUNE_SECONDS:
                    before = float("inf") if self._too_large(retention) else expired
                    rows = self._connection.execute(_DELETE, (before, _PRUNE_ROWS)).fetchall()
                    if not rows:
                        break
                    deleted += len(rows)
                    for device, model, version, defect, milliseconds in rows:
                        removed = Totals(-1, -defect, -milliseconds)
                        groups.setdefault((device, model, version), Totals()).add(removed)
                self._add_to_totals(groups)
                for table, keys, changes in totals_by_table(groups):
                    self._connection.executemany(
                        f"DELETE FROM {table} WHERE ({', '.join(keys)})"  # noqa: S608 - own names
                        f" = ({', '.join('?' * len(keys))}) AND predictions <= 0",
                        changes,
                    )
            self._files.verify()
        return deleted

    def _prunable(self, retention: Retention, expired: float) -> bool:
        with self._failures():
            self._files.verify()
            if retention.days is None and not self._too_large(retention):
                return False
            oldest = self._connection.execute(
                "SELECT received_at FROM predictions ORDER BY received_at LIMIT 1"
            ).fetchone()
            return oldest is not None and (oldest[0] < expired or self._too_large(retention))

    def _too_large(self, retention: Retention) -> bool:
        if retention.max_bytes is None:
            return False
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        return pages * self._pragma("page_size") > retention.max_bytes

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _give_space_back(self) -> bool:
        """Give some free pages back to the file system; return whether it did.

        It does not while few pages are free, nor in a database that was made before this could be
        done.
        """
        with self._failures():
            if self._pragma("auto_vacuum") != 2 or self._pragma("freelist_count") <= _KEPT_PAGES:
                return False
            self._files.verify()
            with self._write_lock(), self._rolled_back_on_error():
                # It gives a page back each time it is stepped, which only a script does to the end.
                self._connection.executescript(
                    f"BEGIN IMMEDIATE; PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES}); COMMIT"
                )
            self._files.verify()
            return True

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the database, as far as no reader needs it."""
        with self._failures():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
            raise  # the fault of a row or of this code, not of the database
        except (sqlite3.Error, OSError) as error:
            raise classify(error, self._path) from error

    @contextlib.contextmanager
    def _transaction(self, *, keep: bool = True) -> Iterator[None]:
        with self._write_lock(), self._rolled_back_on_error():
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT" if keep else "ROLLBACK")

    @contextlib.contextmanager
    def _rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def _sort(self, batches: Sequence[Sequence[StoredPrediction]]) -> tuple[list[Outcome], Changes]:
        """Return what becomes of each batch, and the rows to insert."""
        asked = asked_keys([row for rows in batches for row in rows])
        found = self._connection.execute(_FIND, (orjson.dumps(asked).decode(),))
        stored = {(device, prediction): row_id for device, prediction, row_id in found}
        return sort_batches(batches, lambda key: self._read(stored[key]) if key in stored else None)

    def _read(self, row_id: int) -> StoredPrediction:
        row = self._connection.execute(
            f"SELECT {NAMES} FROM predictions WHERE id = ?",  # noqa: S608 - own names
            (row_id,),
        ).fetchone()
        return StoredPrediction(*from_row(row))

    def _add_to_totals(self, groups: Groups) -> None:
        for table, keys, changes in totals_by_table(groups):
            self._connection.executemany(
                adding_statement(table, keys),
                [(*key, *astuple(totals)) for key, totals in changes.items()],
            )


class SqliteSession(Session):
    """A connection that reads."""

    true = "1"
    totals: ClassVar[Mapping[str, str]] = {table: table for table in TOTALS}

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self._connection.execute(query, values).fetchall()

    def stream(
        self,
        query: str,
        *values: Any,
        portion: int,  # noqa: ARG002 - SQLite has one row in memory at a time
    ) -> "contextlib.closing[sqlite3.Cursor]":
        """Return the rows of a query."""
        return contextlib.closing(self._connection.execute(query, values))


class SqliteReader(Reader):
    """Reads the SQLite database at `path`.

    A connection lives as long as its query: none is open on a database that was lost, and
    opening one takes a third of a millisecond.
    """

    def __init__(
        self, path: Path, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, on_failure=on_failure)
        self._path = path

    def _execute(self, query: Callable[[Session], ResultT]) -> ResultT:
        deadline = time.monotonic() + self._timeout_seconds

        def must_stop() -> bool:
            return not self._open or time.monotonic() > deadline

        try:
            with contextlib.closing(
                connect_to_read(self._path, busy_timeout_seconds=self._timeout_seconds)
            ) as connection:
                connection.set_progress_handler(must_stop, _INSTRUCTIONS)
                connection.execute("BEGIN")
                return query(SqliteSession(connection))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise QueryTimeoutError from error
            raise classify(error, self._path) from error


def connect_to_read(path: Path, *, busy_timeout_seconds: float) -> sqlite3.Connection:
    """Return a connection that cannot write."""
    return sqlite3.connect(
        read_only_uri(path), uri=True, timeout=busy_timeout_seconds, isolation_level=None
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
