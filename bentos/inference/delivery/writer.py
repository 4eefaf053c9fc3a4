"""The thread that writes a worker's outbox: all that waits goes to disk in one transaction.

Nobody else in the service writes the file. What the sender has delivered is removed by the same
thread, so neither a slow logging service nor a long drain keeps a prediction from the disk.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.delivery.files import FULL, NOT_ACCESSIBLE, Limits, OutboxFiles, is_damage
from bentos.inference.delivery.outbox import Batch, Outbox, Settlement
from bentos.inference.state import InferenceState
from bentos.process.logs import event, get_logger

_CHECK_SECONDS = 0.25
_WRITE_AT_ONCE = 1_000
# Predictions that were answered before they were written, or are about to be written.
_MEMORY_BYTES = 32 << 20
_MESSAGES = {
    FULL: "the outbox is full: predictions wait for the logging service; try again later",
    NOT_ACCESSIBLE: "the outbox cannot be written, so that no prediction can be kept",
}

_logger = get_logger("outbox")


@dataclass(frozen=True, slots=True)
class _Put:
    records: Sequence[bytes]
    waiter: "asyncio.Future[None] | None"


@dataclass(slots=True)
class _Settle:
    settlement: Settlement
    done: threading.Event = field(default_factory=threading.Event)
    applied: bool = False


_Work: TypeAlias = _Put | _Settle | None


class OutboxWriter:
    """Takes predictions from the event loop and settlements from the sender.

    `put` is for the event loop, `read` and `settle` are for the sender's thread, `take`,
    `write` and `look_after` are what the writer's own thread does.
    """

    def __init__(
        self, path: Path, limits: Limits, state: InferenceState, *, adopt: Sequence[Path] = ()
    ) -> None:
        self._limits = limits
        self._state = state
        self._files = OutboxFiles(path, limits, state, adopt=adopt)
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        # The event loop counts what was put, and dropped at once; the thread what was taken from
        # memory, and dropped from disk. No two threads add to one of them.
        self._put_bytes = 0
        self._put_dropped = 0
        self._taken_bytes = 0
        self._dropped = 0
        self._dropped_reported = 0
        # Answered already (`fast`), and not on disk because the disk fails.
        self._unwritten: list[bytes] = []
        self._reader: tuple[int, Outbox] | None = None
        # The number of a file in which the sender found damage, and what it was; the next `read`
        # would find it again.
        self._damage: tuple[int, Exception] | None = None
        self._next_check = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; call it on the event loop. The file is opened in the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Write what waits, close the file and end the thread, within `seconds`."""
        self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def backlog(self) -> int:
        """Predictions on disk and on their way there."""
        return self._files.rows + len(self._unwritten) + self._queue.qsize()

    @property
    def full(self) -> bool:
        """Whether the outbox has reached a limit, or its disk is full."""
        return self._files.at_limit or self._files.failure == FULL

    def check(self) -> None:
        """Raise the ServiceError 503 with which `put` would refuse a prediction now."""
        limits, files = self._limits, self._files
        if self._stopping:
            raise ServiceError(503, "shutting_down", "the service is shutting down")
        if files.failure == NOT_ACCESSIBLE and limits.ack == "durable":
            raise _refusal(NOT_ACCESSIBLE)
        if limits.when_full == "refuse" and (
            self.full
            or self.backlog >= limits.max_rows
            or files.used_bytes + self._memory_bytes >= files.capacity_bytes
            or self._memory_bytes >= _MEMORY_BYTES
        ):
            raise _refusal(FULL)

    async def put(self, *records: bytes) -> None:
        """Store predictions, each a JSON object as `/log` takes it; return when they are on disk.

        With `ack` "fast" it returns at once. Raises ServiceError 503, `outbox_full` or
        `outbox_not_accessible`, where none of them is stored.
        """
        if self._limits.ack == "fast":
            self.offer(records, None)
        else:
            waiter = asyncio.get_running_loop().create_future()
            self.offer(records, waiter)
            await waiter

    def offer(self, records: Sequence[bytes], waiter: "asyncio.Future[None] | None") -> None:
        """Hand predictions to the thread, which settles `waiter` once they are on disk or refused.

        Raises ServiceError 503 where it is refused at once.
        """
        self.check()
        if self._memory_bytes >= _MEMORY_BYTES:
            self._put_dropped += len(records)
            if waiter is not None:
                waiter.set_result(None)
            return
        self._put_bytes += sum(map(len, records))
        self._queue.put(_Put(records, waiter))

    def read(self, *, after: int, rows: int, limit_bytes: int) -> Batch | None:
        """Return waiting predictions, as `Outbox.read` does; None while no file is open.

        Raises sqlite3.Error or OSError where the file cannot be read. A damaged one is set aside,
        and a later call reads the one that takes its place.
        """
        files = self._files
        number = files.number
        if self._reader is not None and self._reader[0] != number:
            self.close_reader()
        if not files.is_open:
            return None
        try:
            if self._reader is None:
                self._reader = (number, Outbox(files.path, create=False, log_bytes=0))
            # To remove them again takes as much of the write-ahead log.
            limit_bytes = min(limit_bytes, files.log_bytes // 2)
            batch = self._reader[1].read(after=after, rows=rows, limit_bytes=limit_bytes)
        except (sqlite3.Error, OSError) as error:
            self.close_reader()
            if is_damage(error):
                self._damage = number, error
            raise
        return None if batch is None else replace(batch, file=number)

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
        self._wait_for(work.done)
        return work.applied

    def take(
        self, *, wait_seconds: float = _CHECK_SECONDS
    ) -> tuple[Sequence[_Put], Sequence[_Settle]]:
        """Return what waits to be done, after at most `wait_seconds`."""
        if self._files.adopting:
            wait_seconds = 0.0
        try:
            works = [self._queue.get(wait_seconds > 0, wait_seconds)]
        except Empty:
            return [], []
        size = 0
        # As many as wait now; to take until none is left would never end under load. And no more
        # than the write-ahead log may hold, which grows by the whole of a transaction.
        for _ in range(min(self._queue.qsize(), _WRITE_AT_ONCE)):
            last = works[-1]
            size += sum(map(len, last.records)) if isinstance(last, _Put) else 0
            if size > self._files.log_bytes:
                break
            works.append(self._queue.get())
        return (
            [work for work in works if isinstance(work, _Put)],
            [work for work in works if isinstance(work, _Settle)],
        )

    def write(self, puts: Sequence[_Put], settles: Sequence[_Settle]) -> None:
        """Do all of this, and answer who waits for it."""
        if puts or self._unwritten:
            self._store(puts)
        for settle in settles:
            settle.applied = self._files.apply(settle.settlement)
            settle.done.set()

    def look_after(self) -> None:
        """Look after the files, and say in the state how things stand."""
        self._next_check = time.monotonic() + _CHECK_SECONDS
        damage, self._damage = self._damage, None
        if damage is not None:
            self._files.damaged(*damage)
        self._files.check()
        self._report()

    def _run(self) -> None:
        while not (self._stopping and self._queue.empty()):
            puts, settles = self.take()
            try:
                self.write(puts, settles)
                if time.monotonic() >= self._next_check or self._files.adopting:
                    self.look_after()
            except Exception as error:  # the thread outlives whatever happens in it
                event(_logger, logging.ERROR, "the outbox's thread failed", error=error)
                self._answer(puts, NOT_ACCESSIBLE)
                for settle in settles:
                    settle.done.set()
        if self._unwritten:
            self._store([])
        self._report()
        self._files.close()

    def _store(self, puts: Sequence[_Put]) -> None:
        files = self._files
        records = [*self._unwritten, *(record for put in puts for record in put.records)]
        dropping = self._limits.when_full == "drop_oldest"
        stored = files.add(records)
        if dropping and not stored and files.failure == FULL:
            self._dropped += files.drop_oldest(max(len(records), files.rows // 20))
            stored = files.add(records)
            if not stored and files.failure == FULL:
                self._dropped += len(records)
                stored = True
        kept: list[bytes] = []
        if not stored:
            answered = (record for put in puts if put.waiter is None for record in put.records)
            kept = [*self._unwritten, *answered]
        self._unwritten = kept
        self._taken_bytes += sum(map(len, records)) - sum(map(len, kept))
        self._answer(puts, "" if stored else files.failure)
        if dropping and stored:
            excess = files.rows - self._limits.max_rows
            if excess > 0 or files.at_limit:
                self._dropped += files.drop_oldest(max(excess, files.rows // 50, 1))

    @property
    def _memory_bytes(self) -> int:
        return self._put_bytes - self._taken_bytes

    def _wait_for(self, done: threading.Event) -> None:
        while not done.wait(1.0) and self._thread.is_alive():
            pass

    def _answer(self, puts: Sequence[_Put], reason: str) -> None:
        """Answer requests from the event loop, in one call: it is woken once for all of them."""
        waiters = [put.waiter for put in puts if put.waiter is not None]
        if waiters and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and so has who waited
                self._loop.call_soon_threadsafe(_finish, waiters, reason)

    def _report(self) -> None:
        state, files = self._state, self._files
        state.log_backlog.set(self.backlog)
        state.log_dead_letters.set(files.dead_letters)
        state.outbox_bytes.set(files.used_bytes)
        state.outbox_capacity_bytes.set(files.capacity_bytes)
        state.outbox_capacity_rows.set(self._limits.max_rows)
        state.outbox_full.set(float(self.full))
        state.outbox_failing.set(float(files.failure == NOT_ACCESSIBLE))
        if dropped := self._dropped + self._put_dropped - self._dropped_reported:
            self._dropped_reported += dropped
            state.log_dropped.add(dropped)
            event(_logger, logging.ERROR, "predictions dropped", {"predictions": dropped})


def _finish(waiters: Sequence["asyncio.Future[None]"], reason: str) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # the client went away, or its time was over
        if reason:
            waiter.set_exception(_refusal(reason))
        else:
            waiter.set_result(None)


def _refusal(reason: str) -> ServiceError:
    return ServiceError(503, reason, _MESSAGES[reason], headers=RETRY_LATER)
