"""Real servers for tests: `bentoml serve` processes that are started, asked and stopped.

    with start_service(TARGET, tmp_path, env={"DATABASE_PATH": "..."}) as server:
        server.wait_until(lambda: server.get("/ready").status_code == 200, "ready")
        ...
        assert server.stop() == 0

Each server has a free port, a BENTOML_HOME and a log file of its own, and none of the caller's
settings. Whatever is still running when the `with` block ends is killed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
STOP_SECONDS = 30.0

_WORKER_MODULE = "_bentoml_impl.worker.service"
# Of the caller's environment only this is handed on, so that no setting leaks into a test.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    seconds: float = START_SECONDS,
    describe: Callable[[], str] = str,
) -> None:
    """Return as soon as the condition holds; a server that does not answer yet is no answer.

    Raises AssertionError with `describe()` where it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}\n{describe()}")
        time.sleep(0.02)


class Server:
    """A process that listens on `port` and writes its log to `log_path`, or to `output`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str],
        log_path: Path,
        output: int | None = None,
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_path = log_path
        self.http = httpx.Client(base_url=self.url, timeout=10.0, trust_env=False)
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.http.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST request."""
        return self.http.post(path, **options)

    @property
    def log(self) -> str:
        """All that the process has written."""
        return self.log_path.read_text(errors="replace")

    def events(self, message: str = "") -> list[dict[str, Any]]:
        """Return the JSON lines of the log, those with this message where one is given."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if not message or line.get("message") == message]

    def wait_until(
        self, condition: Callable[[], object], what: str, *, seconds: float = START_SECONDS
    ) -> None:
        """Return as soon as the condition holds; AssertionError with the log where it does not.

        A server that ended meanwhile will not come to it either.
        """

        def holds() -> object:
            if self.process.poll() is not None:
                raise AssertionError(f"ended while waited for: {what}\n{self._tail()}")
            return condition()

        wait_until(holds, what, seconds=seconds, describe=self._tail)

    def wait_for_status(self, path: str, status: int, *, seconds: float = START_SECONDS) -> None:
        """Return as soon as the path answers with the status."""
        self.wait_until(
            lambda: self.get(path).status_code == status, f"{path} {status}", seconds=seconds
        )

    def wait_for_reason(self, reason: str, *, seconds: float = START_SECONDS) -> None:
        """Return as soon as `/ready` is 503 with the reason."""

        def refused() -> bool:
            answer = self.get("/ready")
            return answer.status_code == 503 and answer.json()["reason"] == reason

        self.wait_until(refused, f"/ready 503 {reason}", seconds=seconds)

    def wait_until_ready(self, *, seconds: float = START_SECONDS) -> None:
        """Return as soon as `/ready` is 200."""
        self.wait_for_status("/ready", 200, seconds=seconds)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes that run below the supervisor."""
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE and _WORKER_MODULE in child.cmdline()
        ]

    def terminate(self) -> None:
        """Ask for an orderly end, as Kubernetes does, and do not wait for it."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Return the exit status of a process that is about to end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:g} s\n{self._tail()}") from None

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """End the server in order and return its exit status."""
        self.terminate()
        return self.wait(seconds=seconds)

    def kill(self) -> None:
        """End the server and all its processes at once, as a power cut would."""
        self.http.close()
        processes = []
        if self.process.poll() is None:
            supervisor = psutil.Process(self.process.pid)
            # The supervisor goes first: it would start killed workers anew.
            processes = [supervisor, *supervisor.children(recursive=True)]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(processes[1:], timeout=STOP_SECONDS)

    def _tail(self) -> str:
        return "\n".join(self.log.splitlines()[-40:])


def start_service(
    target: str,
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    output: int | None = None,
) -> Server:
    """Start `bentoml serve target` from the repository's root.

    `directory` takes the log, unless `output` is a descriptor for it, and the BENTOML_HOME.
    Relative paths among the settings are taken from the root: name paths that the service writes
    to in `env`. A second start with the same directory and port goes on with the same log, as a
    restart does.
    """
    name = target.rpartition(":")[2].lower()
    home = directory / f"{name}-home"
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    environment = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    environment |= {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(home),
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "DRAIN_SECONDS": "0.2",
        **(env or {}),
    }
    command = [sys.executable, "-m", "bentoml", "serve", target]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log_path = directory / f"{name}.log"
    return Server(command, port=port, environment=environment, log_path=log_path, output=output)
