"""Real servers for tests: `bentoml serve` processes that are started, asked and stopped.

    with start_service(TARGET, tmp_path, env={"DATABASE_PATH": "..."}) as server:
        server.wait_until(lambda: server.get("/ready").status_code == 200, "ready")
        ...
        assert server.stop() == 0

Each server has a free port, a BENTOML_HOME and a log file of its own, and none of the caller's
settings. Whatever is still running when the `with` block ends is killed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

import local.process
from local import fetch
from local.process import ROOT, START_SECONDS, clean_environment, free_port, wait_until

__all__ = ["ROOT", "START_SECONDS", "Server", "free_port", "start_service", "wait_until"]

_WORKER_MODULE = "_bentoml_impl.worker.service"


class Server(local.process.Server):
    """A server with a client; leaving the `with` block kills it at once."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str],
        log_path: Path,
        output: int | None = None,
        probe_port: int = 0,
    ) -> None:
        """Start it; it writes to the end of `log_path`, or to the descriptor `output`."""
        super().__init__(
            command, port=port, log=log_path, append=True, output=output, environment=environment
        )
        self.http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)
        self.probe_url = f"http://127.0.0.1:{probe_port}"

    def __exit__(self, *_: object) -> None:
        self.kill()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.http.get(path, **options)

    def probe(
        self, path: str, *, seconds: float = 10.0, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Ask the probe process, over a connection of its own as the kubelet does."""
        return fetch.get(self.probe_url + path, headers=headers, timeout=seconds)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST request."""
        return self.http.post(path, **options)

    def events(self, message: str = "") -> list[dict[str, Any]]:
        """Return the JSON lines of the log, those with this message where one is given."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if not message or line.get("message") == message]

    def lines_that_are_no_json(self) -> list[str]:
        """Return the lines of the log that are no JSON object, of which there should be none."""
        return [line for line in self.log.splitlines() if not _is_object(line)]

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

    def kill(self) -> None:
        """End the server and all its processes at once, as a power cut would."""
        self.http.close()
        super().kill()


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def start_service(
    target: str,
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    output: int | None = None,
    options: Sequence[str] = (),
) -> Server:
    """Start `bentoml serve target` with further options from the repository's root.

    `directory` takes the log, unless `output` is a descriptor for it, and the BENTOML_HOME.
    Relative paths among the settings are taken from the root: name paths that the service writes
    to in `env`. A second start with the same directory and port goes on with the same log, as a
    restart does.
    """
    name = target.rpartition(":")[2].lower()
    home = directory / f"{name}-home"
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    environment = clean_environment(
        BENTOML_DO_NOT_TRACK="True",
        BENTOML_HOME=str(home),
        NO_COLOR="1",
        PYTHONUNBUFFERED="1",
        DRAIN_SECONDS="0.2",
        HOST="127.0.0.1",
        PROBE_PORT=str(free_port()),
    )
    environment |= env or {}
    command = [sys.executable, "-m", "bentoml", "serve", target]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    log_path = directory / f"{name}.log"
    return Server(
        command,
        port=port,
        environment=environment,
        log_path=log_path,
        output=output,
        probe_port=int(environment["PROBE_PORT"]),
    )
