"""The store of a worker: a thread commits the waiting batches and then answers them.

Requests wait in a bounded queue. Each transaction takes all of them up to a limit, so a slow disk
makes transactions larger instead of fewer (group commit). Between transactions the same thread
makes the check behind `/ready` and deletes what need not be kept. When the database fails, the
waiting batches are refused, the connection is closed, and opened again with growing pauses until
the database works. Questions are answered beside it, by a reader.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.logging.state import LoggingState
from bentos.logging.store.database import (
    KEEP_ALL,
    Conflict,
    Database,
    Outcome,
    Retention,
    Stored,
)
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import PageQuery, StatsQuery, read_page, read_stats
from bentos.logging.store.schema import StoredPrediction
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger

CHECK_SECONDS = 1.0
# An idle database is written to this often, to find out that it cannot be before a batch does.
PROOF_SECONDS = 10.0
# Predictions in one transaction: with more, the first of them would wait too long for the last.
_TRANSACTION_ROWS = 5_000
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

_logger = get_logger("store")


@dataclass(frozen=True, eq=False)
class _Request:
    """A batch and the future of the request that waits for it."""

    rows: Sequence[StoredPrediction]
    result: asyncio.Future[Stored]


_Result: TypeAlias = tuple[_Request, Stored | Exception]
# What the writer's thread is handed: a batch, a loss that a reader found, None to end.
_Item: TypeAlias = _Request | StoreError | None


class Store:
    """The predictions of one worker's requests, in a database.

    Batches and questions come on the event loop. Each batch is answered when it is on disk.
    """

    def __init__(
        self,
        database: Database,
        state: LoggingState,
        *,
        queue_rows: int,
        query_timeout_seconds: float,
        retention: Retention = KEEP_ALL,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._database = database
        self._state = state
        self._reader = database.reader(
            timeout_seconds=query_timeout_seconds, on_failure=self._read_failed
        )
        self._queue_rows = queue_rows
        self._retention = retention
        self._check_seconds = check_seconds
        self._failure: StoreError | None = None
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._open_requests: set[_Request] = set()
        self._waiting_rows = 0
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._next_check = 0.0
        self._next_prune = 0.0
        self._retention_steps: Iterator[int] | None = None
        self._pruned = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        state.queue_capacity.set(queue_rows)
        state.database_capacity_bytes.set(retention.max_bytes or 0)

    def start(self) -> None:
        """Start the thread; call it on the event loop. The thread opens the database."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Store what waits, close the database and end the threads, within `seconds`."""
        self._stopping = True
        if self._thread.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, seconds)
        self._reader.close()

    async def store(self, rows: Sequence[StoredPrediction]) -> Stored:
        """Store a batch, whole or not at all, and return when it is on disk.

        Raises ServiceError 503 or 429 where it was not tried, 409 where an id of it belongs to
        another prediction of the device, and StoreError where the database failed.
        """
        self._require_room(len(rows))
        request = _Request(rows, asyncio.get_running_loop().create_future())
        self._open_requests.add(request)
        self._waiting_rows += len(rows)
        self._state.queue_depth.set(self._waiting_rows)
        self._queue.put(request)
        return await request.result

    async def page(self, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError as `Reader.read` does, and 404."""
        return await self._reader.read(partial(read_page, query=query))

    async def stats(self, query: StatsQuery) -> bytes:
        """Return `/stats`; raises ServiceError as `Reader.read` does."""
        return await self._reader.read(partial(read_stats, query=query))

    def unavailable(self) -> ServiceError | None:
        """Return the 503 with which batches are refused now, None where they are not."""
        if self._stopping:
            return _refusal("shutting_down", "the service is shutting down")
        if not self._state.db_initialized.get():
            return _refusal("database_not_initialized", "the database is not open yet")
        failure = self._failure
        if failure is not None:
            return _refusal("database_not_accessible", f"the database fails: {failure.reason}")
        return None

    def _read_failed(self, failure: StoreError) -> None:
        # A read that fails says nothing of whether predictions can be stored: readiness does not
        # count it, but a database that is lost is checked and opened again.
        if failure.lost:
            self._queue.put(failure)
        else:
            self._state.store_errors[failure.reason].add()

    def _require_room(self, count: int) -> None:
        refusal = self.unavailable()
        if refusal is not None:
            raise refusal
        # A batch larger than the queue is taken while the queue is empty, or it never could be.
        if self._waiting_rows and self._waiting_rows + count > self._queue_rows:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._waiting_rows} predictions wait to be stored; try again later",
                headers=RETRY_LATER,
            )

    def _settle(self, results: Sequence[_Result]) -> None:
        """Answer requests, on the event loop."""
        for request, result in results:
            # If the thread failed after it had answered some, all of them come again.
            if request not in self._open_requests:
                continue
            self._open_requests.remove(request)
            self._waiting_rows -= len(request.rows)
            if request.result.cancelled():
                continue
            if isinstance(result, Exception):
                request.result.set_exception(result)
            else:
                request.result.set_result(result)
        self._state.queue_depth.set(self._waiting_rows)

    def _answer(self, results: Sequence[_Result]) -> None:
        """Have requests answered, from the writer's thread."""
        if self._loop is not None and results:
            with contextlib.suppress(RuntimeError):  # the loop has ended: no request waits
                self._loop.call_soon_threadsafe(self._settle, results)

    def _take(self, seconds: float) -> list[_Item]:
        """Return all that waits, at most a transaction's worth; wait `seconds` for the first."""
        taken: list[_Item] = []
        rows = 0
        with contextlib.suppress(queue.Empty):
            while rows < _TRANSACTION_ROWS:
                item = self._queue.get(block=seconds > 0, timeout=seconds)
                seconds = 0.0
                taken.append(item)
                if item is None:
                    break
                rows += len(item.rows) if isinstance(item, _Request) else 0
        return taken

    def _run(self) -> None:
        work: list[_Item] = []
        while None not in work:
            due = min(self._next_check, self._next_prune) if self._prunes else self._next_check
            work = self._take(due - time.monotonic())
            requests = [one for one in work if isinstance(one, _Request)]
            try:
                for loss in work:
                    if isinstance(loss, StoreError) and self._database.is_open:
                        self._fail(loss)
                self._do(requests)
            except Exception as error:
                # Whatever happens to one piece of work, the thread goes on with the next.
                self._fail(StoreError("other", f"{type(error).__name__}: {error}"), cause=error)
                self._answer([(one, error) for one in requests])
        self._reader.shut()
        self._database.close()

    @property
    def _prunes(self) -> bool:
        return self._retention != KEEP_ALL and self._database.is_open and not self._failure

    def _do(self, requests: Sequence[_Request]) -> None:
        if requests:
            self._commit_or_refuse(requests)
        now = time.monotonic()
        with contextlib.suppress(StoreError):  # `_transaction` has noted it
            if now >= self._next_check:
                if self._database.is_open:
                    self._check()
                else:
                    self._open()
            elif self._prunes and now >= self._next_prune:
                self._prune()

    def _check(self) -> None:
        with self._transaction():
            self._database.check(proof_seconds=PROOF_SECONDS if self._failure is None else 0.0)

    def _open(self) -> None:
        try:
            self._database.open()
        except StoreError as failure:
            self._fail(failure)
            return
        self._reader.open()
        event(_logger, logging.INFO, "the database is open", {"database": self._database.name})
        # It only was opened: the pauses stay as long until something was written.
        self._note_success()

    def _prune(self) -> None:
        """Do one short step of the retention, after which waiting batches get their turn."""
        if self._retention_steps is None:
            self._retention_steps = self._database.retain(self._retention)
        with self._transaction():
            deleted = next(self._retention_steps, None)
        if deleted is not None:
            self._state.pruned.add(deleted)
            self._pruned += deleted
            return
        if self._pruned:
            event(_logger, logging.INFO, "predictions deleted", {"predictions": self._pruned})
        self._retention_steps, self._pruned = None, 0
        self._next_prune = time.monotonic() + self._check_seconds

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Note that the database is at work, and whether it succeeded."""
        self._state.writing_since.set(time.monotonic())
        try:
            yield
        except StoreError as failure:
            self._fail(failure)
            raise
        finally:
            self._state.writing_since.set(0)
        self._note_success()
        self._backoff.reset()

    def _commit_or_refuse(self, requests: Sequence[_Request]) -> None:
        if self._failure is not None or not self._database.is_open:
            self._refuse(requests, self._failure or StoreError("other", "it is not open"))
        else:
            self._commit(requests)

    def _commit(self, requests: Sequence[_Request]) -> None:
        wanted: list[_Request] = []
        for one in requests:
            # A cancelled request's sender has no answer and sends the batch again.
            if one.result.cancelled():
                self._answer([(one, StoreError("other", "cancelled"))])
            else:
                wanted.append(one)
        if not wanted:
            return
        started = time.perf_counter()
        try:
            with self._transaction():
                outcomes = self._database.write([one.rows for one in wanted])
        except StoreError as failure:
            self._refuse(wanted, failure)
        except Exception as error:
            if len(wanted) == 1:
                self._answer([(wanted[0], error)])
                return
            # One of them cannot be stored; the others must not suffer for it.
            for one in wanted:
                self._commit_or_refuse([one])
        else:
            self._count(outcomes, time.perf_counter() - started)
            self._answer(
                [
                    (one, _result(one, outcome))
                    for one, outcome in zip(wanted, outcomes, strict=True)
                ]
            )

    def _refuse(self, requests: Sequence[_Request], failure: StoreError) -> None:
        """Fail batches that were taken, each an error of the service."""
        for _ in requests:
            self._state.record_error()
        self._answer([(one, failure) for one in requests])

    def _count(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        stored = [one for one in outcomes if isinstance(one, Stored)]
        predictions = sum(one.predictions for one in stored)
        self._state.record_stored(
            batches=len(stored),
            predictions=predictions,
            defects=sum(one.defects for one in stored),
            duplicates=sum(one.duplicates for one in stored),
        )
        self._state.conflicts.add(len(outcomes) - len(stored))
        self._state.commit_duration.observe(seconds)
        self._state.commit_predictions.observe(predictions)

    def _note_success(self) -> None:
        if self._failure is not None:
            name = self._database.name
            event(_logger, logging.INFO, "the database works again", {"database": name})
        self._failure = None
        self._state.database_works()
        self._note_sizes()
        self._next_check = time.monotonic() + self._check_seconds

    def _note_sizes(self) -> None:
        with contextlib.suppress(OSError):
            sizes = self._database.sizes()
            self._state.database_bytes.set(sizes.database)
            self._state.wal_bytes.set(sizes.log)
            self._state.disk_free_bytes.set(sizes.disk_free)
            self._state.disk_size_bytes.set(sizes.disk_size)

    def _fail(self, failure: StoreError, *, cause: Exception | None = None) -> None:
        known, self._failure = self._failure, failure
        self._state.database_fails(failure.reason)
        self._state.store_errors[failure.reason].add()
        if known is None or known.message != failure.message:
            event(
                _logger,
                logging.ERROR,
                "the database is not accessible",
                {"reason": failure.reason, "error": failure.message},
                error=cause,
            )
        if self._database.is_open and failure.reason != "busy":
            self._retention_steps = None
            self._reader.shut()
            self._database.abandon(failure)
        self._next_check = time.monotonic() + self._backoff.next()


def _result(request: _Request, outcome: Outcome) -> Stored | ServiceError:
    """Return what a request is answered with: what was stored, or the 409 of a conflict."""
    if isinstance(outcome, Conflict):
        row = request.rows[outcome.index]
        field_name = f"predictions[{outcome.index}].prediction_id"
        return ServiceError(
            409,
            "conflict",
            f"{field_name}: expected an id of its own, got {row.prediction_id!r}, under which"
            f" {row.edge_device_id!r} sent other content; nothing of the batch was stored",
            field=field_name,
        )
    return outcome


def _refusal(reason: str, message: str) -> ServiceError:
    return ServiceError(503, reason, message, headers={"Retry-After": "2"})
