"""Probes a running service as the kubelet probes a container, and keeps its verdict.

Every probe is a new connection and ends by its time-out. Probes of one kind never overlap: a tick
that comes while one is under way is dropped, as by the kubelet's own ticker.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtests.kubelet.container import Container, describe_exit
from loadtests.kubelet.spec import ContainerProbes, HttpProbe
from loadtests.kubelet.verdict import ContainerVerdict, Report, Sample, Transition

# The kubelet reads no more of an answer's body than this.
_BODY_BYTES = 10 * 1024
_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Address:
    """Where the container's probe port is reached; `host` is a name or an IPv4 or IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, base_url: str) -> "Address":
        """Read it from an http URL; ValueError for any other."""
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"'{base_url}' is not an http URL")
        return cls(parts.hostname, parts.port or 80)


async def ask(probe: HttpProbe, address: Address, *, at: float) -> Sample:
    """Send one probe; `at` is its moment on the verdict's clock."""
    began = time.monotonic()
    status, detail = 0, ""
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            status, detail = await _get(probe, address)
    except TimeoutError:
        detail = "no answer in time"
    except OSError as error:
        detail = error.strerror or type(error).__name__
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        detail = f"no HTTP answer: {error}"
    return Sample(probe.kind, at, time.monotonic() - began, status, detail)


async def _get(probe: HttpProbe, address: Address) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_HEAD_BYTES)
    try:
        headers = "".join(f"{name}: {value}\r\n" for name, value in probe.headers)
        writer.write(
            f"GET {probe.path} HTTP/1.1\r\nHost: {address}\r\n"
            "User-Agent: kube-probe/driver\r\nAccept: */*\r\nConnection: close\r\n"
            f"{headers}\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        version, _, rest = head.partition(" ")
        code, _, reason = rest.partition("\r\n")[0].partition(" ")
        if not version.startswith("HTTP/") or not code.isdigit():
            raise ValueError(head.partition("\r\n")[0][:80])
        body = b""
        while len(body) < _BODY_BYTES and (chunk := await reader.read(_BODY_BYTES - len(body))):
            body += chunk
        text = body.decode("utf-8", "replace").strip()
        return int(code), text if int(code) >= 400 else reason
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Driver:
    """Plays the kubelet for one container until it is stopped.

    Probes go to `address`, or without one to the port of the manifest on this machine. `observed`
    is called with every transition as it happens.

    With a `container` the driver runs its process: it starts it, ends and restarts it after a
    verdict of restart, and restarts it when it has exited by itself. Without one the service runs
    elsewhere and cannot be restarted: after such a verdict it is probed as a container that has
    just been started again.
    """

    def __init__(
        self,
        probes: ContainerProbes,
        address: Address | None = None,
        *,
        container: Container | None = None,
        observed: Callable[[Transition], None] = lambda _: None,
    ) -> None:
        self._address = address
        self._probes = probes
        self._container = container
        self._observed = observed
        self._clock = time.monotonic
        self.verdict = ContainerVerdict(
            probes, started_at=self._clock(), exited=container is not None
        )
        self._changed = asyncio.Condition()

    async def run(self, seconds: float) -> Report:
        """Probe for `seconds`, end the container where there is one, and return what happened."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                    if self._container is not None:
                        tasks.create_task(self._keep_running(self._container))
                    for probe in self._probes.probes:
                        tasks.create_task(self._probe(probe))
        finally:
            if self._container is not None:
                await self._container.stop()
        return self.verdict.report()

    async def wait_for(self, condition: Callable[[Report], bool], *, seconds: float) -> Report:
        """Return the report as soon as a condition holds of it; AssertionError where it does not.

        To be awaited beside `run`.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(lambda: condition(self.verdict.report()))
            except TimeoutError:
                seen = "\n".join(map(str, self.verdict.transitions)) or "nothing"
                raise AssertionError(f"not within {seconds:g} s; it saw:\n{seen}") from None
        return self.verdict.report()

    def terminate(self) -> None:
        """Continue as with a pod that is being deleted."""
        self.verdict.terminate()

    async def _keep_running(self, container: Container) -> None:
        while not self.verdict.terminating:
            await container.start()
            self.verdict.container_started(self._clock())
            status = await container.wait()
            transitions = self.verdict.container_exited(self._clock(), describe_exit(status))
            await self._tell(transitions)

    async def _probe(self, probe: HttpProbe) -> None:
        address = self._address or Address("127.0.0.1", probe.port)
        tick = self._clock()
        while True:
            now = self._clock()
            if self.verdict.wants(probe.kind, now):
                await self._observe(await ask(probe, address, at=now))
            tick += probe.period_seconds
            while tick < self._clock():
                tick += probe.period_seconds
            await self._sleep_until(tick, probe)

    async def _sleep_until(self, tick: float, probe: HttpProbe) -> None:
        """Wait for the next tick; readiness is asked at once when the container has started."""
        was_started = self.verdict.started
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tick - self._clock()):
                    await self._changed.wait_for(
                        lambda: (
                            probe.kind == "readiness" and not was_started and self.verdict.started
                        )
                    )

    async def _observe(self, sample: Sample) -> None:
        transitions = self.verdict.observe(sample)
        await self._tell(transitions)
        killed = any(transition.event == "restart" for transition in transitions)
        if killed and self._container is not None:
            # The kubelet sends no probe to a container that it is ending.
            self.verdict.exited = True
            await self._container.stop()

    async def _tell(self, transitions: Sequence[Transition]) -> None:
        for transition in transitions:
            self._observed(transition)
        async with self._changed:
            self._changed.notify_all()
