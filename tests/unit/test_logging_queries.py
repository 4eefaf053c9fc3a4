"""Parameters, pages and totals, and reading connections that let go when they have to."""

import asyncio
import json
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Raw
from msgspec.structs import astuple

from bentos.edge.http import ServiceError
from bentos.logging.request import parse_page_query, parse_stats_query
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import (
    PAGE_BYTES,
    STATS_ROWS,
    PageQuery,
    Session,
    StatsQuery,
    read_page,
    read_stats,
)
from bentos.logging.store.schema import INSERT
from bentos.logging.store.sqlite import SqliteReader, SqliteSession
from tests.support.logging_store import opened, row

ENDLESS = (
    "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted)"
    " SELECT max(n) FROM counted"
)


def test_the_parameters_are_what_the_query_says() -> None:
    query = parse_page_query(
        b"limit=7&edge_device_id=edge%201&defect_only=TRUE&before=1700000000.5_42"
    )

    assert query == PageQuery(7, "edge 1", True, (1700000000.5, 42))


def test_no_parameters_are_the_newest_hundred_of_all() -> None:
    assert parse_page_query(b"") == PageQuery(100, None, False, None)


def test_a_bare_time_is_a_position_before_all_of_that_moment() -> None:
    assert parse_page_query(b"before=1700000000").before == (1700000000.0, 0)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"limit=-1", "limit"),
        (b"limit=0", "limit"),
        (b"limit=1001", "limit"),
        (b"limit=99999999999999999999", "limit"),
        (b"limit=1.5", "limit"),
        (b"limit=%D9%A3", "limit"),
        (b"limit", "limit"),
        (b"limit=1&limit=2", "limit"),
        (b"defect_only=", "defect_only"),
        (b"before=-1", "before"),
        (b"before=inf", "before"),
        (b"before=1700000000_-1", "before"),
        (b"before=1700000000_9223372036854775808", "before"),
        (b"edge_device_id=" + b"e" * 129, "edge_device_id"),
        (b"edge_device_id=%FF", "query"),
        (b"edge_device_id=\xff", "query"),
        (b"page=2", "query"),
        (b"&".join([b"limit=1"] * 100), "query"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_a_400_that_names_it(query: bytes, names: str) -> None:
    with pytest.raises(ServiceError) as refused:
        parse_page_query(query)

    assert (refused.value.status, refused.value.reason) == (400, "bad_input")
    assert refused.value.message.startswith(f"{names}: expected")


def test_the_devices_of_stats_may_be_asked_for_from_one_on() -> None:
    assert parse_stats_query(b"") == StatsQuery("")
    assert parse_stats_query(b"after=edge%201") == StatsQuery("edge 1")


@pytest.mark.parametrize(
    ("query", "names"),
    [(b"after=", "after"), (b"after=" + b"e" * 129, "after"), (b"before=1", "query")],
)
def test_a_senseless_parameter_of_stats_is_a_400(query: bytes, names: str) -> None:
    with pytest.raises(ServiceError) as refused:
        parse_stats_query(query)

    assert (refused.value.status, refused.value.details["field"]) == (400, names)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty database, as the service makes it."""
    with opened(tmp_path / "predictions.db"):
        pass
    connection = sqlite3.connect(tmp_path / "predictions.db", isolation_level=None)
    yield connection
    connection.close()


@pytest.mark.case(10)
def test_a_page_takes_no_more_memory_than_its_size_allows(database: sqlite3.Connection) -> None:
    """A page of 200 predictions of 80 kB is asked for: a few megabytes of memory, not 16."""
    scores = Raw(b"[" + b"0.12345," * 9_999 + b"0.5]")
    database.execute("BEGIN")
    database.executemany(INSERT, (astuple(row(confidence_scores=scores)) for _ in range(200)))
    tracemalloc.start()
    read_page(SqliteSession(database), PageQuery(limit=1_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 6 * PAGE_BYTES


@pytest.mark.case(9)
def test_stats_of_very_many_devices_and_models_are_bounded_and_fast(
    database: sqlite3.Connection,
) -> None:
    """300,000 distinct devices, then `/stats`: 1,000 of them and their number, at once."""
    count = 300_000
    database.execute("BEGIN")
    database.execute(
        "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
        " INSERT INTO edge_device_totals"
        " SELECT printf('device-%06d', n), 2, 1, 5.0, 1.75e9, 1.76e9 FROM numbers",
        (count - 1,),
    )
    database.execute(
        "INSERT INTO model_totals SELECT edge_device_id, '1', predictions, defects,"
        " inference_time_ms, first_timestamp, last_timestamp FROM edge_device_totals"
    )
    database.execute(
        "INSERT INTO all_totals VALUES (1, ?, ?, ?, 1.75e9, 1.76e9)",
        (2 * count, count, 5.0 * count),
    )
    database.execute("COMMIT")
    started = time.process_time()
    answer = read_stats(SqliteSession(database), StatsQuery())
    seconds = time.process_time() - started
    stats = json.loads(answer)

    assert stats["edge_devices_total"] == stats["models_total"] == count
    assert len(stats["edge_devices"]) == len(stats["models"]) == STATS_ROWS
    assert len(answer) < 1_000_000
    assert seconds < 0.5  # a few hundredths on a quiet machine; a query may take 2 s


@pytest.fixture
def failures() -> list[StoreError]:
    return []


@pytest.fixture
def reader(tmp_path: Path, failures: list[StoreError]) -> Iterator[SqliteReader]:
    """A reader of a database with one table."""
    connection = sqlite3.connect(tmp_path / "predictions.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE predictions (id)")
    reading = SqliteReader(
        tmp_path / "predictions.db", timeout_seconds=0.3, on_failure=failures.append
    )
    reading.open()
    yield reading
    reading.shut()
    reading.close()
    connection.close()


def test_nothing_is_read_before_the_database_is_open(reader: SqliteReader) -> None:
    reader.shut()
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reader.read(lambda _: None))

    assert (refused.value.status, refused.value.reason) == (503, "database_not_accessible")


def test_a_query_that_takes_too_long_is_stopped(
    reader: SqliteReader, failures: list[StoreError]
) -> None:
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reader.read(lambda session: session.fetch(ENDLESS)))

    assert (refused.value.status, refused.value.reason) == (504, "timeout")
    assert failures == []


def test_a_reader_cannot_write(reader: SqliteReader, failures: list[StoreError]) -> None:
    with pytest.raises(ServiceError):
        asyncio.run(reader.read(lambda session: session.fetch("DELETE FROM predictions")))

    assert [failure.reason for failure in failures] == ["read_only"]


def test_shutting_stops_a_running_query_and_waits_until_it_has_let_go(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    sqlite3.connect(path).close()
    reader = SqliteReader(path, timeout_seconds=60, on_failure=lambda _failure: None)
    reader.open()
    running = threading.Event()
    outcome: list[ServiceError] = []

    def query(session: Session) -> None:
        running.set()
        session.fetch(ENDLESS)

    def read() -> None:
        try:
            asyncio.run(reader.read(query))
        except ServiceError as error:
            outcome.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert running.wait(10)
    reader.shut()
    thread.join(10)
    reader.close()

    assert [error.reason for error in outcome] == ["database_not_accessible"]


def test_a_corrupt_page_is_reported(
    reader: SqliteReader, failures: list[StoreError], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database" * 1_000)
    reading = SqliteReader(damaged, timeout_seconds=1, on_failure=failures.append)
    reading.open()
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reading.read(lambda session: session.fetch("SELECT 1 FROM x")))
    reading.close()

    assert refused.value.status == 503
    assert [failure.reason for failure in failures] == ["corrupt"]


def test_too_many_queries_are_a_429(reader: SqliteReader) -> None:
    release = threading.Event()

    async def crowd() -> list[object]:
        def wait(_: Session) -> None:
            release.wait(10)

        queries = [asyncio.create_task(reader.read(wait)) for _ in range(40)]
        await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        return list(await asyncio.gather(*queries, return_exceptions=True))

    refused = [one for one in asyncio.run(crowd()) if isinstance(one, ServiceError)]

    assert {(one.status, one.reason) for one in refused} == {(429, "queue_full")}
