"""What the store needs of a database, whichever it is, and the rules that both follow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol, TypeAlias

import msgspec

from bentos.logging.store.errors import StoreError
from bentos.logging.store.reader import Reader
from bentos.logging.store.schema import TOTAL_COLUMNS, TOTALS, StoredPrediction, same_content

_Device: TypeAlias = str
_Id: TypeAlias = str
Key: TypeAlias = tuple[_Device, _Id]


@dataclass(frozen=True)
class Stored:
    """Of a batch: rows that were stored, rows that were there already, defects among the new."""

    predictions: int
    duplicates: int
    defects: int


@dataclass(frozen=True)
class Conflict:
    """A batch of which nothing was stored: the id of its row `index` is another prediction's."""

    index: int


Outcome: TypeAlias = Stored | Conflict


@dataclass(frozen=True)
class Retention:
    """What is kept: predictions that arrived within `days`, in at most `max_bytes`; None: all.

    `max_bytes` counts the pages in use of an SQLite database, without its write-ahead log. A
    PostgreSQL database has no such limit.
    """

    days: float | None = None
    max_bytes: int | None = None


KEEP_ALL = Retention()


@dataclass(frozen=True)
class Sizes:
    """Bytes of the database and its log, and of the disk that they are on; 0 where unknown."""

    database: int = 0
    log: int = 0
    disk_free: int = 0
    disk_size: int = 0


class Database(Protocol):
    """The predictions, for one writer. It may be opened again after it was abandoned.

    `name` is what log lines call it; no secret is in it. While it is not open, it can only be
    opened, closed and asked for sizes. All methods that write raise StoreError, after which nothing
    of the transaction is acknowledged.
    """

    name: str
    is_open: bool

    def open(self) -> None:
        """Open it, made or brought up to date where that is needed; raises StoreError."""

    def write(self, batches: Sequence[Sequence[StoredPrediction]]) -> list[Outcome]:
        """Store batches in one transaction and return what became of each, in their order.

        A prediction whose device has stored the same before, or in this very call, is a
        duplicate. Returns only after the commit is on disk.
        """

    def check(self, *, proof_seconds: float) -> None:
        """Read; write something as well after `proof_seconds` without a commit."""

    def retain(self, retention: Retention) -> Iterator[int]:
        """Delete what need not be kept, oldest arrivals first, and give its space back.

        Yields, after each short transaction, how many rows that deleted. The totals tell of what
        is left, except for their first and last timestamps.
        """

    def abandon(self, failure: StoreError) -> None:
        """Close it after a failure; nothing is written to one that is lost."""

    def close(self) -> None:
        """Close it for good, open or not."""

    def reader(self, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]) -> Reader:
        """Return what answers questions; see `Reader`."""

    def sizes(self) -> Sizes:
        """Return sizes, as they were last looked at; raises OSError."""


class Totals(msgspec.Struct):
    """What predictions add to the totals of their device and model; negative when they go."""

    predictions: int = 0
    defects: int = 0
    inference_time_ms: float = 0.0
    first_timestamp: float = float("inf")
    last_timestamp: float = float("-inf")

    def add(self, other: "Totals") -> None:
        """Add another group's."""
        self.predictions += other.predictions
        self.defects += other.defects
        self.inference_time_ms += other.inference_time_ms
        self.first_timestamp = min(self.first_timestamp, other.first_timestamp)
        self.last_timestamp = max(self.last_timestamp, other.last_timestamp)


# By device, model name and model version.
Groups: TypeAlias = dict[tuple[str, str, str], Totals]
# By the values of a table's key columns.
TotalsByKey: TypeAlias = dict[tuple[object, ...], Totals]


@dataclass
class Changes:
    """The new rows of a transaction, and what they add to the totals."""

    rows: list[StoredPrediction] = field(default_factory=list)
    groups: Groups = field(default_factory=dict)


def sort_batches(
    batches: Sequence[Sequence[StoredPrediction]],
    find_stored: Callable[[Key], StoredPrediction | None],
) -> tuple[list[Outcome], Changes]:
    """Return what becomes of each batch, and the rows to insert.

    `find_stored` returns the prediction that is stored under an id of a device, None for none.
    """
    changes = Changes()
    outcomes: list[Outcome] = []
    taken: dict[Key, StoredPrediction] = {}
    for rows in batches:
        new: list[StoredPrediction] = []
        by_key: dict[Key, StoredPrediction] = {}
        conflict = None
        for index, row in enumerate(rows):
            key = (row.edge_device_id or "", row.prediction_id or "")
            known = by_key.get(key) or taken.get(key)
            if known is None and row.prediction_id is not None:
                known = find_stored(key)
            if known is None:
                new.append(row)
                if row.prediction_id is not None:
                    by_key[key] = row
            elif not same_content(known, row):
                conflict = Conflict(index)
                break
        if conflict is not None:
            outcomes.append(conflict)
            continue
        changes.rows += new
        taken |= by_key
        _group(new, changes.groups)
        defects = sum(row.defect_detected for row in new)
        outcomes.append(Stored(len(new), len(rows) - len(new), defects))
    return outcomes, changes


def asked_keys(rows: Sequence[StoredPrediction]) -> list[Key]:
    """Return the ids to look up of rows that may be stored already."""
    return [
        (row.edge_device_id or "", row.prediction_id)
        for row in rows
        if row.prediction_id is not None
    ]


def totals_by_table(groups: Groups) -> Iterator[tuple[str, tuple[str, ...], TotalsByKey]]:
    """Yield what groups add to each table of totals: its name, its key columns, the changes."""
    for table, keys in TOTALS.items():
        changes: TotalsByKey = {}
        for (device, model, version), totals in groups.items():
            values = {"id": 1, "edge_device_id": device}
            values |= {"model_name": model, "model_version": version}
            key = tuple(values[name] for name in keys)
            changes.setdefault(key, Totals()).add(totals)
        yield table, keys, changes


@cache
def adding_statement(table: str, keys: tuple[str, ...]) -> str:
    """Return what adds to a row of totals, with `?` for each key column and each total."""
    columns = (*keys, *TOTAL_COLUMNS)
    sums = [f"{one} = old.{one} + excluded.{one}" for one in TOTAL_COLUMNS[:3]]
    bounds = [
        f"{one} = CASE WHEN excluded.{one} {sign} old.{one} THEN excluded.{one} ELSE old.{one} END"
        for one, sign in zip(TOTAL_COLUMNS[3:], "<>", strict=True)
    ]
    return (
        f"INSERT INTO {table} AS old ({', '.join(columns)})"  # noqa: S608 - own names
        f" VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join([*sums, *bounds])}"
    )


def _group(rows: Sequence[StoredPrediction], groups: Groups) -> None:
    """Add rows to the totals of their device and model."""
    for row in rows:
        key = (row.edge_device_id or "", row.model_name, row.model_version)
        totals = groups.get(key)
        if totals is None:
            totals = groups[key] = Totals()
        totals.predictions += 1
        totals.defects += row.defect_detected
        totals.inference_time_ms += row.inference_time_ms
        totals.first_timestamp = min(totals.first_timestamp, row.timestamp)
        totals.last_timestamp = max(totals.last_timestamp, row.timestamp)
