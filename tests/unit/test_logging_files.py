"""What the database's files are found to be when they change between two looks."""

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from bentos.logging.store.errors import StoreError, classify
from bentos.logging.store.files import DatabaseFiles
from tests.support.logging_store import opened


@pytest.fixture
def files(tmp_path: Path) -> DatabaseFiles:
    watched = DatabaseFiles(tmp_path / "data" / "predictions.db")
    for path in (watched.path, watched.log_path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return watched


def reason(files: DatabaseFiles) -> str:
    with pytest.raises(StoreError) as failed:
        files.require_writable()
    return failed.value.reason


@pytest.mark.parametrize("gone", ["predictions.db", "predictions.db-wal"])
def test_a_file_that_was_deleted_is_missing_and_not_read_only(
    files: DatabaseFiles, gone: str
) -> None:
    files.require_writable()
    files.path.with_name(gone).unlink()
    assert reason(files) == "missing"


def test_what_the_system_refuses_to_write_is_read_only(
    files: DatabaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everything
    assert reason(files) == "read_only"


def test_a_database_that_sqlite_finds_moved_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE numbers (number)")
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(sqlite3.OperationalError) as failed:
        connection.execute("INSERT INTO numbers VALUES (1)")
    connection.close()
    assert failed.value.sqlite_errorname == "SQLITE_READONLY_DBMOVED"
    failure = classify(failed.value, path)
    assert failure.reason == "missing"
    assert failure.lost


@pytest.mark.case(22)
def test_a_database_that_a_power_cut_left_half_made_is_made_anew(tmp_path: Path) -> None:
    """Power is cut while SQLite makes the database: the service opens it afterwards."""
    path = tmp_path / "predictions.db"
    path.write_bytes(bytes(3_584))
    # The header of a journal that takes everything back to an empty file: no pages, of 4096 bytes,
    # in sectors of 512 (https://www.sqlite.org/fileformat2.html#the_rollback_journal).
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", 0, 1, 0, 512, 4_096)
    (tmp_path / "predictions.db-journal").write_bytes(header.ljust(512, b"\0"))
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (0,)
