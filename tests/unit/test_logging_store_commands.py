"""Predictions moved to PostgreSQL and exported, while they are written."""

import builtins
import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from msgspec import Raw
from msgspec.structs import replace

from bentos.logging.store import StoredPrediction, __main__, export
from bentos.logging.store.export import ExportError, export_parquet
from bentos.logging.store.postgres import PostgresDatabase
from bentos.logging.store.source import sqlite_source
from bentos.logging.store.transfer import Progress, transfer, verify
from tests.support.logging_store import RunningStore, row, running_store
from tests.support.postgres import PASSWORD, PostgresServer, query

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.make_database())


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RunningStore]:
    """A store on a file that is open and written to."""
    with running_store(tmp_path / "predictions.db", tmp_path / "pod", queue_rows=100_000) as store:
        yield store


def fill(store: RunningStore, count: int) -> None:
    """Store predictions of three days, each tenth without an id."""
    rows = [row(received_at=NOON + n % 3 * DAY, defect_detected=n % 5 == 0) for n in range(count)]
    store.put(
        *[replace(one, prediction_id=None) if n % 10 == 9 else one for n, one in enumerate(rows)]
    )


@contextlib.contextmanager
def connected(url: str) -> Iterator[PostgresDatabase]:
    """Open the target of a transfer for the block."""
    database = PostgresDatabase(url, busy_timeout_seconds=5)
    database.open()
    try:
        yield database
    finally:
        database.close()


def test_a_transfer_that_is_interrupted_goes_on_and_brings_each_prediction_once(
    file: RunningStore, url: str
) -> None:
    fill(file, 7_000)

    def interrupt(progress: Progress) -> None:
        if progress.handled >= 4_000:
            raise KeyboardInterrupt

    with connected(url) as target, pytest.raises(KeyboardInterrupt):
        transfer(file.path, target, report=interrupt)
    assert query(url, "SELECT count(*) FROM predictions") == [(4_000,)]
    with connected(url) as target:
        done = transfer(file.path, target, report=lambda _: None)
        again = transfer(file.path, target, report=lambda _: None)
        found = verify(file.path, target)

    assert (done.handled, done.there_before, again.handled) == (7_000, 0, 7_000)
    assert found.equal
    assert found.source_count == found.target_count == 7_000
    assert query(url, "SELECT sum(predictions), sum(defects) FROM all_totals") == [(7_000, 1_400)]


def test_a_transfer_takes_what_is_written_meanwhile_to_either_side(
    file: RunningStore, url: str, tmp_path: Path
) -> None:
    fill(file, 5_000)
    ended = threading.Event()

    def write(store: RunningStore) -> None:
        while not ended.is_set():
            store.put(*[row() for _ in range(20)])

    with running_store(url, tmp_path / "service", busy_timeout_seconds=10) as service:
        threads = [threading.Thread(target=write, args=(store,)) for store in (file, service)]
        for thread in threads:
            thread.start()
        with connected(url) as target:
            reports: list[Progress] = []

            def report(progress: Progress) -> None:
                reports.append(progress)
                if progress.handled >= 5_000:
                    ended.set()

            transfer(file.path, target, report=report)
            ended.set()
            for thread in threads:
                thread.join(30)
            transfer(file.path, target, report=report)
            found = verify(file.path, target)
        assert found.equal
        assert found.source_count > 5_000
        assert file.ids() | service.ids() == service.ids()
        assert len(reports) > 2


def test_a_transfer_notices_what_the_target_has_otherwise(file: RunningStore, url: str) -> None:
    known = row("known")
    file.put(known, row("same"))
    with connected(url) as target:
        target.write([[replace(known, image_id="another")]])
        done = transfer(file.path, target, report=lambda _: None)
        found = verify(file.path, target)

    assert done.conflicts == 1
    assert not found.equal
    assert found.source_count == found.target_count == 2


