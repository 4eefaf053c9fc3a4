"""A worker's life: its heartbeat, where it listens, and an orderly end."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from bentos.health.checks import Verdict
from bentos.health.probes import Probes
from bentos.process.logs import event, get_logger

HEARTBEAT_SECONDS = 0.5
LISTENING = "listening"

_START_SECONDS = 0.02
_logger = get_logger("lifecycle")


class VerdictLog:
    """Logs the verdicts of `/health` and `/ready` when their reasons change, not at every probe."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._known: dict[str, Verdict] = {}

    def note(self) -> None:
        """Judge now, and log what changed."""
        self._note("healthy", "unhealthy", self._probes.live(), logging.ERROR)
        self._note("ready", "not ready", self._probes.is_ready(), logging.WARNING)

    def _note(self, passed: str, failed: str, verdict: Verdict, level: int) -> None:
        known = self._known.get(passed)
        if known is not None and known.reasons == verdict.reasons:
            return
        self._known[passed] = verdict
        if verdict.passed:
            event(_logger, logging.INFO, passed)
        else:
            fields = {"reason": verdict.reason, "reasons": verdict.reasons, **verdict.details}
            event(_logger, level, failed, fields)


class Lifecycle:
    """Beats for a worker's event loop and turns SIGTERM into drain, then stop.

    On SIGTERM `/ready` says `shutting_down` while requests are served for `drain_seconds` more;
    then the server closes its port and waits `shutdown_seconds` at most for requests in flight.
    Ctrl-C does the same without the drain. `on_beat` is called with every heartbeat.
    """

    def __init__(
        self,
        probes: Probes,
        *,
        drain_seconds: float,
        shutdown_seconds: int,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._state = probes.state
        self._drain_seconds = drain_seconds
        self._shutdown_seconds = shutdown_seconds
        self._on_beat = on_beat
        self._verdicts = VerdictLog(probes)
        self._probe_process = self._state.probe_process
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        """Begin to beat and take over the stop signals; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._server = running_server()
        self._task = self._loop.create_task(self._beat())
        self._task.add_done_callback(_report)
        if self._server is None:
            self._state.serving.set(1)  # not served by uvicorn, as in a test: its owner stops it
            return
        if self._server.config.timeout_graceful_shutdown is None:
            # Without a bound one hanging client keeps the pod until it is killed.
            self._server.config.timeout_graceful_shutdown = self._shutdown_seconds
        for number in (signal.SIGTERM, signal.SIGINT):
            self._chain(number)

    async def stop(self) -> None:
        """End the heartbeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            self._state.row.set("heartbeat", now)
            self._state.event_loop_delay.observe(max(0.0, now - due))
            self._note_listening()
            self._note_probe_process()
            self._on_beat()
            if self._state.probe_process != "running":
                self._verdicts.note()  # the probe process does where there is one
            # The server takes connections soon after this has begun, and says so in no other way.
            pause = HEARTBEAT_SECONDS if self._state.serving.get() else _START_SECONDS
            due = time.monotonic() + pause
            await asyncio.sleep(pause)

    def _note_listening(self) -> None:
        server = self._server
        if server is None or not server.started or self._state.serving.get():
            return
        sockets = [one for each in server.servers for one in each.sockets]
        if sockets:
            name = sockets[0].getsockname()
            address = [name] if isinstance(name, str) else list(name[:2])
            self._state.write_text(LISTENING, {"address": address, "tls": server.config.is_ssl})
        self._state.serving.set(1)

    def _note_probe_process(self) -> None:
        known, self._probe_process = self._probe_process, self._state.probe_process
        if known == "running" and self._probe_process == "missing":
            event(_logger, logging.ERROR, "the probe process is missing; it is started again")

    def _chain(self, number: signal.Signals) -> None:
        """Put the drain before the server's own handler of a signal."""
        server_handler = signal.getsignal(number)
        if not callable(server_handler):
            return

        def begin(received: int, frame: FrameType | None) -> None:
            loop = self._loop
            if self._state.row.get("shutting_down") or loop is None:
                if received == signal.SIGINT:
                    server_handler(received, frame)  # asked twice: stop without waiting
                return
            self._state.begin_shutdown()
            delay = self._drain_seconds if received == signal.SIGTERM else 0.0

            def drain() -> None:
                fields = {"signal": signal.Signals(received).name, "drain_seconds": delay}
                event(_logger, logging.INFO, "shutting down", fields)
                loop.call_later(delay, server_handler, int(signal.SIGTERM), None)

            loop.call_soon_threadsafe(drain)

        signal.signal(number, begin)


def _report(heartbeat: asyncio.Task[None]) -> None:
    error = None if heartbeat.cancelled() else heartbeat.exception()
    if error is not None:
        event(_logger, logging.CRITICAL, "the heartbeat ended, the worker will stall", error=error)


def running_server() -> uvicorn.Server | None:
    """Return the server that takes this process's SIGTERM; None where none does, as in a test."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None
