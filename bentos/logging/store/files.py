"""The files of the SQLite database, and whether they still are the ones that were opened.

SQLite trusts its files: it goes on writing to a database that was deleted or replaced while open,
and applies a write-ahead log that was left beside a file it does not belong to. Both lose
predictions that were acknowledged (sqlite.org/howtocorrupt.html), so this module looks.
"""

import errno
import fcntl
import logging
import os
import sqlite3
import struct
import time
from pathlib import Path

from bentos.logging.store.errors import StoreError, classify
from bentos.process.directories import make_directory
from bentos.process.logs import event, get_logger

_MAGIC = b"SQLite format 3\x00"
_FREE_BYTES = 1 << 20  # with less, a commit of one batch may fail: too little to open for

# The bytes of the database file on which every connection holds a shared lock: SHARED_FIRST and
# SHARED_SIZE in SQLite's os.h.
_LOCK_START = 0x40000000 + 2
_LOCK_SIZE = 510
# What a file system answers that has no locks of open file descriptions.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_logger = get_logger("store")


class DatabaseFiles:
    """Watches the files of the database at `path` for one writer.

    It holds descriptors of them beside SQLite's. While these are open, the inode numbers by which
    the files are recognized are not given to other files. They are closed only while no connection
    is open: closing any descriptor of a file drops all POSIX locks of the process on it, SQLite's
    too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path.with_name(f"{path.name}-wal")
        self.shared_memory_path = path.with_name(f"{path.name}-shm")
        self.rollback_path = path.with_name(f"{path.name}-journal")
        self._descriptor: int | None = None
        # The inode numbers of the open files, None for one that there was not.
        self._known: dict[Path, int | None] = {}
        self._side_descriptors: dict[Path, int] = {}
        self._lost = False
        # Of a database that may be damaged: the state in which it was found so, and whether a
        # full check has confirmed it.
        self._suspected = False
        self._suspected_version: tuple[int, ...] = ()
        self._confirmed = False

    def prepare(self) -> None:
        """Make the path fit to be opened: remove what a lost database left beside it.

        Raises StoreError while it is not fit: its directory cannot be made, the file is
        corrupt, or another process still has the lost one open.
        """
        try:
            make_directory(self.path.parent)
        except OSError as error:
            message = f"{self.path.parent}: cannot be made: {error.strerror}"
            raise StoreError("missing", message) from error
        try:
            inode = _inode(self.path)
            if self._descriptor is not None:
                replaced = inode != os.fstat(self._descriptor).st_ino
                if self._lost or replaced:
                    self._release_lost(self._descriptor, replaced=replaced, deleted=inode is None)
            if self._descriptor is None and inode is not None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            if self._descriptor is not None:
                self._require_sound(self._descriptor)
        except OSError as error:
            raise classify(error, self.path) from error

    def opened(self) -> None:
        """Remember the files of a connection that was just opened, and protect them.

        Raises StoreError where they are gone already.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self._remember(self._descriptor)
            self._lost = False
            self.protect()
        except OSError as error:
            raise classify(error, self.path) from error
        self.verify()

    def protect(self) -> None:
        """Keep the closing of a connection, in any process, from writing to the files."""
        if self._descriptor is not None:
            _lock(self._descriptor, fcntl.F_RDLCK)

    def unprotect(self) -> None:
        """End the protection: before an orderly close, or after that of a lost database."""
        if self._descriptor is not None:
            _lock(self._descriptor, fcntl.F_UNLCK)

    def mark_lost(self, failure: StoreError) -> None:
        """Remember, after the connection was closed, that the files are lost.

        The path is not opened again before `prepare` has seen what then stands there.
        """
        self.unprotect()
        self._lost = self._lost or failure.reason == "missing"
        if failure.reason != "corrupt":
            return
        self._suspected = True
        if self._descriptor is not None and _lock(self._descriptor, fcntl.F_WRLCK):
            # No process has it open: whatever changes from here on is a repair from outside.
            self._suspected_version = _version(self._descriptor)
            _lock(self._descriptor, fcntl.F_UNLCK)

    def close(self) -> None:
        """Close all descriptors, after the connection was closed in order."""
        self._forget()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def verify(self) -> None:
        """Raise StoreError where the open files are not those at the path any more.

        It costs three stat calls and one read, so it runs before and after every transaction.
        """
        for path, inode in self._known.items():
            if _inode(path) != inode:
                raise StoreError("missing", f"{path}: was deleted or replaced while open")
        if self._descriptor is None or not self._known:
            raise StoreError("missing", f"{self.path}: is not open")
        if os.pread(self._descriptor, len(_MAGIC), 0) != _MAGIC:
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
        """Raise StoreError while the disk has too little space for a batch."""
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < _FREE_BYTES:
            raise StoreError("full", f"{self.path.parent}: less than {_FREE_BYTES} bytes free")

    def _remember(self, descriptor: int) -> None:
        self._known = {
            self.path: os.fstat(descriptor).st_ino,
            self.log_path: self._hold_open(self.log_path),
            self.shared_memory_path: self._hold_open(self.shared_memory_path),
        }

    def _hold_open(self, path: Path) -> int | None:
        """Return a side file's inode, with a descriptor that keeps the number from being reused."""
        inode = _inode(path)
        held = self._side_descriptors.get(path)
        if held is not None:
            if os.fstat(held).st_ino == inode:
                return inode
            os.close(self._side_descriptors.pop(path))
        if inode is None:
            return None
        self._side_descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.fstat(self._side_descriptors[path]).st_ino

    def _forget(self) -> None:
        for descriptor in self._side_descriptors.values():
            os.close(descriptor)
        self._side_descriptors, self._known = {}, {}

    def _require_sound(self, descriptor: int) -> None:
        """Raise StoreError for a corrupt file until it was changed.

        After a change, a log that belongs to the former content is renamed first.
        """
        if not self._suspected and os.pread(descriptor, len(_MAGIC), 0) in (_MAGIC, b""):
            return
        if self.rollback_path.exists():
            # A power cut met SQLite while it made the database; it takes that back as it opens it.
            return
        self._suspected = True
        version = _version(descriptor)
        changed = version != self._suspected_version
        if self._confirmed and not changed:
            raise StoreError("corrupt", f"{self.path}: is corrupt; put a good database there")
        if self._suspected_version and changed and _lock(descriptor, fcntl.F_WRLCK):
            # Other content was written into the same file: the log beside it is the old one's.
            self._rename_log()
            _lock(descriptor, fcntl.F_UNLCK)
        fault = self._find_fault(descriptor)
        if fault:
            self._suspected_version, self._confirmed = version, True
            if not self._known:
                self._remember(descriptor)
            raise StoreError("corrupt", f"{self.path}: {fault}; put a good database there")
        self._clear_suspicion()

    def _clear_suspicion(self) -> None:
        self._suspected, self._confirmed, self._suspected_version = False, False, ()

    def _find_fault(self, descriptor: int) -> str:
        """Return what is wrong with the database after reading all of it; empty for nothing."""
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

    def _release_lost(self, descriptor: int, *, replaced: bool, deleted: bool) -> None:
        """Let go of a database whose files are no longer at the path."""
        if not _lock(descriptor, fcntl.F_WRLCK):
            # The process that closes the lost database last deletes its log by name, which would
            # then be the new database's: wait until all have closed it.
            raise StoreError(
                "missing", f"{self.path}: another process still has the lost database open"
            )
        self._rename_log()
        self._forget()
        self._lost = False
        if not replaced:
            _lock(descriptor, fcntl.F_UNLCK)
            return
        message = (
            "the database was deleted while in use; an empty one takes its place"
            if deleted
            else "the database was replaced while in use; the one now there is used"
        )
        event(_logger, logging.ERROR, message, {"path": str(self.path)})
        os.close(descriptor)
        self._descriptor = None
        self._clear_suspicion()

    def _rename_log(self) -> None:
        """Rename the lost database's log, and delete its shared memory, where they still stand."""
        if self._still_stands(self.log_path):
            aside = self.log_path.with_name(f"{self.log_path.name}.lost-{time.time_ns()}")
            self.log_path.rename(aside)
            event(
                _logger,
                logging.WARNING,
                "the write-ahead log of the lost database was renamed",
                {"path": str(aside)},
            )
        if self._still_stands(self.shared_memory_path):
            self.shared_memory_path.unlink()

    def _still_stands(self, path: Path) -> bool:
        known = self._known.get(path)
        return known is not None and _inode(path) == known


def read_only_uri(path: Path) -> str:
    """Return the address under which SQLite opens the database for reading only."""
    return f"{path.absolute().as_uri()}?mode=ro"


def _lock(descriptor: int, kind: int) -> bool:
    """Lock, without waiting, the bytes where SQLite's connections hold their locks.

    Returns whether the lock was granted. A shared one (F_RDLCK) keeps every process, this one
    included, from taking the exclusive one under which SQLite checkpoints and deletes the log when
    the last connection closes: what was lost is closed without another byte written. An exclusive
    one (F_WRLCK) is granted only where no process has the database open. F_UNLCK unlocks.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return True  # macOS has no locks of open file descriptions
    request = struct.pack("hhqqi0q", kind, os.SEEK_SET, _LOCK_START, _LOCK_SIZE, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - Path.stat takes twice as long, on the hot path
    except (FileNotFoundError, NotADirectoryError):
        return None


def _version(descriptor: int) -> tuple[int, ...]:
    """Return what changes when a file gets other content: its inode, size and time."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns
