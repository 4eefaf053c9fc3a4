"""Functions run in processes of their own, as a service's workers are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

_WAIT_SECONDS = 60.0
# A process that is forked from one with what most need takes 50 ms, a new interpreter 500 ms.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "bentos.health.metrics"])


class Child:
    """A process that called a function, told its result, and waits to be ended."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        ours, theirs = _CONTEXT.Pipe()
        self._connection = ours
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()
        if not ours.poll(_WAIT_SECONDS):
            raise AssertionError("the child process did not answer")
        self.result = ours.recv()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it at once."""
        self._process.kill()
        self._process.join(_WAIT_SECONDS)

    def end(self) -> None:
        """End it in order."""
        self._connection.close()
        self._process.join(_WAIT_SECONDS)
        self._process.close()


@contextmanager
def child(function: Callable[..., Any], *arguments: Any) -> Iterator[Child]:
    """Call a module's function in a new process that lives until the block ends."""
    process = Child(function, *arguments)
    try:
        yield process
    finally:
        process.end()


def _serve(connection: Connection, function: Callable[..., Any], arguments: Any) -> None:
    connection.send(function(*arguments))
    try:
        connection.recv()
    except EOFError:
        return
