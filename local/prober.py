"""Probes on a wall-clock schedule, from a process that does nothing else.

A prober that waits for an answer before it sends the next probe asks a stalled server less
often than a healthy one and so hides the stall (coordinated omission). Here every tick has its
intended time, is sent then whatever became of the probes before it, over a connection of its own
as the kubelet's are, and says how late it was sent. A tick that could not be sent before the next
one was due is reported as missed and not made up for.

    with probing([Schedule(url, interval_seconds=0.02, timeout_seconds=5)]) as answers:
        ...
    assert all(answer.status == 200 for answer in answers)

`probing` runs `python -m local.prober`, which reads a JSON list of schedules from the first line
of its standard input, writes an empty line when it begins and a JSON line for each answer, and ends
when that input is closed.
"""

import contextlib
import errno
import heapq
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Self
from urllib.parse import urlsplit

from local.process import ROOT

# select() takes microseconds where epoll takes whole milliseconds: a tick would be up to one late.
_Selector = selectors.SelectSelector
_READ_BYTES = 65_536
_IN_PROGRESS = (0, errno.EINPROGRESS)

MISSED = "missed"
TIMED_OUT = "timeout"


@dataclass(frozen=True)
class Schedule:
    """What is asked, how often and how patiently; `offset_seconds` puts off the first tick."""

    url: str
    interval_seconds: float
    timeout_seconds: float
    offset_seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"a probe goes to a pod over plain http://, not to '{self.url}'")
        if min(self.interval_seconds, self.timeout_seconds) <= 0 or self.offset_seconds < 0:
            raise ValueError(f"the probe of '{self.url}' has an interval or time-out of 0 or less")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    @property
    def request(self) -> bytes:
        """The request, as the kubelet sends it: one per connection."""
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {
            "Host": parts.netloc,
            "User-Agent": "kube-probe/loadtest",
            "Accept": "*/*",
            "Connection": "close",
            **self.headers,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one tick; times are in seconds.

    `intended` is Unix time, `delay` how much later the probe was sent: the prober's own lateness,
    never the server's. `latency` runs from sending to the whole answer. `status` is 0 where there
    was none, and `error` then says why.
    """

    schedule: int
    intended: float
    delay: float
    latency: float
    status: int
    error: str = ""


@dataclass(eq=False)
class _Probe:
    """One probe on its way."""

    schedule: int
    intended: float
    started: float
    deadline: float
    connection: socket.socket
    request: bytes
    received: bytearray = field(default_factory=bytearray)

    def __lt__(self, other: Self) -> bool:
        return self.deadline < other.deadline


class Prober:
    """Sends the probes of its schedules; `emit` is given each answer as it comes."""

    def __init__(self, schedules: Sequence[Schedule], emit: Callable[[Answer], None]) -> None:
        self._schedules = schedules
        self._requests = [schedule.request for schedule in schedules]
        # Resolving a name takes time that is no part of a probe.
        self._addresses = [_resolve(schedule.address) for schedule in schedules]
        self._emit = emit
        self._selector = _Selector()
        self._under_way: list[_Probe] = []
        self._unix_offset = time.time() - time.perf_counter()

    def run(self, *, seconds: float = float("inf"), until_closed: IO[bytes] | None = None) -> None:
        """Probe for that long, or until the stream has ended, then wait for the last answers."""
        if until_closed is not None:
            self._selector.register(until_closed, selectors.EVENT_READ)
        began = time.perf_counter()
        ends = began + seconds
        ticks = [
            (began + schedule.offset_seconds, index)
            for index, schedule in enumerate(self._schedules)
        ]
        heapq.heapify(ticks)
        while ticks or self._under_way:
            now = time.perf_counter()
            while ticks and ticks[0][0] <= now:
                tick, index = heapq.heappop(ticks)
                heapq.heappush(ticks, (self._tick(index, tick, now), index))
            self._expire(now)
            if now >= ends:
                ticks.clear()
            if self._wait(ticks[0][0] if ticks else None, ends):
                ends = now
                ticks.clear()
        self._selector.close()

    def _tick(self, index: int, tick: float, now: float) -> float:
        """Send the probe that is due, report those that were missed, return the next tick."""
        interval = self._schedules[index].interval_seconds
        while now - tick >= interval:
            self._report(index, tick, delay=now - tick, latency=0.0, status=0, error=MISSED)
            tick += interval
        self._send(index, tick)
        return tick + interval

    def _send(self, index: int, tick: float) -> None:
        family, address = self._addresses[index]
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        started = time.perf_counter()
        code = connection.connect_ex(address)
        deadline = started + self._schedules[index].timeout_seconds
        probe = _Probe(index, tick, started, deadline, connection, self._requests[index])
        heapq.heappush(self._under_way, probe)
        if code not in _IN_PROGRESS:
            self._finish(probe, error=os.strerror(code))
        else:
            self._selector.register(connection, selectors.EVENT_WRITE, probe)

    def _wait(self, next_tick: float | None, ends: float) -> bool:
        """Serve sockets until something is due; return whether the stream was closed."""
        due = [moment for moment in (next_tick, ends) if moment is not None]
        if self._under_way:
            due.append(self._under_way[0].deadline)
        timeout = max(0.0, min(due) - time.perf_counter())
        for key, _ in self._selector.select(None if timeout == float("inf") else timeout):
            probe = key.data
            if probe is None:
                self._selector.unregister(key.fileobj)
                return True
            try:
                self._advance(probe)
            except OSError as error:
                self._finish(probe, error=error.strerror or type(error).__name__)
        return False

    def _advance(self, probe: _Probe) -> None:
        if probe.request:
            sent = probe.connection.send(probe.request)
            probe.request = probe.request[sent:]
            if not probe.request:
                self._selector.modify(probe.connection, selectors.EVENT_READ, probe)
            return
        with contextlib.suppress(BlockingIOError):
            chunk = probe.connection.recv(_READ_BYTES)
            probe.received += chunk
            if not chunk or _is_whole(probe.received):
                status = _status(probe.received)
                self._finish(probe, status=status, error="" if status else "no HTTP answer")

    def _expire(self, now: float) -> None:
        while self._under_way and self._under_way[0].deadline <= now:
            self._finish(self._under_way[0], error=TIMED_OUT)

    def _finish(self, probe: _Probe, *, status: int = 0, error: str = "") -> None:
        ended = time.perf_counter()
        self._under_way.remove(probe)
        heapq.heapify(self._under_way)
        with contextlib.suppress(KeyError):  # refused at once, it was never registered
            self._selector.unregister(probe.connection)
        probe.connection.close()
        self._report(
            probe.schedule,
            probe.intended,
            delay=probe.started - probe.intended,
            latency=ended - probe.started,
            status=status,
            error=error,
        )

    def _report(
        self, schedule: int, tick: float, *, delay: float, latency: float, status: int, error: str
    ) -> None:
        self._emit(Answer(schedule, tick + self._unix_offset, delay, latency, status, error))


def _resolve(address: tuple[str, int]) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family, _, _, _, resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    return family, (str(resolved[0]), int(resolved[1]))


def _is_whole(received: bytearray) -> bool:
    """Tell whether the announced body is there; without a length the end of the stream counts."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def _status(received: bytearray) -> int:
    first = bytes(received[:64]).split(b"\r\n", 1)[0].split(b" ")
    if len(first) < 2 or not first[0].startswith(b"HTTP/") or not first[1].isdigit():
        return 0
    return int(first[1])


class ProberProcess:
    """A prober in a process of its own, from now until `stop`.

    It ends with this process as well, since its input is then closed.
    """

    def __init__(self, schedules: Iterable[Schedule], output: IO[bytes] | None = None) -> None:
        """Start it; it writes to the file `output`, or to a pipe that `answers` reads."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local.prober"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output or subprocess.PIPE,
        )
        content = json.dumps([asdict(schedule) for schedule in schedules])
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(content.encode() + b"\n")
        self._process.stdin.flush()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def answers(self) -> Iterator[Answer]:
        """Yield the answers as they come, until it has ended."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        return _decode(self._process.stdout)

    def wait_until_begun(self, output: IO[bytes], *, seconds: float = 30.0) -> None:
        """Return once it probes, or has ended; `output` is the file that it writes to."""
        ends = time.monotonic() + seconds
        while self.is_running and time.monotonic() < ends:
            if os.fstat(output.fileno()).st_size:
                return
            time.sleep(0.005)

    def close(self) -> None:
        """Let it send no further probe; it ends once those under way are answered or timed out."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self, *, seconds: float) -> None:
        """Close it, and kill it where it still runs after that time."""
        self.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def probing(schedules: Sequence[Schedule]) -> Iterator[list[Answer]]:
    """Probe while the block runs; the list has the answers once the block has ended."""
    answers: list[Answer] = []
    # A file, not a pipe: nobody reads meanwhile, and a full pipe would hold up the prober.
    with tempfile.TemporaryFile() as output:
        prober = ProberProcess(schedules, output)
        try:
            prober.wait_until_begun(output)
            yield answers
        finally:
            prober.stop(seconds=2 * max(schedule.timeout_seconds for schedule in schedules))
        output.seek(0)
        answers += _decode(output)


def _decode(lines: Iterable[bytes]) -> Iterator[Answer]:
    return (Answer(*json.loads(line)) for line in lines if line.strip())


def main() -> int:
    """Probe as the standard input says until it is closed; return the exit status."""
    schedules = [Schedule(**one) for one in json.loads(sys.stdin.buffer.readline())]

    def emit(answer: Answer) -> None:
        fields = (answer.schedule, answer.intended, answer.delay, answer.latency)
        print(json.dumps([*fields, answer.status, answer.error]), flush=True)

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        prober = Prober(schedules, emit)
        print(flush=True)
        prober.run(until_closed=sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
