"""What need not be kept is deleted in small steps, the space given back, the totals kept true."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from msgspec import Raw

from bentos.logging.store import PageQuery, Retention, StatsQuery
from bentos.logging.store.database import PredictionDatabase
from bentos.logging.store.files import DatabaseFiles
from tests.support.logging_store import RunningStore, row

DAY = 86_400.0
SCORES = Raw(b"[" + b"0.1234567," * 300 + b"0.5]")


def count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
    finally:
        connection.close()


def used_bytes(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        used, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
    finally:
        connection.close()
    return (used - free) * size


def test_predictions_older_than_the_retention_are_deleted_and_counted(tmp_path: Path) -> None:
    now = time.time()
    with RunningStore(
        tmp_path / "predictions.db", tmp_path / "pod", retention=Retention(days=30)
    ) as store:
        store.wait_until_accessible()
        store.put(*[row(received_at=now - 31 * DAY) for _ in range(300)], row("kept"))
        store.put(row("new", received_at=now))
        store.wait_for(lambda: store.state.pruned.value == 301)
        page = store.page(PageQuery())

    assert [one["prediction_id"] for one in page["predictions"]] == ["new"]
    assert page["next"] is None


def test_what_counts_is_when_a_prediction_arrived_not_when_its_sender_says_it_was_made(
    tmp_path: Path,
) -> None:
    with RunningStore(
        tmp_path / "predictions.db", tmp_path / "pod", retention=Retention(days=1)
    ) as store:
        store.wait_until_accessible()
        store.put(row("of 1970", timestamp=5.0, received_at=time.time()))
        store.put(row("old", received_at=time.time() - 2 * DAY))
        store.wait_for(lambda: store.state.pruned.value == 1)

        assert store.ids() == {"of 1970"}


def test_totals_are_of_what_is_still_stored(tmp_path: Path) -> None:
    now = time.time()
    with RunningStore(
        tmp_path / "predictions.db", tmp_path / "pod", retention=Retention(days=30)
    ) as store:
        store.wait_until_accessible()
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


def test_totals_of_nothing_are_zero(tmp_path: Path) -> None:
    with RunningStore(
        tmp_path / "predictions.db", tmp_path / "pod", retention=Retention(days=1)
    ) as store:
        store.wait_until_accessible()
        store.put(row(received_at=1.0))
        store.wait_for(lambda: store.state.pruned.value == 1)
        stats = store.stats(StatsQuery())

    assert (stats["total_predictions"], stats["average_inference_time_ms"]) == (0, 0)
    assert (stats["by_edge_device"], stats["edge_devices"], stats["models"]) == ({}, [], [])


def test_a_database_that_is_too_large_loses_its_oldest_and_gives_the_space_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "predictions.db"
    limit = 16 << 20
    with RunningStore(
        path,
        tmp_path / "pod",
        queue_rows=100_000,
        retention=Retention(max_bytes=limit),
        check_seconds=0.2,
    ) as store:
        store.wait_until_accessible()
        assert store.state.database_capacity_bytes.value == limit
        for first in range(0, 12_000, 500):
            store.put(
                *[
                    row(f"{number:05}", received_at=float(number), confidence_scores=SCORES)
                    for number in range(first, first + 500)
                ]
            )
        store.wait_for(lambda: path.stat().st_size < limit + (6 << 20))
        store.wait_for(lambda: used_bytes(path) <= limit)  # after which nothing is deleted
        left = sorted(store.ids())
        total = store.stats(StatsQuery())["total_predictions"]

    # The newest are left, and as many of them as find room.
    assert left[-1] == "11999"
    assert int(left[0]) == 12_000 - len(left)
    assert total == len(left) == count(path)
    assert limit * 0.9 < used_bytes(path) <= limit


def test_batches_are_stored_between_the_steps_of_a_long_deletion(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with RunningStore(path, tmp_path / "first") as store:
        store.wait_until_accessible()
        for _ in range(30):
            store.put(*[row(received_at=1.0, confidence_scores=SCORES) for _ in range(500)])
    with RunningStore(path, tmp_path / "second", retention=Retention(days=1)) as store:
        store.wait_until_accessible()
        waits = []
        while store.state.pruned.value < 15_000:
            started = time.perf_counter()
            store.put(row(received_at=time.time()))
            waits.append(time.perf_counter() - started)

    # A step deletes for 10 ms before it commits; the rest is the machine's.
    assert len(waits) > 5
    assert sorted(waits)[len(waits) // 2] < 0.2


def test_an_older_database_uses_freed_pages_again_though_its_file_keeps_its_size(
    tmp_path: Path,
) -> None:
    path = tmp_path / "predictions.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA auto_vacuum = NONE")
    connection.execute("VACUUM")
    connection.close()
    database = PredictionDatabase(DatabaseFiles(path), busy_timeout_seconds=1)
    rows = [row(received_at=1.0, confidence_scores=SCORES) for _ in range(3_000)]
    database.write([rows])
    while database.prune(Retention(days=1), now=time.time()):
        pass
    assert database.give_space_back() is False
    database.close()
    size = path.stat().st_size
    assert count(path) == 0
    assert used_bytes(path) < size / 2
    database = PredictionDatabase(DatabaseFiles(path), busy_timeout_seconds=1)
    database.write([[row(confidence_scores=SCORES) for _ in range(2_000)]])
    database.close()

    assert path.stat().st_size == size


def test_a_new_database_gives_free_pages_back_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    database = PredictionDatabase(DatabaseFiles(path), busy_timeout_seconds=1)
    database.write([[row(received_at=1.0, confidence_scores=SCORES) for _ in range(6_000)]])
    while database.prune(Retention(days=1), now=time.time()):
        pass
    steps = 0
    while database.give_space_back():
        steps += 1
    database.close()

    assert steps > 2
    assert path.stat().st_size < 5 << 20


def test_without_a_retention_nothing_is_deleted(tmp_path: Path) -> None:
    with RunningStore(tmp_path / "predictions.db", tmp_path / "pod") as store:
        store.wait_until_accessible()
        store.put(row("of 1970", received_at=0.0))
        time.sleep(0.2)  # several checks
        assert store.ids() == {"of 1970"}
