"""Labels, that is what people say kept pictures show: from a request, into the store, and out.

All labels are kept; the last one of a picture counts.
"""

import csv
import io
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from bentos.edge.http import ServiceError
from bentos.logging.request import bad_field, decode_part, refuse_nul
from bentos.messages import MAX_NAME_CHARACTERS, Flag, Identifier, Notes

# Of one request. Storing them takes seconds, and pictures wait meanwhile.
MAX_LABELS = 100_000

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


@dataclass(frozen=True)
class Labelled:
    """What became of labels.

    `unknown` are of predictions of which no picture is kept, and `new_classes` those classes that
    no model has said and no one has labelled before.
    """

    labels: int
    unknown: int
    new_classes: Sequence[str]


_FIELDS = Label.__struct_fields__
_REQUIRED = _FIELDS[:3]
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}
_MOST_NEW_CLASSES = 20
_BYTE_ORDER_MARK = "\ufeff"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_one = msgspec.json.Decoder(Label)
_several = msgspec.json.Decoder(Labels)

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
# Beside a label, what was said of its picture; the columns are NULL where none is kept.
_OF_PICTURE = (
    *("timestamp", "image_id", "model_name", "model_version", "class_name", "confidence"),
    *("verdict", "sampled", "sample_probability", "keep_probability", "picture_kept"),
)
_PAGE = (
    "SELECT labels.id, labels.prediction_id,"  # noqa: S608 - own names
    " coalesce(labels.edge_device_id, evidence.edge_device_id) AS edge_device_id,"
    " labels.true_class, labelled_by, note, reported, labelled_at,"
    f" {', '.join(_OF_PICTURE)}, scores, challenger,"
    " NOT EXISTS (SELECT 1 FROM labels AS later WHERE later.prediction_id = labels.prediction_id"
    " AND coalesce(later.edge_device_id, evidence.edge_device_id, '')"
    " = coalesce(labels.edge_device_id, evidence.edge_device_id, '')"
    " AND later.id > labels.id) AS last"
    " FROM labels LEFT JOIN evidence ON evidence.prediction_id = labels.prediction_id"
    " AND evidence.edge_device_id = coalesce(labels.edge_device_id, evidence.edge_device_id)"
    " WHERE labels.id > ? ORDER BY labels.id LIMIT ?"
)


def parse_labels(body: bytes, content_type: bytes) -> list[Label]:
    """Return the labels of a body: one as a JSON object, several in `labels`, or CSV.

    Raises ServiceError 400 for the first fault found, and 413 for too many labels.
    """
    if content_type == b"text/csv":
        return _parse_csv(body)
    if not body:
        raise ServiceError(
            400, "bad_input", 'the body is empty; send a JSON object {"labels": [...]}, or CSV'
        )
    if not _has_several(body):
        return _checked([decode_part(_one, body, Label)], body, one=True)
    return _checked(decode_part(_several, body, Labels).labels, body)


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


def read_labels(connection: sqlite3.Connection, *, after: int, limit: int) -> dict[str, object]:
    """Return at most `limit` labels after the id `after`, in the order in which they were given.

    Each has what was said of its picture, and `last`, whether it counts.
    """
    rows = connection.execute(_PAGE, (after, limit + 1)).fetchall()
    labels = [_shown(row) for row in rows[:limit]]
    more = len(rows) > limit
    return {
        "labels": labels,
        "count": len(labels),
        "next": labels[-1]["id"] if more else None,
    }


def _shown(row: sqlite3.Row) -> dict[str, object]:
    shown: dict[str, object] = dict(row)
    for name in ("reported", "last", "sampled", "picture_kept"):
        shown[name] = None if row[name] is None else bool(row[name])
    shown["true_class"] = row["true_class"] or None
    for name in ("scores", "challenger"):
        shown[name] = None if row[name] is None else msgspec.json.decode(row[name])
    return shown


def _has_several(body: bytes) -> bool:
    try:
        return "labels" in _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # decoding the label says what is wrong


def _checked(labels: list[Label], body: bytes, *, one: bool = False) -> list[Label]:
    if not labels:
        raise bad_field("labels", "at least one label", [])
    if len(labels) > MAX_LABELS:
        raise ServiceError(
            413,
            "too_large",
            f"labels: expected at most {MAX_LABELS}, got {len(labels)}; send several requests",
        )
    if b"\\u0000" in body or b"\0" in body:
        for index, label in enumerate(labels):
            refuse_nul(label, "" if one else f"labels[{index}]")
    return labels


def _parse_csv(body: bytes) -> list[Label]:
    """Return the labels of a CSV file with a header row (RFC 4180), commas or semicolons."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServiceError(
            400, "bad_input", f"the file is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        labels = _read_csv(rows, delimiter)
    except csv.Error as error:
        raise ServiceError(
            400, "bad_input", f"line {rows.line_num + 1} of the file is no CSV: {error}"
        ) from None
    content = msgspec.json.encode({"labels": labels})
    return _checked(decode_part(_several, content, Labels).labels, content)


def _read_csv(rows: "csv.DictReader[str]", delimiter: str) -> list[dict[str, object]]:
    """Return the rows below the header, one more than a request may bring at most."""
    columns = list(rows.fieldnames or ())
    missing = [name for name in _REQUIRED if name not in columns]
    strange = [name for name in columns if name not in _FIELDS]
    if missing or strange or len(set(columns)) < len(columns):
        raise bad_field(
            "header",
            f"a first row with {', '.join(_REQUIRED)} and, where needed, {', '.join(_FIELDS[3:])}",
            delimiter.join(columns),
        )
    labels: list[dict[str, object]] = []
    for row in rows:
        labels.append(_from_csv(row, len(labels)))
        if len(labels) > MAX_LABELS:
            break
    return labels


def _from_csv(row: dict[str, str], index: int) -> dict[str, object]:
    path = f"labels[{index}]"
    if None in row or None in row.values():
        raise bad_field(path, "as many columns as the header has")
    label: dict[str, object] = {name: value for name, value in row.items() if value}
    if "true_class" not in label:
        raise bad_field(f"{path}.true_class", "a text of 1 to 512 characters", "")
    if "reported" in row:
        flag = row["reported"].strip().lower()
        if flag not in _FLAGS:
            raise bad_field(f"{path}.reported", "true or false", row["reported"])
        label["reported"] = _FLAGS[flag]
    return label
