"""The figures of what is stored, from kept pictures and labels to the answer of `/quality`."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bentos.evidence import decide
from bentos.logging.review.figures import Figures
from bentos.logging.review.labels import Filters, Label, add_labels, waiting_keys
from bentos.logging.review.quality import (
    QualityQuery,
    estimate_versions,
    exposed,
    read_versions,
)
from bentos.logging.review.schema import configure

NOW = 1_795_600_000.0
DAY = 86_400.0
COLUMNS = {
    "prediction_id": "p",
    "edge_device_id": "line-4",
    "timestamp": NOW - 60,
    "image_id": "p.png",
    "model_name": "steel",
    "model_version": "3",
    "class_name": "good",
    "confidence": 0.9,
    "verdict": "pass",
    "scores": '{"good": 0.9}',
    "sampled": 1,
    "sample_probability": 0.5,
    "keep_probability": 0.5,
    "challenger": None,
    "sha256": "",
    "bytes": 1,
    "media_type": "image/png",
    "received_at": NOW - 50,
    "picture_kept": 1,
    "random_key": 0.5,
}
INSERT = f"INSERT INTO evidence ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    """An empty store in memory."""
    connection = make_database()
    yield connection
    connection.close()


def make_database() -> sqlite3.Connection:
    """Return an empty store in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    configure(connection)
    connection.row_factory = sqlite3.Row
    return connection


def keep(database: sqlite3.Connection, prediction_id: str, **changes: Any) -> None:
    """Store a kept picture."""
    row = {**COLUMNS, "prediction_id": prediction_id, **changes}
    database.execute(INSERT, list(row.values()))


def label(database: sqlite3.Connection, prediction_id: str, true_class: str, **more: Any) -> None:
    """Label a picture."""
    add_labels(database, [Label(prediction_id, true_class, "ada", **more)], at=NOW)


def figures(database: sqlite3.Connection, *, days: float = 30, **query: Any) -> list[Figures]:
    """Return the figures by version."""
    return estimate_versions(read_versions(database, QualityQuery(days, **query), now=NOW))


def fill(database: sqlite3.Connection, name: str = "", **changes: Any) -> None:
    """Keep 40 labelled pictures: of 20 defects, one passed, and of 20 good ones, none failed."""
    for number in range(20):
        keep(database, f"{name}g{number}", **changes)
        label(database, f"{name}g{number}", "good")
    for number in range(20):
        passed = {} if number == 0 else {"class_name": "crack", "verdict": "fail"}
        keep(database, f"{name}d{number}", **{**changes, **passed})
        label(database, f"{name}d{number}", "crack")


def test_figures_are_by_version_and_the_one_seen_last_comes_first(
    database: sqlite3.Connection,
) -> None:
    fill(database, "a")
    fill(database, "b", model_version="4", timestamp=NOW - 5)
    newest, older = figures(database)
    assert (newest.model_version, older.model_version) == ("4", "3")
    assert newest.escape_rate is not None
    assert newest.escape_rate.estimate == pytest.approx(0.05)
    assert newest.escape_rate.labels == 20
    assert figures(database, model_version="3") == [older]


def test_figures_can_be_of_one_device_and_of_some_days(database: sqlite3.Connection) -> None:
    fill(database, "a")
    keep(database, "b", edge_device_id="line-5", timestamp=NOW - 3 * DAY)
    assert figures(database)[0].pictures == 41
    assert figures(database, edge_device_id="line-4")[0].pictures == 40
    assert figures(database, edge_device_id="line-5")[0].pictures == 1
    assert figures(database, days=2)[0].pictures == 40


def test_each_device_can_have_figures_of_its_own(database: sqlite3.Connection) -> None:
    fill(database, "a", timestamp=NOW - 60)
    fill(database, "b", edge_device_id="line-5", timestamp=NOW - 50)
    label(database, "bd1", "good", edge_device_id="line-5")
    label(database, "bd0", "good", edge_device_id="line-5")
    (both,) = figures(database)
    one, other = figures(database, by_device=True)
    assert (both.edge_device_id, both.pictures) == (None, 80)
    assert (one.edge_device_id, other.edge_device_id) == ("line-5", "line-4")
    assert figures(database, edge_device_id="line-4", by_device=True) == [other]
    assert other.escape_rate is not None
    assert one.escape_rate is not None
    assert (other.escape_rate.estimate, one.escape_rate.estimate) == (0.05, 0.0)


def test_only_the_slice_counts(database: sqlite3.Connection) -> None:
    fill(database)
    before = figures(database)
    keep(database, "doubtful", sampled=0, verdict="review", confidence=0.1)
    label(database, "doubtful", "crack")
    assert figures(database) == before


def test_a_reported_defect_counts_only_once_the_queue_has_shown_it(
    database: sqlite3.Connection,
) -> None:
    fill(database)
    keep(database, "sold")
    label(database, "sold", "crack", reported=True)
    (found,) = figures(database)
    assert (found.pictures, found.labels) == (41, 40)
    label(database, "sold", "good")
    label(database, "sold", "crack", reported=True)
    (found,) = figures(database)
    assert found.labels == 41
    assert found.escape_rate is not None
    assert found.escape_rate.labels == 21


