"""Reading connections: one a query, opened for reading only, off the event loop."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bentos.edge.http import ServiceError
from bentos.logging.failures import StoreError, classify
from bentos.logging.files import read_only_uri

ResultT = TypeVar("ResultT")

_THREADS = 2
_MAX_WAITING = 32
# Instructions of SQLite's machine between two looks at the clock, about a millisecond.
_INSTRUCTIONS = 20_000


class Reader:
    """Runs queries while the writer has the database open, each bounded in time.

    A connection lives as long as its query: none is open on a database that was lost, and
    opening one takes a third of a millisecond.
    """

    def __init__(
        self, path: Path, *, timeout_seconds: float, on_failure: Callable[[StoreError], None]
    ) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._on_failure = on_failure
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="reader")
        self._idle = threading.Condition()
        self._admitted = False
        self._reading = 0
        self._waiting = 0

    def admit(self) -> None:
        """Let queries begin."""
        with self._idle:
            self._admitted = True

    def shut(self) -> None:
        """Let no query begin, stop those that run, and return when none has a connection."""
        with self._idle:
            self._admitted = False
            self._idle.wait_for(lambda: self._reading == 0)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what a query returns, run in one read transaction.

        Raises ServiceError 429 where too many wait, 503 where the database is not accessible,
        504 where the query takes too long.
        """
        if self._waiting >= _MAX_WAITING:
            raise ServiceError(
                429, "queue_full", "too many queries wait", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._run, query)
        finally:
            self._waiting -= 1

    def _run(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with self._idle:
            if not self._admitted:
                raise _not_accessible()
            self._reading += 1
        try:
            return self._query(query)
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()

    def _query(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        deadline = time.monotonic() + self._timeout_seconds

        def must_stop() -> bool:
            return not self._admitted or time.monotonic() > deadline

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
                if not self._admitted:
                    raise _not_accessible() from error
                raise ServiceError(
                    504, "timeout", f"the query takes longer than {self._timeout_seconds:g} s"
                ) from error
            failure = classify(error, self._path)
            self._on_failure(failure)
            raise _not_accessible() from error


def _not_accessible() -> ServiceError:
    return ServiceError(
        503,
        "database_not_accessible",
        "the database is not accessible; /ready says why",
        headers={"Retry-After": "2"},
    )
