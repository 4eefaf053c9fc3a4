"""What PostgreSQL has of its own: replicas, partitions, migrations, and a server that changes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psycopg
import pytest

from bentos.edge.http import ServiceError
from bentos.logging.store import PageQuery, Retention, StatsQuery, StoreError
from bentos.logging.store.postgres import PostgresDatabase
from bentos.logging.store.postgres_connection import classify
from tests.support.logging_store import RunningStore, opened, row, running_store
from tests.support.postgres import (
    PASSWORD,
    PostgresServer,
    locked_tables,
    query,
)
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow
DAY = 86_400.0
MONTHS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits"
    " WHERE inhparent = 'predictions'::regclass ORDER BY 1"
)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.make_database())


@pytest.fixture
def replicas(url: str, tmp_path: Path) -> Iterator[list[RunningStore]]:
    """Four replicas that start together on an empty database."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                RunningStore(url, tmp_path / str(n), busy_timeout_seconds=10, queue_rows=100_000)
            )
            for n in range(4)
        ]
        for one in running:
            one.wait_until_accessible()
        yield running


def test_replicas_that_start_together_on_an_empty_database_make_it_once(
    replicas: list[RunningStore],
) -> None:
    assert all(one.put(row()).predictions == 1 for one in replicas)
    assert replicas[0].stats(StatsQuery())["total_predictions"] == 4


def test_what_several_replicas_get_at_once_is_stored_and_counted_once(
    replicas: list[RunningStore],
) -> None:
    chance = Random(7)
    rows = [row(f"{n}", defect_detected=n % 3 == 0) for n in range(300)]

    def send(store: RunningStore) -> None:
        for _ in range(30):
            store.put(*chance.sample(rows, 40))

    with ThreadPoolExecutor(len(replicas)) as threads:
        list(threads.map(send, replicas))
    ids = replicas[0].ids()
    stats = replicas[1].stats(StatsQuery())
    states = [one.state for one in replicas]

    assert len(ids) == sum(int(one.predictions.value) for one in states)
    assert stats["total_predictions"] == len(ids)
    assert stats["defects_detected"] == sum(int(one.defects.value) for one in states)
    sent = sum(one.predictions.value + one.duplicates.value for one in states)
    assert sent == 4 * 30 * 40
    assert sum(one.errors.value for one in states) == 0


def test_a_conflict_is_found_whichever_replica_has_stored_the_other(
    replicas: list[RunningStore],
) -> None:
    replicas[0].put(row("a"))
    with pytest.raises(ServiceError) as refused:
        replicas[1].put(row("new"), row("a", image_id="another"))

    assert (refused.value.status, refused.value.details["field"]) == (
        409,
        "predictions[1].prediction_id",
    )
    assert replicas[2].ids() == {"a"}


def test_each_replica_prunes_and_the_totals_stay_true(
    url: str, tmp_path: Path, replicas: list[RunningStore]
) -> None:
    old = time.time() - 100 * DAY
    for store in replicas:
        store.put(*[row(received_at=old, edge_device_id="gone") for _ in range(400)])
        store.put(row(received_at=time.time(), edge_device_id="stays"))
    partition = f"predictions_{datetime.fromtimestamp(old, UTC):%Y_%m}"
    assert (partition,) in query(url, MONTHS)
    with ExitStack() as stack:
        pruning = [
            stack.enter_context(
                RunningStore(
                    url, tmp_path / f"p{n}", retention=Retention(days=30), busy_timeout_seconds=10
                )
            )
            for n in range(2)
        ]
        pruning[0].wait_for(lambda: sum(one.state.pruned.value for one in pruning) == 1_600)
        pruning[0].wait_for(lambda: (partition,) not in query(url, MONTHS))
        stats = pruning[0].stats(StatsQuery())
        pruning[0].wait_for(lambda: query(url, "SELECT count(*) FROM prediction_ids") == [(4,)])

    assert stats["total_predictions"] == 4
    assert stats["by_edge_device"] == {"stays": 4}


def test_a_partition_that_still_has_rows_is_not_dropped(url: str) -> None:
    now = time.time()
    database = PostgresDatabase(url, busy_timeout_seconds=5)
    database.open()
    database.write([[row(received_at=now - 100 * DAY)]])
    # As when another replica deletes, and has only just let go of the lock.
    dropped = database._drop_emptied(now - 30 * DAY)
    database.close()

    assert not dropped
    assert query(url, "SELECT count(*) FROM predictions") == [(1,)]


def test_what_arrived_in_a_month_lies_in_its_partition(url: str, tmp_path: Path) -> None:
    moment = datetime(2026, 2, 28, 23, 59, 59, 999_999, UTC).timestamp()
    with running_store(url, tmp_path / "pod") as store:
        store.put(row("february", received_at=moment), row("march", received_at=moment + 1))
        february = query(url, "SELECT prediction_id FROM predictions_2026_02")
        march = query(url, "SELECT prediction_id FROM predictions_2026_03")

    assert (february, march) == ([("february",)], [("march",)])