def test_the_last_label_decides(database: sqlite3.Connection) -> None:
    fill(database)
    label(database, "d0", "good")
    rate = figures(database)[0].escape_rate
    assert rate is not None
    assert rate.estimate == 0.0


def test_classes_that_a_model_passes_are_good(database: sqlite3.Connection) -> None:
    keep(database, "a", class_name="clean")
    keep(database, "b", class_name="rust", verdict="fail")
    keep(database, "c", class_name="clean", verdict="review")
    for name, true in (("a", "clean"), ("b", "clean"), ("c", "dust")):
        label(database, name, true)
    (found,) = figures(database)
    assert found.good_classes == ["clean"]
    assert found.false_reject_rate is not None
    assert found.false_reject_rate.estimate == pytest.approx(0.5)


def test_the_answer_has_numbers_or_null(database: sqlite3.Connection) -> None:
    fill(database)
    keep(database, "doubtful", verdict="review")

    version: Any
    (version,) = figures(database)
    assert version.unlabelled_verdicts == ["review"]
    assert version.escape_rate is None
    label(database, "doubtful", "good")
    (version,) = msgspec.to_builtins(figures(database))
    rate = version["escape_rate"]
    assert rate["low"] < rate["estimate"] == 0.05 < rate["high"]
    assert version["recall"]["crack"]["estimate"] == 0.95
    assert version["precision"]["crack"]["estimate"] == 1.0
    assert version["good_classes"] == ["good"]


def test_the_metrics_show_few_versions_and_classes(database: sqlite3.Connection) -> None:
    for version in range(8):
        fill(database, f"{version}-", model_version=f"{version}", timestamp=NOW - 60 + version)
    for number in range(30):
        keep(database, f"odd{number}", model_version="7", class_name=f"odd{number}")
        label(database, f"odd{number}", f"odd{number}")
    rows = exposed(figures(database))
    assert {row[1] for row in rows} == {"7", "6", "5", "4"}
    assert {"crack", "good"} <= {row[3] for row in rows}
    assert len({row[3] for row in rows}) <= 13
    rates = [row for row in rows if row[:3] == ["steel", "6", "escape_rate"]]
    assert [len(row) for row in rates] == [7]


def inspected(seed: int, *, labels: int) -> tuple[sqlite3.Connection, float]:
    """Return a store whose queue was labelled for a while, and the true escape rate.

    Of 6,000 predictions, doubtful ones are wrong more often. Their pictures are kept as the
    inference service decides it, and labelled in the order of the queue.
    """
    draw = random.Random(seed)
    database = make_database()
    truth: dict[str, str] = {}
    escaped = defects = 0
    for number in range(6_000):
        name = f"{seed}-{number}"
        true = "crack" if draw.random() < 0.1 else "good"
        wrong = draw.random() < (0.15 if true == "crack" else 0.03)
        said = {"crack": "good", "good": "crack"}[true] if wrong else true
        confidence = 1 - (draw.betavariate(2, 4) if wrong else draw.betavariate(1, 12))
        verdict = "review" if confidence < 0.6 else "pass" if said == "good" else "fail"
        defects += true == "crack"
        escaped += true == "crack" and verdict == "pass"
        kept = decide(name, verdict, pass_share=0.05, sample_share=0.2, differs=False)
        if kept.kept and draw.random() < 0.9:
            truth[name] = true
            keep(
                database,
                name,
                class_name=said,
                confidence=confidence,
                verdict=verdict,
                sampled=int(kept.sampled),
                sample_probability=kept.sample_probability,
                random_key=draw.random(),
            )
    keys = waiting_keys(database, Filters(), skip=0, limit=labels)
    said_of = [Label(key[0], truth[key[0]], "ada", edge_device_id=key[1]) for key in keys]
    add_labels(database, said_of, at=NOW)
    return database, escaped / defects


@pytest.mark.slow
def test_labelling_a_part_of_the_queue_gives_intervals_that_hold_the_truth() -> None:
    """In 93 of 100 seeds at least; the unweighted share of the same labels does not."""
    found: Counter[str] = Counter()
    for seed in range(100):
        database, truth = inspected(seed, labels=400)
        rate = figures(database)[0].escape_rate
        found["weighted"] += rate is not None and rate.low <= truth <= rate.high
        database.execute("UPDATE evidence SET sampled = labelled, sample_probability = 1.0")
        rate = figures(database)[0].escape_rate
        found["unweighted"] += rate is not None and rate.low <= truth <= rate.high
        database.close()
    assert found["weighted"] >= 93, found
    assert found["unweighted"] < 93, found


def test_labels_of_one_filter_do_not_change_what_is_said_of_the_others(
    database: sqlite3.Connection,
) -> None:
    """Of two lines, only the one on which everything escapes is labelled further."""
    for line, true in (("line-1", "good"), ("line-2", "crack")):
        for number in range(200):
            keep(database, f"{line}-{number}", edge_device_id=line)
            if number < (20 if line == "line-1" else 200):
                label(database, f"{line}-{number}", true)
    for number in range(100):
        keep(database, f"fail{number}", class_name="crack", verdict="fail")
        label(database, f"fail{number}", "crack")
    (found,) = figures(database)
    # 200 of 300 defects passed, whichever share of them is labelled.
    assert found.escape_rate is not None
    assert found.escape_rate.estimate == pytest.approx(200 / 300)
