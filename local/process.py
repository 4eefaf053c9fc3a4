"""Processes of this machine: started, waited for, measured and stopped, with all their children.

    with Server(command, port=port, log=folder / "server.log") as server:
        server.wait_until_ready("/ready")

`Process` is a program of any kind, `Server` one that answers HTTP, and `Servers` several of them
that are started in order and stopped in reverse.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self

import httpx
import psutil

from local import fetch

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 30.0

# What takes long is asked for less often: each answer takes processor time that others wait for.
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.01, 0.1
_KILL_SECONDS = 10.0
_TAIL_LINES = 40
# A process that was started here, and every child of it that leaves its session, carries this
# variable. A process inside another one has the marks of both.
_MARK = "LOCAL_PROCESS_MARKS"
# What a process needs of the caller's environment; everything else there may be a setting.
_INHERITED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "OPENBLAS_CORETYPE"),
)


class StepError(Exception):
    """A step failed, such as the start of a process; the message says which and what to do."""


@dataclass(frozen=True)
class Memory:
    """Memory of all processes in bytes: `pss` shares common pages out, `rss` counts them anew."""

    pss: int
    rss: int
    processes: int


class Process:
    """A program with all its children; leaving the `with` block stops them.

    The program gets a session of its own, so that Ctrl-C reaches the caller alone, which stops
    everything in order. It gets SIGTERM when the caller ends in any other way.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        append: bool = False,
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
    ) -> None:
        """Start a command in a directory.

        It writes to the descriptor `output`, or else to the file `log`, which `append` keeps, or
        else where the caller writes. `environment` is all that it gets, by default the caller's.
        """
        self.log_path = log
        self._mark = uuid.uuid4().hex
        marks = f"{os.environ.get(_MARK, '')} {self._mark}".strip()
        with contextlib.ExitStack() as stack:
            if output is None and log is not None:
                output = stack.enter_context(log.open("ab" if append else "wb")).fileno()
            self.started_at = time.perf_counter()
            self.process = subprocess.Popen(  # noqa: S603 - a command of the caller's, no shell
                [*_ended_with_this_thread(), *command],
                cwd=directory,
                env={**(os.environ if environment is None else environment), _MARK: marks},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The id of the first process."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the first process has not ended."""
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """All that it has written to its log file."""
        return self.log_path.read_text(errors="replace") if self.log_path else ""

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of its log, or where the log is."""
        if self.log_path is None:
            return "its log stands above"
        last = self.log.splitlines()[-lines:]
        return "\n".join([f"its log, {self.log_path}, ends:", *last])

    def processes(self) -> list[psutil.Process]:
        """Return every process of it that runs, those that have left its session as well."""
        found = {}
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self.pid)
            found = {one.pid: one for one in (first, *first.children(recursive=True))}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self._mark in process.environ().get(_MARK, ""):
                    found.setdefault(process.pid, process)
        return [process for process in found.values() if _runs(process)]

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

    def wait_until(
        self, condition: Callable[[], object], what: str, *, seconds: float = START_SECONDS
    ) -> None:
        """Return as soon as the condition holds.

        Raises StepError with the end of the log where it does not hold in time, or where the
        process ended.
        """

        def holds() -> object:
            if not self.is_running:
                status = self.process.returncode
                raise StepError(f"it ended with {status} before: {what}\n{self.tail()}")
            return condition()

        wait_until(holds, what, seconds=seconds, describe=self.tail)

    def terminate(self) -> None:
        """Ask the first process to end, as Kubernetes does, and do not wait for it."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Return the exit status of a process that is about to end.

        Raises StepError with the end of the log where it still runs after that time.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepError(f"it still runs after {seconds:g} s\n{self.tail()}") from None

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Ask the first process to end, kill what is left after that time, return its status.

        The status of a process that had to be killed is -9.
        """
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End all processes at once, as a power cut would."""
        ends = time.monotonic() + _KILL_SECONDS
        # The first process goes first: a supervisor would replace its killed workers.
        while (processes := self.processes()) and time.monotonic() < ends:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.wait()
            psutil.wait_procs(processes, timeout=_POLL_SECONDS)
        self.process.wait()


class Server(Process):
    """A process that answers HTTP on a port of this machine."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        name: str = "the server",
        log: Path | None = None,
        append: bool = False,
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; `name` is what errors call it. See `Process` for the others."""
        super().__init__(command, log=log, append=append, output=output, environment=environment)
        self.name = name
        self.port = port
        self.url = f"http://{HOST}:{port}"

    def wait_until_answers(
        self,
        path: str,
        *,
        seconds: float = START_SECONDS,
        report: Callable[[str], None] = lambda _: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> float:
        """Return how many seconds after the start the path was first answered with 200.

        `report` is given a line each time the reason why it is not changes. Raises StepError
        where the process ends, where there is no 200 in time, or where it was interrupted.
        """
        reported = ""
        while (reason := refusal(self.url + path)) is not None:
            self.raise_if_ended()
            if interrupted():
                raise StepError(f"stopped before {self.name} was ready")
            if time.perf_counter() - self.started_at > seconds:
                message = f"{self.name} has no 200 for {path} after {seconds:g} s: {reason}"
                raise StepError(f"{message}; {self.tail()}")
            if reason != reported:
                report(f"{self.name} is not ready yet: {reason}")
                reported = reason
            _pause(time.perf_counter() - self.started_at)
        return time.perf_counter() - self.started_at

    def raise_if_ended(self) -> None:
        """Raise StepError, with the end of its log, where it no longer runs."""
        if not self.is_running:
            status = self.process.returncode
            raise StepError(f"{self.name} ended with status {status}; {self.tail()}")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A server as it is to be started.

    `ready_path` answers 200 once it is ready. `port_setting` is what a user sets to give it
    another port. `environment` is added to the caller's.
    """

    name: str
    command: Sequence[str]
    port: int
    ready_path: str
    port_setting: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"


class Servers:
    """Programs that run side by side, stopped in reverse order when the `with` block ends."""

    def __init__(self, log_folder: Path | None, *, stop_seconds: float = STOP_SECONDS) -> None:
        """Each writes a log file in the folder; without one they write where the caller does."""
        if log_folder is not None:
            log_folder.mkdir(parents=True, exist_ok=True)
        self._log_folder = log_folder
        self._stop_seconds = stop_seconds
        self._running: list[tuple[Program, Server]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *programs: Program) -> None:
        """Start programs; raises StepError where the port of one is taken, before any starts."""
        for program in programs:
            if is_taken(program.port):
                raise StepError(
                    f"port {program.port} of {program.name} is taken; stop what listens there"
                    f" or choose another with {program.port_setting}"
                )
        for program in programs:
            server = Server(
                program.command,
                port=program.port,
                name=program.name,
                log=self._log_folder and self._log_folder / f"{program.name.lower()}.log",
                environment={**os.environ, **program.environment},
            )
            self._running.append((program, server))

    def wait_until_ready(
        self,
        *,
        seconds: float = START_SECONDS,
        report: Callable[[str], None] = lambda _: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return once all are ready; reports and raises as `Server.wait_until_answers` does."""
        for program, server in self._running:
            server.wait_until_answers(
                program.ready_path, seconds=seconds, report=report, interrupted=interrupted
            )
            report(f"{program.name} is ready at {program.url}")

    def raise_if_ended(self) -> None:
        """Raise StepError where one of them no longer runs."""
        for _, server in self._running:
            server.raise_if_ended()

    def stop(self) -> None:
        """Stop what still runs, the last started first; kill what does not end in time."""
        while self._running:
            _, server = self._running.pop()
            server.stop(seconds=self._stop_seconds)


def find_program(names: Sequence[str], remedy: str) -> str:
    """Return the path of the first of the programs that is installed.

    Some programs have another name on Debian, and some lie in folders that a user's PATH leaves
    out. Raises StepError with the remedy where none is there.
    """
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    for name in names:
        path = shutil.which(name, path=folders)
        if path is not None:
            return path
    raise StepError(f"{names[0]} is not installed; {remedy}")


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    return free_ports(1)[0]


def is_taken(port: int) -> bool:
    """Return whether something listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def clean_environment(**settings: str) -> dict[str, str]:
    """Return an environment in which nothing of the caller's is a setting, except these."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **settings}


def refusal(url: str) -> str | None:
    """Return why a URL is not answered with 200, None where it is."""
    try:
        answer = fetch.get(url, timeout=5.0)
    except httpx.TransportError:
        return "it does not answer"
    if answer.status_code == 200:
        return None
    try:
        body = answer.json()
        load = body.get("load") or {}
        return ": ".join(str(text) for text in (body["reason"], load.get("error")) if text)
    except (ValueError, KeyError, AttributeError):
        return f"it answers {answer.status_code}"


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    seconds: float = START_SECONDS,
    describe: Callable[[], str] = str,
) -> None:
    """Return as soon as the condition holds; a server that does not answer yet is no answer.

    Raises StepError with `describe()` where it did not hold in time.
    """
    began = time.monotonic()
    while True:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        waited = time.monotonic() - began
        if waited > seconds:
            raise StepError(f"not within {seconds:g} s: {what}\n{describe()}")
        _pause(waited)


def _pause(waited: float) -> None:
    """Sleep until a condition is looked at again that did not hold for `waited` seconds."""
    time.sleep(min(_POLL_SECONDS + waited / 20, _LONGEST_POLL_SECONDS))


def stop_on_signals() -> Callable[[], bool]:
    """Return a function that tells whether this process has been asked to end.

    From now on SIGINT, SIGTERM and SIGHUP ask for it; a second one raises KeyboardInterrupt. A
    closed terminal has to be handled here, since servers run in sessions of their own.
    """
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return asked.is_set


def _ended_with_this_thread() -> Sequence[str]:
    """Return the command before a command that gets SIGTERM when this process ends.

    The kernel sends the signal when the thread that started the process ends, so only the main
    thread may ask for it. See prctl(2), PR_SET_PDEATHSIG.
    """
    program = shutil.which("setpriv")
    if program is None or threading.current_thread() is not threading.main_thread():
        return ()
    return (program, "--pdeathsig", "TERM", "--")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
