"""Parameters of `/predictions`, and reading connections that let go when they have to."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.edge.http import ServiceError
from bentos.logging.failures import StoreError
from bentos.logging.queries import PageQuery
from bentos.logging.reader import Reader

ENDLESS = (
    "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted)"
    " SELECT max(n) FROM counted"
)


def test_the_parameters_are_what_the_query_says() -> None:
    query = PageQuery.parse(
        b"limit=7&edge_device_id=edge%201&defect_only=TRUE&before=1700000000.5_42"
    )

    assert query == PageQuery(7, "edge 1", True, (1700000000.5, 42))


def test_no_parameters_are_the_newest_hundred_of_all() -> None:
    assert PageQuery.parse(b"") == PageQuery(100, None, False, None)


def test_a_bare_time_is_a_position_before_all_of_that_moment() -> None:
    assert PageQuery.parse(b"before=1700000000").before == (1700000000.0, 0)


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
        PageQuery.parse(query)

    assert (refused.value.status, refused.value.reason) == (400, "bad_input")
    assert refused.value.message.startswith(f"{names}: expected")


@pytest.fixture
def failures() -> list[StoreError]:
    return []


@pytest.fixture
def reader(tmp_path: Path, failures: list[StoreError]) -> Iterator[Reader]:
    """A reader of a database with one table."""
    connection = sqlite3.connect(tmp_path / "predictions.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE predictions (id)")
    reading = Reader(tmp_path / "predictions.db", timeout_seconds=0.3, on_failure=failures.append)
    reading.admit()
    yield reading
    reading.shut()
    reading.close()
    connection.close()


def test_nothing_is_read_before_the_database_is_open(reader: Reader) -> None:
    reader.shut()
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reader.read(lambda connection: None))

    assert (refused.value.status, refused.value.reason) == (503, "database_not_accessible")


def test_a_query_that_takes_too_long_is_stopped(reader: Reader, failures: list[StoreError]) -> None:
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reader.read(lambda connection: connection.execute(ENDLESS).fetchone()))

    assert (refused.value.status, refused.value.reason) == (504, "timeout")
    assert failures == []


def test_a_reader_cannot_write(reader: Reader, failures: list[StoreError]) -> None:
    with pytest.raises(ServiceError):
        asyncio.run(reader.read(lambda connection: connection.execute("DELETE FROM predictions")))

    assert [failure.reason for failure in failures] == ["read_only"]


def test_shutting_stops_a_running_query_and_waits_until_it_has_let_go(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    sqlite3.connect(path).close()
    reader = Reader(path, timeout_seconds=60, on_failure=lambda _failure: None)
    reader.admit()
    running = threading.Event()
    outcome: list[ServiceError] = []

    def query(connection: sqlite3.Connection) -> None:
        running.set()
        connection.execute(ENDLESS).fetchone()

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
    reader: Reader, failures: list[StoreError], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database" * 1_000)
    reading = Reader(damaged, timeout_seconds=1, on_failure=failures.append)
    reading.admit()
    with pytest.raises(ServiceError) as refused:
        asyncio.run(reading.read(lambda connection: connection.execute("SELECT 1 FROM x")))
    reading.close()

    assert refused.value.status == 503
    assert [failure.reason for failure in failures] == ["corrupt"]


def test_too_many_queries_are_a_429(reader: Reader) -> None:
    release = threading.Event()

    async def crowd() -> list[object]:
        def wait(_: sqlite3.Connection) -> None:
            release.wait(10)

        queries = [asyncio.create_task(reader.read(wait)) for _ in range(40)]
        await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        return list(await asyncio.gather(*queries, return_exceptions=True))

    refused = [one for one in asyncio.run(crowd()) if isinstance(one, ServiceError)]

    assert {(one.status, one.reason) for one in refused} == {(429, "queue_full")}
