"""Kept pictures and labels on disk: stored once, found again, and what a failure leaves."""

import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlite_utils import Database

from bentos.evidence import ChallengerAnswer
from bentos.logging.review import store as module
from bentos.logging.review.schema import VERSION, migrations
from bentos.logging.review.store import Added, Kept, Picture, ReviewStore, Stored
from bentos.logging.store.errors import StoreError
from tests.support.evidence import evidence, png

ResultT = TypeVar("ResultT")
Use = Callable[[ReviewStore], Coroutine[Any, Any, ResultT]]
INSERT_LABEL = (
    "INSERT INTO labels (prediction_id, edge_device_id, true_class, labelled_by, labelled_at)"
    " VALUES (?, 'line-4', 'crack', 'ada', 1.0)"
)


def with_store(directory: Path, use: "Use[ResultT]", **options: Any) -> ResultT:
    """Return what a coroutine makes of the store of a directory."""

    async def run() -> ResultT:
        store = ReviewStore(directory, **options)
        try:
            return await use(store)
        finally:
            await store.stop()

    return asyncio.run(run())


def rows(directory: Path, sql: str = "SELECT * FROM evidence ORDER BY id") -> list[dict[str, Any]]:
    async def read(store: ReviewStore) -> list[dict[str, Any]]:
        return await store.read(lambda connection: [dict(row) for row in connection.execute(sql)])

    return with_store(directory, read)


def test_a_kept_picture_is_found_again(tmp_path: Path) -> None:
    one = evidence(challenger=ChallengerAnswer("4", "scratch", 0.7))

    async def add_and_find(store: ReviewStore) -> Picture | None:
        assert await store.add([one]) == Added(Stored(1, 0), 0)
        return await store.picture(one.prediction_id, "line-4")

    assert with_store(tmp_path, add_and_find) == Picture("image/png", one.picture)
    (row,) = rows(tmp_path)
    assert row["class_name"] == "crack"
    assert row["picture_kept"] == 1
    assert row["bytes"] == len(one.picture)
    assert json.loads(row["scores"]) == one.scores
    assert json.loads(row["challenger"])["version"] == "4"
    assert 0 <= row["random_key"] < 1


def test_a_prediction_is_stored_once_for_a_device(tmp_path: Path) -> None:
    first, other = evidence("1"), evidence("1", edge_device_id="line-5")

    async def add(store: ReviewStore) -> list[Added]:
        return [await store.add([first, other]), await store.add([first, evidence("1")])]

    assert with_store(tmp_path, add) == [Added(Stored(2, 0), 0), Added(Stored(0, 2), 0)]
    assert [row["edge_device_id"] for row in rows(tmp_path)] == ["line-4", "line-5"]


def test_a_challengers_answer_is_added_to_a_picture_that_is_stored(tmp_path: Path) -> None:
    later = evidence("1", challenger=ChallengerAnswer("4", "scratch", 0.7))

    async def add(store: ReviewStore) -> Added:
        await store.add([evidence("1")])
        await store.add([later])
        return await store.add([evidence("1")])

    assert with_store(tmp_path, add) == Added(Stored(0, 1), 0)
    (row,) = rows(tmp_path)
    assert json.loads(row["challenger"])["class_name"] == "scratch"


def test_the_same_picture_is_kept_once(tmp_path: Path) -> None:
    same = png()
    with_store(tmp_path, lambda store: store.add([evidence(picture=same) for _ in range(3)]))
    assert len(rows(tmp_path)) == 3
    assert len(rows(tmp_path, "SELECT * FROM pictures")) == 1


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    batch = [evidence(), evidence(picture=b"GIF89a")]
    with pytest.raises(ValueError, match="no PNG, JPEG or BMP"):
        with_store(tmp_path, lambda store: store.add(batch))
    assert rows(tmp_path) == []


def test_rounding_noise_is_stored_as_a_probability(tmp_path: Path) -> None:
    noisy = evidence(confidence=1.0000001, scores={"crack": 1.0000001, "good": -1e-9})
    with_store(tmp_path, lambda store: store.add([noisy]))
    (row,) = rows(tmp_path)
    assert row["confidence"] == 1.0
    assert json.loads(row["scores"]) == {"crack": 1.0, "good": 0.0}


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(INSERT_LABEL, ("1",))
        raise LookupError("after the first row")

    with pytest.raises(LookupError, match="after the first row"):
        with_store(tmp_path, lambda store: store.write(change))
    assert rows(tmp_path, "SELECT * FROM labels") == []


def test_a_question_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        with_store(
            tmp_path,
            lambda store: store.read(lambda connection: connection.execute(INSERT_LABEL, ("1",))),
        )


def test_a_picture_that_never_was_is_none(tmp_path: Path) -> None:
    assert with_store(tmp_path, lambda store: store.picture("../../etc/passwd", "line-4")) is None


