"""What people say of kept pictures, and which pictures wait for it, in the store.

All labels are kept; the last one of a picture counts. Of the pictures that wait, two orders take
turns: those outside the sample, the least confident first, and the sample in the order of a random
key. A picture of the sample comes only by its key, however doubtful it is: so the labelled ones are
a random part of the sample, on which all figures stand.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from bentos.evidence import Evidence
from bentos.logging.request import bad_field
from bentos.messages import MAX_NAME_CHARACTERS, Flag, Identifier, Notes

Key: TypeAlias = tuple[str, str]

ClassName: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        description=f"a text of 1 to {MAX_NAME_CHARACTERS} characters, or null to take the last"
        " label back",
    ),
]


class Label(msgspec.Struct, frozen=True, gc=False):
    """What a person says a picture shows.

    `true_class` is None to take back what was said. One that is `reported` was given because of
    what the picture shows, such as a defect that a customer found: it says nothing of how frequent
    such defects are, so that figures leave it out.
    """

    prediction_id: Identifier
    true_class: ClassName | None
    labelled_by: Identifier
    note: Notes | None = None
    edge_device_id: Identifier | None = None
    reported: Flag = False


class Labels(msgspec.Struct, frozen=True, gc=False):
    """The body of `POST /labels`, where it has several."""

    labels: Annotated[list[Label], Meta(description="a list of labels")]


class Labelled(msgspec.Struct, frozen=True):
    """What became of labels: the answer of `POST /labels`, once they are on disk."""

    labels: int
    unknown: Annotated[int, Meta(description="Of predictions of which no picture is kept.")]
    new_classes: Annotated[
        Sequence[str],
        Meta(description="Classes that no model has said and no label named before: misspelt?"),
    ]
    status: Literal["success"] = "success"


class LabelsPage(msgspec.Struct, frozen=True):
    """Labels, oldest first, each with what was said of its picture, and whether it counts."""

    labels: Sequence[Mapping[str, Any]]
    count: int
    next: Annotated[int | None, Meta(description="`after` of the next page, null at the end.")]


class Queue(msgspec.Struct, frozen=True):
    """Pictures that wait for a label, in the order in which to look at them."""

    waiting: Annotated[int, Meta(description="How many wait in all.")]
    pictures: Sequence[Mapping[str, Any]]
    next: Annotated[int | None, Meta(description="`skip` of the next page, null at the end.")]


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


_MOST_NEW_CLASSES = 20
_INSERT = (
    "INSERT INTO labels"
    " (prediction_id, edge_device_id, true_class, labelled_by, note, reported, labelled_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_DEVICES = "SELECT edge_device_id FROM evidence WHERE prediction_id = ? LIMIT 2"
_IS_KEPT = "SELECT 1 FROM evidence WHERE prediction_id = ? AND edge_device_id = ?"
_KNOWN_CLASS = (
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM labels WHERE true_class = ?1)"
    " OR EXISTS (SELECT 1 FROM evidence WHERE class_name = ?1)"
)
# A class that no model has said may still be one of its classes: then some scores name it.
_SCORED_CLASSES = (
    "SELECT DISTINCT score.key FROM (SELECT scores FROM evidence ORDER BY id DESC LIMIT 300)"
    " AS recent, json_each(recent.scores) AS score"
)
# What was said of a picture, its key first; beside a label, the others are NULL where none is kept.
_SAID = tuple(name for name in Evidence.__struct_fields__ if name != "picture")
_PAGE = (
    "SELECT labels.id, labels.prediction_id,"  # noqa: S608 - own names
    " coalesce(labels.edge_device_id, evidence.edge_device_id) AS edge_device_id,"
    " labels.true_class, labelled_by, note, reported, labelled_at,"
    f" {', '.join(_SAID[2:])}, picture_kept,"
    " NOT EXISTS (SELECT 1 FROM labels AS later WHERE later.prediction_id = labels.prediction_id"
    " AND coalesce(later.edge_device_id, evidence.edge_device_id, '')"
    " = coalesce(labels.edge_device_id, evidence.edge_device_id, '')"
    " AND later.id > labels.id) AS last"
    " FROM labels LEFT JOIN evidence ON evidence.prediction_id = labels.prediction_id"
    " AND evidence.edge_device_id = coalesce(labels.edge_device_id, evidence.edge_device_id)"
    " WHERE labels.id > ? ORDER BY labels.id LIMIT ?"
)
_FIND = (
    f"SELECT {', '.join(_SAID)}, true_class, bytes, media_type, received_at"  # noqa: S608
    " FROM evidence"
    " WHERE prediction_id = ? AND edge_device_id = ?"
)


def add_labels(connection: sqlite3.Connection, labels: Sequence[Label], *, at: float) -> Labelled:
    """Store labels given at Unix seconds, and return what became of them.

    Raises ServiceError 400 for one of a prediction id that several devices have, where it names
    none of them.
    """
    names = {label.true_class for label in labels if label.true_class is not None}
    names -= {name for (name,) in connection.execute(_SCORED_CLASSES)}
    new = [name for name in names if not connection.execute(_KNOWN_CLASS, (name,)).fetchone()]
    unknown = 0
    rows: list[tuple[object, ...]] = []
    for index, label in enumerate(labels):
        device = label.edge_device_id
        if device is not None:
            key = (label.prediction_id, device)
            unknown += connection.execute(_IS_KEPT, key).fetchone() is None
        else:
            found = connection.execute(_DEVICES, (label.prediction_id,)).fetchall()
            if len(found) > 1:
                raise bad_field(
                    f"labels[{index}].edge_device_id" if len(labels) > 1 else "edge_device_id",
                    f"a device, since several have a prediction {label.prediction_id}",
                )
            unknown += not found
            device = found[0][0] if found else None
        said = (label.true_class or "", label.labelled_by, label.note, int(label.reported), at)
        rows.append((label.prediction_id, device, *said))
    connection.executemany(_INSERT, rows)
    return Labelled(len(labels), unknown, sorted(new)[:_MOST_NEW_CLASSES])


def read_labels(connection: sqlite3.Connection, *, after: int, limit: int) -> LabelsPage:
    """Return at most `limit` labels after the id `after`, in the order in which they were given."""
    rows = connection.execute(_PAGE, (after, limit + 1)).fetchall()
    labels = [_shown(row) for row in rows[:limit]]
    return LabelsPage(labels, len(labels), rows[limit - 1]["id"] if len(rows) > limit else None)


def _shown(row: sqlite3.Row) -> dict[str, object]:
    """Return a row as an answer has it: flags, and JSON, which is null where no picture is kept."""
    shown: dict[str, object] = dict(row)
    for name in shown.keys() & {"reported", "last", "sampled", "picture_kept"}:
        shown[name] = None if row[name] is None else bool(row[name])
    for name in ("scores", "challenger"):
        shown[name] = None if row[name] is None else msgspec.json.decode(row[name])
    return {**shown, "true_class": row["true_class"] or None}


def count_waiting(connection: sqlite3.Connection, filters: Filters) -> int:
    """Return how many pictures wait for a label."""
    where, values = filters.where()
    query = f"SELECT count(*) FROM evidence WHERE labelled = 0 AND {where}"  # noqa: S608 - own names
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
            f" WHERE labelled = 0 AND sampled = {sampled} AND {where} ORDER BY {order}, id LIMIT ?",
            (*values, skip + limit),
        )
        arms.append([(row["prediction_id"], row["edge_device_id"]) for row in rows])
    return _alternating(*arms)[skip : skip + limit]


def read_queue(connection: sqlite3.Connection, filters: Filters, *, skip: int, limit: int) -> Queue:
    """Return pictures that wait, and how many there are."""
    waiting = count_waiting(connection, filters)
    keys = waiting_keys(connection, filters, skip=skip, limit=limit)
    following = skip + len(keys)
    return Queue(
        waiting,
        [_shown(connection.execute(_FIND, key).fetchone()) for key in keys],
        following if keys and following < waiting else None,
    )


def _alternating(first: Sequence[Key], second: Sequence[Key]) -> list[Key]:
    both = min(len(first), len(second))
    pairs = [key for pair in zip(first, second, strict=False) for key in pair]
    return [*pairs, *first[both:], *second[both:]]
