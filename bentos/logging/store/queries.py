"""What `/predictions` and `/stats` read of a database. Each answer is bounded in bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec
from msgspec import Meta, Raw

from bentos.edge.http import ServiceError
from bentos.logging.store.schema import NAMES, TOTAL_COLUMNS, PredictionInPage, from_row

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
# A page ends before it is larger, unless its first prediction alone is. Many readers at once, or
# slow ones, hold as much memory each.
PAGE_BYTES = 1_048_576
# Devices, and models with their versions, in one answer of `/stats`.
STATS_ROWS = 1_000
MAX_ID = 2**63 - 1

_TOTALS = ", ".join(TOTAL_COLUMNS)
# Rows fetched at once for a page: all of them may be a thousand times as large as it.
_PORTION = 16

Row: TypeAlias = Sequence[Any]


class Session(ABC):
    """A transaction that reads; a query has `?` for each of its values.

    `true` is what a flag that is set is compared with. `totals` has what each table of totals is
    selected from.
    """

    true: ClassVar[str]
    totals: ClassVar[Mapping[str, str]]

    @abstractmethod
    def fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""

    @abstractmethod
    def stream(
        self, query: str, *values: object, portion: int
    ) -> AbstractContextManager[Iterable[tuple[Any, ...]]]:
        """Return the rows of a query, of which `portion` at most are in memory."""


@dataclass(frozen=True)
class PageQuery:
    """Which predictions a page of `/predictions` shows.

    The page begins after the position `before`, going back in time: a timestamp and an id.
    """

    limit: int = DEFAULT_LIMIT
    edge_device_id: str | None = None
    defect_only: bool = False
    before: tuple[float, int] | None = None


@dataclass(frozen=True)
class StatsQuery:
    """Which devices `/stats` lists: at most STATS_ROWS, those whose ids sort after `after`."""

    after: str = ""


class Page(msgspec.Struct, frozen=True):
    """What `/predictions` answers."""

    predictions: Annotated[list[PredictionInPage], Meta(description="Newest first.")]
    count: int
    next: Annotated[str | None, Meta(description="`before` of the next page, null at the end.")]


class DeviceTotals(msgspec.Struct, frozen=True):
    """What is stored of one device; timestamps are Unix seconds."""

    edge_device_id: str
    predictions: int
    defects: int
    average_inference_time_ms: float
    first_timestamp: float
    last_timestamp: float


class ModelTotals(msgspec.Struct, frozen=True):
    """What is stored of one version of a model; timestamps are Unix seconds."""

    model_name: str
    model_version: str
    predictions: int
    defects: int
    average_inference_time_ms: float
    first_timestamp: float
    last_timestamp: float


class Stats(msgspec.Struct, frozen=True):
    """What `/stats` answers, at most 1,000 devices and 1,000 models of it."""

    total_predictions: int
    defects_detected: int
    normal_detections: int
    average_inference_time_ms: float
    by_edge_device: dict[str, int]
    by_model: dict[str, int]
    edge_devices: list[DeviceTotals]
    edge_devices_total: int
    edge_devices_next: Annotated[
        str | None, Meta(description="`after` of the devices that follow.")
    ]
    models: list[ModelTotals]
    models_total: int


def read_page(session: Session, query: PageQuery) -> bytes:
    """Return a `Page` as JSON.

    It has fewer predictions than the limit where they would be more than PAGE_BYTES. Raises
    ServiceError 404 for a device of which no prediction is stored.
    """
    conditions: list[str] = []
    values: list[object] = []
    if query.edge_device_id is not None:
        _require_known(session, query.edge_device_id)
        conditions.append("edge_device_id = ?")
        values.append(query.edge_device_id)
    if query.defect_only:
        conditions.append(f"defect_detected = {session.true}")
    if query.before is not None:
        conditions.append("(timestamp, id) < (?, ?)")
        values.extend(query.before)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = (
        f"SELECT {NAMES}, id FROM predictions{where}"  # noqa: S608 - own names
        " ORDER BY timestamp DESC, id DESC LIMIT ?"
    )
    page: list[Raw] = []
    size = 0
    following = None
    last = None
    with session.stream(statement, *values, query.limit + 1, portion=_PORTION) as rows:
        for *row, row_id in rows:
            prediction = PredictionInPage(*[*from_row(row), row_id])
            encoded = msgspec.json.encode(prediction)
            size += len(encoded)
            if last is not None and (len(page) == query.limit or size > PAGE_BYTES):
                following = f"{last.timestamp!r}_{last.id}"
                break
            page.append(Raw(encoded))
            last = prediction
    return msgspec.json.encode({"predictions": page, "count": len(page), "next": following})


def read_stats(session: Session, query: StatsQuery) -> bytes:
    """Return `Stats` as JSON, from the totals: no prediction is read.

    The totals are of the predictions that are stored now, those that were deleted for their age or
    for the database's size are not in them; only first and last timestamps are of all there were.
    Lists hold at most STATS_ROWS entries, in the order of their ids; `edge_devices_total` and
    `models_total` count all.
    """
    totals = session.totals

    def count_of(table: str) -> int:
        ((found,),) = session.fetch(f"SELECT count(*) FROM {totals[table]}")  # noqa: S608
        return int(found)

    everything = session.fetch(f"SELECT {_TOTALS} FROM {totals['all_totals']}")  # noqa: S608
    predictions, defects, average, *_ = _counts(
        everything[0] if everything else (0, 0, 0.0, 0.0, 0.0)
    )
    devices = session.fetch(
        f"SELECT edge_device_id, {_TOTALS} FROM {totals['edge_device_totals']}"  # noqa: S608
        " WHERE edge_device_id > ? ORDER BY edge_device_id LIMIT ?",
        *(query.after, STATS_ROWS + 1),
    )
    shown = devices[:STATS_ROWS]
    models = session.fetch(
        f"SELECT model_name, model_version, {_TOTALS} FROM {totals['model_totals']}"  # noqa: S608
        " ORDER BY model_name, model_version LIMIT ?",
        STATS_ROWS,
    )
    by_model = session.fetch(
        f"SELECT model_name, CAST(sum(predictions) AS bigint) FROM {totals['model_totals']}"  # noqa: S608
        " GROUP BY model_name ORDER BY model_name LIMIT ?",
        STATS_ROWS,
    )
    return msgspec.json.encode(
        Stats(
            total_predictions=predictions,
            defects_detected=defects,
            normal_detections=predictions - defects,
            average_inference_time_ms=average,
            by_edge_device={device: count for device, count, *_ in shown},
            by_model=dict(by_model),
            edge_devices=[DeviceTotals(row[0], *_counts(row[1:])) for row in shown],
            edge_devices_total=count_of("edge_device_totals"),
            edge_devices_next=shown[-1][0] if len(devices) > STATS_ROWS else None,
            models=[ModelTotals(row[0], row[1], *_counts(row[2:])) for row in models],
            models_total=count_of("model_totals"),
        )
    )


def _counts(row: Row) -> tuple[int, int, float, float, float]:
    predictions, defects, milliseconds, first, last = row
    # Taking rows out of a sum of floats may leave less than nothing.
    average = round(max(milliseconds, 0.0) / max(predictions, 1), 3)
    return predictions, defects, average, first, last


def _require_known(session: Session, device: str) -> None:
    totals = session.totals["edge_device_totals"]
    if not session.fetch(f"SELECT 1 FROM {totals} WHERE edge_device_id = ?", device):  # noqa: S608
        raise ServiceError(
            404,
            "unknown_edge_device",
            "edge_device_id: expected a device that has stored predictions (/stats lists them),"
            f" got {device!r}",
            field="edge_device_id",
        )
