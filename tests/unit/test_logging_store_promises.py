"""What a store promises, whichever database it is in: each test runs on both.

Batches whole, each prediction once, acknowledged only when on disk, deleted when due.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from msgspec import Raw
from msgspec.structs import replace

from bentos.edge.http import ServiceError
from bentos.logging.request import parse_page_query
from bentos.logging.store import PageQuery, Retention, StatsQuery, StoreError
from bentos.logging.store.queries import PAGE_BYTES
from tests.support.logging_store import RunningStore, row, running_store
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

# The path of an SQLite database, or the URL of a PostgreSQL one.
Where: TypeAlias = Path | str
DAY = 86_400.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "sqlite":
        return tmp_path / "data" / "predictions.db"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.url(postgres.make_database())


@pytest.fixture
def store(where: Where, tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(where, tmp_path / "pod") as running:
        yield running


def test_a_batch_is_in_the_database_when_it_is_acknowledged(store: RunningStore) -> None:
    stored = store.put(row("a", defect_detected=True), row("b"))

    assert (stored.predictions, stored.duplicates, stored.defects) == (2, 0, 1)
    assert store.ids() == {"a", "b"}
    assert (store.state.predictions.value, store.state.defects.value) == (2, 1)
    assert store.state.last_prediction_at.value > 0


def test_the_same_id_twice_is_stored_once_in_a_batch_and_across_batches(
    store: RunningStore,
) -> None:
    a, b = row("a"), row("b")
    first = store.put(a, a, b)
    second = store.put(b, row("c"))

    assert (first.predictions, first.duplicates) == (2, 1)
    assert (second.predictions, second.duplicates) == (1, 1)
    assert store.ids() == {"a", "b", "c"}
    assert store.state.duplicates.value == 2


def test_a_verdict_that_an_older_service_did_not_store_makes_no_conflict(
    store: RunningStore,
) -> None:
    known = row("a")
    store.put(known)
    again = store.put(replace(known, verdict="review"))

    assert (again.predictions, again.duplicates) == (0, 1)


@pytest.mark.case(20)
def test_two_devices_may_use_the_same_id(store: RunningStore) -> None:
    """Devices A and B each send `prediction_id: "1"`, with other content: both are stored."""
    first = store.put(row("1", edge_device_id="A", defect_detected=True))
    second = store.put(row("1", edge_device_id="B", defect_detected=False))

    assert (first.predictions, second.predictions) == (1, 1)
    assert (first.duplicates, second.duplicates) == (0, 0)


@pytest.mark.case(20)
@pytest.mark.parametrize(
    "changes",
    [
        {"defect_detected": True},
        {"image_id": "another.png"},
        {"timestamp": 1.0},
        {"model_version": "4"},
        {"inference_time_ms": 2.500001},
        {"processing_notes": "dim"},
        {"confidence_scores": Raw(b"[0.9,0.2]")},
        {"detections": Raw(b"[]")},
    ],
)
def test_other_content_under_a_known_id_is_a_conflict(
    store: RunningStore, changes: dict[str, Any]
) -> None:
    """A device sends an id again with other content: 409 that names the item, nothing stored."""
    known = row("a")
    store.put(known)
    with pytest.raises(ServiceError) as refused:
        store.put(row("new"), replace(known, **changes))

    assert (refused.value.status, refused.value.reason) == (409, "conflict")
    assert refused.value.details["field"] == "predictions[1].prediction_id"
    assert refused.value.message.startswith("predictions[1].prediction_id: expected an id of its")
    assert store.ids() == {"a"}
    assert store.state.conflicts.value == 1
    assert store.state.duplicates.value == 0
    assert store.state.errors.value == 0


@pytest.mark.case(20)
def test_the_same_content_is_a_duplicate_however_it_was_sent(store: RunningStore) -> None:
    """A device sends the same prediction in another request: a duplicate, stored once."""
    known = row("a", confidence_scores=Raw(b'{"a":0.9,"b":0.1}'), request_id="first")
    store.put(known)
    again = replace(
        known,
        confidence_scores=Raw(b'{"b": 0.1, "a": 0.9}'),
        detections=Raw(b'[{"confidence":0.9,"class":"scratch"}]'),
        request_id="second",
        received_at=known.received_at + 60,
        sent_at=1.75e9,
    )

    assert store.put(again).duplicates == 1


@pytest.mark.case(20)
def test_a_conflict_within_a_batch_and_between_batches_of_one_transaction(
    store: RunningStore,
) -> None:
    """The same id with other content in batches that wait together: the second is refused."""
    one, other = row("1"), row("1", image_id="other")
    with pytest.raises(ServiceError) as refused:
        store.put(one, other)
    assert refused.value.details["field"] == "predictions[1].prediction_id"
    with store.locked_by_another():
        store.wait_for_failure("busy")
    store.wait_until_accessible()
    first, second, third = [
        store.begin(rows) for rows in ([one], [row("new"), other], [row("last")])
    ]

    assert first.result(10).predictions == 1
    with pytest.raises(ServiceError, match=r"predictions\[1\]"):
        second.result(10)
    assert third.result(10).predictions == 1
    assert store.ids() == {"1", "last"}


def test_a_known_id_is_still_known_after_a_restart(tmp_path: Path, where: Where) -> None:
    with running_store(where, tmp_path / "first") as store:
        sent = row("a")
        store.put(sent)
    with running_store(where, tmp_path / "second") as store:
        assert store.put(sent).duplicates == 1


def test_predictions_without_an_id_are_never_taken_for_duplicates(store: RunningStore) -> None:
    nameless = replace(row(), prediction_id=None)

    assert store.put(nameless, nameless).predictions == 2


def test_batches_that_wait_share_one_transaction_and_keep_their_own_counts(
    store: RunningStore,
) -> None:
    with store.locked_by_another():
        store.wait_for_failure("busy")
    store.wait_until_accessible()
    shared = row("shared")
    patient = [store.begin([row(f"id-{number}"), shared]) for number in range(50)]
    stored = [one.result(10) for one in patient]

    assert sum(one.predictions for one in stored) == 51
    assert sum(one.duplicates for one in stored) == 49
    transactions, predictions = store.commits()
    assert predictions == 51
    assert transactions < 50


def test_a_failure_of_the_code_itself_fails_what_waits_and_is_recovered_from(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.state, "record_stored", None)
    with pytest.raises(TypeError):
        store.put(row("stored but not acknowledged"))
    monkeypatch.undo()
    store.wait_until_accessible()

    assert store.put(row("later")).predictions == 1
    assert store.state.queue_depth.value == 0


def test_a_full_queue_refuses_with_429_and_a_large_batch_is_let_in_alone(
    tmp_path: Path, where: Where
) -> None:
    with running_store(
        where, tmp_path / "pod", queue_rows=10, busy_timeout_seconds=10, check_seconds=60
    ) as store:
        with store.locked_by_another():
            first = store.begin([row() for _ in range(15)])
            wait_until(lambda: store.state.queue_depth.value == 15, "it waits", seconds=5)
            with pytest.raises(ServiceError) as refused:
                store.put(row())
        assert (refused.value.status, refused.value.reason) == (429, "queue_full")
        assert refused.value.headers["Retry-After"]
        assert first.result(10).predictions == 15
        wait_until(lambda: store.state.queue_depth.value == 0, "none waits", seconds=5)


def test_what_waits_is_stored_before_the_store_stops(tmp_path: Path, where: Where) -> None:
    with running_store(where, tmp_path / "pod", busy_timeout_seconds=10, check_seconds=60) as store:
        with store.locked_by_another():
            waiting = [store.begin([row()]) for _ in range(20)]
            wait_until(lambda: store.state.queue_depth.value == 20, "they wait", seconds=5)
        store.stop()
        assert all(one.result(1).predictions == 1 for one in waiting)
    assert len(store.ids()) == 20


def test_a_lock_held_by_another_process_is_a_failure_until_it_is_gone(
    store: RunningStore,
) -> None:
    with store.locked_by_another():
        store.wait_for_failure("busy")
        with pytest.raises(ServiceError) as refused:
            store.put(row("refused"))
        assert (refused.value.status, refused.value.reason) == (503, "database_not_accessible")
        assert store.state.store_errors["busy"].value >= 1
    store.wait_until_accessible()

    assert store.put(row("later")).predictions == 1
    assert store.ids() == {"later"}


def test_a_batch_caught_by_a_failure_is_refused_and_counted_as_an_error(
    tmp_path: Path, where: Where
) -> None:
    with running_store(where, tmp_path / "pod", check_seconds=60) as store:
        with store.locked_by_another(), pytest.raises(StoreError) as failure:
            store.put(row("refused"))
        assert failure.value.reason == "busy"
        assert store.state.errors.value == 1
        assert store.state.outcomes.errors == 1
        assert store.ids() == set()


def test_predictions_older_than_the_retention_are_deleted_and_counted(
    tmp_path: Path, where: Where
) -> None:
    now = time.time()
    with running_store(where, tmp_path / "pod", retention=Retention(days=30)) as store:
        store.put(*[row(received_at=now - 31 * DAY) for _ in range(300)], row("kept"))
        store.put(row("new", received_at=now))
        store.wait_for(lambda: store.state.pruned.value == 301)
        page = store.page(PageQuery())

    assert [one["prediction_id"] for one in page["predictions"]] == ["new"]
    assert page["next"] is None


def test_what_counts_is_when_a_prediction_arrived_not_when_its_sender_says_it_was_made(
    tmp_path: Path, where: Where
) -> None:
    with running_store(where, tmp_path / "pod", retention=Retention(days=1)) as store:
        store.put(row("of 1970", timestamp=5.0, received_at=time.time()))
        store.put(row("old", received_at=time.time() - 2 * DAY))
        store.wait_for(lambda: store.state.pruned.value == 1)

        assert store.ids() == {"of 1970"}


def test_totals_are_of_what_is_still_stored(tmp_path: Path, where: Where) -> None:
    now = time.time()
    with running_store(where, tmp_path / "pod", retention=Retention(days=30)) as store:
        old: dict[str, Any] = {
            "received_at": now - 31 * DAY,
            "inference_time_ms": 9.0,
            "defect_detected": True,
        }
        store.put(
            *[row(edge_device_id="gone", model_version="1", **old) for _ in range(20)],
            *[row(edge_device_id="stays", model_version="2", **old) for _ in range(20)],
            row(edge_device_id="stays", model_version="2", received_at=now, timestamp=now),
        )
        store.wait_for(lambda: store.state.pruned.value == 40)
        stats = store.stats(StatsQuery())

    assert (stats["total_predictions"], stats["defects_detected"]) == (1, 0)
    assert stats["normal_detections"] == 1
    assert stats["average_inference_time_ms"] == 2.5
    assert stats["by_edge_device"] == {"stays": 1}
    assert stats["by_model"] == {"steel-defects": 1}
    assert [one["model_version"] for one in stats["models"]] == ["2"]
    assert (stats["edge_devices_total"], stats["models_total"]) == (1, 1)


def test_totals_of_nothing_are_zero(tmp_path: Path, where: Where) -> None:
    with running_store(where, tmp_path / "pod", retention=Retention(days=1)) as store:
        store.put(row(received_at=1.0))
        store.wait_for(lambda: store.state.pruned.value == 1)
        stats = store.stats(StatsQuery())

    assert (stats["total_predictions"], stats["average_inference_time_ms"]) == (0, 0)
    assert (stats["by_edge_device"], stats["edge_devices"], stats["models"]) == ({}, [], [])


def test_without_a_retention_nothing_is_deleted(tmp_path: Path, where: Where) -> None:
    with running_store(where, tmp_path / "pod") as store:
        store.put(row("of 1970", received_at=0.0))
        time.sleep(0.2)  # several checks
        assert store.ids() == {"of 1970"}


def pages(store: RunningStore, **asked: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of `/predictions`, each asked for by the `next` of the one before."""
    before = None
    while True:
        page = store.page(PageQuery(before=before, **asked))
        yield page
        if page["next"] is None:
            return
        before = parse_page_query(f"before={page['next']}".encode()).before


