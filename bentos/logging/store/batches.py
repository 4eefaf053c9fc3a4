"""What becomes of batches and of old predictions: the rules that both databases follow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bentos.logging.store.schema import TOTALS, StoredPrediction, same_content

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


@dataclass
class Totals:
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
    """The new rows of a transaction, by their ids, and what they add to the totals."""

    rows: list[StoredPrediction] = field(default_factory=list)
    by_key: dict[Key, StoredPrediction] = field(default_factory=dict)
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
    for rows in batches:
        new: list[StoredPrediction] = []
        by_key: dict[Key, StoredPrediction] = {}
        conflict = None
        for index, row in enumerate(rows):
            key = (row.edge_device_id or "", row.prediction_id or "")
            known = by_key.get(key) or changes.by_key.get(key)
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
        changes.by_key |= by_key
        _group(new, changes.groups)
        defects = sum(row.defect_detected for row in new)
        outcomes.append(Stored(len(new), len(rows) - len(new), defects))
    return outcomes, changes


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
