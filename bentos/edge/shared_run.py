"""A piece of work that runs once for all who ask for it at the same time."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRun(Generic[T]):
    """Runs `work` on a thread, never twice at once.

    Threads that work in Python side by side take the interpreter from the event loop in turns, so
    many scrapers at once would keep a probe waiting for all of them.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Return the result of a run that began after this call, or raise what it raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
        # One that gives up leaves the run to the others.
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        if self._running is not None:
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await asyncio.to_thread(self._work)
