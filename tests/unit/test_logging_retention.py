"""What need not be kept is deleted in small steps, the space given back, the totals kept true."""

import sqlite3
import time
from pathlib import Path

from msgspec import Raw

from bentos.logging.store import Retention, StatsQuery
from tests.support.logging_store import opened, row, running_store

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


def test_a_database_that_is_too_large_loses_its_oldest_and_gives_the_space_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "predictions.db"
    limit = 16 << 20
    with running_store(
        path,
        tmp_path / "pod",
        queue_rows=100_000,
        retention=Retention(max_bytes=limit),
        check_seconds=0.2,
    ) as store:
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
    with running_store(path, tmp_path / "first") as store:
        for _ in range(30):
            store.put(*[row(received_at=1.0, confidence_scores=SCORES) for _ in range(500)])
    with running_store(path, tmp_path / "second", retention=Retention(days=1)) as store:
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
    with opened(path) as database:
        database.write([[row(received_at=1.0, confidence_scores=SCORES) for _ in range(3_000)]])
        assert sum(database.retain(Retention(days=1))) == 3_000
    size = path.stat().st_size
    assert count(path) == 0
    assert used_bytes(path) < size / 2
    with opened(path) as database:
        database.write([[row(confidence_scores=SCORES) for _ in range(2_000)]])

    assert path.stat().st_size == size


def test_a_new_database_gives_free_pages_back_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with opened(path) as database:
        database.write([[row(received_at=1.0, confidence_scores=SCORES) for _ in range(6_000)]])
        steps = list(database.retain(Retention(days=1)))

    # The last that deleted, the checkpoint after it, and two more for each that gave space back.
    last = max(number for number, deleted in enumerate(steps) if deleted)
    assert len(steps) - last > 2 + 2 * 2
    assert path.stat().st_size < 5 << 20