def test_pages_are_newest_first_and_each_prediction_is_on_one(store: RunningStore) -> None:
    store.put(
        *[row(f"{n}", timestamp=float(n // 3), edge_device_id=f"d{n % 2}") for n in range(50)]
    )
    shown = [one for page in pages(store, limit=7) for one in page["predictions"]]
    of_one = [
        one for page in pages(store, limit=4, edge_device_id="d1") for one in page["predictions"]
    ]

    assert {one["prediction_id"] for one in shown} == {str(n) for n in range(50)}
    assert len(shown) == 50
    order = [(one["timestamp"], one["id"]) for one in shown]
    assert order == sorted(order, reverse=True)
    assert {one["prediction_id"] for one in of_one} == {str(n) for n in range(1, 50, 2)}


def test_a_page_may_be_of_defects_alone(store: RunningStore) -> None:
    store.put(row("good"), row("bad", defect_detected=True), row("worse", defect_detected=True))
    page = store.page(PageQuery(defect_only=True))

    assert [one["prediction_id"] for one in page["predictions"]] == ["worse", "bad"]
    assert all(one["defect_detected"] is True for one in page["predictions"])


def test_a_device_that_stored_nothing_is_unknown(store: RunningStore) -> None:
    store.put(row())
    with pytest.raises(ServiceError) as refused:
        store.page(PageQuery(edge_device_id="none"))

    assert (refused.value.status, refused.value.reason) == (404, "unknown_edge_device")


@pytest.mark.case(10)
def test_pages_are_bounded_in_bytes(tmp_path: Path, where: Where) -> None:
    """40 predictions of 80 kB, asked for at once: pages of at most a megabyte each."""
    scores = Raw(b"[" + b"0.12345," * 9_999 + b"0.5]")
    with running_store(where, tmp_path / "pod", queue_rows=10_000) as store:
        store.put(*[row(confidence_scores=scores) for _ in range(40)])
        found = list(pages(store, limit=1_000))

    assert [page["count"] for page in found] == [13, 13, 13, 1]
    assert all(len(json.dumps(page, separators=(",", ":"))) < PAGE_BYTES + 200 for page in found)


@pytest.mark.case(10)
def test_a_prediction_larger_than_a_page_has_one_of_its_own(store: RunningStore) -> None:
    """Predictions of two megabytes each: one a page."""
    scores = Raw(b"[" + b"0.1234567890123456789012345678," * 65_535 + b"0.5]")
    store.put(*[row(confidence_scores=scores) for _ in range(3)])

    assert [page["count"] for page in pages(store)] == [1, 1, 1]


def test_what_was_sent_comes_back_as_it_was(store: RunningStore) -> None:
    sent = row(
        "Gr\u00fc\u00dfe \U0001f600 \\N \t \n '\";--",
        timestamp=1_795_600_000.123456,
        inference_time_ms=5e-324,
        sent_at=0.1 + 0.2,
        processing_notes="",
        request_id="r",
        defect_detected=True,
        detections=Raw(b'[{"class":"a","confidence":1.0,"bbox":[0,1e308,-2,3],"uncertain":true}]'),
        confidence_scores=Raw(b'{"\\ud83d\\ude00":0.30000000000000004,"b":1e-300}'),
    )
    store.put(sent)
    (shown,) = store.page(PageQuery())["predictions"]

    assert shown.pop("id") > 0
    for name in ("detections", "confidence_scores"):
        assert shown.pop(name) == json.loads(bytes(getattr(sent, name)))
    assert shown == {name: getattr(sent, name) for name in shown}
    assert "processing_notes" in shown
    assert store.put(sent).duplicates == 1


@pytest.mark.case(9)
def test_the_longest_names_are_stored_and_counted(store: RunningStore) -> None:
    """Every text as long as it may be, of four bytes a character: stored, shown and counted."""
    longest = {
        "model_name": 512,
        "model_version": 128,
        "edge_device_id": 128,
        "prediction_id": 128,
        "image_id": 512,
    }
    # Random characters: an index entry of equal ones would be compressed.
    texts = {
        name: "".join(chr(0x1F300 + (n * 7919 + size) % 700) for n in range(size))
        for name, size in longest.items()
    }
    store.put(replace(row(), **texts))

    assert store.stats(StatsQuery())["by_model"] == {texts["model_name"]: 1}
    assert store.page(PageQuery(edge_device_id=texts["edge_device_id"]))["count"] == 1


def test_totals_are_by_device_and_by_model(store: RunningStore) -> None:
    store.put(
        row(edge_device_id="b", model_version="1", inference_time_ms=1.0, timestamp=5.0),
        row(edge_device_id="a", model_version="2", inference_time_ms=2.0, timestamp=7.0),
        row(edge_device_id="a", model_version="2", inference_time_ms=6.0, defect_detected=True),
    )
    stats = store.stats(StatsQuery())
    after_a = store.stats(StatsQuery(after="a"))

    assert (stats["total_predictions"], stats["defects_detected"]) == (3, 1)
    assert (stats["normal_detections"], stats["average_inference_time_ms"]) == (2, 3.0)
    assert list(stats["by_edge_device"].items()) == [("a", 2), ("b", 1)]
    assert [(one["model_version"], one["predictions"]) for one in stats["models"]] == [
        ("1", 1),
        ("2", 2),
    ]
    assert stats["edge_devices"][0]["first_timestamp"] == 7.0
    assert stats["edge_devices_next"] is None
    assert list(after_a["by_edge_device"]) == ["b"]


def test_totals_list_a_thousand_devices_and_say_where_to_go_on(
    tmp_path: Path, where: Where
) -> None:
    with running_store(where, tmp_path / "pod", queue_rows=10_000) as store:
        store.put(*[row(edge_device_id=f"{n:04}", model_name=f"{n:04}") for n in range(1_100)])
        first = store.stats(StatsQuery())
        second = store.stats(StatsQuery(after=first["edge_devices_next"]))

    assert len(first["edge_devices"]) == len(first["models"]) == len(first["by_model"]) == 1_000
    assert (first["edge_devices_total"], first["models_total"]) == (1_100, 1_100)
    assert second["edge_devices"][0]["edge_device_id"] == "1000"
    assert (len(second["edge_devices"]), second["edge_devices_next"]) == (100, None)
