"""What answers questions: queries off the event loop, each bounded in time."""

import asyncio
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.logging.store.errors import StoreError, classify
from bentos.logging.store.files import read_only_uri
from bentos.logging.store.queries import PageQuery, StatsQuery, read_page, read_stats

ConnectionT = TypeVar("ConnectionT")
ResultT = TypeVar("ResultT")

READER_THREADS = 2
_MAX_QUERIES = 32
# Instructions of SQLite's virtual machine between two looks at the clock, about a millisecond.
_INSTRUCTIONS = 20_000


class QueryTimeoutError(Exception):
    """A query was stopped since it took too long."""


class Reader(ABC, Generic[ConnectionT]):
    """Runs queries while the writer has the database open, each bounded in time.

    `on_failure` is called, from a reading thread, with each failure of the database; a query that
    takes too long is none.
    """

    def __init__(self, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]) -> None:
        self._timeout_seconds = timeout_seconds
        self._on_failure = on_failure
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="reader")
        self._changed = threading.Condition()
        self._open = False
        self._running = 0
        self._queries = 0

    @abstractmethod
    def read_page(self, connection: ConnectionT, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError 404 for an unknown device."""

    @abstractmethod
    def read_stats(self, connection: ConnectionT, query: StatsQuery) -> bytes:
        """Return `/stats`."""

    @abstractmethod
    def _execute(self, query: Callable[[ConnectionT], ResultT]) -> ResultT:
        """Return what a query returns, run in one read transaction.

        Raises QueryTimeoutError, or StoreError where the database fails.
        """

    def open(self) -> None:
        """Let queries begin."""
        with self._changed:
            self._open = True

    def shut(self) -> None:
        """Let no query begin, stop those that run, and return when none has a connection."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._running == 0)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def page(self, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError as `read` does, and 404."""
        return await self.read(lambda connection: self.read_page(connection, query))

    async def stats(self, query: StatsQuery) -> bytes:
        """Return `/stats`; raises ServiceError as `read` does."""
        return await self.read(lambda connection: self.read_stats(connection, query))

    async def read(self, query: Callable[[ConnectionT], ResultT]) -> ResultT:
        """Return what a query returns, run in one read transaction.

        Raises ServiceError 429 where too many queries wait, 503 where the database is not
        accessible, 504 where the query takes too long.
        """
        if self._queries >= _MAX_QUERIES:
            raise ServiceError(429, "queue_full", "too many queries wait", headers=RETRY_LATER)
        self._queries += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._run, query)
        finally:
            self._queries -= 1

    def _run(self, query: Callable[[ConnectionT], ResultT]) -> ResultT:
        with self._changed:
            if not self._open:
                raise _not_accessible()
            self._running += 1
        try:
            return self._execute(query)
        except QueryTimeoutError as error:
            if not self._open:
                raise _not_accessible() from error
            raise ServiceError(
                504, "timeout", f"the query takes longer than {self._timeout_seconds:g} s"
            ) from error
        except StoreError as failure:
            self._on_failure(failure)
            raise _not_accessible() from failure
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


class SqliteReader(Reader[sqlite3.Connection]):
    """Reads the SQLite database at `path`.

    A connection lives as long as its query: none is open on a database that was lost, and
    opening one takes a third of a millisecond.
    """

    def __init__(
        self, path: Path, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, on_failure=on_failure)
        self._path = path

    def read_page(self, connection: sqlite3.Connection, query: PageQuery) -> bytes:
        """Return a page of `/predictions`; raises ServiceError 404 for an unknown device."""
        return read_page(connection, query)

    def read_stats(self, connection: sqlite3.Connection, query: StatsQuery) -> bytes:
        """Return `/stats`."""
        return read_stats(connection, query)

    def _execute(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        deadline = time.monotonic() + self._timeout_seconds

        def must_stop() -> bool:
            return not self._open or time.monotonic() > deadline

        try:
            connection = sqlite3.connect(
                read_only_uri(self._path),
                uri=True,
                timeout=self._timeout_seconds,
                isolation_level=None,
            )
            try:
                connection.set_progress_handler(must_stop, _INSTRUCTIONS)
                connection.execute("BEGIN")
                return query(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise QueryTimeoutError from error
            raise classify(error, self._path) from error


def _not_accessible() -> ServiceError:
    return ServiceError(
        503,
        "database_not_accessible",
        "the database is not accessible; /ready says why",
        headers={"Retry-After": "2"},
    )
