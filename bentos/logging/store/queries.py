"""What `/predictions` and `/stats` read of the database. Each answer is bounded in bytes."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from bentos.edge.http import ServiceError
from bentos.logging.store.schema import SELECTED, PredictionInPage, from_row

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
# A page ends before it is larger, unless its first prediction alone is. Many readers at once, or
# slow ones, hold as much memory each.
PAGE_BYTES = 1_048_576
# Devices, and models with their versions, in one answer of `/stats`.
STATS_ROWS = 1_000
MAX_ID = 2**63 - 1

_TOTALS = "predictions, defects, inference_time_ms, first_timestamp, last_timestamp"


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


def read_page(connection: sqlite3.Connection, query: PageQuery) -> bytes:
    """Return a page of `/predictions` of an SQLite database; see `page_json`.

    Raises ServiceError 404 for a device of which no prediction is stored.
    """
    if query.edge_device_id is not None:
        known = connection.execute(
            "SELECT 1 FROM edge_device_totals WHERE edge_device_id = ?", (query.edge_device_id,)
        )
        require_known(query.edge_device_id, known.fetchone())
    where, values = page_conditions(query, "?", "1")
    rows = connection.execute(
        f"SELECT {SELECTED}, id FROM predictions{where}"  # noqa: S608 - own names
        " ORDER BY timestamp DESC, id DESC LIMIT ?",
        (*values, query.limit + 1),
    )
    return page_json(rows, query.limit)


def page_conditions(query: PageQuery, placeholder: str, true: str) -> tuple[str, list[object]]:
    """Return the WHERE clause of a page, and its values."""
    conditions: list[str] = []
    values: list[object] = []
    if query.edge_device_id is not None:
        conditions.append(f"edge_device_id = {placeholder}")
        values.append(query.edge_device_id)
    if query.defect_only:
        conditions.append(f"defect_detected = {true}")
    if query.before is not None:
        conditions.append(f"(timestamp, id) < ({placeholder}, {placeholder})")
        values.extend(query.before)
    return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), values


def page_json(rows: Iterable[Sequence[Any]], limit: int) -> bytes:
    """Return a page as JSON, of rows that are newest first, and of one row more where there is.

    It has fewer predictions than `limit` where they would be more than PAGE_BYTES. `next` is where
    the next page begins, null on the last one.
    """
    page: list[Raw] = []
    size = 0
    following = None
    last = None
    for *row, row_id in rows:
        prediction = PredictionInPage(*[*from_row(row), row_id])
        encoded = msgspec.json.encode(prediction)
        size += len(encoded)
        if last is not None and (len(page) == limit or size > PAGE_BYTES):
            following = f"{last.timestamp!r}_{last.id}"
            break
        page.append(Raw(encoded))
        last = prediction
    return msgspec.json.encode({"predictions": page, "count": len(page), "next": following})


def read_stats(connection: sqlite3.Connection, query: StatsQuery) -> bytes:
    """Return `/stats` of an SQLite database; see `stats_json`."""
    everything = connection.execute(
        f"SELECT {_TOTALS} FROM all_totals"  # noqa: S608 - own names
    ).fetchone()
    devices = connection.execute(
        f"SELECT edge_device_id, {_TOTALS} FROM edge_device_totals"  # noqa: S608 - own names
        " WHERE edge_device_id > ? ORDER BY edge_device_id LIMIT ?",
        (query.after, STATS_ROWS + 1),
    ).fetchall()
    models = connection.execute(
        f"SELECT model_name, model_version, {_TOTALS} FROM model_totals"  # noqa: S608 - own names
        " ORDER BY model_name, model_version LIMIT ?",
        (STATS_ROWS,),
    ).fetchall()
    by_model = connection.execute(
        "SELECT model_name, sum(predictions) FROM model_totals GROUP BY model_name"
        " ORDER BY model_name LIMIT ?",
        (STATS_ROWS,),
    ).fetchall()
    return stats_json(
        everything=everything,
        devices=devices,
        devices_total=_count(connection, "edge_device_totals"),
        models=models,
        models_total=_count(connection, "model_totals"),
        by_model=by_model,
    )


def stats_json(
    *,
    everything: Sequence[Any] | None,
    devices: Sequence[Sequence[Any]],
    devices_total: int,
    models: Sequence[Sequence[Any]],
    models_total: int,
    by_model: Sequence[tuple[str, int]],
) -> bytes:
    """Return `/stats` as JSON, from the totals: no prediction is read.

    The totals are of the predictions that are stored now, those that were deleted for their age or
    for the database's size are not in them; only first and last timestamps are of all there were.
    Lists hold at most STATS_ROWS entries, in the order of their ids; `edge_devices_total` and
    `models_total` count all. `edge_devices_next` is the `after` of the devices that follow, null
    after the last: `devices` has one more than are shown where there are more.
    """
    totals = _totals(everything or (0, 0, 0.0, None, None))
    shown = devices[:STATS_ROWS]
    return msgspec.json.encode(
        {
            "total_predictions": totals["predictions"],
            "defects_detected": totals["defects"],
            "normal_detections": everything[0] - everything[1] if everything else 0,
            "average_inference_time_ms": totals["average_inference_time_ms"],
            "by_edge_device": {device: predictions for device, predictions, *_ in shown},
            "by_model": dict(by_model),
            "edge_devices": [{"edge_device_id": row[0], **_totals(row[1:])} for row in shown],
            "edge_devices_total": devices_total,
            "edge_devices_next": shown[-1][0] if len(devices) > STATS_ROWS else None,
            "models": [
                {"model_name": row[0], "model_version": row[1], **_totals(row[2:])}
                for row in models
            ],
            "models_total": models_total,
        }
    )


def _totals(row: Sequence[Any]) -> dict[str, object]:
    predictions, defects, milliseconds, first, last = row
    return {
        "predictions": predictions,
        "defects": defects,
        # Taking rows out of a sum of floats may leave less than nothing.
        "average_inference_time_ms": round(max(milliseconds, 0.0) / max(predictions, 1), 3),
        "first_timestamp": first,
        "last_timestamp": last,
    }


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def require_known(device: str, found: object) -> None:
    """Raise the 404 for a device of which nothing was found."""
    if found is None:
        raise ServiceError(
            404,
            "unknown_edge_device",
            "edge_device_id: expected a device that has stored predictions (/stats lists them),"
            f" got {device!r}",
            field="edge_device_id",
        )