def test_this_months_partition_and_that_of_next_week_are_there_before_any_row(
    url: str, tmp_path: Path
) -> None:
    with running_store(url, tmp_path / "pod"):
        names = {name for (name,) in query(url, MONTHS)}

    for moment in (time.time(), time.time() + 7 * DAY):
        assert f"predictions_{datetime.fromtimestamp(moment, UTC):%Y_%m}" in names


def test_a_partition_dropped_by_hand_comes_back_and_its_ids_are_free(
    url: str, tmp_path: Path
) -> None:
    with running_store(url, tmp_path / "pod") as store:
        sent = row("a", received_at=datetime(2026, 2, 3, tzinfo=UTC).timestamp())
        store.put(sent)
        query(url, "DROP TABLE predictions_2026_02")
        assert store.put(sent).predictions == 1
        assert store.put(sent).duplicates == 1


def test_tables_dropped_by_hand_are_made_anew(url: str, tmp_path: Path) -> None:
    with running_store(url, tmp_path / "pod") as store:
        store.put(row("lost"))
        query(url, "DROP TABLE predictions, prediction_ids, schema_migrations, writers CASCADE")
        query(url, "DROP TABLE all_totals, edge_device_totals, model_totals, transfers")
        query(url, "DROP SEQUENCE IF EXISTS prediction_numbers CASCADE")

        def stored() -> bool:
            try:
                return store.put(row("new")).predictions + 1 > 0
            except (StoreError, ServiceError):
                return False

        wait_until(stored, "it is stored", seconds=15)
        assert store.ids() == {"new"}
        assert store.state.store_errors["schema"].value >= 1


@pytest.mark.parametrize("table", ["schema_migrations", "predictions", "writers"])
def test_one_table_dropped_by_hand_is_named_and_nothing_is_acknowledged(
    url: str, tmp_path: Path, table: str
) -> None:
    with running_store(url, tmp_path / "pod") as store:
        query(url, f"DROP TABLE {table} CASCADE")
    with RunningStore(url, tmp_path / "again") as store:
        store.wait_for_failure("schema")
        with pytest.raises((ServiceError, StoreError)):
            store.put(row())


def test_a_database_of_a_newer_version_is_left_alone(url: str, tmp_path: Path) -> None:
    with opened(url):
        query(url, "INSERT INTO schema_migrations (version) VALUES (99)")
    with RunningStore(url, tmp_path / "second") as store:
        store.wait_for_failure("schema")
        assert not store.state.db_initialized.value
        with pytest.raises(ServiceError) as refused:
            store.put(row())
    assert refused.value.reason == "database_not_initialized"


def test_a_field_that_the_table_lacks_is_added_to_it(url: str) -> None:
    with opened(url):
        query(url, "ALTER TABLE predictions DROP COLUMN processing_notes")
    with opened(url) as database:
        database.write([[row(processing_notes="dim")]])

    assert query(url, "SELECT processing_notes FROM predictions") == [("dim",)]


def test_an_encoding_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    query(postgres.url(), "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(StoreError, match=r"LATIN1.*ENCODING 'UTF8'"):
        PostgresDatabase(postgres.url("latin"), busy_timeout_seconds=1).open()


def test_a_commit_is_on_disk_though_the_database_is_set_to_answer_first(
    postgres: PostgresServer, url: str
) -> None:
    name = url.rpartition("/")[2]
    query(url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = PostgresDatabase(url, busy_timeout_seconds=1)
    database.open()
    setting = database._connection.execute("SHOW synchronous_commit").fetchone()
    database.close()

    assert setting == ("on",)


def test_a_missing_database_or_a_wrong_password_is_no_end_and_names_no_secret(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = postgres.make_database() + "x"
    with RunningStore(postgres.url(name), tmp_path / "pod") as store:
        store.wait_for_failure("unreachable")
        query(postgres.url(), f"CREATE DATABASE {name}")
        store.wait_until_accessible()
    with pytest.raises(StoreError) as failure:
        PostgresDatabase(postgres.url().replace("ecret@", "ecret2@"), busy_timeout_seconds=1).open()
    assert PASSWORD not in str(failure.value)
    assert "password authentication failed" in failure.value.message


def test_the_password_is_taken_out_of_whatever_the_driver_says() -> None:
    failure = classify(psycopg.OperationalError("cannot parse s3cret-word"), "s3cret-word")

    assert (failure.reason, failure.message) == ("unreachable", "cannot parse ***")


def test_a_read_that_takes_too_long_is_a_504_and_no_error_of_the_service(
    url: str, tmp_path: Path
) -> None:
    with running_store(url, tmp_path / "pod", query_timeout_seconds=0.2, check_seconds=60) as store:
        store.put(row())
        store.page(PageQuery())
        with locked_tables(url, "predictions"), pytest.raises(ServiceError) as late:
            store.page(PageQuery())
        assert store.page(PageQuery())["count"] == 1

        assert late.value.status == 504
        assert (store.state.errors.value, store.state.outcomes.errors) == (0, 0)


def test_the_size_of_the_database_is_known(url: str, tmp_path: Path) -> None:
    with running_store(url, tmp_path / "pod") as store:
        store.put(row())

        assert store.state.database_bytes.value > 1_000_000
        assert store.state.wal_bytes.value == store.state.disk_size_bytes.value == 0
