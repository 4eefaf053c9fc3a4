"""The thread that writes a worker's outbox: all that waits goes to disk in one transaction.

Nobody else in the service writes the file. What the sender has delivered is removed by the same
thread, so neither a slow logging service nor a long drain keeps a prediction from the disk.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.delivery.outbox import (
    LOG_BYTES,
    PAGE_BYTES,
    Batch,
    Outbox,
    Settlement,
    Size,
    is_set_aside,
    make_directory,
    recovered_path,
    remove,
    set_aside,
)
from bentos.inference.delivery.salvage import salvage
from bentos.inference.state import InferenceState
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger

FULL = "outbox_full"
NOT_ACCESSIBLE = "outbox_not_accessible"

_CHECK_SECONDS = 0.25
# Predictions that were answered before they were written, or are about to be written.
_MEMORY_BYTES = 32 << 20
_WRITE_AT_ONCE = 1_000
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


@dataclass(frozen=True, slots=True)
class _Put:
    record: bytes
    waiter: "asyncio.Future[None] | None"


@dataclass(slots=True)
class _Settle:
    settlement: Settlement
    done: threading.Event = field(default_factory=threading.Event)
    applied: bool = False


@dataclass(frozen=True, slots=True)
class _Damage:
    """The sender found the file of this number damaged."""

    file: int
    error: Exception


_Work: TypeAlias = _Put | _Settle | _Damage | Path | None


class OutboxWriter:
    """Takes predictions from the event loop and settlements from the sender.

    `put` is for the event loop, `read` and `settle` for the sender's thread, and `write` and
    `check` are what the writer's own thread does.
    """

    def __init__(
        self, path: Path, limits: Limits, state: InferenceState, *, adopt: Sequence[Path] = ()
    ) -> None:
        self._path = path
        self._limits = limits
        self._state = state
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._outbox: Outbox | None = None
        # Counts the files that were opened: ids of one mean nothing in the next.
        self._file = 0
        self._reader: tuple[int, Outbox] | None = None
        self._changes = 0
        self._rows = 0
        self._dead_letters = 0
        self._used = 0
        self._capacity = limits.max_bytes
        self._at_limit = False
        self._log_bytes = LOG_BYTES
        self._unmeasured_bytes = 0
        # The event loop counts what was put, and dropped at once; the thread what was taken from
        # memory, and dropped from disk. No two threads add to one of them.
        self._put_bytes = 0
        self._put_dropped = 0
        self._taken_bytes = 0
        self._dropped = 0
        self._dropped_reported = 0
        # Why the last write failed; empty where it did not.
        self._failure = ""
        self._next_check = 0.0
        # Answered already (`fast`), and not on disk because the disk fails.
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._to_adopt = [one for one in adopt if not is_set_aside(one)]
        self._to_salvage = [one for one in adopt if is_set_aside(one)]
        self._adopted: Outbox | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; call it on the event loop. The file is opened in the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write what waits, close the file and end the thread, within `seconds`."""
        self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def backlog(self) -> int:
        """Predictions on disk and on their way there."""
        return self._rows + len(self._unwritten) + self._queue.qsize()

    @property
    def _bytes_in_memory(self) -> int:
        return self._put_bytes - self._taken_bytes + self._unwritten_bytes

    @property
    def full(self) -> bool:
        """Whether the outbox has reached a limit, or its disk is full."""
        return self._at_limit or self._failure == FULL

    def refusal(self) -> ServiceError | None:
        """Return the 503 with which predictions are refused now, None where they are taken."""
        limits = self._limits
        if self._stopping:
            return ServiceError(503, "shutting_down", "the service is shutting down")
        if self._failure == NOT_ACCESSIBLE and limits.ack == "durable":
            return _refusal(NOT_ACCESSIBLE)
        if limits.when_full == "refuse" and (
            self.full
            or self.backlog >= limits.max_rows
            or self._used + self._bytes_in_memory >= self._capacity
            or self._bytes_in_memory >= _MEMORY_BYTES
        ):
            return _refusal(FULL)
        return None

    async def put(self, record: bytes) -> None:
        """Store a prediction's JSON, and return once it is on disk (`fast`: at once).

        Raises ServiceError 503 where it is not stored.
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        if self._bytes_in_memory >= _MEMORY_BYTES:
            self._put_dropped += 1
            return
        fast = self._limits.ack == "fast"
        waiter = None if fast else asyncio.get_running_loop().create_future()
        self._put_bytes += len(record)
        self._queue.put(_Put(record, waiter))
        if waiter is not None:
            await waiter

    def read(self, *, after: int, rows: int, limit_bytes: int) -> Batch | None:
        """Return waiting predictions, as `Outbox.read` does; None while the file is not open.

        Raises sqlite3.Error or OSError where the file cannot be read. A damaged one is set aside,
        and a later call reads the one that takes its place.
        """
        file, writing = self._file, self._outbox
        if self._reader is not None and self._reader[0] != file:
            self.close_reader()
        if writing is None:
            return None
        try:
            if self._reader is None:
                self._reader = (file, Outbox(self._path, create=False, log_bytes=0))
            # To remove them again takes as much of the write-ahead log.
            limit_bytes = min(limit_bytes, self._log_bytes // 2)
            batch = self._reader[1].read(after=after, rows=rows, limit_bytes=limit_bytes)
        except (sqlite3.Error, OSError) as error:
            self.close_reader()
            if _is_damage(error):
                self._queue.put(_Damage(file, error))
            raise
        return None if batch is None else replace(batch, file=file)

    def close_reader(self) -> None:
        """Close the connection that `read` uses: the last one to be closed tidies the file up."""
        if self._reader is not None:
            with suppress(sqlite3.Error):
                self._reader[1].close()
            self._reader = None

    def settle(self, settlement: Settlement) -> bool:
        """Remove predictions from the outbox; return whether that is on disk."""
        work = _Settle(settlement)
        self._queue.put(work)
        while not work.done.wait(1.0):
            if not self._thread.is_alive():
                return False
        return work.applied

    def write(self, works: Sequence[_Work]) -> None:
        """Do all of this, and answer who waits for it."""
        puts = [work for work in works if isinstance(work, _Put)]
        settles = [work for work in works if isinstance(work, _Settle)]
        for work in works:
            if isinstance(work, Path):
                self._to_adopt.append(work)
            elif isinstance(work, _Damage) and work.file == self._file:
                self._set_aside(work.error)
        if puts or self._unwritten:
            self._store(puts)
        if settles:
            self._settle(settles)

    def check(self) -> None:
        """Look after the file: its place, its size, and other files to be taken over."""
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if self._try(self._check_file) and not self.full:
            self._adopt_some()
        self._report()

    def _run(self) -> None:
        for damaged in self._to_salvage:
            self._salvage(damaged)
        while not (self._stopping and self._queue.empty()):
            works = self._take()
            try:
                self.write(works)
                if time.monotonic() >= self._next_check or self._adopted is not None:
                    self.check()
            except Exception as error:  # the thread outlives whatever happens in it
                event(_logger, logging.ERROR, "the outbox's thread failed", error=error)
                self._answer([one for one in works if isinstance(one, _Put)], NOT_ACCESSIBLE)
        if self._unwritten:
            self._store([])
        self._report()
        self._close()

    def _take(self) -> list[_Work]:
        try:
            works = [self._queue.get(self._adopted is None, _CHECK_SECONDS)]
        except Empty:
            return []
        # As many as wait now; to take until none is left would never end under load.
        works += [self._queue.get() for _ in range(min(self._queue.qsize(), _WRITE_AT_ONCE))]
        return works

    def _store(self, puts: Sequence[_Put]) -> None:
        records = [*self._unwritten, *(put.record for put in puts)]
        size = sum(map(len, records))
        dropping = self._limits.when_full == "drop_oldest"
        stored = self._try(lambda outbox: outbox.add(records))
        if dropping and not stored and self._failure == FULL:
            self._drop_oldest(max(len(records), self._rows // 20))
            stored = self._try(lambda outbox: outbox.add(records))
        if stored:
            self._rows += len(records)
            self._unmeasured_bytes += size
            if self._unmeasured_bytes > self._log_bytes // 4:
                self._try(self._measure)
            self._kept_in_memory([])
            self._answer(puts, "")
        elif dropping and self._failure == FULL:
            self._dropped += len(records)
            self._kept_in_memory([])
            self._answer(puts, "")
        else:
            self._kept_in_memory(
                [*self._unwritten, *(put.record for put in puts if put.waiter is None)]
            )
            self._answer(puts, self._failure)
        self._taken_bytes += sum(len(put.record) for put in puts)
        if dropping and (self._at_limit or self._rows > self._limits.max_rows):
            more = self._rows // 50 if self._at_limit else 0
            self._drop_oldest(max(self._rows - self._limits.max_rows, more, 1))

    def _kept_in_memory(self, records: list[bytes]) -> None:
        self._unwritten = records
        self._unwritten_bytes = sum(map(len, records))

    def _settle(self, settles: Sequence[_Settle]) -> None:
        def apply(outbox: Outbox) -> None:
            # What was set aside meanwhile is salvaged with all its rows, and sent again.
            now = self._file
            applied = outbox.apply(
                [one.settlement for one in settles if one.settlement.file == now]
            )
            self._rows -= applied.delivered + applied.refused
            self._dead_letters += applied.refused
            self._state.log_delivered.add(applied.delivered)
            self._state.log_refused.add(applied.refused)
            self._measure(outbox)

        applied = self._try(apply)
        for settle in settles:
            settle.applied = applied
            settle.done.set()

    def _drop_oldest(self, rows: int) -> None:
        def drop(outbox: Outbox) -> None:
            dropped = outbox.drop_oldest(rows)
            self._rows -= dropped
            self._dropped += dropped

        self._try(drop)

    def _answer(self, puts: Sequence[_Put], reason: str) -> None:
        """Answer requests from the event loop, in one call: it is woken once for all of them."""
        waiters = [put.waiter for put in puts if put.waiter is not None]
        if waiters and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and so has who waited
                self._loop.call_soon_threadsafe(_finish, waiters, reason)

    def _try(self, work: Callable[[Outbox], object]) -> bool:
        """Do work on the file, on a new one where it is damaged; return whether that went well."""
        self._state.outbox_writing_since.set(time.monotonic())
        try:
            try:
                work(self._open())
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
                work(self._open())
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return False
        finally:
            self._state.outbox_writing_since.set(0.0)
        if self._failure:
            event(_logger, logging.INFO, "the outbox works again", {"path": str(self._path)})
        self._failure = ""
        return True

    def _fail(self, error: Exception) -> None:
        full = _is_full(error, self._path)
        failure = FULL if full else NOT_ACCESSIBLE
        if failure != self._failure:
            fields = {"path": str(self._path), "reason": failure}
            event(_logger, logging.ERROR, f"the outbox cannot be written: {error}", fields)
        self._failure = failure
        if not full and not _is_busy(error):
            self._close()

    def _open(self) -> Outbox:
        if self._outbox is None:
            make_directory(self._path.parent)
            _, reserve = self._disk()
            # A small part of a small outbox, or of a small disk.
            part = min(LOG_BYTES, reserve // 4, self._limits.max_bytes // 8)
            self._log_bytes = max(16 * PAGE_BYTES, part)
            outbox = Outbox(self._path, log_bytes=self._log_bytes)
            try:
                self._count(outbox)
            except BaseException:
                outbox.close()
                raise
            self._file += 1
            self._outbox = outbox
            self._measure(outbox)
        return self._outbox

    def _close(self) -> None:
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            with suppress(sqlite3.Error):
                outbox.close()

    def _count(self, outbox: Outbox) -> None:
        self._changes = outbox.changes_elsewhere()
        counts = outbox.count()
        self._rows, self._dead_letters = counts.waiting, counts.dead_letters

    def _check_file(self, outbox: Outbox) -> None:
        if not outbox.is_in_place:
            self._rescue(outbox)
            return
        if self._failure:
            outbox.try_to_write()
        if outbox.changes_elsewhere() != self._changes:
            self._count(outbox)
        size = self._measure(outbox)
        if size.free > _SHRINK_ABOVE_BYTES and self._rows == 0 and size.used < size.free // 16:
            outbox.shrink()

    def _measure(self, outbox: Outbox) -> Size:
        limits = self._limits
        size = outbox.size()
        free, reserve = self._disk()
        self._used = size.used
        self._capacity = min(limits.max_bytes, size.used + size.free + max(0, free - reserve))
        share = _HYSTERESIS if self._at_limit else 1.0
        self._at_limit = (
            self._used >= share * self._capacity or self._rows >= share * limits.max_rows
        )
        self._unmeasured_bytes = 0
        return size

    def _disk(self) -> tuple[int, int]:
        """Return the bytes that are free on the disk, and those that are kept free."""
        disk = os.statvfs(self._path.parent)
        reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 4)
        return disk.f_bavail * disk.f_frsize, reserve

    def _report(self) -> None:
        state = self._state
        state.log_backlog.set(self.backlog)
        state.log_dead_letters.set(self._dead_letters)
        state.outbox_bytes.set(self._used)
        state.outbox_capacity_bytes.set(self._capacity)
        state.outbox_full.set(float(self.full))
        state.outbox_failing.set(float(self._failure == NOT_ACCESSIBLE))
        if dropped := self._dropped + self._put_dropped - self._dropped_reported:
            self._dropped_reported += dropped
            state.log_dropped.add(dropped)
            event(_logger, logging.ERROR, "predictions dropped", {"predictions": dropped})

    def _adopt_some(self) -> None:
        """Take over a piece of the next file: a million rows in one piece would not fit."""
        if self._adopted is None and not self._to_adopt:
            return
        path = self._to_adopt[0]
        try:
            other = self._adopted = self._adopted or Outbox(path, create=False)
            rows = other.oldest(_ADOPT_AT_ONCE)
            dead_letters = other.dead_letters(rows=_ADOPT_AT_ONCE)
        except (sqlite3.Error, OSError) as error:
            self._adopt_no_more(error)
            return
        if rows or dead_letters:
            records = [record for _, record in rows]
            if self._try(lambda outbox: outbox.adopt(records, dead_letters)):
                self._rows += len(records)
                self._dead_letters += len(dead_letters)
                try:
                    other.apply([Settlement(delivered=tuple(row[0] for row in rows))])
                    other.discard([one.id for one in dead_letters])
                except (sqlite3.Error, OSError) as error:
                    self._adopt_no_more(error)
            return
        self._adopt_no_more()
        remove(path)
        event(_logger, logging.INFO, "an outbox was taken over", {"path": str(path)})

    def _adopt_no_more(self, error: Exception | None = None) -> None:
        path = self._to_adopt.pop(0)
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            with suppress(sqlite3.Error):
                adopted.close()
        if error is None:
            return
        event(_logger, logging.ERROR, f"an outbox cannot be read: {error}", {"path": str(path)})
        if _is_damage(error):
            self._salvage(set_aside(path, time.time_ns()))

    def _set_aside(self, error: Exception) -> None:
        """Begin a new file in the place of a damaged one, and salvage that meanwhile."""
        self._close()
        aside = set_aside(self._path, time.time_ns())
        fields = {"path": str(self._path), "kept_as": str(aside), "error": str(error)}
        event(_logger, logging.ERROR, "the outbox is damaged and begun anew", fields)
        self._salvage(aside)

    def _rescue(self, outbox: Outbox) -> None:
        """Save what an open file holds that was deleted or replaced by another one."""
        event(_logger, logging.ERROR, "the outbox was replaced", {"path": str(self._path)})
        target = recovered_path(self._path, time.time_ns())
        outbox.copy_to(target)
        self._to_adopt.append(target)
        self._close()
        self._open()

    def _salvage(self, damaged: Path) -> None:
        """Recover what a file holds in a thread of its own, and have it taken over then."""
        threading.Thread(
            target=self._salvage_now, args=(damaged,), name="salvage", daemon=True
        ).start()

    def _salvage_now(self, damaged: Path) -> None:
        target = recovered_path(self._path, time.time_ns())
        backoff = Backoff(1.0, 60.0)
        while not self._stopping:
            try:
                found = salvage(damaged, target)
            except (sqlite3.Error, OSError) as error:
                event(_logger, logging.ERROR, f"the salvage of an outbox failed: {error}")
                time.sleep(backoff.next())
            else:
                break
        else:
            return
        self._state.log_lost.add(found.lost)
        fields = {
            "recovered": found.recovered,
            "lost": found.lost,
            "kept_as": str(found.kept_as) if found.kept_as else None,
        }
        level = logging.ERROR if found.kept_as else logging.INFO
        event(_logger, level, "a damaged outbox was recovered", fields)
        self._queue.put(target)


def _finish(waiters: Sequence["asyncio.Future[None]"], reason: str) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # the client went away, or its time was over
        if reason:
            waiter.set_exception(_refusal(reason))
        else:
            waiter.set_result(None)


def _refusal(reason: str) -> ServiceError:
    messages = {
        FULL: "the outbox is full: predictions wait for the logging service; try again later",
        NOT_ACCESSIBLE: "the outbox cannot be written, and no prediction without it is answered",
    }
    return ServiceError(503, reason, messages[reason], headers=RETRY_LATER)


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code


def _is_damage(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_busy(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_full(error: Exception, path: Path) -> bool:
    if _code(error) == sqlite3.SQLITE_FULL:
        return True
    try:
        # Some files of SQLite's fail with an I/O error on a full disk.
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 8 * PAGE_BYTES and not _is_busy(error)
