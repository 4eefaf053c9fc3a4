"""What can still be read of a damaged outbox."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bentos.inference.delivery.outbox import Outbox, Refusal, Settlement, set_aside
from bentos.inference.delivery.salvage import Salvage, salvage
from tests.support.outboxes import ids_in

PAGE = 4_096


def record(number: int, size: int = 300) -> bytes:
    return b'{"prediction_id":"%d","notes":"%s"}' % (number, b"x" * size)


def make(path: Path, numbers: range, *, size: int = 300, checkpointed: bool = True) -> Outbox:
    outbox = Outbox(path)
    outbox.add([record(number, size) for number in numbers])
    if checkpointed:
        outbox._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return outbox


def recover(path: Path) -> tuple[Salvage, list[str]]:
    target = path.with_name("outbox-1.recovered-2.db")
    found = salvage(set_aside(path, 1), target)
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return found, ids_in(target)


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox-1.db"


@pytest.mark.case(18)
@pytest.mark.parametrize("size", [10, 300, 4_050, 20_000])
def test_a_file_whose_first_bytes_are_gone_gives_every_prediction(path: Path, size: int) -> None:
    """100 bytes of FF at the start of the outbox: all that waited is recovered."""
    make(path, range(1_000), size=size).close()
    overwrite(path, 0, b"\xff" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Outbox(path)
    found, ids = recover(path)
    assert ids == [str(number) for number in range(1_000)]
    assert found == Salvage(recovered=1_000, lost=0, kept_as=None)


@pytest.mark.case(18)
def test_what_stands_only_in_the_log_is_recovered_too(path: Path) -> None:
    """The file is gone and its write-ahead log is not: what stands there is recovered."""
    outbox = make(path, range(50), checkpointed=False)
    content = path.with_name(path.name + "-wal").read_bytes()
    outbox.close()
    path.write_bytes(b"\xff" * PAGE)
    path.with_name(path.name + "-wal").write_bytes(content)
    found, ids = recover(path)
    assert ids == [str(number) for number in range(50)]
    assert found.lost == 0


def test_what_was_delivered_does_not_come_back(path: Path) -> None:
    outbox = make(path, range(1_000))
    outbox.apply(Settlement(delivered=tuple(range(1, 901))))
    outbox.close()
    overwrite(path, 0, b"\xff" * 100)
    found, ids = recover(path)
    assert ids == [str(number) for number in range(900, 1_000)]
    assert found == Salvage(recovered=100, lost=0, kept_as=None)


def test_refused_predictions_are_recovered_with_their_reasons(path: Path) -> None:
    outbox = make(path, range(3))
    outbox.apply(Settlement(refused=(Refusal(1, 400, "a reason", 2.0),)))
    outbox.close()
    overwrite(path, 0, b"\xff" * 100)
    recover(path)
    recovered = Outbox(path.with_name("outbox-1.recovered-2.db"))
    (letter,) = recovered.dead_letters()
    recovered.close()
    assert (letter.status, letter.reason, letter.refused_at) == (400, "a reason", 2.0)
    assert letter.prediction == record(0)


def test_a_file_that_never_was_an_outbox_is_kept(path: Path) -> None:
    path.write_bytes(b"this is no database, and was one before the power went" * 1_000)
    found, ids = recover(path)
    assert ids == []
    assert found.kept_as is not None
    assert found.kept_as.read_bytes().startswith(b"this is no database")


@pytest.mark.parametrize("at", range(0, 40 * PAGE, 9_001))
def test_damage_anywhere_costs_only_what_it_hit(path: Path, at: int) -> None:
    make(path, range(500)).close()
    overwrite(path, at, bytes(range(256)) * 4)
    found, ids = recover(path)
    assert found.recovered + found.lost == 500 or at < PAGE
    assert len(ids) == len(set(ids)) > 450


def test_a_salvage_that_was_cut_off_is_begun_again(path: Path) -> None:
    make(path, range(10)).close()
    overwrite(path, 0, b"\xff" * 100)
    path.with_name("outbox-1.recovered-2.db.partial").write_bytes(b"half of it")
    found, ids = recover(path)
    assert len(ids) == found.recovered == 10
