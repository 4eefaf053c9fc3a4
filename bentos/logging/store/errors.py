"""What can go wrong with the database, by its cause."""

import errno
import os
import sqlite3
from pathlib import Path

# Result codes of SQLite, the low byte of its extended ones: sqlite.org/rescode.html
_REASONS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
    # A statement that does not fit the tables: the service's own are right for its schema.
    sqlite3.SQLITE_ERROR: "schema",
}
_ERRNO_REASONS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read_only",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
}
# SQLite reports these for any refusal of the file system, so the cause has to be looked for.
_UNSPECIFIC = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}


class StoreError(Exception):
    """A transaction or check that failed; nothing of it is in the database.

    `reason` is one of STORE_ERROR_REASONS.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def lost(self) -> bool:
        """Whether the open files are no longer the database: nothing may be written to them."""
        return self.reason in ("missing", "corrupt")


def classify(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """Return the failure that an error of SQLite or of the file system amounts to."""
    if isinstance(error, OSError):
        reason = _ERRNO_REASONS.get(error.errno or 0, "other")
        return StoreError(reason, f"{path}: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    reason = _REASONS.get(code & 0xFF, "other")
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        reason = "missing"
    if code & 0xFF in _UNSPECIFIC:
        reason = _find_cause(path)
    return StoreError(reason, f"{path}: {error} ({name})")


def _find_cause(path: Path) -> str:
    if not path.parent.is_dir():
        return "missing"
    try:
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
        full = os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return "other"
    if not writable:
        return "read_only"
    return "full" if full else "other"
