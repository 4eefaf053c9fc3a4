"""A kept picture as the page shows it: rows of the store, and the keys of its classes."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from bentos.edge.http import ServiceError
from bentos.evidence import ChallengerAnswer
from bentos.logging.review.labels import Filters, Key

# Letters that do something else on the page: heat map and undo.
_KEYS = "123456789abcdefgijklmnopqrstvwxyz"
# Whose scores say which classes a model has: of one picture only the highest are kept.
_RECENT_PICTURES = 300
_MOST_CLASSES = 500
_MOST_CHOICES = 200
_MOST_LABELS = 100

_scores = msgspec.json.Decoder(dict[str, float])
_challenger = msgspec.json.Decoder(ChallengerAnswer)


@dataclass(frozen=True)
class ClassChoice:
    """A class that the picture may be labelled with; `key` is empty where none is left for it."""

    name: str
    key: str
    score: float | None
    marks: Sequence[str]
    labelled: bool


@dataclass(frozen=True)
class ShownPicture:
    """A row of `evidence`, and those of its labels, of which the newest is the first."""

    said: sqlite3.Row
    challenger: ChallengerAnswer | None
    classes: Sequence[ClassChoice]
    labels: Sequence[sqlite3.Row]

    @property
    def key(self) -> Key:
        """The prediction and the device."""
        return self.said["prediction_id"], self.said["edge_device_id"]


def find_choices(connection: sqlite3.Connection) -> Mapping[str, Sequence[str]]:
    """Return what the kept pictures can be narrowed down by: the values of each filter."""
    return {
        name: [
            value
            for (value,) in connection.execute(
                f"SELECT DISTINCT {name} FROM evidence WHERE picture_kept = 1"  # noqa: S608
                f" ORDER BY {name} LIMIT ?",
                (_MOST_CHOICES,),
            )
        ]
        for name in ("model_version", "edge_device_id", "verdict")
    }


def count_kept(connection: sqlite3.Connection, filters: Filters) -> int:
    """Return how many pictures are there."""
    condition, values = filters.where()
    query = f"SELECT count(*) FROM evidence WHERE {condition}"  # noqa: S608 - own names
    return int(connection.execute(query, values).fetchone()[0])


def find_key(connection: sqlite3.Connection, prediction_id: str, edge_device_id: str | None) -> Key:
    """Return the key of a kept picture.

    Raises ServiceError 404 where there is none, and 400 where two devices have one and none is
    named.
    """
    rows = connection.execute(
        "SELECT edge_device_id FROM evidence WHERE prediction_id = ?"
        " AND edge_device_id = coalesce(?, edge_device_id) LIMIT 2",
        (prediction_id, edge_device_id),
    ).fetchall()
    if not rows:
        raise ServiceError(404, "not_found", "of this prediction no picture was kept")
    if len(rows) > 1:
        raise ServiceError(
            400, "bad_input", "device: several have a prediction of this id", field="device"
        )
    return prediction_id, rows[0]["edge_device_id"]


def known_classes(connection: sqlite3.Connection, model_name: str) -> Sequence[str]:
    """Return the classes of a model in the order of its keys, and then those people added.

    A class that people add comes last, so that no other gets a new key by it.
    """
    rows = connection.execute(
        "SELECT scores, class_name FROM evidence WHERE model_name = ? ORDER BY id DESC LIMIT ?",
        (model_name, _RECENT_PICTURES),
    )
    own: set[str] = set()
    for scores, class_name in rows:
        own |= {class_name, *_scores.decode(scores)}
    added = connection.execute(
        "SELECT true_class FROM evidence WHERE model_name = ? AND true_class IS NOT NULL"
        " GROUP BY true_class ORDER BY min(id) LIMIT ?",
        (model_name, _MOST_CLASSES),
    )
    others = [name for (name,) in added if name not in own]
    return [*sorted(own), *others][:_MOST_CLASSES]


def shown_picture(connection: sqlite3.Connection, key: Key) -> ShownPicture | None:
    """Return the picture of a prediction and device, None where there never was one."""
    row = connection.execute(
        "SELECT * FROM evidence WHERE prediction_id = ? AND edge_device_id = ?", key
    ).fetchone()
    if row is None:
        return None
    labels = connection.execute(
        "SELECT * FROM labels WHERE prediction_id = ?"
        " AND coalesce(edge_device_id, ?2) = ?2 ORDER BY id DESC LIMIT ?3",
        (*key, _MOST_LABELS),
    ).fetchall()
    label = row["true_class"]
    challenger = _challenger.decode(row["challenger"]) if row["challenger"] else None
    known = known_classes(connection, row["model_name"])
    # A class that only an old picture has gets a button as well.
    names = [*known, *({row["class_name"], *([label] if label else [])} - {*known})]
    return ShownPicture(row, challenger, _choices(names, row, challenger, label), labels)


def _choices(
    names: Iterable[str], row: sqlite3.Row, challenger: ChallengerAnswer | None, label: str | None
) -> Sequence[ClassChoice]:
    scores = _scores.decode(row["scores"])
    names = list(names)
    keys = [*_KEYS, *[""] * len(names)]
    marks: dict[str, list[str]] = {name: [] for name in names}
    marks[row["class_name"]].append("model")
    if challenger is not None:
        marks.setdefault(challenger.class_name, []).append("challenger")
    return [
        ClassChoice(name, key, scores.get(name), marks[name], name == label)
        for name, key in zip(names, keys, strict=False)
    ]
