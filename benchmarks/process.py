"""A server as a group of processes: started, waited for, weighed, stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
_PORTS = 3
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.01
# Servers start processes in sessions of their own; all of them inherit this.
_MARK = "BENCHMARK_SERVER"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES")


class ServerFailed(Exception):  # noqa: N818 - what happened to a server
    """A server did not start or did not answer as it should; the message has its last lines."""


@dataclass(frozen=True)
class Memory:
    """Memory of all processes in bytes: `pss` shares common pages out, `rss` counts them anew."""

    pss: int
    rss: int
    processes: int


class Server:
    """A started server; leaving the `with` block ends every process of it."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], url: str, log: Path
    ) -> None:
        self.url = url
        self._log = log
        self._mark = uuid.uuid4().hex
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        with log.open("wb") as stream:
            self.started_at = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, **environment, _MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The first process."""
        return self._process.pid

    def wait_for(self, path: str, *, seconds: float = _START_SECONDS) -> float:
        """Return how long after the start the path first answered 200; ServerFailed for never."""
        while True:
            with (
                contextlib.suppress(httpx.TransportError),
                httpx.Client(base_url=self.url, timeout=2.0, trust_env=False) as client,
            ):
                if client.get(path).status_code == 200:
                    return time.perf_counter() - self.started_at
            if self._process.poll() is not None:
                raise ServerFailed(f"it ended with {self._process.returncode}:\n{self.tail()}")
            if time.perf_counter() - self.started_at > seconds:
                raise ServerFailed(f"no 200 from {path} in {seconds:g} s:\n{self.tail()}")
            time.sleep(_POLL_SECONDS)

    def tail(self) -> str:
        """Return the last lines it wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def processes(self) -> list[psutil.Process]:
        """Return all of its processes, wherever they have gone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found

    def memory(self) -> Memory:
        """Return what all processes have in memory."""
        pss = rss = count = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                pss, rss, count = pss + info.pss, rss + info.rss, count + 1
        return Memory(pss=pss, rss=rss, processes=count)

    def cpu_seconds(self) -> dict[int, float]:
        """Return the processor time that each of its processes has used, by process id."""
        used = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
        return used

    def stop(self) -> None:
        """Ask it to end, and end what is left after a while."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        gone_by = time.monotonic() + _STOP_SECONDS
        while self.processes() and time.monotonic() < gone_by:
            time.sleep(_POLL_SECONDS)


def free_ports() -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(_PORTS)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
