"""The schema: made new, brought up to date, and never half."""

import sqlite3
from pathlib import Path

import pytest
import sqlite_utils
from msgspec import Raw
from msgspec.structs import replace

from bentos.logging.store.database import Conflict, Stored
from bentos.logging.store.queries import PageQuery, StatsQuery, read_page, read_stats
from bentos.logging.store.schema import VERSION, configure, migrate, migrations
from bentos.logging.store.sqlite import SqliteSession
from tests.support.logging_store import opened, row

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "predictions_v1.sql"


# The first prediction of the old database, as its device sends it today: the JSON of its scores is
# written without blanks.
A1 = row(
    "a1",
    image_id="a1.png",
    timestamp=1750000000.5,
    model_version="1",
    inference_time_ms=1.0,
    defect_detected=True,
    detections=Raw(b"[]"),
    confidence_scores=Raw(b"[0.9,0.1]"),
)


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """A database that the service's first version has written."""
    path = tmp_path / "predictions.db"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1.read_text())
    connection.close()
    return path


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def schema_of(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return {
        (kind, name)
        for kind, name in connection.execute("SELECT type, name FROM sqlite_master")
        if not name.startswith("sqlite_autoindex")
    }


def test_an_old_database_keeps_its_predictions_and_gets_their_totals(old_database: Path) -> None:
    new = row("new", edge_device_id="edge-2", inference_time_ms=9.0, timestamp=1760000000.0)
    with opened(old_database) as database:
        (outcome,) = database.write([[A1, new]])
    connection = connect(old_database)
    devices = connection.execute(
        "SELECT edge_device_id, predictions, defects, inference_time_ms, first_timestamp"
        " FROM edge_device_totals ORDER BY 1"
    ).fetchall()
    models = connection.execute(
        "SELECT model_version, predictions, defects FROM model_totals ORDER BY 1"
    ).fetchall()
    count = connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
    connection.close()

    assert outcome == Stored(predictions=1, duplicates=1, defects=0)
    assert count == 6
    assert devices == [("edge-1", 3, 2, 6.0, 1750000000.5), ("edge-2", 3, 0, 18.0, 1750000003.5)]
    assert models == [("1", 2, 1), ("2", 3, 1), ("3", 1, 0)]


@pytest.mark.case(20)
def test_in_an_old_database_ids_become_unique_for_a_device(old_database: Path) -> None:
    """A database whose ids were unique for all devices is opened: now they are for each.

    Another device's prediction may have a known id; the same device's, with other content, is a
    conflict.
    """
    of_another = replace(A1, edge_device_id="edge-9")
    changed = replace(A1, defect_detected=False)
    with opened(old_database) as database:
        outcomes = database.write([[of_another], [changed]])

    assert outcomes == [Stored(predictions=1, duplicates=0, defects=1), Conflict(0)]


def test_an_old_database_answers_the_queries_of_today(old_database: Path) -> None:
    with opened(old_database):
        pass
    connection = connect(old_database)
    session = SqliteSession(connection)

    assert b'"total_predictions":5' in read_stats(session, StatsQuery())
    assert b'"count":2' in read_page(session, PageQuery(edge_device_id="edge-2"))
    connection.close()


def test_an_old_database_ends_with_the_schema_of_a_new_one(
    old_database: Path, tmp_path: Path
) -> None:
    schemas = []
    for path in (old_database, tmp_path / "new.db"):
        with opened(path):
            pass
        connection = connect(path)
        schemas.append(schema_of(connection))
        assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
        connection.close()

    assert schemas[0] == schemas[1]


def test_a_migration_that_fails_leaves_the_database_as_it_was(old_database: Path) -> None:
    connection = connect(old_database)
    connection.execute("CREATE TABLE model_totals (somebody_elses)")
    before = schema_of(connection)
    with pytest.raises(sqlite3.OperationalError):
        migrate(sqlite_utils.Database(connection))

    assert schema_of(connection) == before
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    assert not connection.in_transaction
    connection.close()


def test_the_version_counts_the_migrations(tmp_path: Path) -> None:
    connection = connect(tmp_path / "new.db")
    database = sqlite_utils.Database(connection)
    migrate(database)

    assert len(migrations.applied(database)) == VERSION
    connection.close()


def test_commits_are_on_disk_before_they_return(tmp_path: Path) -> None:
    connection = connect(tmp_path / "new.db")
    configure(connection)

    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    connection.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (PageQuery(), "predictions_by_time"),
        (PageQuery(before=(1.75e9, 5)), "predictions_by_time"),
        (PageQuery(edge_device_id="edge-1"), "predictions_by_device"),
        (PageQuery(edge_device_id="edge-1", before=(1.75e9, 5)), "predictions_by_device"),
        (PageQuery(defect_only=True), "defects_by_time"),
        (PageQuery(defect_only=True, before=(1.75e9, 5)), "defects_by_time"),
        (PageQuery(edge_device_id="edge-1", defect_only=True), "defects_by_device"),
    ],
)
def test_every_page_is_read_along_an_index_without_sorting(
    tmp_path: Path, query: PageQuery, index: str
) -> None:
    connection = connect(tmp_path / "new.db")
    migrate(sqlite_utils.Database(connection))
    connection.execute(
        "INSERT INTO edge_device_totals VALUES ('edge-1', 1, 0, 1.0, 1.75e9, 1.75e9)"
    )
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    read_page(SqliteSession(connection), query)
    connection.set_trace_callback(None)
    plan = " ".join(
        str(line[3]) for line in connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")
    )
    connection.close()

    assert f"USING INDEX {index}" in plan
    assert "B-TREE" not in plan
