"""The open database of one writer: batches in, each whole and on disk, or not at all."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import orjson
import sqlite_utils
from msgspec.structs import astuple

from bentos.logging.store.batches import (
    Changes,
    Groups,
    Key,
    Outcome,
    Retention,
    Totals,
    TotalsByKey,
    sort_batches,
    totals_by_table,
)
from bentos.logging.store.errors import StoreError, classify
from bentos.logging.store.files import DatabaseFiles
from bentos.logging.store.schema import (
    INSERT,
    SELECTED,
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


class PredictionDatabase:
    """A connection that writes, and the files below it.

    All methods but the constructor raise StoreError, after which nothing of the transaction
    is in the database; where the failure is a loss of the files, close it with `abandon`.
    """

    def __init__(
        self,
        files: DatabaseFiles,
        *,
        busy_timeout_seconds: float,
        write_lock: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Open the database; create it or bring its schema up to date where that is needed.

        `write_lock` is held during each transaction.
        """
        self._files = files
        self._write_lock = write_lock
        self._path: Path = files.path
        self._proved_at = 0.0
        files.prepare()
        with self._failures():
            files.require_space()
            self._connection = sqlite3.connect(
                files.path,
                timeout=busy_timeout_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._failures(), write_lock():
                configure(self._connection)
                migrate(sqlite_utils.Database(self._connection, execute_plugins=False))
            files.require_writable()
            files.opened()
        except StoreError as failure:
            if failure.lost:
                files.protect()
            self._connection.close()
            files.mark_lost(failure)
            raise
        self._proved_at = time.monotonic()

    def write(self, batches: Sequence[Sequence[StoredPrediction]]) -> list[Outcome]:
        """Store batches in one transaction and return what became of each, in their order.

        A prediction whose device has stored the same before, or in this very call, is a
        duplicate. Returns only after the commit is on disk, in the files at the path.
        """
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

    def prune(self, retention: Retention, *, now: float) -> int:
        """Delete what need not be kept, oldest arrivals first, in one short transaction.

        Returns how many rows it deleted, 0 where there is nothing to delete. The totals tell of
        what is left, except for their first and last timestamps.
        """
        expired = now - retention.days * 86_400 if retention.days is not None else float("-inf")
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
            self._files.verify()
        return deleted

    def give_space_back(self) -> bool:
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

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, as far as no reader needs it."""
        with self._failures():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Copy the write-ahead log into the database and close it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._files.unprotect()
        self._connection.close()

    def abandon(self, failure: StoreError) -> None:
        """Close the connection to files that are lost, without a byte written to the path."""
        if failure.reason == "missing":
            # Where only the log was deleted, it still is open here: save what it holds. A
            # database that was deleted or replaced as well takes no harm from it.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._connection.close()
        self._files.mark_lost(failure)

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
        stored = self._find([row for rows in batches for row in rows])
        return sort_batches(batches, lambda key: self._read(stored[key]) if key in stored else None)

    def _find(self, rows: Sequence[StoredPrediction]) -> dict[Key, int]:
        """Return the row ids of predictions whose ids are stored."""
        asked = [
            (row.edge_device_id, row.prediction_id) for row in rows if row.prediction_id is not None
        ]
        found = self._connection.execute(_FIND, (orjson.dumps(asked).decode(),))
        return {(device, prediction): row_id for device, prediction, row_id in found}

    def _read(self, row_id: int) -> StoredPrediction:
        row = self._connection.execute(
            f"SELECT {SELECTED} FROM predictions WHERE id = ?",  # noqa: S608 - own names
            (row_id,),
        ).fetchone()
        return StoredPrediction(*from_row(row))

    def _add_to_totals(self, groups: Groups) -> None:
        for table, keys, changes in totals_by_table(groups):
            self._update_totals(table, keys, changes)

    def _update_totals(self, table: str, keys: tuple[str, ...], changes: TotalsByKey) -> None:
        self._connection.executemany(
            f"INSERT INTO {table} AS old ({', '.join(keys)}, predictions, defects,"  # noqa: S608
            " inference_time_ms, first_timestamp, last_timestamp)"
            f" VALUES ({', '.join('?' * len(keys))}, ?, ?, ?, ?, ?)"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET"
            " predictions = old.predictions + excluded.predictions,"
            " defects = old.defects + excluded.defects,"
            " inference_time_ms = old.inference_time_ms + excluded.inference_time_ms,"
            " first_timestamp = min(old.first_timestamp, excluded.first_timestamp),"
            " last_timestamp = max(old.last_timestamp, excluded.last_timestamp)",
            [
                (
                    *key,
                    total.predictions,
                    total.defects,
                    total.inference_time_ms,
                    total.first_timestamp,
                    total.last_timestamp,
                )
                for key, total in changes.items()
            ],
        )
        emptied = [key for key, total in changes.items() if total.predictions < 0]
        if not emptied:
            return
        self._connection.executemany(
            f"DELETE FROM {table} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"  # noqa: S608
            " AND predictions <= 0",
            emptied,
        )

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
