"""What `/stats` and `/predictions` ask of the database."""

import sqlite3
from dataclasses import dataclass
from urllib.parse import parse_qsl

import msgspec

from bentos.edge.http import ServiceError
from bentos.logging.explain import bad_field
from bentos.logging.payloads import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_PARAMETERS = ("limit", "edge_device_id", "defect_only", "before")
_COLUMNS = (
    "id",
    "prediction_id",
    "image_id",
    "timestamp",
    "received_at",
    "sent_at",
    "edge_device_id",
    "model_name",
    "model_version",
    "inference_time_ms",
    "defect_detected",
    "detections",
    "confidence_scores",
    "processing_notes",
    "request_id",
)
_DEFECT = _COLUMNS.index("defect_detected")
_DETECTIONS = _COLUMNS.index("detections")
_SCORES = _COLUMNS.index("confidence_scores")
_MAX_ID = 2**63 - 1
_DEVICES = (
    "SELECT edge_device_id, predictions, defects, inference_time_ms, first_timestamp,"
    " last_timestamp FROM edge_device_totals ORDER BY edge_device_id"
)
_MODELS = (
    "SELECT model_name, model_version, predictions, defects, inference_time_ms, first_timestamp,"
    " last_timestamp FROM model_totals ORDER BY model_name, model_version"
)


@dataclass(frozen=True)
class PageQuery:
    """Which predictions of `/predictions` are asked for.

    `before` is the position of the prediction before which, going back in time, the page
    begins: its timestamp and its id.
    """

    limit: int = DEFAULT_LIMIT
    edge_device_id: str | None = None
    defect_only: bool = False
    before: tuple[float, int] | None = None

    @classmethod
    def parse(cls, query: bytes) -> "PageQuery":
        """Return the query of a URL; ServiceError 400 names the parameter at fault."""
        values: dict[str, str] = {}
        try:
            pairs = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16
            )
        except ValueError:
            raise bad_field("query", "URL-encoded parameters in UTF-8", repr(query)) from None
        for name, value in pairs:
            if name not in _PARAMETERS:
                raise bad_field("query", f"parameters out of {', '.join(_PARAMETERS)}", name)
            if name in values:
                raise bad_field(name, "one value", "several")
            values[name] = value
        device = values.get("edge_device_id")
        if device is not None and not 1 <= len(device) <= 128:
            raise bad_field("edge_device_id", "a text of 1 to 128 characters", device)
        return cls(
            limit=_limit(values.get("limit")),
            edge_device_id=device,
            defect_only=_flag("defect_only", values.get("defect_only")),
            before=_position(values.get("before")),
        )


def read_page(connection: sqlite3.Connection, query: PageQuery) -> bytes:
    """Return a page of `/predictions` as JSON, newest first.

    Raises ServiceError 404 for a device that has stored no prediction.
    """
    conditions: list[str] = []
    values: list[object] = []
    if query.edge_device_id is not None:
        _require_device(connection, query.edge_device_id)
        conditions.append("edge_device_id = ?")
        values.append(query.edge_device_id)
    if query.defect_only:
        conditions.append("defect_detected = 1")
    if query.before is not None:
        conditions.append("(timestamp, id) < (?, ?)")
        values.extend(query.before)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM predictions{where}"  # noqa: S608 - own names
        " ORDER BY timestamp DESC, id DESC LIMIT ?",
        (*values, query.limit + 1),
    ).fetchall()
    page = rows[: query.limit]
    following = f"{page[-1][3]!r}_{page[-1][0]}" if len(rows) > query.limit else None
    return msgspec.json.encode(
        {"predictions": [_shown(row) for row in page], "count": len(page), "next": following}
    )


def read_stats(connection: sqlite3.Connection) -> bytes:
    """Return `/stats` as JSON; it reads the totals, not the predictions."""
    devices = [_totals(("edge_device_id",), row) for row in connection.execute(_DEVICES)]
    models = [_totals(("model_name", "model_version"), row) for row in connection.execute(_MODELS)]
    predictions, defects, milliseconds = connection.execute(
        "SELECT total(predictions), total(defects), total(inference_time_ms) FROM model_totals"
    ).fetchone()
    by_model: dict[str, int] = {}
    for model in models:
        name = str(model["model_name"])
        by_model[name] = by_model.get(name, 0) + int(str(model["predictions"]))
    return msgspec.json.encode(
        {
            "total_predictions": int(predictions),
            "defects_detected": int(defects),
            "normal_detections": int(predictions - defects),
            "average_inference_time_ms": _average(milliseconds, predictions),
            "by_edge_device": {row["edge_device_id"]: row["predictions"] for row in devices},
            "by_model": by_model,
            "edge_devices": devices,
            "models": models,
        }
    )


def _totals(keys: tuple[str, ...], row: tuple[object, ...]) -> dict[str, object]:
    predictions, defects, milliseconds, first, last = row[len(keys) :]
    return {
        **dict(zip(keys, row, strict=False)),
        "predictions": predictions,
        "defects": defects,
        "average_inference_time_ms": _average(milliseconds, predictions),
        "first_timestamp": first,
        "last_timestamp": last,
    }


def _average(total: object, count: object) -> float:
    return round(float(str(total)) / float(str(count)), 3) if count else 0.0


def _shown(row: tuple[object, ...]) -> dict[str, object]:
    shown = dict(zip(_COLUMNS, row, strict=True))
    shown["defect_detected"] = bool(row[_DEFECT])
    # They are JSON already, as this service wrote them.
    shown["detections"] = msgspec.Raw(str(row[_DETECTIONS]).encode())
    shown["confidence_scores"] = msgspec.Raw(str(row[_SCORES]).encode())
    return shown


def _require_device(connection: sqlite3.Connection, device: str) -> None:
    found = connection.execute(
        "SELECT 1 FROM edge_device_totals WHERE edge_device_id = ?", (device,)
    ).fetchone()
    if found is None:
        raise ServiceError(
            404,
            "unknown_edge_device",
            "edge_device_id: expected a device that has stored predictions (/stats lists them),"
            f" got {device!r}",
            field="edge_device_id",
        )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 4):
        raise bad_field("limit", f"a whole number from 1 to {MAX_LIMIT}", text)
    limit = int(text)
    if not 1 <= limit <= MAX_LIMIT:
        raise bad_field("limit", f"a whole number from 1 to {MAX_LIMIT}", limit)
    return limit


def _flag(name: str, text: str | None) -> bool:
    if text is None:
        return False
    flag = _FLAGS.get(text.lower())
    if flag is None:
        raise bad_field(name, "true or false", text)
    return flag


def _position(text: str | None) -> tuple[float, int] | None:
    """Parse `<Unix seconds>` or `<Unix seconds>_<id>`, the form of `next`."""
    if text is None:
        return None
    expected = "the `next` of a page, or Unix seconds from 2000 to 2100"
    seconds, separator, number = text.partition("_")
    try:
        timestamp = float(seconds)
        identifier = int(number) if separator else 0
    except ValueError:
        raise bad_field("before", expected, text) from None
    if not EARLIEST_TIMESTAMP <= timestamp <= LATEST_TIMESTAMP or not 0 <= identifier <= _MAX_ID:
        raise bad_field("before", expected, text)
    return timestamp, identifier
