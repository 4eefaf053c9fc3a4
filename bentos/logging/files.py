"""The files of the SQLite database, and whether they still are the ones that were opened.

SQLite trusts its files: it goes on writing to a database that was deleted or replaced under it,
and applies a write-ahead log that was left beside a file it does not belong to. Both lose
predictions that were acknowledged (sqlite.org/howtocorrupt.html), so this module looks.
"""

import logging
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from bentos.logging import guard
from bentos.logging.failures import StoreError, classify
from bentos.process.logs import event, get_logger

_MAGIC = b"SQLite format 3\x00"
_FREE_BYTES = 1 << 20  # with less, a commit of one batch may fail: not worth coming back for

_logger = get_logger("store")


@dataclass(frozen=True)
class _Inodes:
    """Which files the database, its log and its shared memory are; None for one that is not."""

    database: int | None
    log: int | None
    shared_memory: int | None


class DatabaseFiles:
    """Watches the files of the database at `path` for one writer.

    It has descriptors of them beside SQLite's. They keep the inode numbers by which the files
    are told apart from being given to others, and are closed only while no connection is open:
    closing any descriptor of a file drops all POSIX locks of the process on it, SQLite's too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path.with_name(f"{path.name}-wal")
        self.shared_memory_path = path.with_name(f"{path.name}-shm")
        self._descriptor: int | None = None
        self._known: _Inodes | None = None
        self._pins: dict[Path, int] = {}
        self._lost = False
        self._suspect = False
        self._content: tuple[int, ...] = ()
        self._condemned = False

    def prepare(self) -> None:
        """Make the path fit to be opened: clear what a lost database left beside it.

        Raises StoreError while it is not fit: its directory cannot be made, the file is
        corrupt, or another process still has the lost one open.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{self.path.parent}: cannot be made: {error.strerror}"
            raise StoreError("missing", message) from error
        try:
            inode = _inode(self.path)
            if self._descriptor is not None:
                replaced = inode != os.fstat(self._descriptor).st_ino
                if self._lost or replaced:
                    self._retire(self._descriptor, replaced=replaced, deleted=inode is None)
            if self._descriptor is None and inode is not None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            if self._descriptor is not None:
                self._examine(self._descriptor)
        except OSError as error:
            raise classify(error, self.path) from error

    def opened(self) -> None:
        """Note the files of a connection that was opened just now, and guard them.

        Raises StoreError where they are gone already.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self._know(self._descriptor)
            self._lost = False
            self.guard()
        except OSError as error:
            raise classify(error, self.path) from error
        self.verify()

    def guard(self) -> None:
        """Keep the closing of a connection, whoever's, from writing to the files."""
        if self._descriptor is not None:
            guard.lock(self._descriptor, guard.SHARED)

    def unguard(self) -> None:
        """Take the guard away: before an orderly close, after that of a lost database."""
        if self._descriptor is not None:
            guard.lock(self._descriptor, guard.NONE)

    def lose(self, failure: StoreError) -> None:
        """Note, after the connection was closed, that the files are lost.

        The path is not opened again without a look at what then stands there.
        """
        self.unguard()
        self._lost = self._lost or failure.reason == "missing"
        if failure.reason != "corrupt":
            return
        self._suspect = True
        if self._descriptor is not None and guard.lock(self._descriptor, guard.EXCLUSIVE):
            # Nobody has it open: whatever changes from here on is a repair from outside.
            self._content = _content(self._descriptor)
            guard.lock(self._descriptor, guard.NONE)

    def close(self) -> None:
        """Let go of the database for good, after its connection was closed in order."""
        self._unpin()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def verify(self) -> None:
        """Raise StoreError where the open files are not those at the path any more.

        It costs three stat calls and one read, so it runs around every transaction.
        """
        known, descriptor = self._known, self._descriptor
        if known is None or descriptor is None or _inode(self.path) != known.database:
            raise StoreError("missing", f"{self.path}: was deleted or replaced while open")
        for path, inode in (
            (self.log_path, known.log),
            (self.shared_memory_path, known.shared_memory),
        ):
            if _inode(path) != inode:
                raise StoreError("missing", f"{path}: was deleted or replaced while open")
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            raise StoreError("corrupt", f"{self.path}: its first bytes are not a database's")

    def require_writable(self) -> None:
        """Raise StoreError where the operating system would refuse to write the files.

        SQLite opens what it may not write for reading, and finds out at the first commit.
        """
        for path in (self.path, self.log_path, self.path.parent):
            if os.access(path, os.W_OK):
                continue
            if not path.exists():  # what is gone may not be written either
                raise StoreError("missing", f"{path}: was deleted while open")
            raise StoreError("read_only", f"{path}: is read-only")

    def require_space(self) -> None:
        """Raise StoreError while the disk has too little room for a batch."""
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < _FREE_BYTES:
            raise StoreError("full", f"{self.path.parent}: less than {_FREE_BYTES} bytes free")

    def _know(self, descriptor: int) -> None:
        """Note which files there are, and keep their inodes from being used for others."""
        self._known = _Inodes(
            database=os.fstat(descriptor).st_ino,
            log=self._pin(self.log_path),
            shared_memory=self._pin(self.shared_memory_path),
        )

    def _pin(self, path: Path) -> int | None:
        """Return the file's inode, held open; a descriptor of it that is held already stays."""
        inode = _inode(path)
        held = self._pins.get(path)
        if held is not None:
            if os.fstat(held).st_ino == inode:
                return inode
            os.close(self._pins.pop(path))
        if inode is None:
            return None
        self._pins[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.fstat(self._pins[path]).st_ino

    def _unpin(self) -> None:
        for pin in self._pins.values():
            os.close(pin)
        self._pins, self._known = {}, None

    def _examine(self, descriptor: int) -> None:
        """Refuse a corrupt file until it was changed, and then a log that was not meant for it."""
        if not self._suspect and os.pread(descriptor, len(_MAGIC), 0) in (_MAGIC, b""):
            return
        self._suspect = True
        content = _content(descriptor)
        if self._condemned and content == self._content:
            raise StoreError("corrupt", f"{self.path}: is corrupt; put a good database there")
        if self._content and content != self._content and guard.lock(descriptor, guard.EXCLUSIVE):
            # Another content came into the same file: the log at its side is the old one's.
            self._set_log_aside()
            guard.lock(descriptor, guard.NONE)
        fault = self._fault(descriptor)
        if fault:
            self._content, self._condemned = content, True
            if self._known is None:
                self._know(descriptor)
            raise StoreError("corrupt", f"{self.path}: {fault}; put a good database there")
        self._acquit()

    def _acquit(self) -> None:
        self._suspect, self._condemned, self._content = False, False, ()

    def _fault(self, descriptor: int) -> str:
        """Return what is wrong with the database, all of it read and not a byte written."""
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            return "its first bytes are not a database's"
        try:
            connection = sqlite3.connect(read_only_uri(self.path), uri=True)
            try:
                answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            finally:
                connection.close()
        except sqlite3.Error as error:
            failure = classify(error, self.path)
            if failure.reason != "corrupt":
                raise failure from error
            return str(error)
        return "" if answer == "ok" else answer

    def _retire(self, descriptor: int, *, replaced: bool, deleted: bool) -> None:
        """Let go of a database whose files are no longer at the path."""
        if not guard.lock(descriptor, guard.EXCLUSIVE):
            # Whoever closes the lost database last deletes its log by name, which would be the
            # new one's: wait until all have let go.
            raise StoreError(
                "missing", f"{self.path}: another process still has the lost database open"
            )
        self._set_log_aside()
        self._unpin()
        self._lost = False
        if not replaced:
            guard.lock(descriptor, guard.NONE)
            return
        message = (
            "the database was deleted while in use; an empty one takes its place"
            if deleted
            else "the database was replaced while in use; the one now there is used"
        )
        event(_logger, logging.ERROR, message, {"path": str(self.path)})
        os.close(descriptor)
        self._descriptor = None
        self._acquit()

    def _set_log_aside(self) -> None:
        known = self._known
        if known is None:
            return
        if known.log is not None and _inode(self.log_path) == known.log:
            aside = self.log_path.with_name(f"{self.log_path.name}.lost-{time.time_ns()}")
            self.log_path.rename(aside)
            event(
                _logger,
                logging.WARNING,
                "the write-ahead log of the lost database was set aside",
                {"path": str(aside)},
            )
        if known.shared_memory is not None and (
            _inode(self.shared_memory_path) == known.shared_memory
        ):
            self.shared_memory_path.unlink()


def read_only_uri(path: Path) -> str:
    """Return the address under which SQLite opens the database for reading only."""
    return f"{path.absolute().as_uri()}?mode=ro"


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - Path.stat takes twice as long, on the hot path
    except (FileNotFoundError, NotADirectoryError):
        return None


def _content(descriptor: int) -> tuple[int, ...]:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns
