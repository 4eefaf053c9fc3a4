"""The one writer of a worker: a thread that takes what waits, commits it, and then tells.

Requests wait in a bounded queue; each transaction takes all of them up to a limit, so a slow
disk makes commits larger instead of fewer (group commit). Between transactions the same thread
does the query behind `/ready`. Where the database fails, what waited is refused, the connection
is closed, and opened anew with growing pauses until it works again.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from bentos.edge.http import ServiceError
from bentos.logging.database import PredictionDatabase, Stored
from bentos.logging.failures import StoreError
from bentos.logging.files import DatabaseFiles
from bentos.logging.inbox import Inbox, Waiting
from bentos.logging.schema import PredictionRow
from bentos.logging.state import LoggingState
from bentos.logging.turns import Turns
from bentos.logging.watchers import Readers
from bentos.process.logs import event, get_logger

CHECK_SECONDS = 1.0
# An idle database is written to this often, to find out that it cannot be before a batch does.
PROOF_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

_logger = get_logger("store")


_Outcome: TypeAlias = tuple[Waiting, Stored | Exception]


class Store:
    """Takes batches on the event loop and answers for each when it is on disk."""

    def __init__(
        self,
        path: Path,
        state: LoggingState,
        readers: Readers,
        *,
        busy_timeout_seconds: float,
        queue_rows: int,
        check_seconds: float = CHECK_SECONDS,
        turns: Turns | None = None,
    ) -> None:
        self._path = path
        self._state = state
        self._readers = readers
        self._busy_timeout_seconds = busy_timeout_seconds
        self._queue_rows = queue_rows
        self._check_seconds = check_seconds
        self._write_turn: Callable[[], AbstractContextManager[None]] = (
            turns.turn if turns is not None else contextlib.nullcontext
        )
        self._files = DatabaseFiles(path)
        self._database: PredictionDatabase | None = None
        self._failure: StoreError | None = None
        self._inbox = Inbox()
        self._unsettled: set[Waiting] = set()
        self._waiting_rows = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._next_check = 0.0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        state.queue_capacity.set(queue_rows)

    def start(self) -> None:
        """Start the writer; call it on the event loop. The database is opened in its thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Store what waits, close the database and end the thread, in so many seconds."""
        self._stopping = True
        if self._thread.is_alive():
            self._inbox.stop()
            await asyncio.to_thread(self._thread.join, seconds)

    @property
    def alive(self) -> bool:
        """Whether the writer's thread runs, or has not been started yet."""
        return self._thread.is_alive() or self._loop is None or self._stopping

    async def store(self, rows: Sequence[PredictionRow]) -> Stored:
        """Store a batch, whole or not at all, and return when it is on disk.

        Raises ServiceError 503 or 429 where it was not even tried, StoreError where it failed.
        """
        self._admit(len(rows))
        waiting = Waiting(rows, asyncio.get_running_loop().create_future())
        self._unsettled.add(waiting)
        self._waiting_rows += len(rows)
        self._state.queue_depth.set(self._waiting_rows)
        self._inbox.put(waiting)
        return await waiting.done

    def doubt(self, failure: StoreError) -> None:
        """Tell the writer, from any thread, that a reader found the database lost."""
        self._inbox.doubt(failure)

    def unavailable(self) -> ServiceError | None:
        """Return the 503 with which requests are refused now, None where they are not."""
        if self._stopping:
            return _refusal("shutting_down", "the service is shutting down")
        if not self._state.db_initialized.get():
            return _refusal("database_not_initialized", "the database is not open yet")
        failure = self._failure
        if failure is not None:
            return _refusal("database_not_accessible", f"the database fails: {failure.reason}")
        return None

    def _admit(self, count: int) -> None:
        refusal = self.unavailable()
        if refusal is not None:
            raise refusal
        # A batch larger than the queue is let in alone, or it never could be.
        if self._waiting_rows and self._waiting_rows + count > self._queue_rows:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._waiting_rows} predictions wait to be stored; try again later",
                headers={"Retry-After": "1"},
            )

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        """Answer requests, on the event loop."""
        for waiting, outcome in outcomes:
            if waiting not in self._unsettled:
                continue  # a turn that failed after it had told some tells all
            self._unsettled.remove(waiting)
            self._waiting_rows -= len(waiting.rows)
            if waiting.done.cancelled():
                continue
            if isinstance(outcome, Exception):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)
        self._state.queue_depth.set(self._waiting_rows)

    def _tell(self, outcomes: Sequence[_Outcome]) -> None:
        if self._loop is not None and outcomes:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle, outcomes)

    def _run(self) -> None:
        while True:
            turn = self._inbox.take(self._next_check - time.monotonic())
            try:
                if turn.doubt is not None and self._database is not None:
                    self._fail(turn.doubt)
                self._turn(turn.waiting)
            except Exception as error:
                # The thread outlives whatever happens to one turn of it.
                self._tell([(one, error) for one in turn.waiting])
                self._fail(StoreError("other", f"{type(error).__name__}: {error}"), cause=error)
            if turn.stop:
                break
        self._readers.shut()
        if self._database is not None:
            self._database.close()
        self._files.close()

    def _turn(self, waiting: Sequence[Waiting]) -> None:
        if waiting:
            if self._database is None or self._failure is not None:
                self._give_up(waiting, self._failure or StoreError("other", "it is not open"))
            else:
                self._commit(self._database, waiting)
        if time.monotonic() < self._next_check:
            return
        if self._database is None:
            self._open()
        else:
            self._check(self._database)

    def _open(self) -> None:
        try:
            database = PredictionDatabase(
                self._files, busy_timeout_seconds=self._busy_timeout_seconds, turn=self._write_turn
            )
        except StoreError as failure:
            self._fail(failure)
            return
        self._database = database
        self._readers.admit()
        event(_logger, logging.INFO, "the database is open", {"path": str(self._path)})
        self._works(settled=False)

    def _check(self, database: PredictionDatabase) -> None:
        self._state.writing_since.set(time.monotonic())
        try:
            database.check(proof_seconds=PROOF_SECONDS if self._failure is None else 0.0)
        except StoreError as failure:
            self._fail(failure)
        else:
            self._works()
        finally:
            self._state.writing_since.set(0)

    def _commit(self, database: PredictionDatabase, waiting: Sequence[Waiting]) -> None:
        wanted: list[Waiting] = []
        for one in waiting:
            # Nobody waits for a cancelled one any more; whoever sent it sends it again.
            if one.done.cancelled():
                self._tell([(one, StoreError("other", "cancelled"))])
            else:
                wanted.append(one)
        if not wanted:
            return
        started = time.perf_counter()
        self._state.writing_since.set(time.monotonic())
        try:
            stored = database.write([one.rows for one in wanted])
        except StoreError as failure:
            self._fail(failure)
            self._give_up(wanted, failure)
            return
        except Exception as error:
            if len(wanted) == 1:
                self._tell([(wanted[0], error)])
                return
            # One of them cannot be stored; the others have no part in it.
            for one in wanted:
                self._commit(database, [one])
            return
        finally:
            self._state.writing_since.set(0)
        self._account(stored, time.perf_counter() - started)
        self._tell(list(zip(wanted, stored, strict=True)))

    def _give_up(self, waiting: Sequence[Waiting], failure: StoreError) -> None:
        """Fail batches that were let in, each an error of the service."""
        for _ in waiting:
            self._state.record_error()
        self._tell([(one, failure) for one in waiting])

    def _account(self, stored: Sequence[Stored], seconds: float) -> None:
        predictions = sum(one.predictions for one in stored)
        self._state.record_stored(
            batches=len(stored),
            predictions=predictions,
            defects=sum(one.defects for one in stored),
            duplicates=sum(one.duplicates for one in stored),
        )
        self._state.commit_duration.observe(seconds)
        self._state.commit_predictions.observe(predictions)
        self._works()

    def _works(self, *, settled: bool = True) -> None:
        if self._failure is not None and self._database is not None:
            event(_logger, logging.INFO, "the database works again", {"path": str(self._path)})
        self._failure = None
        self._state.database_works()
        self._look_at_disk()
        self._next_check = time.monotonic() + self._check_seconds
        if settled:
            self._pause = _FIRST_PAUSE_SECONDS

    def _look_at_disk(self) -> None:
        path, state = self._path, self._state
        with contextlib.suppress(OSError):
            state.database_bytes.set(path.stat().st_size)
            log = path.with_name(f"{path.name}-wal")
            state.wal_bytes.set(log.stat().st_size if log.exists() else 0)
            disk = os.statvfs(path.parent)
            state.disk_free_bytes.set(disk.f_bavail * disk.f_frsize)
            state.disk_size_bytes.set(disk.f_blocks * disk.f_frsize)

    def _fail(self, failure: StoreError, *, cause: Exception | None = None) -> None:
        known, self._failure = self._failure, failure
        self._state.store_errors[failure.reason].add()
        self._state.database_fails(failure.reason)
        if known is None or known.message != failure.message:
            event(
                _logger,
                logging.ERROR,
                "the database is not accessible",
                {"reason": failure.reason, "error": failure.message},
                error=cause,
            )
        database = self._database
        if database is not None and failure.reason != "busy":
            self._database = None
            self._readers.shut()
            database.abandon(failure) if failure.lost else database.close()
        self._next_check = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


def _refusal(reason: str, message: str) -> ServiceError:
    return ServiceError(503, reason, message, headers={"Retry-After": "2"})