def test_the_command_shows_progress_and_checksums_and_no_secret(
    file: RunningStore,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(file, 100)
    monkeypatch.setenv("DATABASE_URL", url)

    assert __main__.main(["migrate", "--from", f"sqlite:{file.path}"]) == 0
    shown = capsys.readouterr().out
    assert "100 of 100 (100.0%)" in shown
    assert "source: 100 predictions, checksum " in shown
    assert "equal" in shown
    assert PASSWORD not in shown


def test_a_password_on_the_command_line_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(SystemExit, match="seen by everybody") as refused:
        __main__.main(["migrate", "--to", url])

    assert PASSWORD not in str(refused.value)


def test_a_file_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    arguments = ["export", "--parquet", str(tmp_path / "out"), "--from", "sqlite:nowhere.db"]

    assert __main__.main(arguments) == 1
    assert "nowhere.db: there is no such database" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_an_export_has_a_file_a_day_that_pandas_and_duckdb_read_as_it_was_stored(
    source: str, file: RunningStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [
        row("first", received_at=NOON - DAY, processing_notes="dim", sent_at=0.1 + 0.2),
        row("second", received_at=NOON, confidence_scores=Raw(b'{"a":0.1}'), defect_detected=True),
        *[row(received_at=NOON + 1) for _ in range(4_500)],
    ]
    if source == "sqlite":
        file.put(*sent)
        address = f"sqlite:{file.path}"
    else:
        with connected(url) as database:
            database.write([sent])
        monkeypatch.setenv("DATABASE_URL", url)
        address = url
    folder = tmp_path / "out"
    assert __main__.main(["export", "--parquet", str(folder), "--from", address]) == 0

    names = [path.name for path in sorted(folder.iterdir())]
    assert names == ["2026-11-02.parquet", "2026-11-03.parquet"]
    frame = pd.concat(pd.read_parquet(folder / name) for name in names)
    assert len(frame) == len(sent)
    for one, read in zip(sent[:2], frame.to_dict("records")[:2], strict=True):
        check(one, read)
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT count(*), sum(defect_detected::int), min(received_at)"
            f" FROM '{folder}/*.parquet'"
        ).fetchone()
    assert found == (len(sent), 1, NOON - DAY)


def check(sent: StoredPrediction, read: dict[Any, Any]) -> None:
    """Check that a row of a file has what was stored."""
    for name in StoredPrediction.__struct_fields__:
        stored = getattr(sent, name)
        value = None if pd.isna(read[name]) else read[name]
        if isinstance(stored, Raw):
            assert json.loads(str(value)) == json.loads(bytes(stored))
        else:
            assert value == stored, name


def test_an_export_since_a_day_leaves_earlier_ones_out_and_replaces_files(
    file: RunningStore, tmp_path: Path
) -> None:
    fill(file, 30)
    folder = tmp_path / "out"
    with sqlite_source(file.path) as source:
        for _ in range(2):
            exported: list[export.Exported] = []
            since = datetime(2026, 11, 4, tzinfo=UTC).timestamp()
            total = export_parquet(source, folder, since=since, report=exported.append)

    assert total == 20
    assert [one.path.name for one in exported] == ["2026-11-04.parquet", "2026-11-05.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == [one.path.name for one in exported]


def test_an_export_that_fails_leaves_no_part_of_a_file(
    file: RunningStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(file, 3)
    monkeypatch.setattr(export, "_columns", None)
    with sqlite_source(file.path) as source, pytest.raises(TypeError):
        export_parquet(source, tmp_path / "out", report=lambda _: None)

    assert list((tmp_path / "out").iterdir()) == []


def test_without_pyarrow_an_export_says_what_to_install(
    file: RunningStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without_pyarrow(name: str, *others: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return imported(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with (
        sqlite_source(file.path) as source,
        pytest.raises(ExportError, match="pip install pyarrow"),
    ):
        export_parquet(source, tmp_path / "out", report=lambda _: None)


def test_a_file_of_an_older_version_is_read_without_the_fields_it_lacks(
    file: RunningStore,
) -> None:
    file.put(row("a"))
    file.stop()
    connection = sqlite3.connect(file.path)
    connection.execute("ALTER TABLE predictions DROP COLUMN traceparent")
    connection.close()
    with sqlite_source(file.path) as source:
        _, (read,) = source.after(0)

    assert (read.prediction_id, read.traceparent) == ("a", None)
