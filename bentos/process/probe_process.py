"""The process that answers probes: `python -m bentos.process.probe_process`.

It maps the pod's shared memory and answers `/health`, `/ready` and `/metrics` on a port of its
own, with uvicorn and Starlette as they come. It shares no interpreter and no event loop with a
worker and reads no body, so nothing that a client sends to the service keeps a probe waiting. Its
parent, the process of `bentoml serve`, writes a plan to its standard input and leaves that open:
when it closes, by whatever end of the parent, the probe process ends.
"""

import asyncio
import logging
import os
import pickle
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bentos.health.checks import Check
from bentos.health.probes import Answer, Probes
from bentos.health.state import ServiceState
from bentos.process.lifecycle import HEARTBEAT_SECONDS, LISTENING, VerdictLog
from bentos.process.logs import configure_logging, event, get_logger

_MODULE = "bentos.process.probe_process"
# Set in the probe process, which may import a module that makes a kit of its own.
PROBE_PROCESS_VARIABLE = "IS_PROBE_PROCESS"
_ROOT = Path(__file__).parents[2]
# Between two of its own connections to the service's port, and how long one may take.
CHECK_SECONDS = 2.0
_CHECK_TIMEOUT_SECONDS = 3.0
# One that is missed in between, on a machine that is busy for a moment, is no failure.
FAILED_CHECKS = 2
_CHECK_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_END_SECONDS = 5.0
# A probe's head has a few hundred bytes; beyond these it is a 400. httptools would bound none.
_MOST_HEAD_BYTES = 16_384
# Where a server that listens on all addresses is reached from its own machine.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}

_logger = get_logger("probes")


@dataclass(frozen=True)
class ProbePlan:
    """What a service's probes are made of, for whichever process answers them.

    `arguments` are those of `state`, without the worker. Everything has to be importable by
    another process, as pickle asks.
    """

    state: type[ServiceState]
    arguments: Mapping[str, Any]
    liveness: Sequence[Check]
    readiness: Sequence[Check]
    describe: Callable[[Any], Mapping[str, object]]
    host: str = "127.0.0.1"
    port: int = 0
    logging: Mapping[str, str] = field(default_factory=dict)

    def probes(self, worker: int) -> Probes:
        """Return the probes of a process: a worker's, 1 the first, or the probe process's, 0."""
        state = self.state(worker=worker, **self.arguments)
        return Probes(state, self.liveness, self.readiness, self.describe)


class ProbeProcess:
    """The parent's handle of the probe process, to start and to stop it.

    Raises ValueError where another process cannot import what the plan holds.
    """

    def __init__(self, plan: ProbePlan) -> None:
        if plan.state.__module__ == "__main__":
            raise ValueError(
                f"{plan.state.__name__} stands in the program that was started, which the probe"
                " process cannot import: move it to a module, or set PROBE_PORT=0"
            )
        self._content = pickle.dumps(plan)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None before the first start."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; OSError where that is impossible."""
        path = os.pathsep.join([str(_ROOT), *sys.path])
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, PROBE_PROCESS_VARIABLE: "1"},
            # A terminal's Ctrl-C is for the service, which answers probes until it has ended.
            start_new_session=True,
        )
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it was asked for above
        stdin.write(len(self._content).to_bytes(8, "little") + self._content)
        stdin.flush()

    def ended(self) -> int | None:
        """Return the exit status of a process that was started and ended, else None."""
        return self._process.poll() if self._process is not None else None

    def stop(self) -> None:
        """End the process and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def probe_app(probes: Probes) -> Starlette:
    """Return the app that answers the three probes, and counts how it did."""
    state = probes.state

    def route(path: str, answer: Callable[[str], Answer]) -> Route:
        probe = path.removeprefix("/")

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            found = answer(request.headers.get("accept", ""))
            state.http_requests[path, str(found.status)].add()
            state.probe_duration[probe, str(found.status)].observe(time.perf_counter() - started)
            return Response(found.body, found.status, media_type=found.content_type)

        return Route(path, endpoint)

    return Starlette(routes=[route(path, answer) for path, answer in probes.answers().items()])


class PortCheck:
    """Asks the service's own port, as a client would, and notes since when it fails."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._failures = 0
        self._failing_since = 0.0

    async def run(self) -> None:
        """Check for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            listening = self._state.text(LISTENING)
            if listening is None:
                continue  # no worker listens yet, or none is left: other checks say so
            began = time.monotonic()
            if await _answers(**listening):
                self._failing_since, self._failures = 0.0, 0
            else:
                self._failing_since = self._failing_since or began
                self._failures += 1
            failing = self._failures >= FAILED_CHECKS
            self._state.port_failing_since.set(self._failing_since if failing else 0)


async def _answers(address: Sequence[Any], *, tls: bool) -> bool:
    """Tell whether something answers a request in time, with whatever status.

    The address is host and port, or the path of a socket where another service of the same Bento
    calls this one.
    """
    context: ssl.SSLContext | None = None
    if tls:
        # It is our own process on this machine that is asked: what counts is that it answers.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            if len(address) == 1:
                reader, writer = await asyncio.open_unix_connection(address[0])
            else:
                host = _LOCAL.get(address[0], address[0])
                reader, writer = await asyncio.open_connection(host, address[1], ssl=context)
            try:
                writer.write(_CHECK_REQUEST)
                return bool(await reader.read(1))
            finally:
                writer.close()
    except ssl.SSLError:
        return True  # it answers, though not without a client's certificate
    except (OSError, TimeoutError):
        return False


async def _beat(probes: Probes, server: uvicorn.Server) -> None:
    verdicts = VerdictLog(probes)
    while True:
        probes.state.row.set("heartbeat", time.monotonic())
        probes.state.serving.set(float(server.started))
        verdicts.note()
        await asyncio.sleep(HEARTBEAT_SECONDS if server.started else 0.02)


async def _serve(plan: ProbePlan, probes: Probes) -> None:
    config = uvicorn.Config(
        probe_app(probes),
        host=plan.host,
        port=plan.port,
        http="h11",
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    # A socket that asyncio makes for `::` would not take IPv4.
    sockets = [config.bind_socket()]
    # An error in one ends them all, and with them the process, which is started again.
    async with asyncio.TaskGroup() as group:
        beside = (_beat(probes, server), PortCheck(probes.state).run())
        tasks = [group.create_task(one) for one in beside]
        await server.serve(sockets=sockets)
        for task in tasks:
            task.cancel()


def main() -> None:
    """Read the plan and answer probes until standard input closes."""
    stdin = sys.stdin.buffer
    size = int.from_bytes(stdin.read(8), "little")
    content = stdin.read(size)
    if len(content) < size or not size:
        return  # the parent ended before it had written the plan
    plan: ProbePlan = pickle.loads(content)  # noqa: S301 - our own parent wrote it
    configure_logging(**plan.logging, worker=0)

    def wait_for_end() -> None:
        # Not stdin.read(): its lock would make the interpreter abort at the end of this process.
        while os.read(stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    # Uvicorn raises its signal anew when it has ended; an exit in order cleans up behind it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=wait_for_end, name="parent", daemon=True).start()
    event(_logger, logging.INFO, "answering probes", {"host": plan.host, "port": plan.port})
    asyncio.run(_serve(plan, plan.probes(worker=0)))


if __name__ == "__main__":
    main()
