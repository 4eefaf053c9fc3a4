"""What answers questions: queries off the event loop, each bounded in time."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.logging.store.errors import StoreError
from bentos.logging.store.queries import Session

ResultT = TypeVar("ResultT")

READER_THREADS = 2
_MAX_QUERIES = 32


class QueryTimeoutError(Exception):
    """A query was stopped since it took too long."""


class Reader(ABC):
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
    def _execute(self, query: Callable[[Session], ResultT]) -> ResultT:
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

    async def read(self, query: Callable[[Session], ResultT]) -> ResultT:
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

    def _run(self, query: Callable[[Session], ResultT]) -> ResultT:
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


def _not_accessible() -> ServiceError:
    return ServiceError(
        503,
        "database_not_accessible",
        "the database is not accessible; /ready says why",
        headers={"Retry-After": "2"},
    )
