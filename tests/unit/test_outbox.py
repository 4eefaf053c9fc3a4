"""Predictions on disk until they are acknowledged."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.inference import outbox as module
from bentos.inference.outbox import (
    Outbox,
    Waiting,
    abandoned_paths,
    outbox_path,
    set_aside,
)
from tests.support.processes import child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox-1.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    made = Outbox(path, max_rows=100)
    yield made
    made.close()


def put(outbox: Outbox, *numbers: int) -> None:
    for number in numbers:
        assert outbox.put({"n": number})


def numbers(waiting: Waiting) -> list[int]:
    return [json.loads(prediction)["n"] for prediction in waiting.predictions]


def on_disk(path: Path) -> list[int]:
    rows = sqlite3.connect(path).execute("SELECT prediction FROM outbox ORDER BY id").fetchall()
    return [json.loads(row[0])["n"] for row in rows]


def test_what_is_put_is_written_and_told_in_order(outbox: Outbox, path: Path) -> None:
    put(outbox, 1, 2, 3)
    assert outbox.backlog == 3
    assert outbox.write() == 3
    assert outbox.backlog == 3
    assert on_disk(path) == [1, 2, 3]
    assert numbers(outbox.peek(10)) == [1, 2, 3]
    assert numbers(outbox.peek(2)) == [1, 2]


def test_what_is_peeked_stays_until_it_is_removed(outbox: Outbox, path: Path) -> None:
    put(outbox, 1, 2, 3)
    outbox.write()
    outbox.remove(outbox.peek(2))
    assert outbox.backlog == 1
    assert on_disk(path) == [3]
    outbox.remove(Waiting((), ()))
    assert outbox.backlog == 1


def test_a_new_process_goes_on_with_what_an_earlier_one_left(outbox: Outbox, path: Path) -> None:
    put(outbox, 1, 2)
    outbox.write()
    outbox.close()
    later = Outbox(path, max_rows=100)
    assert numbers(later.peek(10)) == [1, 2]
    assert later.backlog == 2
    later.close()


def write_and_tell(path: Path, count: int) -> int:
    """Run in a process of its own, that is killed afterwards."""
    outbox = Outbox(path, max_rows=100)
    put(outbox, *range(count))
    return outbox.write()


def test_what_was_written_survives_a_kill(path: Path) -> None:
    with child(write_and_tell, path, 7) as writer:
        assert writer.result == 7
        writer.kill()
    later = Outbox(path, max_rows=100)
    assert numbers(later.peek(10)) == list(range(7))
    later.close()


def test_nothing_to_write_writes_nothing(outbox: Outbox, path: Path) -> None:
    assert outbox.write() == 0
    assert outbox.write(wait_seconds=0.001) == 0
    assert not path.exists()


def test_beyond_its_rows_the_newest_are_dropped_and_counted(outbox: Outbox) -> None:
    put(outbox, *range(150))
    assert outbox.write() == 100
    assert outbox.take_dropped() == 50
    assert outbox.take_dropped() == 0
    assert numbers(outbox.peek(200)) == list(range(100))
    outbox.remove(outbox.peek(10))
    put(outbox, 7)
    assert outbox.write() == 1


def test_rows_of_an_earlier_process_count_towards_the_bound(outbox: Outbox, path: Path) -> None:
    put(outbox, *range(90))
    outbox.write()
    outbox.close()
    later = Outbox(path, max_rows=100)
    put(later, *range(20))
    assert later.write() == 10
    assert later.take_dropped() == 10
    later.close()


def test_memory_is_bounded_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY_ROWS", 3)
    small = Outbox(Path("never-opened"), max_rows=10)
    assert [small.put({"n": n}) for n in range(5)] == [True, True, True, False, False]
    assert small.take_dropped() == 2
    assert small.backlog == 3


def test_a_disk_that_fails_costs_neither_predictions_nor_their_order(
    outbox: Outbox, path: Path
) -> None:
    put(outbox, 1, 2)
    path.mkdir()  # as unusable as a disk that is gone
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            outbox.write()
    put(outbox, 3)
    assert outbox.backlog == 3
    path.rmdir()
    while outbox.write():
        pass
    assert on_disk(path) == [1, 2, 3]
    assert outbox.take_dropped() == 0


def test_a_file_that_another_process_holds_is_waited_for(
    outbox: Outbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(outbox, 1)
    outbox.write()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    outbox._open().execute("PRAGMA busy_timeout = 10")
    put(outbox, 2)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        outbox.write()
    other.execute("ROLLBACK")
    other.close()
    outbox.write()
    assert on_disk(path) == [1, 2]


def test_a_record_that_is_no_json_is_written_as_text(outbox: Outbox, path: Path) -> None:
    outbox.put({"n": 1, "image_id": "\udc80", "path": Path("/a")})
    assert outbox.write() == 1
    assert on_disk(path) == [1]


def test_a_dropped_batch_is_gone_and_counted(outbox: Outbox, path: Path) -> None:
    put(outbox, 1, 2, 3)
    outbox.write()
    outbox.drop(outbox.peek(2))
    assert outbox.take_dropped() == 2
    assert on_disk(path) == [3]


def test_halves_keep_the_order() -> None:
    whole = Waiting((1, 2, 3), (b"a", b"b", b"c"))
    assert whole.halves() == (Waiting((1,), (b"a",)), Waiting((2, 3), (b"b", b"c")))


def test_a_workers_rows_are_adopted_and_its_file_removed(outbox: Outbox, path: Path) -> None:
    gone = path.with_name("outbox-2.db")
    other = Outbox(gone, max_rows=100)
    put(other, 8, 9)
    other.write()
    put(outbox, 1)
    outbox.write()
    assert outbox.adopt(gone) == 2
    other.close()
    assert on_disk(path) == [1, 8, 9]
    assert outbox.backlog == 3
    assert [file.name for file in path.parent.iterdir() if "-2" in file.name] == []


def test_files_of_workers_that_the_pod_no_longer_has_are_abandoned(tmp_path: Path) -> None:
    for worker in (1, 2, 3, 12):
        outbox_path(tmp_path, worker).touch()
    (tmp_path / "outbox-1.db.damaged-5").touch()
    names = [path.name for path in abandoned_paths(tmp_path, workers=2)]
    assert names == ["outbox-12.db", "outbox-3.db"]


def test_a_damaged_file_is_kept_whole_and_out_of_the_way(path: Path) -> None:
    path.write_bytes(b"damaged")
    path.with_name(path.name + "-wal").write_bytes(b"what was not yet in it")
    path.with_name(path.name + "-shm").write_bytes(b"index")
    aside = set_aside(path)
    assert aside.read_bytes() == b"damaged"
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"what was not yet in it"
    assert list(path.parent.glob("outbox-*.db*")) != []
    assert not path.exists()
    assert not path.with_name(path.name + "-wal").exists()
    assert not path.with_name(path.name + "-shm").exists()
