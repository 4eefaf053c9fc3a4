"""The store of predictions: everything that knows SQL, behind one class.

The service calls `Store` and nothing below it, so that a store in another database can take its
place. Of the modules here `writer` puts batches into transactions, `database` is one connection
that writes, `reader` and `queries` answer questions, `schema` is the tables, and `files` watches
that the database is not deleted, replaced or damaged.
"""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bentos.edge.http import ServiceError
from bentos.logging.state import LoggingState
from bentos.logging.store.database import KEEP_ALL, Retention, Stored
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import PageQuery, StatsQuery, read_page, read_stats
from bentos.logging.store.reader import Reader
from bentos.logging.store.schema import StoredPrediction
from bentos.logging.store.writer import CHECK_SECONDS, WriteLock, Writer

__all__ = [
    "PageQuery",
    "Retention",
    "StatsQuery",
    "Store",
    "StoreError",
    "Stored",
    "StoredPrediction",
]


class Store:
    """The predictions of one worker's requests, in the SQLite database at `path`.

    `lock_directory` is where the workers of a pod lock one another out; None for a single worker.
    """

    def __init__(
        self,
        path: Path,
        state: LoggingState,
        *,
        busy_timeout_seconds: float,
        query_timeout_seconds: float,
        queue_rows: int,
        retention: Retention = KEEP_ALL,
        lock_directory: Path | None = None,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._state = state
        self._reader = Reader(
            path, timeout_seconds=query_timeout_seconds, on_failure=self._read_failed
        )
        self._writer = Writer(
            path,
            state,
            self._reader,
            busy_timeout_seconds=busy_timeout_seconds,
            queue_rows=queue_rows,
            retention=retention,
            check_seconds=check_seconds,
            write_lock=WriteLock(lock_directory).held if lock_directory else contextlib.nullcontext,
        )

    def start(self) -> None:
        """Begin to open the database; call it on the event loop."""
        self._writer.start()

    async def stop(self, seconds: float) -> None:
        """Store what waits and close the database, within `seconds`."""
        await self._writer.stop(seconds)
        self._reader.close()

    async def store(self, rows: Sequence[StoredPrediction]) -> Stored:
        """Store a batch, whole or not at all, and return when it is on disk.

        Raises ServiceError 503 or 429 where it was not tried, 409 where an id of it belongs to
        another prediction of the device, and StoreError where the database failed.
        """
        return await self._writer.store(rows)

    def unavailable(self) -> ServiceError | None:
        """Return the 503 with which batches are refused now, None where they are not."""
        return self._writer.unavailable()

    async def page(self, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError as `Reader.read` does, and 404."""
        return await self._reader.read(partial(read_page, query=query))

    async def stats(self, query: StatsQuery) -> bytes:
        """Return `/stats`; raises ServiceError as `Reader.read` does."""
        return await self._reader.read(partial(read_stats, query=query))

    def _read_failed(self, failure: StoreError) -> None:
        # A read that fails says nothing of whether predictions can be stored: readiness does not
        # count it, but a database that is lost is checked and opened again.
        if failure.lost:
            self._writer.report_loss(failure)
        else:
            self._state.store_errors[failure.reason].add()
