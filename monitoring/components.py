"""Programs of the monitoring stack as child processes: found, started, waited for, stopped."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

HOST = "127.0.0.1"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class StackError(Exception):
    """A step failed; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A program that answers HTTP on a port of its own.

    `ready_path` answers 200 once it is ready. `port_option` names the option of the stack that
    sets the port.
    """

    name: str
    command: tuple[str, ...]
    port: int
    ready_path: str
    port_option: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def answers(self) -> bool:
        """Tell whether it is ready."""
        try:
            answer = httpx.get(self.url + self.ready_path, timeout=5.0, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200


def find_program(names: Sequence[str], remedy: str) -> str:
    """Return the path of the first program that is installed.

    Debian calls some programs otherwise than their makers do, and keeps servers where a user's
    PATH may not lead. Raises StackError with the remedy where there is none.
    """
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    for name in names:
        path = shutil.which(name, path=folders)
        if path is not None:
            return path
    raise StackError(f"{names[0]} is not installed; {remedy}")


def is_taken(port: int) -> bool:
    """Tell whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class RunningComponents:
    """Components as child processes, stopped in reverse order when the `with` block ends."""

    def __init__(self, log_folder: Path) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self._log_folder = log_folder
        self._processes: list[tuple[Component, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> "RunningComponents":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, component: Component) -> None:
        """Start a component; raises StackError where its port is taken."""
        if is_taken(component.port):
            raise StackError(
                f"port {component.port} of {component.name} is taken; stop what listens there"
                f" or choose another with {component.port_option}"
            )
        with self.log_of(component).open("wb") as log:
            # A session of its own: Ctrl-C reaches the caller alone, which stops all in order.
            process = subprocess.Popen(  # noqa: S603  # what is started is in this repository
                component.command,
                env={**os.environ, **component.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append((component, process))

    def wait_until_ready(self, *, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Return once all answer.

        Raises StackError where one ended, did not answer in time, or the wait was interrupted.
        """
        deadline = time.monotonic() + READY_SECONDS
        for component, _ in self._processes:
            while not component.answers():
                self.raise_if_ended()
                if interrupted():
                    raise StackError("stopped before everything was ready")
                if time.monotonic() > deadline:
                    raise StackError(
                        f"{component.name} does not answer; its log is {self.log_of(component)}"
                    )
                time.sleep(0.1)

    def raise_if_ended(self) -> None:
        """Raise StackError, with the end of its log, where a component no longer runs."""
        for component, process in self._processes:
            if process.poll() is not None:
                log = self.log_of(component)
                last = log.read_text(errors="replace").splitlines()[-5:]
                raise StackError(
                    f"{component.name} ended with status {process.returncode}; its log, {log}, "
                    "ends:\n" + "\n".join(last)
                )

    def stop(self) -> None:
        """Stop what still runs, the last started first; kill what does not end in time."""
        while self._processes:
            _, process = self._processes.pop()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log_of(self, component: Component) -> Path:
        """Return the file that a component writes its log to."""
        return self._log_folder / f"{component.name.lower()}.log"
