"""The figures of what is stored: by model version and class, for a device and for some days.

`figures` says how they are estimated; here are the rows that it takes and the answer that it gives.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bentos.logging.review.figures import Figures, Group, Rate, estimate

_DAY_SECONDS = 86_400
# Of the answer: the versions with the newest pictures.
MAX_VERSIONS = 20
# Of the metrics: a series for each number.
_EXPOSED_RATES = ("escape_rate", "false_reject_rate", "precision", "recall")
_EXPOSED_VERSIONS = 4
_EXPOSED_CLASSES = 12
_EXPOSED_CHARACTERS = 60


@dataclass(frozen=True)
class QualityQuery:
    """Whose figures are asked for: pictures of the last `days`, of one version or device or all."""

    days: float
    model_version: str | None = None
    edge_device_id: str | None = None


@dataclass(frozen=True)
class VersionRows:
    """The slice of one version; `good` are its model's classes that are no defect."""

    model_name: str
    model_version: str
    last_timestamp: float
    groups: Sequence[Group]
    good: frozenset[str]


@dataclass(frozen=True)
class VersionFigures:
    """The figures of one version."""

    model_name: str
    model_version: str
    good: Sequence[str]
    figures: Figures


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
    """Return the slice by version, the one with the newest picture first."""
    good: dict[str, set[str]] = {}
    for model_name, class_name in connection.execute(_GOOD):
        good.setdefault(model_name, set()).add(class_name)
    groups: dict[tuple[str, str], list[Group]] = {}
    last: dict[tuple[str, str], float] = {}
    since = now - query.days * _DAY_SECONDS
    for row in connection.execute(_GROUPS, (since, query.model_version, query.edge_device_id)):
        version = (row["model_name"], row["model_version"])
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
    newest = sorted(last, key=lambda version: (-last[version], version))[:MAX_VERSIONS]
    return [
        VersionRows(*version, last[version], groups[version], frozenset(good.get(version[0], ())))
        for version in newest
    ]


def estimate_versions(versions: Sequence[VersionRows]) -> list[VersionFigures]:
    """Return the figures of each version; a second of processor time for 100,000 groups."""
    return [
        VersionFigures(
            one.model_name, one.model_version, sorted(one.good), estimate(one.groups, one.good)
        )
        for one in versions
    ]


def quality_answer(query: QualityQuery, versions: Sequence[VersionFigures]) -> dict[str, object]:
    """Return what `GET /quality` answers."""
    return {
        "days": query.days,
        "edge_device_id": query.edge_device_id,
        "versions": [_answer(one) for one in versions],
    }


def exposed(versions: Sequence[VersionFigures]) -> list[list[object]]:
    """Return model, version, rate, class and the three numbers of what the metrics show."""
    rows: list[list[object]] = []
    for one in versions[:_EXPOSED_VERSIONS]:
        found = one.figures
        classes = sorted(found.precision, key=lambda name: _labels(found, name))
        names = sorted(classes[-_EXPOSED_CLASSES:])
        rates: dict[tuple[str, str], Rate | None] = {
            ("escape_rate", ""): found.escape_rate,
            ("false_reject_rate", ""): found.false_reject_rate,
            **{("precision", name): found.precision[name] for name in names},
            **{("recall", name): found.recall[name] for name in names},
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


def _answer(one: VersionFigures) -> dict[str, object]:
    found = one.figures
    return {
        "model_name": one.model_name,
        "model_version": one.model_version,
        "good_classes": one.good,
        "pictures": found.pictures,
        "labels": found.labels,
        "unlabelled_verdicts": found.unlabelled,
        "escape_rate": _rate(found.escape_rate),
        "false_reject_rate": _rate(found.false_reject_rate),
        "precision": _rates(found.precision),
        "recall": _rates(found.recall),
    }


def _rates(rates: Mapping[str, Rate | None]) -> dict[str, object]:
    return {name: _rate(rate) for name, rate in rates.items()}


def _rate(rate: Rate | None) -> dict[str, float] | None:
    if rate is None:
        return None
    return {name: round(value, 6) for name, value in asdict(rate).items()}
