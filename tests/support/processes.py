"""Functions run in processes of their own, as a service's workers are."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

_WAIT_SECONDS = 60.0


class Child:
    """A spawned process that called a function, told its result, and waits to be ended."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        self._connection = ours
        self._process = context.Process(target=_serve, args=(theirs, function, arguments))
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

    def kill(self, *, reap: bool = True) -> None:
        """Kill it at once; without `reap` it stays a zombie, as under a supervisor that sleeps."""
        os.kill(self.pid, signal.SIGKILL)
        if reap:
            self._process.join(_WAIT_SECONDS)
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

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
