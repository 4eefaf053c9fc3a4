"""The store of predictions: everything that knows SQL, behind one class.

The service calls `Store` and nothing below it. What differs between the databases lies behind the
two protocols of `backend`: `sqlite`, the default, and `postgres`, which alone imports psycopg and
is imported only where `DATABASE_URL` is set. Of the other modules `writer` puts waiting batches
into transactions, `reader` answers questions, `batches` has the rules of duplicates, conflicts and
totals, and `schema` the columns; `database` is an open SQLite database, `queries` what is read of
it, and `files` watches that its file is not deleted, replaced or damaged.
"""

from collections.abc import Sequence
from pathlib import Path

from bentos.edge.http import ServiceError
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LoggingState
from bentos.logging.store.backend import Backend
from bentos.logging.store.batches import KEEP_ALL, Retention, Stored
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import PageQuery, StatsQuery
from bentos.logging.store.schema import StoredPrediction
from bentos.logging.store.sqlite import SqliteBackend
from bentos.logging.store.writer import CHECK_SECONDS, Writer

__all__ = [
    "Backend",
    "PageQuery",
    "Retention",
    "SqliteBackend",
    "StatsQuery",
    "Store",
    "StoreError",
    "Stored",
    "StoredPrediction",
    "make_backend",
]


def make_backend(settings: LoggingSettings, lock_directory: Path | None = None) -> Backend:
    """Return the database that the settings name.

    `lock_directory` is where the workers of a pod lock one another out, None for a single worker;
    PostgreSQL needs none.
    """
    if settings.database_url is not None:
        from bentos.logging.store.postgres import PostgresBackend

        return PostgresBackend(
            settings.database_url.get_secret_value(),
            busy_timeout_seconds=settings.busy_timeout_seconds,
            query_timeout_seconds=settings.query_timeout_seconds,
        )
    return SqliteBackend(
        settings.database_path,
        busy_timeout_seconds=settings.busy_timeout_seconds,
        query_timeout_seconds=settings.query_timeout_seconds,
        lock_directory=lock_directory,
    )


class Store:
    """The predictions of one worker's requests, in the database of a backend."""

    def __init__(
        self,
        backend: Backend,
        state: LoggingState,
        *,
        queue_rows: int,
        retention: Retention = KEEP_ALL,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._state = state
        self._reader = backend.reader(self._read_failed)
        self._writer = Writer(
            backend,
            state,
            self._reader,
            queue_rows=queue_rows,
            retention=retention,
            check_seconds=check_seconds,
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
        return await self._reader.page(query)

    async def stats(self, query: StatsQuery) -> bytes:
        """Return `/stats`; raises ServiceError as `Reader.read` does."""
        return await self._reader.stats(query)

    def _read_failed(self, failure: StoreError) -> None:
        # A read that fails says nothing of whether predictions can be stored: readiness does not
        # count it, but a database that is lost is checked and opened again.
        if failure.lost:
            self._writer.report_loss(failure)
        else:
            self._state.store_errors[failure.reason].add()
