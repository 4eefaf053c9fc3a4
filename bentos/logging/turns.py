"""Whose turn it is to write, among the workers of a pod."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Lets the workers that share a directory write one after another, as they ask.

    SQLite lets a writer that finds the database locked sleep and try again, longer each time, so
    that a neighbour that goes on writing may keep it out for seconds. Here whoever waits holds
    the place behind the writer; the writer cannot come again before it. A process that dies
    leaves its place to the next, because the kernel then frees its locks.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._next = os.open(directory / "writer.next", flags, 0o600)
        self._writing = os.open(directory / "writer.now", flags, 0o600)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the calling worker's turn, and hold it for the block."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._writing, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._writing, fcntl.LOCK_UN)
