"""The store: whole batches, each prediction once, acknowledged only when on disk."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from bentos.edge.http import ServiceError
from bentos.logging.store import PageQuery, StoreError
from tests.support.disks import immutable, remount_read_only, remount_writable, small_disk
from tests.support.logging_store import (
    RunningStore,
    locked_by_another_process,
    row,
    stored_ids,
)
from tests.support.servers import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunningStore]:
    with RunningStore(tmp_path / "data" / "predictions.db", tmp_path / "pod") as running:
        running.wait_until_accessible()
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


def test_a_batch_is_in_the_database_when_it_is_acknowledged(store: RunningStore) -> None:
    stored = store.put(row("a", defect_detected=True), row("b"))

    assert (stored.predictions, stored.duplicates, stored.defects) == (2, 0, 1)
    assert store.ids() == {"a", "b"}
    assert (store.state.predictions.value, store.state.defects.value) == (2, 1)
    assert store.state.last_prediction_at.value > 0


def test_the_same_id_twice_is_stored_once_in_a_batch_and_across_batches(
    store: RunningStore,
) -> None:
    a, b = row("a"), row("b")
    first = store.put(a, a, b)
    second = store.put(b, row("c"))

    assert (first.predictions, first.duplicates) == (2, 1)
    assert (second.predictions, second.duplicates) == (1, 1)
    assert store.ids() == {"a", "b", "c"}
    assert store.state.duplicates.value == 2


@pytest.mark.case(20)
def test_two_devices_may_use_the_same_id(store: RunningStore) -> None:
    """Devices A and B each send `prediction_id: "1"`, with other content: both are stored."""
    first = store.put(row("1", edge_device_id="A", defect_detected=True))
    second = store.put(row("1", edge_device_id="B", defect_detected=False))

    assert (first.predictions, second.predictions) == (1, 1)
    assert (first.duplicates, second.duplicates) == (0, 0)


@pytest.mark.case(20)
@pytest.mark.parametrize(
    "changes",
    [
        {"defect_detected": True},
        {"image_id": "another.png"},
        {"timestamp": 1.0},
        {"model_version": "4"},
        {"inference_time_ms": 2.500001},
        {"processing_notes": "dim"},
        {"confidence_scores": Raw(b"[0.9,0.2]")},
        {"detections": Raw(b"[]")},
    ],
)
def test_other_content_under_a_known_id_is_a_conflict(
    store: RunningStore, changes: dict[str, Any]
) -> None:
    """A device sends an id again with other content: 409 that names the item, nothing stored."""
    known = row("a")
    store.put(known)
    with pytest.raises(ServiceError) as refused:
        store.put(row("new"), replace(known, **changes))

    assert (refused.value.status, refused.value.reason) == (409, "conflict")
    assert refused.value.details["field"] == "predictions[1].prediction_id"
    assert refused.value.message.startswith("predictions[1].prediction_id: expected an id of its")
    assert store.ids() == {"a"}
    assert store.state.conflicts.value == 1
    assert store.state.duplicates.value == 0
    assert store.state.errors.value == 0


@pytest.mark.case(20)
def test_the_same_content_is_a_duplicate_however_it_was_sent(store: RunningStore) -> None:
    """A device sends the same prediction in another request: a duplicate, stored once."""
    known = row("a", confidence_scores=Raw(b'{"a":0.9,"b":0.1}'), request_id="first")
    store.put(known)
    again = replace(
        known,
        confidence_scores=Raw(b'{"b": 0.1, "a": 0.9}'),
        detections=Raw(b'[{"confidence":0.9,"class":"scratch"}]'),
        request_id="second",
        received_at=known.received_at + 60,
        sent_at=1.75e9,
    )

    assert store.put(again).duplicates == 1


@pytest.mark.case(20)
def test_a_conflict_within_a_batch_and_between_batches_of_one_transaction(
    store: RunningStore,
) -> None:
    """The same id with other content in batches that wait together: the second is refused."""
    one, other = row("1"), row("1", image_id="other")
    with pytest.raises(ServiceError) as refused:
        store.put(one, other)
    assert refused.value.details["field"] == "predictions[1].prediction_id"
    with locked_by_another_process(store.path):
        store.wait_for_failure("busy")
    store.wait_until_accessible()
    first, second, third = [
        store.begin(rows) for rows in ([one], [row("new"), other], [row("last")])
    ]

    assert first.result(10).predictions == 1
    with pytest.raises(ServiceError, match=r"predictions\[1\]"):
        second.result(10)
    assert third.result(10).predictions == 1
    assert store.ids() == {"1", "last"}


@pytest.mark.case(9)
def test_a_read_that_takes_too_long_is_no_error_of_the_service(tmp_path: Path) -> None:
    """Pages that take longer than a query may: each is a 504, and readiness counts none."""
    with RunningStore(
        tmp_path / "predictions.db", tmp_path / "pod", query_timeout_seconds=1e-9
    ) as store:
        store.wait_until_accessible()
        store.put(*[row() for _ in range(1_000)])
        for _ in range(30):
            with pytest.raises(ServiceError) as late:
                store.page(PageQuery(limit=1_000))
            assert late.value.status == 504

        assert store.state.errors.value == 0
        assert store.state.outcomes.errors == 0
        assert store.state.db_accessible.value


def test_the_sizes_of_the_files_and_of_the_disk_are_known(store: RunningStore) -> None:
    store.put(*[row() for _ in range(100)])
    store.wait_for(lambda: store.state.wal_bytes.value > 0)

    assert store.state.database_bytes.value >= 4_096
    assert 0 < store.state.disk_free_bytes.value <= store.state.disk_size_bytes.value
    assert store.state.database_capacity_bytes.value == 0


def test_a_known_id_is_still_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with RunningStore(path, tmp_path / "first") as store:
        store.wait_until_accessible()
        sent = row("a")
        store.put(sent)
    with RunningStore(path, tmp_path / "second") as store:
        store.wait_until_accessible()
        assert store.put(sent).duplicates == 1


def test_predictions_without_an_id_are_never_taken_for_duplicates(store: RunningStore) -> None:
    nameless = replace(row(), prediction_id=None)

    assert store.put(nameless, nameless).predictions == 2


def test_batches_that_wait_share_one_transaction_and_keep_their_own_counts(
    store: RunningStore,
) -> None:
    with locked_by_another_process(store.path):
        store.wait_for_failure("busy")
    store.wait_until_accessible()
    shared = row("shared")
    patient = [store.begin([row(f"id-{number}"), shared]) for number in range(50)]
    stored = [one.result(10) for one in patient]

    assert sum(one.predictions for one in stored) == 51
    assert sum(one.duplicates for one in stored) == 49
    transactions, predictions = store.commits()
    assert predictions == 51
    assert transactions < 50


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
    assert store.state.db_accessible.value


def test_a_row_that_the_schema_refuses_fails_its_batch_as_a_whole(store: RunningStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.put(row("a"), row("b", image_id=None))

    assert store.ids() == set()
    assert store.state.db_accessible.value


def test_a_failure_of_the_code_itself_fails_what_waits_and_is_recovered_from(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.state, "record_stored", None)
    with pytest.raises(TypeError):
        store.put(row("stored but not acknowledged"))
    monkeypatch.undo()
    store.wait_until_accessible()

    assert store.put(row("later")).predictions == 1
    assert store.state.queue_depth.value == 0


def test_a_full_queue_refuses_with_429_and_a_large_batch_is_let_in_alone(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with RunningStore(
        path, tmp_path / "pod", queue_rows=10, busy_timeout_seconds=10, check_seconds=60
    ) as store:
        store.wait_until_accessible()
        with locked_by_another_process(path):
            first = store.begin([row() for _ in range(15)])
            wait_until(lambda: store.state.queue_depth.value == 15, "it waits", seconds=5)
            with pytest.raises(ServiceError) as refused:
                store.put(row())
        assert (refused.value.status, refused.value.reason) == (429, "queue_full")
        assert refused.value.headers["Retry-After"]
        assert first.result(10).predictions == 15
        wait_until(lambda: store.state.queue_depth.value == 0, "none waits", seconds=5)


def test_what_waits_is_stored_before_the_store_stops(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with RunningStore(path, tmp_path / "pod", busy_timeout_seconds=10, check_seconds=60) as store:
        store.wait_until_accessible()
        with locked_by_another_process(path):
            waiting = [store.begin([row()]) for _ in range(20)]
            wait_until(lambda: store.state.queue_depth.value == 20, "they wait", seconds=5)
        store.stop()
        assert all(one.result(1).predictions == 1 for one in waiting)
    assert not path.with_name("predictions.db-wal").exists()
    assert len(stored_ids(path)) == 20


def test_a_lock_held_by_another_process_is_a_failure_until_it_is_gone(
    store: RunningStore,
) -> None:
    with locked_by_another_process(store.path):
        store.wait_for_failure("busy")
        with pytest.raises(ServiceError) as refused:
            store.put(row("refused"))
        assert (refused.value.status, refused.value.reason) == (503, "database_not_accessible")
        assert store.state.store_errors["busy"].value >= 1
    store.wait_until_accessible()

    assert store.put(row("later")).predictions == 1
    assert store.ids() == {"later"}


def test_a_batch_caught_by_a_failure_is_refused_and_counted_as_an_error(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with RunningStore(path, tmp_path / "pod", check_seconds=60) as store:
        store.wait_until_accessible()
        with locked_by_another_process(path), pytest.raises(StoreError, match="locked") as failure:
            store.put(row("refused"))
        assert failure.value.reason == "busy"
        assert store.state.errors.value == 1
        assert store.state.outcomes.errors == 1
        assert stored_ids(path) == set()


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
    with RunningStore(replacement, tmp_path / "other-pod") as other:
        other.wait_until_accessible()
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
    with RunningStore(path, tmp_path / "first") as store:
        store.wait_until_accessible()
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
        assert not store.state.db_accessible.value
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
        with RunningStore(path, tmp_path / "pod") as store:
            store.wait_until_accessible()
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
        with RunningStore(path, tmp_path / "pod") as store:
            store.wait_until_accessible()
            acknowledged = set()
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (5 << 20))
            while store.state.db_accessible.value:
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
        with RunningStore(replacement, tmp_path / "other-pod") as other:
            other.wait_until_accessible()
            other.put(row("replaced"))
        with RunningStore(path, tmp_path / "pod") as store:
            store.wait_until_accessible()
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
    while store.state.db_accessible.value:
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
        store.wait_for_failure("other")
        assert not store.state.db_initialized.value
    connection = sqlite3.connect(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert tables == {"theirs"}


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