def test_a_store_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    async def add_after_deletion(store: ReviewStore) -> Added:
        await store.add([evidence()])
        for file in store.directory.iterdir():
            file.unlink()
        store.directory.rmdir()
        return await store.add([evidence()])

    assert with_store(tmp_path / "review", add_after_deletion) == Added(Stored(1, 0), 0)
    assert len(rows(tmp_path / "review")) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.write_bytes(b"no database" * 1_000), "corrupt"),
        (lambda file: file.mkdir(), "other"),
    ],
)
def test_a_database_that_cannot_be_used_is_an_error_with_its_reason(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(tmp_path / "review.db")
    with pytest.raises(StoreError) as caught:
        with_store(tmp_path, lambda store: store.add([evidence()]))
    assert caught.value.reason == reason


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with_store(tmp_path, lambda store: store.add([evidence()]))
    with sqlite3.connect(tmp_path / "review.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreError, match=f"knows up to {VERSION}"):
        with_store(tmp_path, lambda store: store.add([evidence()]))


def test_a_database_of_the_version_before_keeps_its_labels(tmp_path: Path) -> None:
    with contextlib.closing(
        sqlite3.connect(tmp_path / "review.db", isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrations.apply(Database(connection), stop_before="m004_labels_in_one_step_each")
        connection.execute("PRAGMA user_version = 3")
        connection.execute(INSERT_LABEL, ("1",))
    with_store(tmp_path, lambda store: store.add([evidence("1"), evidence("2")]))
    with_store(tmp_path, lambda store: store.write(lambda one: one.execute(INSERT_LABEL, ("2",))))
    assert [row["true_class"] for row in rows(tmp_path)] == ["crack", "crack"]


DAY = 86_400.0
LARGE = {"bytes_more": 200_000}


def kept_ids(directory: Path) -> list[str]:
    return [row["prediction_id"] for row in rows(directory) if row["picture_kept"]]


def test_beyond_its_size_the_oldest_pictures_go_and_their_rows_and_labels_stay(
    tmp_path: Path,
) -> None:
    limit = 2 << 20

    async def fill(store: ReviewStore) -> tuple[list[Added], Picture | None]:
        await store.write(lambda connection: connection.execute(INSERT_LABEL, ("0",)))
        added = [
            await store.add([evidence(str(number), picture=png(**LARGE))]) for number in range(20)
        ]
        return added, await store.picture("0", "line-4")

    added, oldest = with_store(tmp_path, fill, max_bytes=limit)
    assert sum(one.pruned for one in added) >= 20 - limit // 200_000
    assert oldest == Picture("image/png", None)
    assert len(rows(tmp_path)) == 20
    assert len(rows(tmp_path, "SELECT * FROM labels")) == 1
    left = kept_ids(tmp_path)
    assert left == [str(number) for number in range(20 - len(left), 20)]
    assert len(rows(tmp_path, "SELECT * FROM pictures")) == len(left)


def test_a_picture_that_another_prediction_needs_stays(tmp_path: Path) -> None:
    same = png(**LARGE)
    now = [0.0]

    async def expire_one(store: ReviewStore) -> tuple[Kept, Picture | None]:
        await store.add([evidence("old", picture=same)])
        now[0] = 8 * DAY
        await store.add([evidence("new", picture=same)])
        now[0] = 11 * DAY
        return await store.keep_up(), await store.picture("new", "line-4")

    kept, picture = with_store(tmp_path, expire_one, retention_days=10, clock=lambda: now[0])
    assert (kept.pictures, kept.pruned) == (1, 1)
    assert picture == Picture("image/png", same)
    assert kept_ids(tmp_path) == ["new"]


def test_pictures_go_after_their_days_and_the_file_shrinks(tmp_path: Path) -> None:
    now = [0.0]

    async def expire(store: ReviewStore) -> Kept:
        await store.add([evidence(picture=png(**LARGE)) for _ in range(60)])
        now[0] = 91 * DAY
        return await store.keep_up()

    kept = with_store(tmp_path, expire, clock=lambda: now[0])
    assert (kept.pictures, kept.pruned) == (0, 60)
    assert kept.bytes < 1 << 20
    # Some free pages are kept for the next pictures.
    assert (tmp_path / "review.db").stat().st_size < 6 << 20
    assert len(rows(tmp_path)) == 60


@pytest.mark.parametrize(
    ("most", "sampled", "left"),
    [
        # What has a label stays, and of the others the oldest go.
        (3, 0, ["0", "4", "new"]),
        # The slice goes last, and with its labels: only labelled ones of it would say wrongly of
        # which verdict there were how many.
        (2, 3, ["2", "new"]),
    ],
)
def test_of_too_many_rows_the_oldest_without_a_picture_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, sampled: int, left: list[str]
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", most)
    now = [0.0]

    async def expire(store: ReviewStore) -> None:
        await store.add([evidence(str(number), sampled=number < sampled) for number in range(5)])
        await store.write(lambda connection: connection.execute(INSERT_LABEL, ("0",)))
        now[0] = 91 * DAY
        await store.add([evidence("new")])
        await store.keep_up()

    with_store(tmp_path, expire, clock=lambda: now[0])
    assert [row["prediction_id"] for row in rows(tmp_path)] == left
    assert len(rows(tmp_path, "SELECT * FROM labels")) == 1


def test_a_store_that_nobody_sent_anything_makes_no_file(tmp_path: Path) -> None:
    kept = with_store(tmp_path / "review", lambda store: store.keep_up())
    assert kept == Kept(0, 0, 0)
    assert not (tmp_path / "review").exists()


def test_the_last_free_space_of_the_disk_is_left_to_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESERVED_BYTES", 1 << 60)
    with pytest.raises(StoreError) as caught:
        with_store(tmp_path, lambda store: store.add([evidence()]))
    assert caught.value.reason == "full"


def _add_many(directory: Path) -> None:
    async def add(store: ReviewStore) -> None:
        for _ in range(20):
            await store.add([evidence(f"{multiprocessing.current_process().name}-{png().hex()}")])

    with_store(directory, add)


def test_several_processes_share_a_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(rows(tmp_path)) == 60
