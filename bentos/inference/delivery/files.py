"""The file in which a worker's outbox is kept now, and the files whose content comes into it.

A file that is damaged is set aside, and a new one begun: nothing waits for what `salvage` can still
read of the damaged one. What was salvaged, and what workers have left that the pod no longer has,
is taken over in pieces.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bentos.inference.delivery.outbox import (
    LOG_BYTES,
    PAGE_BYTES,
    Outbox,
    Settlement,
    is_set_aside,
    recovered_path,
    remove,
    set_aside,
)
from bentos.inference.delivery.salvage import salvage
from bentos.inference.state import InferenceState
from bentos.process.backoff import Backoff
from bentos.process.directories import make_directory
from bentos.process.logs import event, get_logger

FULL = "outbox_full"
NOT_ACCESSIBLE = "outbox_not_accessible"

_ADOPT_AT_ONCE = 200
_SHRINK_ABOVE_BYTES = 64 << 20
# Kept free on the disk, so that there is room to note what was delivered.
_RESERVE_BYTES = 8 << 20
# A full outbox takes predictions again below this share of its limits.
_HYSTERESIS = 0.95

_logger = get_logger("outbox")


@dataclass(frozen=True)
class Limits:
    """How much an outbox holds, when it answers, and what it does when it is full.

    `max_bytes` is for the pages in use of the file and its write-ahead log together.
    """

    max_rows: int
    max_bytes: int
    ack: Literal["durable", "fast"] = "durable"
    when_full: Literal["refuse", "drop_oldest"] = "refuse"


class OutboxFiles:
    """Belongs to the writer's thread; other threads may read its public attributes.

    `number` counts the files that were opened: ids of one mean nothing in the next. `failure` says
    why the last write failed, `outbox_full` or `outbox_not_accessible`; empty where it did not.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        state: InferenceState,
        *,
        adopt: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self._limits = limits
        self._state = state
        self._outbox: Outbox | None = None
        self._changes = 0
        self.number = 0
        self.failure = ""
        self.rows = 0
        self.dead_letters = 0
        self.used_bytes = 0
        self.capacity_bytes = limits.max_bytes
        self.log_bytes = LOG_BYTES
        self.at_limit = False
        self._unmeasured_bytes = 0
        self._to_adopt = [one for one in adopt if not is_set_aside(one)]
        self._adopted: Outbox | None = None
        for damaged in filter(is_set_aside, adopt):
            self._salvage(damaged)

    @property
    def is_open(self) -> bool:
        """Whether there is a file to read from."""
        return self._outbox is not None

    @property
    def adopting(self) -> bool:
        """Whether another file is being taken over, and there is room for more of it."""
        return self._adopted is not None and not self.at_limit and not self.failure

    def add(self, records: Sequence[bytes]) -> bool:
        """Store predictions; return whether they are on disk."""

        def add(outbox: Outbox) -> None:
            outbox.add(records)
            self.rows += len(records)

        added = self._attempt(add)
        self._unmeasured_bytes += sum(map(len, records))
        if added and self._unmeasured_bytes > self.log_bytes // 4:
            self._attempt(self._measure)
        return added

    def apply(self, settlement: Settlement) -> bool:
        """Remove what was settled; return whether that is on disk."""

        def apply(outbox: Outbox) -> None:
            if settlement.file != self.number:
                return  # set aside meanwhile: it is salvaged with all its rows, and sent again
            applied = outbox.apply(settlement)
            self.rows -= applied.delivered + applied.refused
            self.dead_letters += applied.refused
            self._state.log_delivered.add(applied.delivered)
            self._state.log_refused.add(applied.refused)

        done = self._attempt(apply)
        if done:
            self._attempt(self._measure)
        return done

    def drop_oldest(self, rows: int) -> int:
        """Delete so many of the oldest predictions; return how many were deleted."""
        dropped = 0

        def drop(outbox: Outbox) -> None:
            nonlocal dropped
            dropped = outbox.drop_oldest(rows)
            self.rows -= dropped

        if self._attempt(drop):
            self._attempt(self._measure)
        return dropped

    def check(self) -> None:
        """Look after the place and the size of the file, and take over a piece of another one."""
        if self._attempt(self._check) and not self.at_limit and self._to_adopt:
            self._adopt_some(self._to_adopt[0])

    def damaged(self, number: int, error: Exception) -> None:
        """Begin a new file where the one of this number, found damaged, is still in use."""
        if number == self.number and self._outbox is not None:
            self._attempt(lambda _: self._set_aside(error))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            with suppress(sqlite3.Error):
                outbox.close()

    def _attempt(self, work: Callable[[Outbox], object]) -> bool:
        """Do work on the file, on a new one where it is damaged; return whether that went well."""
        self._state.outbox_writing_since.set(time.monotonic())
        try:
            try:
                work(self._open())
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._set_aside(error)
                work(self._open())
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return False
        finally:
            self._state.outbox_writing_since.set(0.0)
        if self.failure:
            event(_logger, logging.INFO, "the outbox works again", {"path": str(self.path)})
        self.failure = ""
        return True

    def _fail(self, error: Exception) -> None:
        failure = FULL if _is_full(error, self.path) else NOT_ACCESSIBLE
        if failure != self.failure:
            fields = {"path": str(self.path), "reason": failure}
            event(_logger, logging.ERROR, f"the outbox cannot be written: {error}", fields)
        self.failure = failure
        passing = failure == FULL or _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        # What is open and has lost its name may hold the only copy of what was answered.
        if not passing and self._outbox is not None and self._outbox.is_in_place:
            self.close()

    def _open(self) -> Outbox:
        if self._outbox is None:
            make_directory(self.path.parent)
            _, reserve = self._disk()
            # A small part of a small outbox, or of a small disk.
            part = min(LOG_BYTES, reserve // 4, self._limits.max_bytes // 8)
            self.log_bytes = max(16 * PAGE_BYTES, part)
            outbox = Outbox(self.path, log_bytes=self.log_bytes)
            try:
                self._count(outbox)
                self._measure(outbox)
            except BaseException:
                outbox.close()
                raise
            self.number += 1
            self._outbox = outbox
        return self._outbox

    def _check(self, outbox: Outbox) -> None:
        if not outbox.is_in_place:
            self._rescue(outbox)
            return
        if self.failure:
            outbox.try_to_write()
        if outbox.changes_elsewhere() != self._changes:
            self._count(outbox)
        free = self._measure(outbox)
        if free > _SHRINK_ABOVE_BYTES and self.rows == 0 and self.used_bytes < free // 16:
            outbox.shrink()

    def _count(self, outbox: Outbox) -> None:
        self._changes = outbox.changes_elsewhere()
        counts = outbox.count()
        self.rows, self.dead_letters = counts.waiting, counts.dead_letters

    def _measure(self, outbox: Outbox) -> int:
        """Compare the size with the limits; return the bytes that are free in the file."""
        size = outbox.size()
        free, reserve = self._disk()
        self.used_bytes = size.used
        room = size.used + size.free + max(0, free - reserve)
        self.capacity_bytes = min(self._limits.max_bytes, room)
        share = _HYSTERESIS if self.at_limit else 1.0
        self.at_limit = (
            self.used_bytes >= share * self.capacity_bytes
            or self.rows >= share * self._limits.max_rows
        )
        self._unmeasured_bytes = 0
        return size.free

    def _disk(self) -> tuple[int, int]:
        """Return the bytes that are free on the disk, and those that are kept free."""
        disk = os.statvfs(self.path.parent)
        reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 4)
        return disk.f_bavail * disk.f_frsize, reserve

    def _adopt_some(self, path: Path) -> None:
        """Take over a piece of a file: a million rows in one piece would not fit into memory.

        A crash in between leaves a piece in both: the logging service stores each prediction once.
        """
        try:
            other = self._adopted = self._adopted or Outbox(path, create=False)
            rows = other.oldest(_ADOPT_AT_ONCE)
            dead_letters = other.dead_letters(rows=_ADOPT_AT_ONCE)
            if not rows and not dead_letters:
                self._adopt_no_more()
                remove(path)
                event(_logger, logging.INFO, "an outbox was taken over", {"path": str(path)})
                return

            def adopt(outbox: Outbox) -> None:
                outbox.adopt([record for _, record in rows], dead_letters)
                self.rows += len(rows)
                self.dead_letters += len(dead_letters)

            if self._attempt(adopt):
                other.apply(Settlement(delivered=tuple(row_id for row_id, _ in rows)))
                other.discard([letter.id for letter in dead_letters])
        except (sqlite3.Error, OSError) as error:
            self._adopt_no_more()
            fields = {"path": str(path)}
            event(_logger, logging.ERROR, f"an outbox cannot be taken over: {error}", fields)
            if is_damage(error):
                self._salvage(set_aside(path, time.time_ns()))

    def _adopt_no_more(self) -> None:
        del self._to_adopt[0]
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            with suppress(sqlite3.Error):
                adopted.close()

    def _set_aside(self, error: Exception) -> None:
        self.close()
        aside = set_aside(self.path, time.time_ns())
        fields = {"path": str(self.path), "kept_as": str(aside), "error": str(error)}
        event(_logger, logging.ERROR, "the outbox is damaged and begun anew", fields)
        self._salvage(aside)
        self._open()

    def _rescue(self, outbox: Outbox) -> None:
        """Save what an open file holds that was deleted, or replaced by another one."""
        event(_logger, logging.ERROR, "the outbox was replaced", {"path": str(self.path)})
        target = recovered_path(self.path, time.time_ns())
        outbox.copy_to(target)
        self._to_adopt.append(target)
        self.close()
        self._open()

    def _salvage(self, damaged: Path) -> None:
        """Recover what a file holds in a thread of its own, and take it over then."""
        threading.Thread(
            target=self._salvage_now, args=(damaged,), name="salvage", daemon=True
        ).start()

    def _salvage_now(self, damaged: Path) -> None:
        target = recovered_path(self.path, time.time_ns())
        backoff = Backoff(1.0, 60.0)
        while True:
            try:
                found = salvage(damaged, target)
                break
            except (sqlite3.Error, OSError) as error:
                event(_logger, logging.ERROR, f"the salvage of an outbox failed: {error}")
                time.sleep(backoff.next())
        self._state.log_lost.add(found.lost)
        kept_as = str(found.kept_as) if found.kept_as else None
        fields = {"recovered": found.recovered, "lost": found.lost, "kept_as": kept_as}
        level = logging.ERROR if found.kept_as else logging.INFO
        event(_logger, level, "a damaged outbox was recovered", fields)
        self._to_adopt.append(target)  # one step of the interpreter, as every use of the list


def is_damage(error: Exception) -> bool:
    """Tell whether a file is no database, or not a sound one."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_full(error: Exception, path: Path) -> bool:
    if _code(error) == sqlite3.SQLITE_FULL:
        return True
    if _code(error) not in (0, sqlite3.SQLITE_IOERR):
        return False
    try:
        # Where the disk is full, some of SQLite's files fail with an error of input and output.
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 8 * PAGE_BYTES


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
