"""The worker's model process: started, listened to, and started again whenever it ends.

The model has a process of its own so that nothing it does, a load, a long call, a crash, keeps a
probe waiting: they share no interpreter lock.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bentos.inference.wire import Frames, Message, frame, unpack
from bentos.process.logs import event, get_logger

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# A process that lived so long did not die of its start.
_PROVEN_SECONDS = 60.0
# Between the end of its stream and its own.
_END_SECONDS = 5.0
_BUFFER_BYTES = 1 << 22
_MODULE = "bentos.inference.model_process"
_ROOT = Path(__file__).parents[2]

_logger = get_logger("model")


class ModelProcess:
    """Keeps one model process running; everything of it happens on the event loop.

    `on_start` gets the function that writes to the process, `on_message` what it says, `on_end`
    how it ended and when, in monotonic seconds, it is started again.
    """

    def __init__(
        self,
        settings: bytes,
        *,
        on_start: Callable[[Callable[[bytes], None]], None],
        on_message: Callable[[Message], None],
        on_end: Callable[[str, float], None],
    ) -> None:
        self._settings = settings
        self._on_start = on_start
        self._on_message = on_message
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; call it on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the process for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            try:
                ended = await self._live()
            except Exception as error:  # whatever it was, a worker without a model is worse
                ended = f"cannot be run: {type(error).__name__}: {error}"
            if time.monotonic() - started > _PROVEN_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._on_end(ended, time.monotonic() + pause)
            fields = {"restart_in_seconds": pause}
            event(_logger, logging.ERROR, f"the model process {ended}", fields)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _live(self) -> str:
        """Start a process, listen to it until it ends, and return how it ended."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                process = self._process = _spawn(theirs)
        except OSError as error:
            ours.close()
            return f"cannot be started: {error}"
        closed: asyncio.Future[None] = loop.create_future()
        ours.setblocking(False)
        transport, _ = await loop.create_unix_connection(
            lambda: Listener(self._on_message, closed), sock=ours
        )
        try:
            transport.write(frame(self._settings))
            self._on_start(transport.write)
            await closed
            # Killed at once, one that ends by itself would be told as killed.
            await asyncio.to_thread(_wait, process, _END_SECONDS)
        finally:
            transport.close()
            process.kill()
            self._process = None
            status = await asyncio.shield(asyncio.to_thread(process.wait))
        return _told(status)


class Listener(asyncio.Protocol):
    """Turns what the process sends into messages."""

    def __init__(
        self, on_message: Callable[[Message], None], closed: "asyncio.Future[None]"
    ) -> None:
        self._on_message = on_message
        self._closed = closed
        self._frames = Frames()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        for content in self._frames.feed(data):
            self._on_message(unpack(content))

    def connection_lost(self, _: Exception | None) -> None:
        """Say that the process is gone."""
        if not self._closed.done():
            self._closed.set_result(None)


def _spawn(stream: socket.socket) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", _MODULE, str(stream.fileno()), str(os.getpid())],
        pass_fds=[stream.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _told(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
