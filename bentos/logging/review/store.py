"""Where kept pictures and labels lie: one SQLite file.

A connection is opened for each call. That takes a millisecond, pictures and labels are few beside
predictions, and a database that was deleted, replaced or restored is simply found as it is now.
Pictures are rows and no files: a batch of them is on disk with one flush instead of one for each,
and a backup of the database has everything.
"""

import asyncio
import contextlib
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from bentos.evidence import Evidence, media_type_of
from bentos.logging.review.schema import configure
from bentos.logging.store.errors import StoreError, classify
from bentos.process.directories import make_directory

# The longest wait for another process that writes.
_BUSY_SECONDS = 5.0
_READER_THREADS = 2
_DAY_SECONDS = 86_400.0
# The disk is that of the predictions, which come first.
_RESERVED_BYTES = 128 << 20
# Pictures deleted between two looks at the size or at the clock.
_PRUNED_TOGETHER = 8
_PRUNE_SECONDS = 0.5
# A row takes about a kilobyte: without a bound, rows would in the end leave pictures no room.
MAX_ROWS = 200_000
_ROWS_TOGETHER = 5_000
# Free pages, 4 KiB each, that are kept for new pictures, and that are given back at once.
_KEPT_PAGES = 1_024
_GIVEN_BACK_PAGES = 8_192

_COLUMNS = (
    *(name for name in Evidence.__struct_fields__ if name != "picture"),
    *("sha256", "bytes", "media_type", "received_at", "picture_kept", "random_key"),
)
_INSERT = (
    f"INSERT INTO evidence ({', '.join(_COLUMNS)})"  # noqa: S608 - own names
    f" VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (prediction_id, edge_device_id) DO NOTHING"
)
_ADD_CHALLENGER = (
    "UPDATE evidence SET challenger = ?"
    " WHERE prediction_id = ? AND edge_device_id = ? AND challenger IS NULL"
)
_INSERT_PICTURE = "INSERT INTO pictures VALUES (?, ?) ON CONFLICT (sha256) DO NOTHING"
_FIND_PICTURE = (
    "SELECT media_type, content FROM evidence"
    " LEFT JOIN pictures ON pictures.sha256 = evidence.sha256 AND picture_kept = 1"
    " WHERE prediction_id = ? AND edge_device_id = ?"
)
_OLDEST = (
    "SELECT id, sha256 FROM evidence WHERE picture_kept = 1 AND received_at < ?"
    " ORDER BY received_at, id LIMIT ?"
)
_FORGET = "UPDATE evidence SET picture_kept = 0 WHERE id = ?"
_DELETE_PICTURE = (
    "DELETE FROM pictures WHERE sha256 = ?1"
    " AND NOT EXISTS (SELECT 1 FROM evidence WHERE sha256 = ?1 AND picture_kept = 1)"
)
# The sample goes last, and with its labels: where only labelled ones of it were left, figures would
# be wrong of which verdict there were how many.
_DELETE_ROWS = (
    "DELETE FROM evidence WHERE id IN (SELECT id FROM evidence WHERE picture_kept = 0"
    " AND (sampled = 1"
    " OR NOT EXISTS (SELECT 1 FROM labels WHERE labels.prediction_id = evidence.prediction_id))"
    " ORDER BY sampled, id LIMIT ?)"
)

ResultT = TypeVar("ResultT")


class Stored(msgspec.Struct, frozen=True):
    """What became of pictures: the answer of `/evidence`, once they are on disk."""

    stored: int
    duplicates: Annotated[int, Meta(description="Pictures that were stored before.")]
    status: Literal["success"] = "success"


@dataclass(frozen=True)
class Added:
    """What became of pictures, and how many older ones had to go for them."""

    answer: Stored
    pruned: int


@dataclass(frozen=True)
class Kept:
    """The pictures that are kept, the bytes that everything takes, and how many just went."""

    pictures: int
    bytes: int
    pruned: int


@dataclass(frozen=True)
class Picture:
    """The picture of a prediction; `content` is None once it was deleted for age or size."""

    media_type: str
    content: bytes | None


