"""What runs beside BentoML in the process of `bentoml serve`, before and behind the workers.

It makes the directory that the pod's processes share, keeps the probe process running, and sees
what nobody inside a container sees: that no worker is left, or that liveness fails. It then says
so where `kubectl describe pod` shows it, and makes the container end with a status that is not 0.
"""

import atexit
import contextlib
import logging
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from bentos.health.checks import Verdict
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger
from bentos.process.probe_process import ProbePlan, ProbeProcess

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
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves its parent's files alone
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory


def pod_directory(service: str) -> Path:
    """Return the directory that the parent made, or one of its own for a lone process."""
    directory = _directory(service, os.getppid())
    if directory.is_dir() and directory.stat().st_uid == os.getuid():
        return directory
    return make_pod_directory(service)


def _directory(service: str, process: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{service}-{os.getuid()}-{process}"


def raise_descriptor_limit() -> None:
    """Let this process and its children have as many open files as the system allows.

    Every connection takes one, and with none left not even a probe is accepted.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Supervisor:
    """Looks after the probe process and the workers, from a thread."""

    def __init__(
        self,
        plan: ProbePlan,
        *,
        containerized: bool = bool(os.environ.get("BENTOML_CONTAINERIZED")),
        termination_message: Path = TERMINATION_MESSAGE,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._containerized = containerized
        self._termination_message = termination_message
        self._end = end or _end_container
        self._probe_process = ProbeProcess(plan) if plan.port else None
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        # A reader of the pod's memory: it owns no row.
        self._probes = plan.probes(worker=-1)
        self._failure = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the probe process and begin to look after it and the workers."""
        if self._probe_process is not None:
            self._probe_process.start()
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the probe process, and this one with status 1 where liveness failed."""
        self._stopping.set()
        self._thread.join()
        if self._probe_process is not None:
            self._probe_process.stop()
        if self._failure and self._containerized:
            self._end(self._failure)

    def _run(self) -> None:
        restart_in = 0.0
        while not self._stopping.wait(restart_in or _LOOK_SECONDS):
            restart_in = self._keep_probe_process(restart=restart_in > 0)
            self._look_at_workers()

    def _keep_probe_process(self, *, restart: bool) -> float:
        """Start the probe process again where it ended; return the seconds to wait before that."""
        process = self._probe_process
        if process is None:
            return 0.0
        try:
            if restart:
                process.stop()
                process.start()
            status = process.ended()
        except OSError as error:
            event(_logger, logging.ERROR, f"the probe process cannot be started: {error}")
            return self._backoff.next()
        if status is None:
            if self._probes.state.pod.probe_process.alive:
                self._backoff.reset()
            return 0.0
        pause = self._backoff.next()
        fields = {"status": status, "restart_in_seconds": pause, "port": self._plan.port}
        event(_logger, logging.ERROR, "the probe process ended", fields)
        return pause

    def _look_at_workers(self) -> None:
        pod = self._probes.state.pod
        claimed = [row for row in pod.workers if row.claimed]
        if self._containerized and claimed and not pod.live_workers():
            if not any(row.get("shutting_down") for row in claimed):
                self._fail(Verdict(("worker_dead",)), "no worker is left")
                self._end(self._failure)
            return
        verdict = self._probes.live()
        if not verdict.passed:
            self._fail(verdict, "the liveness probe fails")
        elif self._failure:
            self._failure = ""

    def _fail(self, verdict: Verdict, what: str) -> None:
        """Write down why the container is about to end, once for each reason."""
        details = "".join(f", {name} {value}" for name, value in verdict.details.items())
        message = f"{what}: {verdict.reason}{details}"
        if self._failure.partition(",")[0] == message.partition(",")[0]:
            return
        self._failure = message
        event(_logger, logging.CRITICAL, message)
        with contextlib.suppress(OSError):
            if self._termination_message.exists():
                service = self._plan.arguments["service"]
                self._termination_message.write_text(f"{service}: {message}\n")


def _end_container(_: str) -> None:
    """End this process and all its children at once, with a status that is not 0."""
    logging.shutdown()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.send_signal(signal.SIGKILL)
    os._exit(1)
