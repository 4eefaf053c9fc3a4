"""A worker's life: its heartbeat, what its readiness turns to, and an orderly end."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

from bentos.health.checks import Verdict
from bentos.process.logs import event, get_logger
from bentos.process.server import (
    accept_several,
    answer_probes_first,
    bound_shutdown,
    running_server,
)
from bentos.health.state import ServiceState

HEARTBEAT_SECONDS = 0.5

_logger = get_logger("lifecycle")


class Lifecycle:
    """Beats for a worker's event loop and turns SIGTERM into drain, then stop.

    On SIGTERM `/ready` says `shutting_down` while requests are served for `drain_seconds` more;
    then the server closes its port and waits `shutdown_seconds` at most for requests in flight.
    Ctrl-C does the same without the drain. `on_beat` is told how many seconds late each beat is.
    """

    def __init__(
        self,
        state: ServiceState,
        readiness: Callable[[], Verdict],
        *,
        liveness: Callable[[], Verdict] = Verdict,
        drain_seconds: float,
        shutdown_seconds: int,
        on_beat: Callable[[float], None] = lambda _late: None,
    ) -> None:
        self._state = state
        self._readiness = readiness
        self._liveness = liveness
        self._drain_seconds = drain_seconds
        self._shutdown_seconds = shutdown_seconds
        self._on_beat = on_beat
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._said: dict[str, Verdict] = {}

    def start(self) -> None:
        """Begin to beat and take over the stop signals; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._beat())]
        server = running_server()
        if server is None:
            return  # not served by uvicorn, as in a test: its owner stops it
        answer_probes_first(server)
        bound_shutdown(server, self._shutdown_seconds)
        self._tasks.append(self._loop.create_task(accept_several(server)))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._chain(number)

    async def stop(self) -> None:
        """End the heartbeat."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            self._state.row.set("heartbeat", now)
            self._on_beat(max(0.0, now - due))
            self._tell("healthy", "unhealthy", self._liveness(), logging.ERROR)
            self._tell("ready", "not ready", self._readiness(), logging.WARNING)
            due = time.monotonic() + HEARTBEAT_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _tell(self, passed: str, failed: str, verdict: Verdict, level: int) -> None:
        """Log a verdict when its reasons change, not at every probe."""
        known = self._said.get(passed)
        if known is not None and known.reasons == verdict.reasons:
            return
        self._said[passed] = verdict
        if verdict.passed:
            event(_logger, logging.INFO, passed)
        else:
            fields = {"reason": verdict.reason, "reasons": verdict.reasons, **verdict.details}
            event(_logger, level, failed, fields)

    def _chain(self, number: signal.Signals) -> None:
        """Put the drain before the server's own handler of a signal."""
        theirs = signal.getsignal(number)
        if not callable(theirs):
            return

        def begin(received: int, frame: FrameType | None) -> None:
            loop = self._loop
            if self._state.row.get("shutting_down") or loop is None:
                if received == signal.SIGINT:
                    theirs(received, frame)  # asked twice: stop without waiting
                return
            self._state.begin_shutdown()
            delay = self._drain_seconds if received == signal.SIGTERM else 0.0

            def drain() -> None:
                fields = {"signal": signal.Signals(received).name, "drain_seconds": delay}
                event(_logger, logging.INFO, "shutting down", fields)
                loop.call_later(delay, theirs, int(signal.SIGTERM), None)

            loop.call_soon_threadsafe(drain)

        signal.signal(number, begin)
