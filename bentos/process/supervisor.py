"""What runs beside BentoML in the process of `bentoml serve`, before and behind the workers.

It makes the directory that the pod's processes share, keeps the probe process running, and
notices when no worker is left or liveness fails. It then writes the reason where
`kubectl describe pod` shows it, and makes the container end with a status that is not 0.
"""

import atexit
import contextlib
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from bentos.health.checks import Verdict
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger
from bentos.process.probe_process import PROBE_PROCESS_VARIABLE, ProbePlan, ProbeProcess

# Where Kubernetes reads why a container ended, unless its manifest names another file.
TERMINATION_MESSAGE = Path("/dev/termination-log")

_LOOK_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0

_logger = get_logger("supervisor")


def make_pod_directory(service: str) -> Path:
    """Make the pod's directory and remove it when this process ends.

    It is named for this process, which its workers know as their parent: a second service on the
    host, or the next start of the container, has one of its own.
    """
    directory = _directory(service, os.getpid())
    shutil.rmtree(directory, ignore_errors=True)  # of a process that had the same id and was killed
    directory.mkdir(mode=0o700)
    atexit.register(remove_own_directory, directory)
    return directory


def remove_own_directory(directory: Path) -> None:
    """Remove a pod's directory where this process made it: a child leaves its parent's alone."""
    if directory.name.endswith(f"-{os.getpid()}"):
        shutil.rmtree(directory, ignore_errors=True)


def pod_directory(service: str) -> Path:
    """Return the directory that the parent made, or one of its own for a lone process.

    The probe process may come here as well, where the module that declares the state makes a kit:
    it must not take a worker's place in its parent's pod.
    """
    directory = _directory(service, os.getppid())
    lone = PROBE_PROCESS_VARIABLE in os.environ
    if not lone and directory.is_dir() and directory.stat().st_uid == os.getuid():
        return directory
    return make_pod_directory(service)


def _directory(service: str, process: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{service}-{os.getuid()}-{process}"


def raise_descriptor_limit() -> int:
    """Let this process and its children open as many files as the system allows; return how many.

    Every connection takes one, and with none left not even a probe is accepted.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit != resource.RLIM_INFINITY else sys.maxsize


class Supervisor:
    """Looks after the probe process and the workers, from a thread."""

    def __init__(
        self,
        plan: ProbePlan,
        *,
        containerized: bool = bool(os.environ.get("BENTOML_CONTAINERIZED")),
        termination_message: Path = TERMINATION_MESSAGE,
    ) -> None:
        self._plan = plan
        self._containerized = containerized
        self._termination_message = termination_message
        self._probe_process = ProbeProcess(plan) if plan.port else None
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        # A reader of the pod's memory: it owns no row.
        self._probes = plan.probes(worker=-1)
        self._restart_at: float | None = None
        self._failure = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the probe process and begin to look after it and the workers."""
        self._start_probe_process()
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the probe process, and this one with status 1 where liveness failed."""
        self._stopping.set()
        self._thread.join()
        if self._probe_process is not None:
            self._probe_process.stop()
        if self._failure and self._containerized:
            _end_container()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            if self._restart_at is None:
                self._look_at_probe_process()
            elif time.monotonic() >= self._restart_at:
                self._start_probe_process()
            self._look_at_workers()

    def _start_probe_process(self) -> None:
        self._restart_at = None
        if self._probe_process is None:
            return
        try:
            self._probe_process.stop()
            self._probe_process.start()
        except OSError as error:
            self._restart_later("the probe process cannot be started", error=str(error))

    def _look_at_probe_process(self) -> None:
        """Let the probe process be started again where it ended."""
        status = self._probe_process.ended() if self._probe_process is not None else None
        if status is not None:
            self._restart_later("the probe process ended", status=status)
        elif self._probes.state.probe_process == "running":
            self._backoff.reset()

    def _restart_later(self, what: str, **fields: object) -> None:
        pause = self._backoff.next()
        self._restart_at = time.monotonic() + pause
        fields |= {"restart_in_seconds": pause, "port": self._plan.port}
        event(_logger, logging.ERROR, what, fields)

    def _look_at_workers(self) -> None:
        pod = self._probes.state.pod
        claimed = [row for row in pod.workers if row.claimed]
        if self._containerized and claimed and not pod.live_workers():
            if not any(row.get("shutting_down") for row in claimed):
                self._fail(Verdict(("worker_dead",)), "no worker is left")
                _end_container()
            return
        verdict = self._probes.live()
        if not verdict.passed:
            self._fail(verdict, "the liveness probe fails")
        elif self._failure:
            self._failure = ""
            self._write("")

    def _fail(self, verdict: Verdict, what: str) -> None:
        """Write down why the container is about to end, once for each reason."""
        details = "".join(f", {name} {value}" for name, value in verdict.details.items())
        message = f"{what}: {verdict.reason}{details}"
        if self._failure.partition(",")[0] == message.partition(",")[0]:
            return
        self._failure = message
        event(_logger, logging.CRITICAL, message)
        self._write(f"{self._plan.arguments['service']}: {message}\n")

    def _write(self, message: str) -> None:
        with contextlib.suppress(OSError):
            if self._termination_message.exists():
                self._termination_message.write_text(message)


def _end_container() -> None:
    """End this process and all its children at once, with a status that is not 0."""
    logging.shutdown()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.send_signal(signal.SIGKILL)
    os._exit(1)
