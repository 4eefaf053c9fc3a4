"""The outbox's file: what it keeps, in which order, and what leaves it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.inference.delivery.outbox import (
    Outbox,
    Refusal,
    Settlement,
    files_to_adopt,
    outbox_path,
    outboxes_in,
    set_aside,
)
from tests.support.outboxes import ids_in


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return outbox_path(tmp_path / "not" / "yet" / "there", 1)


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    made = Outbox(path)
    yield made
    made.close()


def records(*numbers: int) -> list[bytes]:
    return [b'{"prediction_id":"%d"}' % number for number in numbers]


def bodies(outbox: Outbox, *, after: int = 0, rows: int = 1_000, limit: int = 1 << 30) -> list[str]:
    batch = outbox.read(after=after, rows=rows, limit_bytes=limit)
    return [] if batch is None else batch.body.decode().split(",")


def test_what_is_added_is_read_oldest_first(outbox: Outbox, path: Path) -> None:
    outbox.add(records(1, 2))
    outbox.add(records(3))
    batch = outbox.read(rows=10, limit_bytes=1_000)
    assert batch is not None
    assert batch.ids == (1, 2, 3)
    assert batch.body == b'{"prediction_id":"1"},{"prediction_id":"2"},{"prediction_id":"3"}'
    assert not batch.more
    assert ids_in(path) == ["1", "2", "3"]


@pytest.mark.parametrize("count", [0, 1, 250, 251, 1_700])
def test_any_number_of_predictions_is_one_transaction(outbox: Outbox, count: int) -> None:
    outbox.add(records(*range(count)))
    assert outbox.count().waiting == count


def test_a_batch_is_bounded_in_rows_and_in_bytes_but_holds_one_row_at_least(
    outbox: Outbox,
) -> None:
    outbox.add(records(1, 2, 3, 4))
    size = len(records(1)[0])
    assert len(bodies(outbox, rows=3)) == 3
    assert len(bodies(outbox, limit=2 * size + 2)) == 2
    assert len(bodies(outbox, limit=1)) == 1
    batch = outbox.read(rows=3, limit_bytes=1_000)
    assert batch is not None
    assert batch.more
    assert bodies(outbox, after=3) == ['{"prediction_id":"4"}']
    assert outbox.read(after=4, rows=3, limit_bytes=1_000) is None


def test_what_was_delivered_leaves_and_what_was_refused_is_kept_with_its_reason(
    outbox: Outbox,
) -> None:
    outbox.add(records(1, 2, 3, 4))
    applied = outbox.apply(Settlement(delivered=(1, 3), refused=(Refusal(2, 400, "no", 1.5),)))
    assert (applied.delivered, applied.refused) == (2, 1)
    assert bodies(outbox) == ['{"prediction_id":"4"}']
    (letter,) = outbox.dead_letters()
    assert (letter.status, letter.reason, letter.refused_at) == (400, "no", 1.5)
    assert letter.prediction == records(2)[0]


def test_what_is_not_there_any_more_is_counted_for_nothing(outbox: Outbox) -> None:
    outbox.add(records(1))
    applied = outbox.apply(Settlement(delivered=(1, 7), refused=(Refusal(8, 400, "no", 0.0),)))
    assert (applied.delivered, applied.refused) == (1, 0)
    assert outbox.dead_letters() == []


def test_ids_are_never_used_twice(outbox: Outbox, path: Path) -> None:
    outbox.add(records(1, 2))
    outbox.apply(Settlement(delivered=(1, 2)))
    outbox.close()
    later = Outbox(path)
    later.add(records(3))
    batch = later.read(rows=1, limit_bytes=1)
    later.close()
    assert batch is not None
    assert batch.ids == (3,)


def test_the_oldest_are_dropped(outbox: Outbox) -> None:
    outbox.add(records(1, 2, 3))
    assert outbox.drop_oldest(2) == 2
    assert bodies(outbox) == ['{"prediction_id":"3"}']


def test_a_refused_prediction_is_sent_again_as_the_newest(outbox: Outbox) -> None:
    outbox.add(records(1, 2))
    outbox.apply(Settlement(refused=(Refusal(1, 400, "no", 0.0),)))
    assert outbox.resend([1]) == 1
    assert outbox.dead_letters() == []
    assert bodies(outbox) == ['{"prediction_id":"2"}', '{"prediction_id":"1"}']
    assert outbox.resend([1]) == 0


def test_a_refused_prediction_is_discarded_when_that_is_asked_for(outbox: Outbox) -> None:
    outbox.add(records(1, 2))
    outbox.apply(Settlement(refused=(Refusal(1, 400, "no", 0.0), Refusal(2, 400, "no", 0.0))))
    assert outbox.discard([2]) == 1
    assert [letter.prediction for letter in outbox.dead_letters()] == records(1)


@pytest.mark.case(22)
def test_a_commit_is_on_disk_when_it_returns(outbox: Outbox) -> None:
    """The power is cut: SQLite has flushed each commit, `synchronous` is FULL."""
    assert outbox._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert outbox._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_failure_in_the_middle_changes_nothing(outbox: Outbox) -> None:
    outbox.add(records(1))
    broken = Refusal(1, 400, None, 0.0)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        outbox.apply(Settlement(refused=(broken,)))
    assert outbox.count().waiting == 1
    outbox.add(records(2))
    assert outbox.count().waiting == 2


def test_a_file_that_is_not_to_be_made_is_not(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        Outbox(path, create=False)
    assert not path.exists()


def test_the_space_of_a_drained_file_is_given_back(outbox: Outbox, path: Path) -> None:
    outbox.add([b'{"n":"%d"}' % (10**2_000) for _ in range(2_000)])
    outbox.drop_oldest(2_000)
    assert outbox.size().free > 4_000_000
    outbox.shrink()
    assert outbox.size().free == 0
    outbox._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < 100_000


def test_the_path_is_compared_with_the_file_that_is_open(outbox: Outbox, path: Path) -> None:
    assert outbox.is_in_place
    path.rename(path.with_name("elsewhere"))
    assert not outbox.is_in_place
    path.write_bytes(b"")
    assert not outbox.is_in_place


def test_a_damaged_file_is_kept_whole_and_out_of_the_way(tmp_path: Path) -> None:
    path = outbox_path(tmp_path, 1)
    path.write_bytes(b"damaged")
    path.with_name(path.name + "-wal").write_bytes(b"what was not yet in it")
    path.with_name(path.name + "-shm").write_bytes(b"index")
    aside = set_aside(path, 5)
    assert aside.read_bytes() == b"damaged"
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"what was not yet in it"
    assert list(tmp_path.glob("outbox-1.db*")) == [aside, aside.with_name(aside.name + "-wal")]


def test_a_worker_takes_over_what_is_left_of_its_own_and_the_first_one_of_those_gone(
    tmp_path: Path,
) -> None:
    for name in (
        *("outbox-1.db", "outbox-2.db", "outbox-3.db", "outbox-12.db", "outbox-12.db-wal"),
        *("outbox-1.recovered-5.db", "outbox-2.db.damaged-6", "outbox-2.recovered-7.db.partial"),
        *("outbox-2.db.damaged-8-wal", "outbox-1.db.unreadable-9", "something-else.db"),
    ):
        (tmp_path / name).touch()
    first = [path.name for path in files_to_adopt(tmp_path, worker=1, workers=2)]
    assert first == ["outbox-1.recovered-5.db", "outbox-12.db", "outbox-3.db"]
    second = [path.name for path in files_to_adopt(tmp_path, worker=2, workers=2)]
    assert second == ["outbox-2.db.damaged-6", "outbox-2.db.damaged-8"]
    assert list(outboxes_in(tmp_path)) == [1, 2, 3, 12]
