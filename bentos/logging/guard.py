"""Locks of open file descriptions on the bytes where SQLite's connections hold theirs."""

import errno
import fcntl
import os
import struct

SHARED = fcntl.F_RDLCK
EXCLUSIVE = fcntl.F_WRLCK
NONE = fcntl.F_UNLCK

# The bytes of the database file on which every connection holds a shared lock: SHARED_FIRST and
# SHARED_SIZE in SQLite's os.h.
_FIRST = 0x40000000 + 2
_SIZE = 510
# What a file system says that has no such locks.
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock(descriptor: int, kind: int) -> bool:
    """Take a lock, SHARED, EXCLUSIVE or NONE, without waiting; tell whether it was granted.

    A shared one keeps every process, this one included, from taking the exclusive one under
    which SQLite checkpoints and deletes the log when the last connection closes: so what was
    lost is closed without another byte written. An exclusive one is granted only where no
    process has the database open.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return True  # macOS: SQLite's usual care has to do there
    request = struct.pack("hhqqi0q", kind, os.SEEK_SET, _FIRST, _SIZE, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
