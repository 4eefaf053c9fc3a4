"""A kept picture as the page shows it: rows of the store in words, and the keys of its classes."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bentos.edge.http import ServiceError
from bentos.evidence import ChallengerAnswer
from bentos.logging.page.words import moment, shorten
from bentos.logging.review.labels import Filters

# Letters that do something else on the page: heat map and undo.
_KEYS = "123456789abcdefgijklmnopqrstvwxyz"
_MOST_CHARACTERS = 120
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
    shown: str
    key: str
    score: float | None
    marks: Sequence[str]
    labelled: bool


@dataclass(frozen=True)
class ShownLabel:
    """A label in words; `shown` is its class."""

    time: str
    shown: str
    who: str
    note: str


@dataclass(frozen=True)
class ShownChallenger:
    """What the challenger says."""

    version: str
    class_name: str
    confidence: float
    differs: bool


@dataclass(frozen=True)
class ShownPicture:
    """A kept picture, what was said of it, and its labels, of which the newest is the first."""

    prediction_id: str
    edge_device_id: str
    image: str
    time: str
    model: str
    model_version: str
    class_name: str
    confidence: float
    verdict: str
    picture_kept: bool
    challenger: ShownChallenger | None
    classes: Sequence[ClassChoice]
    labels: Sequence[ShownLabel]
    label: str | None
    label_shown: str


@dataclass(frozen=True)
class Choices:
    """The values that filters can have."""

    versions: Sequence[str]
    devices: Sequence[str]
    verdicts: Sequence[str]


def find_choices(connection: sqlite3.Connection) -> Choices:
    """Return what the kept pictures can be narrowed down by."""

    def values(column: str) -> Sequence[str]:
        rows = connection.execute(
            f"SELECT DISTINCT {column} FROM evidence WHERE picture_kept = 1"  # noqa: S608
            f" ORDER BY {column} LIMIT ?",
            (_MOST_CHOICES,),
        )
        return [value for (value,) in rows]

    return Choices(values("model_version"), values("edge_device_id"), values("verdict"))


def count_kept(connection: sqlite3.Connection, filters: Filters) -> int:
    """Return how many pictures are there."""
    condition, values = filters.where()
    query = f"SELECT count(*) FROM evidence WHERE {condition}"  # noqa: S608 - own names
    return int(connection.execute(query, values).fetchone()[0])


def find_key(
    connection: sqlite3.Connection, prediction_id: str, edge_device_id: str | None
) -> tuple[str, str]:
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


def shown_picture(
    connection: sqlite3.Connection, key: tuple[str, str], *, now: float
) -> ShownPicture | None:
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
    return ShownPicture(
        prediction_id=row["prediction_id"],
        edge_device_id=row["edge_device_id"],
        image=_short(row["image_id"]),
        time=f"{moment(row['timestamp'], now=now)} UTC",
        model=f"{_short(row['model_name'])} {row['model_version']}",
        model_version=row["model_version"],
        class_name=_short(row["class_name"]),
        confidence=row["confidence"],
        verdict=row["verdict"],
        picture_kept=bool(row["picture_kept"]),
        challenger=_shown_challenger(challenger, row["class_name"]),
        classes=_choices(names, row, challenger, label),
        labels=[_shown_label(one, now) for one in labels],
        label=label,
        label_shown=_short(label or ""),
    )


def _shown_challenger(answer: ChallengerAnswer | None, class_name: str) -> ShownChallenger | None:
    if answer is None:
        return None
    return ShownChallenger(
        _short(answer.version),
        _short(answer.class_name),
        answer.confidence,
        differs=answer.class_name != class_name,
    )


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
        ClassChoice(name, _short(name), key, scores.get(name), marks[name], name == label)
        for name, key in zip(names, keys, strict=False)
    ]


def _shown_label(row: sqlite3.Row, now: float) -> ShownLabel:
    return ShownLabel(
        time=moment(row["labelled_at"], now=now),
        shown=_short(row["true_class"]) if row["true_class"] else "taken back",
        who=_short(row["labelled_by"]),
        note=_short(row["note"] or ""),
    )


def _short(text: str) -> str:
    return shorten(text, _MOST_CHARACTERS)
