"""Both services on this machine, started with `bentoml serve` as a user would start them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from bentos.health.probes import READY_PATH
from bentos.process.settings import load_settings
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".data"
READY_SECONDS = 120.0
STOP_SECONDS = 60.0


class StackError(Exception):
    """A step failed; the message says which and what to do."""


@dataclass(frozen=True)
class LocalService:
    """A service as it is started here."""

    name: str
    target: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Stack:
    """The two services as child processes; leaving the `with` block stops them in order."""

    def __init__(self, *, log_folder: Path | None) -> None:
        inference, logging = load_settings(InferenceSettings), load_settings(LoggingSettings)
        self.inference = LocalService(
            "inference-service",
            "bentos.inference.service:InferenceService",
            inference.inference_port,
        )
        self.logging = LocalService(
            "logging-service", "bentos.logging.service:LoggingService", logging.logging_port
        )
        self._log_folder = log_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start both; raises StackError where a port is taken."""
        for service in (self.logging, self.inference):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", service.port)) == 0:
                    variable = f"{service.name.split('-', maxsplit=1)[0].upper()}_PORT"
                    raise StackError(
                        f"port {service.port} is taken; stop what listens there or set {variable}"
                    )
        self._start(self.logging, {})
        self._start(self.inference, {"LOGGING_URL": self.logging.url})

    def _start(self, service: LocalService, defaults: Mapping[str, str]) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        # A home of its own, outside the checkout: BentoML empties a shared one's metrics at each
        # start and copies one inside the build context into itself.
        home = cache / "truthful-serving" / f"bentoml-{service.name}-{service.port}"
        home.mkdir(parents=True, exist_ok=True)
        environment = {
            "LOG_FORMAT": "plain",
            "DRAIN_SECONDS": "0",
            **defaults,
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        command = [sys.executable, "-m", "bentoml", "serve", service.target]
        command += ["--host", "127.0.0.1", "--port", str(service.port)]
        with self._log_of(service) as log:
            # A session of its own: Ctrl-C reaches this process alone, which stops them in order.
            self._processes[service.name] = subprocess.Popen(
                command, cwd=ROOT, env=environment, start_new_session=True, stdout=log, stderr=log
            )

    @contextmanager
    def _log_of(self, service: LocalService) -> Iterator[int | None]:
        if self._log_folder is None:
            yield None
            return
        self._log_folder.mkdir(parents=True, exist_ok=True)
        with (self._log_folder / f"{service.name}.log").open("wb") as log:
            yield log.fileno()

    def wait_until_ready(self, report: Callable[[str], None]) -> None:
        """Return once both are ready, reporting why they are not as that changes.

        Raises StackError where one ended or was not ready in time.
        """
        for service in (self.logging, self.inference):
            deadline = time.monotonic() + READY_SECONDS
            said = ""
            while (reason := unready_reason(service)) is not None:
                self.raise_if_ended()
                if time.monotonic() > deadline:
                    raise StackError(f"{service.name} is not ready: {reason}; {self._where()}")
                if reason != said:
                    report(f"{service.name} is not ready yet: {reason}")
                    said = reason
                time.sleep(0.2)
            report(f"{service.name} is ready at {service.url}")

    def raise_if_ended(self) -> None:
        """Raise StackError where a service is no longer running."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StackError(f"{name} ended with status {process.returncode}; {self._where()}")

    def _where(self) -> str:
        return f"its log is in {self._log_folder}" if self._log_folder else "its log stands above"

    def stop(self) -> None:
        """Stop the inference service first, so that it can still hand over what it predicted."""
        for service in (self.inference, self.logging):
            process = self._processes.pop(service.name, None)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def unready_reason(service: LocalService) -> str | None:
    """Return why a service is not ready, None where it is."""
    try:
        answer = httpx.get(service.url + READY_PATH, timeout=5.0, trust_env=False)
    except httpx.TransportError:
        return "it does not answer"
    if answer.status_code == 200:
        return None
    body = answer.json()
    load = body.get("load") or {}
    return f"{body.get('reason')}{': ' + load['error'] if load.get('error') else ''}"
