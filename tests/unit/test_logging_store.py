"""The store: whole batches, each prediction once, acknowledged only when on disk."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bentos.edge.http import ServiceError
from bentos.logging.store import PageQuery, StoreError
from tests.support.disks import immutable, remount_read_only, remount_writable, small_disk
from tests.support.logging_store import (
    RunningStore,
    locked_by_another_process,
    row,
    running_store,
    stored_ids,
)
from tests.support.servers import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with running_store(tmp_path / "data" / "predictions.db", tmp_path / "pod") as running:
        yield running


def put_until_refused(store: RunningStore) -> StoreError | ServiceError:
    """Put batches until one is not stored; the database was broken by the test before."""
    failures: list[StoreError | ServiceError] = []

    def refused() -> bool:
        try:
            store.put(row())
        except (StoreError, ServiceError) as failure:
            failures.append(failure)
        return bool(failures)

    wait_until(refused, "a batch is refused", seconds=10)
    return failures[0]


def test_the_sizes_of_the_files_and_of_the_disk_are_known(store: RunningStore) -> None:
    store.put(*[row() for _ in range(100)])
    store.wait_for(lambda: store.state.wal_bytes.value > 0)

    assert store.state.database_bytes.value >= 4_096
    assert 0 < store.state.disk_free_bytes.value <= store.state.disk_size_bytes.value
    assert store.state.database_capacity_bytes.value == 0


def test_one_batch_that_cannot_be_stored_does_not_harm_its_neighbours(
    store: RunningStore,
) -> None:
    with locked_by_another_process(store.path):
        store.wait_for_failure("busy")
    store.wait_until_accessible()
    good = [store.begin([row(f"good-{number}")]) for number in range(5)]
    poison = store.begin([row("poison", edge_device_id="\ud800")])
    late = store.begin([row("late")])

    assert all(one.result(10).predictions == 1 for one in [*good, late])
    with pytest.raises((UnicodeEncodeError, TypeError)):
        poison.result(10)
    assert "poison" not in store.ids()
    assert store.state.db_accessible


def test_a_row_that_the_schema_refuses_fails_its_batch_as_a_whole(store: RunningStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.put(row("a"), row("b", image_id=None))

    assert store.ids() == set()
    assert store.state.db_accessible


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["database", "all-files"])
def test_a_deleted_database_is_noticed_before_a_batch_is_acknowledged_and_made_anew(
    store: RunningStore, suffixes: tuple[str, ...]
) -> None:
    store.put(row("lost"))
    for suffix in suffixes:
        store.path.with_name(store.path.name + suffix).unlink()
    acknowledged = set()
    for number in range(200):
        try:
            store.put(row(f"new-{number}"))
            acknowledged.add(f"new-{number}")
        except (StoreError, ServiceError):
            continue
    store.wait_until_accessible()
    store.put(row("last"))

    assert store.state.store_errors["missing"].value >= 1
    assert acknowledged | {"last"} == store.ids()


def test_a_replaced_database_is_used_without_the_old_ones_log(
    store: RunningStore, tmp_path: Path
) -> None:
    replacement = tmp_path / "data" / "replacement.db"
    with running_store(replacement, tmp_path / "other-pod") as other:
        other.put(row("replaced"))
    store.put(row("old"))
    replacement.replace(store.path)
    put_until_refused(store)
    store.wait_until_accessible()
    store.put(row("new"))

    assert {"replaced", "new"} <= store.ids()
    assert "old" not in store.ids()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_deleted_log_or_shared_memory_costs_no_acknowledged_prediction(
    store: RunningStore, suffix: str
) -> None:
    store.put(row("before"))
    store.path.with_name(f"predictions.db{suffix}").unlink()
    put_until_refused(store)
    store.wait_until_accessible()
    store.put(row("after"))
    store.stop()

    assert {"before", "after"} <= stored_ids(store.path)


def overwrite_header(path: Path) -> bytes:
    """Make a database unreadable in place and return its new content."""
    with path.open("r+b") as file:
        file.write(b"this is no database " * 5)
    return path.read_bytes()


@pytest.mark.parametrize("repair", ["in place", "by rename"])
def test_a_corrupt_database_is_left_alone_until_a_good_one_stands_there(
    store: RunningStore, tmp_path: Path, repair: str
) -> None:
    backup = tmp_path / "backup.db"
    store.put(row("saved"))
    source = sqlite3.connect(store.path)
    target = sqlite3.connect(backup)
    source.backup(target)
    source.close()
    target.close()
    store.put(*[row() for _ in range(200)])
    content = overwrite_header(store.path)
    store.wait_for_failure("corrupt")
    with pytest.raises(ServiceError) as refused:
        store.put(row("refused"))
    assert refused.value.reason == "database_not_accessible"
    with pytest.raises(ServiceError, match="not accessible"):
        store.page(PageQuery())
    assert store.path.read_bytes() == content

    if repair == "in place":
        shutil.copyfile(backup, store.path)
    else:
        backup.replace(store.path)
    store.wait_until_accessible()
    store.put(row("after"))
    store.stop()

    assert stored_ids(store.path) == {"saved", "after"}
    assert check_of(store.path) == "ok"


def check_of(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_a_file_that_is_no_database_at_start_is_neither_opened_nor_overwritten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "predictions.db"
    path.write_bytes(b"somebody's holiday pictures" * 1_000)
    with RunningStore(path, tmp_path / "pod") as store:
        store.wait_for_failure("corrupt")
        assert not store.state.db_initialized.value
        with pytest.raises(ServiceError) as refused:
            store.put(row())
        assert refused.value.reason == "database_not_initialized"
        assert path.read_bytes() == b"somebody's holiday pictures" * 1_000
        path.unlink()
        store.wait_until_accessible()
        assert store.put(row()).predictions == 1


def test_damage_in_the_middle_is_found_and_not_accepted_again(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with running_store(path, tmp_path / "first") as store:
        store.put(*[row() for _ in range(500)])
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * (path.stat().st_size - 4_096))
    damaged = path.read_bytes()
    with RunningStore(path, tmp_path / "second") as store:
        store.wait_for_failure("corrupt")
        errors = store.state.store_errors["corrupt"].value
        wait_until(
            lambda: store.state.store_errors["corrupt"].value > errors + 1,
            "it was looked at again",
            seconds=10,
        )
        assert not store.state.db_accessible
    assert path.read_bytes() == damaged


def test_a_directory_that_is_missing_at_start_may_come_later(tmp_path: Path) -> None:
    (tmp_path / "volume").write_text("a file where the directory will be")
    path = tmp_path / "volume" / "predictions.db"
    with RunningStore(path, tmp_path / "pod") as store:
        store.wait_for_failure("missing")
        (tmp_path / "volume").unlink()
        (tmp_path / "volume").mkdir()
        store.wait_until_accessible()
        store.put(row("a"))
        assert store.ids() == {"a"}


def test_a_read_only_file_is_noticed_while_idle_and_recovered_from(store: RunningStore) -> None:
    store.put(row("before"))
    with immutable(store.path, store.path.with_name("predictions.db-wal")):
        store.wait_for_failure("read_only")
    store.wait_until_accessible()
    store.put(row("after"))

    assert store.ids() == {"before", "after"}


def test_a_read_only_disk_is_noticed_and_recovered_from(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="16m") as disk:
        path = disk / "predictions.db"
        with running_store(path, tmp_path / "pod") as store:
            store.put(row("before"))
            store.stop()
        remount_read_only(disk)
        with RunningStore(path, tmp_path / "next") as store:
            store.wait_for_failure("read_only")
            remount_writable(disk)
            store.wait_until_accessible()
            store.put(row("after"))
            assert store.ids() == {"before", "after"}


def test_a_full_disk_refuses_batches_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="8m") as disk:
        path = disk / "predictions.db"
        with running_store(path, tmp_path / "pod") as store:
            acknowledged = set()
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (5 << 20))
            while store.state.db_accessible:
                rows = [row() for _ in range(50)]
                try:
                    store.put(*rows)
                except (StoreError, ServiceError):
                    break
                acknowledged |= {str(one.prediction_id) for one in rows}
            store.wait_for_failure("full")
            ballast.unlink()
            store.wait_until_accessible()
            rows = [row() for _ in range(50)]
            store.put(*rows)
            acknowledged |= {str(one.prediction_id) for one in rows}
        assert acknowledged == stored_ids(path)


def test_a_database_moved_away_while_the_disk_is_full_keeps_its_log_to_itself(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size="8m") as disk:
        path = disk / "predictions.db"
        replacement = tmp_path / "replacement.db"
        with running_store(replacement, tmp_path / "other-pod") as other:
            other.put(row("replaced"))
        with running_store(path, tmp_path / "pod") as store:
            store.put(*[row() for _ in range(200)])
            (disk / "ballast").write_bytes(b"x" * (5 << 20))
            put_until_refused_by_a_full_disk(store)
            path.unlink()
            (disk / "ballast").unlink()
            shutil.copyfile(replacement, disk / "copy.db")
            (disk / "copy.db").replace(path)
            store.wait_until_accessible()
            store.put(row("after"))
        assert stored_ids(path) == {"replaced", "after"}
        assert check_of(path) == "ok"


def put_until_refused_by_a_full_disk(store: RunningStore) -> None:
    while store.state.db_accessible:
        try:
            store.put(*[row() for _ in range(50)])
        except (StoreError, ServiceError):
            break
    store.wait_for_failure("full")


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with RunningStore(path, tmp_path / "pod") as store:
        store.wait_for_failure("schema")
        assert not store.state.db_initialized.value
    connection = sqlite3.connect(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert tables == {"theirs"}


def test_a_table_dropped_by_hand_is_named(store: RunningStore) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("DROP TABLE predictions")
        connection.commit()
    store.wait_for_failure("schema")
    with pytest.raises(ServiceError) as refused:
        store.put(row())
    assert refused.value.reason == "database_not_accessible"


def test_damage_that_a_read_finds_has_the_database_checked(store: RunningStore) -> None:
    store.put(*[row() for _ in range(2_000)])
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = store.path.read_bytes()
    with store.path.open("r+b") as file:
        file.seek(8_192)
        file.write(b"\xff" * (len(whole) - 8_192))
    with pytest.raises(ServiceError) as refused:
        store.page(PageQuery(limit=1_000))
    assert (refused.value.status, refused.value.reason) == (503, "database_not_accessible")
    store.wait_for_failure("corrupt")
    store.path.write_bytes(whole)
    store.wait_until_accessible()
    store.put(row("after"))

    assert len(store.ids()) == 2_001
