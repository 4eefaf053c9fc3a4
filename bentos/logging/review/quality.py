"""The figures of what is stored: by model version and class, for a device and for some days.

`figures` says how they are estimated; here are the rows that it takes and the answer that it gives.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from bentos.logging.review.figures import Figures, Group, Rate, estimate

_DAY_SECONDS = 86_400
# Of the answer: the versions with the newest pictures.
MAX_VERSIONS = 20
# And with devices: figures take some hundredths of a second each.
MAX_DEVICES = 100
# Of the metrics: a series for each number.
_EXPOSED_RATES = ("escape_rate", "false_reject_rate", "precision", "recall")
_EXPOSED_VERSIONS = 4
_EXPOSED_CLASSES = 12
_EXPOSED_CHARACTERS = 60


_Version: TypeAlias = tuple[str, str, str | None]


@dataclass(frozen=True)
class QualityQuery:
    """Whose figures are asked for: pictures of the last `days`, of one version or device or all.

    With `by_device` each device of a version has figures of its own.
    """

    days: float
    model_version: str | None = None
    edge_device_id: str | None = None
    by_device: bool = False


@dataclass(frozen=True)
class VersionRows:
    """The sample of one version; `good` are its model's classes that are no defect."""

    model_name: str
    model_version: str
    edge_device_id: str | None
    last_timestamp: float
    groups: Sequence[Group]
    good: frozenset[str]


class Quality(msgspec.Struct, frozen=True):
    """What `GET /quality` answers."""

    days: float
    edge_device_id: str | None
    versions: Sequence[Figures]


# Of each picture, `true_class` is what the last label says. It counts only where a person labelled
# the picture without having chosen it for what it shows.
_GROUPS = (
    "SELECT model_name, model_version, verdict, class_name,"  # noqa: S608 - own numbers
    " CASE WHEN labelled THEN true_class END AS true_class, sample_probability, edge_device_id,"
    f" CAST(timestamp / {_DAY_SECONDS} AS INTEGER) AS day,"
    " coalesce(json_extract(challenger, '$.class_name') <> class_name, 0) AS differs,"
    " count(*) AS number, max(timestamp) AS last_timestamp"
    " FROM evidence WHERE sampled = 1 AND timestamp >= ?"
    " AND model_version = coalesce(?, model_version)"
    " AND edge_device_id = coalesce(?, edge_device_id)"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
)
# A model passes only what it takes for good.
_GOOD = "SELECT DISTINCT model_name, class_name FROM evidence WHERE verdict = 'pass'"


def read_versions(
    connection: sqlite3.Connection, query: QualityQuery, *, now: float
) -> list[VersionRows]:
    """Return the sample by version, the one with the newest picture first."""
    good: dict[str, set[str]] = {}
    for model_name, class_name in connection.execute(_GOOD):
        good.setdefault(model_name, set()).add(class_name)
    groups: dict[_Version, list[Group]] = {}
    last: dict[_Version, float] = {}
    since = now - query.days * _DAY_SECONDS
    for row in connection.execute(_GROUPS, (since, query.model_version, query.edge_device_id)):
        device = row["edge_device_id"] if query.by_device else None
        version = (row["model_name"], row["model_version"], device)
        last[version] = max(row["last_timestamp"], last.get(version, 0.0))
        groups.setdefault(version, []).append(
            Group(
                verdict=row["verdict"],
                class_name=row["class_name"],
                true_class=row["true_class"],
                sample_probability=row["sample_probability"],
                count=row["number"],
                edge_device_id=row["edge_device_id"],
                day=row["day"],
                differs=bool(row["differs"]),
            )
        )
    most = MAX_DEVICES if query.by_device else MAX_VERSIONS
    newest = sorted(last, key=lambda version: (-last[version], str(version)))[:most]
    return [
        VersionRows(*version, last[version], groups[version], frozenset(good.get(version[0], ())))
        for version in newest
    ]


def estimate_versions(versions: Sequence[VersionRows]) -> list[Figures]:
    """Return the figures of each version; a second of processor time for 100,000 groups."""
    return [
        replace(
            estimate(one.groups, one.good),
            model_name=one.model_name,
            model_version=one.model_version,
            edge_device_id=one.edge_device_id,
        )
        for one in versions
    ]


def exposed(versions: Sequence[Figures]) -> list[list[object]]:
    """Return model, version, rate, class and the three numbers of what the metrics show."""
    rows: list[list[object]] = []
    for one in versions[:_EXPOSED_VERSIONS]:
        classes = sorted(one.precision, key=partial(_labels, one))
        names = sorted(classes[-_EXPOSED_CLASSES:])
        rates: dict[tuple[str, str], Rate | None] = {
            ("escape_rate", ""): one.escape_rate,
            ("false_reject_rate", ""): one.false_reject_rate,
            **{("precision", name): one.precision[name] for name in names},
            **{("recall", name): one.recall[name] for name in names},
        }
        for (rate, name), value in rates.items():
            if value is not None:
                texts = (one.model_name, one.model_version, rate, name)
                numbers = (value.low, value.estimate, value.high)
                rows.append(
                    [
                        *(text[:_EXPOSED_CHARACTERS] for text in texts),
                        *(round(number, 4) for number in numbers),
                    ]
                )
    # The most important come first, where there is not room for all.
    return sorted(rows, key=lambda row: _EXPOSED_RATES.index(str(row[2])))


def _labels(found: Figures, name: str) -> int:
    rates = (found.precision[name], found.recall[name])
    return sum(rate.labels for rate in rates if rate is not None)