class ReviewStore:
    """Kept pictures and labels in `directory`; each method runs in a thread of its own pool.

    Beyond `max_bytes`, and after `retention_days`, the oldest pictures are deleted. Their rows and
    labels stay. Of more than MAX_ROWS rows the oldest without a picture go, first those outside the
    sample that have no label, then the sample.

    All methods raise StoreError where the database fails; nothing of a change is stored then, and
    the next call tries again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = 512 << 20,
        retention_days: float = 90.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._retention_seconds = retention_days * _DAY_SECONDS
        self._path = directory / "review.db"
        self._clock = clock
        # One thread for changes: several would only wait for each other's lock.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="review-writer")
        self._readers = ThreadPoolExecutor(_READER_THREADS, thread_name_prefix="review-reader")

    async def read(self, question: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what `question` finds, in one transaction that cannot write.

        Rows are `sqlite3.Row`. What the function raises itself is raised here.
        """
        return await self._in(self._readers, lambda: self._read(question))

    async def write(self, change: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what `change` returns, once its one transaction is on disk.

        Rows are `sqlite3.Row`. What the function raises itself is raised here, and nothing of it
        is stored then.
        """
        return await self._in(self._writer, lambda: self._write(change))

    async def add(self, evidence: Sequence[Evidence]) -> Added:
        """Store pictures, all or none, each prediction of a device once.

        One that is stored already is left as it is, except for a challenger's answer that it does
        not have yet. Raises ValueError for a picture that is no PNG, JPEG or BMP file.
        """
        return await self._in(self._writer, lambda: self._add(evidence))

    async def picture(self, prediction_id: str, edge_device_id: str) -> Picture | None:
        """Return the picture of a device's prediction, None where there never was one."""

        def find(connection: sqlite3.Connection) -> Picture | None:
            row = connection.execute(_FIND_PICTURE, (prediction_id, edge_device_id)).fetchone()
            return None if row is None else Picture(row["media_type"], row["content"])

        return await self.read(find)

    async def keep_up(self) -> Kept:
        """Delete what is too old or too much, give free space back, and return what is kept."""
        return await self._in(self._writer, self._keep_up)

    def exists(self) -> bool:
        """Return whether anything was ever stored."""
        return self._path.exists()

    async def stop(self) -> None:
        """Finish what was begun and end the threads."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def _add(self, evidence: Sequence[Evidence]) -> Added:
        rows = [(one, self._row(one)) for one in evidence]

        def add(connection: sqlite3.Connection) -> Added:
            self._require_space(connection, sum(len(one.picture) for one in evidence))
            stored = 0
            for one, row in rows:
                if connection.execute(_INSERT, list(row.values())).rowcount:
                    stored += 1
                    connection.execute(_INSERT_PICTURE, (row["sha256"], one.picture))
                elif one.challenger is not None:
                    key = (row["challenger"], one.prediction_id, one.edge_device_id)
                    connection.execute(_ADD_CHALLENGER, key)
            return Added(Stored(stored, len(rows) - stored), self._prune(connection))

        return self._write(add)

    def _row(self, one: Evidence) -> dict[str, object]:
        media_type = media_type_of(one.picture)
        if media_type is None:
            raise ValueError(f"{one.prediction_id}: the picture is no PNG, JPEG or BMP file")
        challenger = one.challenger and msgspec.json.encode(one.challenger).decode()
        own: dict[str, object] = {
            **msgspec.structs.asdict(one),
            "confidence": _clamped(one.confidence),
            "scores": msgspec.json.encode(
                {name: _clamped(score) for name, score in one.scores.items()}
            ).decode(),
            "challenger": challenger,
            "sha256": sha256(one.picture).hexdigest(),
            "bytes": len(one.picture),
            "media_type": media_type,
            "received_at": self._clock(),
            "picture_kept": 1,
            "random_key": random.random(),  # noqa: S311 - an order, no secret
        }
        return {name: own[name] for name in _COLUMNS}

    def _require_space(self, connection: sqlite3.Connection, needed: int) -> None:
        """Raise StoreError where `needed` bytes more would take the disk's last free space."""
        own = _pragma(connection, "freelist_count") * _pragma(connection, "page_size")
        free = shutil.disk_usage(self.directory).free
        if needed > own and free - needed < _RESERVED_BYTES:
            raise StoreError("full", f"{self._path}: the disk has only {free} bytes left")

    def _prune(self, connection: sqlite3.Connection) -> int:
        """Delete the oldest pictures that are too old or too much; return how many.

        It ends after half a second, for others to get their turn.
        """
        deadline = time.monotonic() + _PRUNE_SECONDS
        expired = self._clock() - self._retention_seconds
        pruned = 0
        while time.monotonic() < deadline:
            large = _used(connection) > self.max_bytes
            before = float("inf") if large else expired
            oldest = connection.execute(_OLDEST, (before, _PRUNED_TOGETHER)).fetchall()
            if not oldest:
                break
            connection.executemany(_FORGET, [(row["id"],) for row in oldest])
            connection.executemany(_DELETE_PICTURE, [(row["sha256"],) for row in oldest])
            pruned += len(oldest)
        return pruned

    def _keep_up(self) -> Kept:
        def prune(connection: sqlite3.Connection) -> Kept:
            pruned = self._prune(connection)
            rows, pictures = (
                int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
                for table in ("evidence", "pictures")
            )
            if rows > MAX_ROWS:
                connection.execute(_DELETE_ROWS, (min(rows - MAX_ROWS, _ROWS_TOGETHER),))
            return Kept(pictures, _used(connection), pruned)

        if not self.exists():
            return Kept(0, 0, 0)  # nothing was ever sent
        kept = self._write(prune)
        with self._connection() as connection:
            free = _pragma(connection, "freelist_count")
            if free > _KEPT_PAGES:
                # It gives a page back each time it is stepped, which only a script does to the end.
                pages = min(free - _KEPT_PAGES, _GIVEN_BACK_PAGES)
                connection.executescript(f"PRAGMA incremental_vacuum({pages})")
        return kept

    def _read(self, question: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with self._connection() as connection:
            connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            return question(connection)

    def _write(self, change: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            result = change(connection)
            connection.execute("COMMIT")
            return result

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database for a block; closing it takes an unfinished transaction back."""
        try:
            make_directory(self.directory)
            with contextlib.closing(
                sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            ) as connection:
                configure(connection)
                connection.row_factory = sqlite3.Row
                yield connection
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
            raise  # the fault of a row or of this code, not of the database
        except (sqlite3.Error, OSError) as error:
            raise classify(error, self._path) from error


def _used(connection: sqlite3.Connection) -> int:
    """Return the bytes of the pages in use."""
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _clamped(probability: float) -> float:
    return min(max(probability, 0.0), 1.0)
