"""Predictions in an SQLite file: the default."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bentos.logging.store.database import PredictionDatabase
from bentos.logging.store.errors import StoreError
from bentos.logging.store.files import DatabaseFiles, Sizes
from bentos.logging.store.reader import SqliteReader


class WriteLock:
    """Lets the workers of a pod, which share `directory`, write one after another, as they ask.

    SQLite lets a writer that finds the database locked sleep and try again, longer each time, so
    that a neighbour that goes on writing may keep it out for seconds. Here a waiting worker holds
    the place behind the writer, and the writer cannot come again before it. The kernel frees the
    locks of a process that dies.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._next = os.open(directory / "writer.next", flags, 0o600)
        self._writing = os.open(directory / "writer.now", flags, 0o600)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it for the block."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._writing, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._writing, fcntl.LOCK_UN)


class SqliteBackend:
    """The SQLite database at `path`.

    `lock_directory` is where the workers of a pod lock one another out; None for a single worker.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_seconds: float,
        query_timeout_seconds: float,
        lock_directory: Path | None = None,
    ) -> None:
        self._path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._query_timeout_seconds = query_timeout_seconds
        self._files = DatabaseFiles(path)
        self._write_lock = (
            WriteLock(lock_directory).held if lock_directory else contextlib.nullcontext
        )

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    def open(self) -> PredictionDatabase:
        """Open it, made or brought up to date where that is needed; raises StoreError."""
        return PredictionDatabase(
            self._files,
            busy_timeout_seconds=self._busy_timeout_seconds,
            write_lock=self._write_lock,
        )

    def reader(self, on_failure: Callable[[StoreError], None]) -> SqliteReader:
        """Return what answers questions; `on_failure` is called with each failure it meets."""
        return SqliteReader(
            self._path, timeout_seconds=self._query_timeout_seconds, on_failure=on_failure
        )

    def sizes(self) -> Sizes:
        """Return the sizes of the files and of the disk; raises OSError."""
        return self._files.sizes()

    def close(self) -> None:
        """Close the descriptors by which the files are watched."""
        self._files.close()
