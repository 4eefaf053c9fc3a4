"""Which pictures wait for a label, and in which order.

Two orders take turns: the pictures outside the slice, the least confident first, and the slice in
the order of a random key. A picture of the slice comes only by its key, however doubtful it is: so
the labelled ones are a random part of the slice, on which all figures stand.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

Key = tuple[str, str]


@dataclass(frozen=True)
class Filters:
    """Which pictures are asked for, empty for all; `differ`: those where a challenger differs."""

    model_version: str = ""
    edge_device_id: str = ""
    verdict: str = ""
    differ: bool = False

    def where(self) -> tuple[str, list[str]]:
        """Return a condition on `evidence` and its values."""
        columns = ("model_version", "edge_device_id", "verdict")
        chosen = {name: getattr(self, name) for name in columns if getattr(self, name)}
        parts = ["picture_kept = 1", *(f"evidence.{name} = ?" for name in chosen)]
        if self.differ:
            parts.append("json_extract(challenger, '$.class_name') <> evidence.class_name")
        return " AND ".join(parts), list(chosen.values())


_WAITS = "labelled = 0"


def count_waiting(connection: sqlite3.Connection, filters: Filters) -> int:
    """Return how many pictures wait for a label."""
    where, values = filters.where()
    query = f"SELECT count(*) FROM evidence WHERE {_WAITS} AND {where}"  # noqa: S608 - own names
    return int(connection.execute(query, values).fetchone()[0])


def waiting_keys(
    connection: sqlite3.Connection, filters: Filters, *, skip: int, limit: int
) -> list[Key]:
    """Return the prediction and device of the pictures that wait, in order, without the first."""
    where, values = filters.where()
    arms: list[list[Key]] = []
    for sampled, order in ((0, "confidence"), (1, "random_key")):
        rows = connection.execute(
            "SELECT prediction_id, edge_device_id FROM evidence"  # noqa: S608 - own names
            f" WHERE {_WAITS} AND sampled = {sampled} AND {where} ORDER BY {order}, id LIMIT ?",
            (*values, skip + limit),
        )
        arms.append([(row["prediction_id"], row["edge_device_id"]) for row in rows])
    return _alternating(*arms)[skip : skip + limit]


def read_queue(
    connection: sqlite3.Connection, filters: Filters, *, skip: int, limit: int
) -> dict[str, object]:
    """Return what `GET /review` answers: pictures that wait, and how many there are."""
    waiting = count_waiting(connection, filters)
    keys = waiting_keys(connection, filters, skip=skip, limit=limit)
    following = skip + len(keys)
    return {
        "waiting": waiting,
        "pictures": [_shown(connection, key) for key in keys],
        "next": following if keys and following < waiting else None,
    }


def _alternating(first: Sequence[Key], second: Sequence[Key]) -> list[Key]:
    both = min(len(first), len(second))
    pairs = [key for pair in zip(first, second, strict=False) for key in pair]
    return [*pairs, *first[both:], *second[both:]]


_SHOWN = (
    *("prediction_id", "edge_device_id", "timestamp", "image_id", "model_name", "model_version"),
    *("class_name", "confidence", "verdict", "scores", "challenger", "sampled"),
    *("sample_probability", "keep_probability", "true_class", "bytes", "media_type", "received_at"),
)
_FIND = (
    f"SELECT {', '.join(_SHOWN)} FROM evidence"  # noqa: S608 - own names
    " WHERE prediction_id = ? AND edge_device_id = ?"
)


def _shown(connection: sqlite3.Connection, key: Key) -> dict[str, object]:
    row = connection.execute(_FIND, key).fetchone()
    shown: dict[str, object] = dict(row)
    shown["sampled"] = bool(row["sampled"])
    for name in ("scores", "challenger"):
        shown[name] = None if row[name] is None else msgspec.json.decode(row[name])
    return shown
