"""The open database of one writer: batches in, each whole and on disk, or not at all."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import sqlite_utils

from bentos.logging.failures import StoreError, classify
from bentos.logging.files import DatabaseFiles
from bentos.logging.schema import VERSION, PredictionRow, configure, migrate

_INSERT = (
    f"INSERT INTO predictions ({', '.join(PredictionRow._fields)})"  # noqa: S608 - own names
    f" VALUES ({', '.join('?' * len(PredictionRow._fields))})"
)
# SELECT over json_each: one statement for any number of ids, one look-up in the index each.
_KNOWN = (
    "SELECT value FROM json_each(?)"
    " WHERE EXISTS (SELECT 1 FROM predictions WHERE prediction_id = value)"
)


@dataclass(frozen=True)
class Stored:
    """What became of a batch: rows stored, rows that were there already, defects among the new."""

    predictions: int
    duplicates: int
    defects: int


@dataclass
class _Totals:
    predictions: int = 0
    defects: int = 0
    inference_time_ms: float = 0.0
    first_timestamp: float = float("inf")
    last_timestamp: float = float("-inf")

    def add(self, row: PredictionRow) -> None:
        self.predictions += 1
        self.defects += row.defect_detected
        self.inference_time_ms += row.inference_time_ms
        self.first_timestamp = min(self.first_timestamp, row.timestamp)
        self.last_timestamp = max(self.last_timestamp, row.timestamp)


@dataclass
class _Changes:
    """The rows of a transaction and what they add to the totals."""

    rows: list[PredictionRow] = field(default_factory=list)
    devices: dict[tuple[str, ...], _Totals] = field(default_factory=dict)
    models: dict[tuple[str, ...], _Totals] = field(default_factory=dict)


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
        turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Open the database, made and brought up to date where that is needed.

        `turn` is entered around whatever writes.
        """
        self._files = files
        self._turn = turn
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
            with self._failures(), turn():
                configure(self._connection)
                migrate(sqlite_utils.Database(self._connection, execute_plugins=False))
            files.require_writable()
            files.opened()
        except StoreError as failure:
            if failure.lost:
                files.guard()
            self._connection.close()
            files.lose(failure)
            raise
        self._proved_at = time.monotonic()

    def write(self, batches: Sequence[Sequence[PredictionRow]]) -> list[Stored]:
        """Store batches in one transaction and return what became of each, in their order.

        A prediction whose id is known, from before or from this very call, is a duplicate.
        Returns only after the commit is on disk, in the files at the path.
        """
        with self._failures():
            self._files.verify()
            with self._transaction():
                stored, changes = self._sort_out(batches)
                self._connection.executemany(_INSERT, changes.rows)
                self._add("edge_device_totals", ("edge_device_id",), changes.devices)
                self._add("model_totals", ("model_name", "model_version"), changes.models)
            self._files.verify()
        self._proved_at = time.monotonic()
        return stored

    def check(self, *, proof_seconds: float) -> None:
        """Read and take the write lock; commit something where that has not been for so long."""
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

    def close(self) -> None:
        """Copy the write-ahead log into the database and close it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._files.unguard()
        self._connection.close()

    def abandon(self, failure: StoreError) -> None:
        """Close the connection to files that are lost, without a byte written to the path."""
        if failure.reason == "missing":
            # Where only the log was deleted, it still is open here: save what it holds. A
            # database that was deleted or replaced as well takes no harm from it.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._connection.close()
        self._files.lose(failure)

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
        with self._turn():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT" if keep else "ROLLBACK")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    def _sort_out(
        self, batches: Sequence[Sequence[PredictionRow]]
    ) -> tuple[list[Stored], _Changes]:
        known = self._known(row.prediction_id for rows in batches for row in rows)
        changes = _Changes()
        stored = []
        for rows in batches:
            before = len(changes.rows)
            defects = 0
            for row in rows:
                if row.prediction_id is not None:
                    if row.prediction_id in known:
                        continue
                    known.add(row.prediction_id)
                changes.rows.append(row)
                defects += row.defect_detected
                device = (row.edge_device_id,)
                model = (row.model_name, row.model_version)
                _totals(changes.devices, device).add(row)
                _totals(changes.models, model).add(row)
            new = len(changes.rows) - before
            stored.append(Stored(new, len(rows) - new, defects))
        return stored, changes

    def _known(self, ids: Iterable[str | None]) -> set[str]:
        asked = orjson.dumps([i for i in ids if i is not None]).decode()
        return {str(found) for (found,) in self._connection.execute(_KNOWN, (asked,))}

    def _add(
        self, table: str, keys: tuple[str, ...], changes: Mapping[tuple[str, ...], _Totals]
    ) -> None:
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


def _totals(changes: dict[tuple[str, ...], _Totals], key: tuple[str, ...]) -> _Totals:
    found = changes.get(key)
    if found is None:
        found = changes[key] = _Totals()
    return found
