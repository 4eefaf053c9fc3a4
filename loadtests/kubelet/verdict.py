"""What the kubelet concludes from a container's answers: a state machine without clock or network.

After pkg/kubelet/prober of Kubernetes: a result takes effect once it came as often in a row as its
threshold says. Until the startup probe has succeeded, the other two are not sent. A failed startup
or liveness probe restarts the container, and so does its exit; then everything begins anew.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtests.kubelet.spec import KINDS, ContainerProbes, HttpProbe
from monitoring.timings import ProbeKind

Event = Literal["started", "ready", "unready", "restart"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One probe that was sent: when, in seconds of any clock, and what came of it.

    `status` is 0 where there was no answer; `detail` then says why.
    """

    kind: ProbeKind
    at: float
    latency: float
    status: int
    detail: str = ""


@dataclass(frozen=True)
class Transition:
    """A moment at which the kubelet changes what it thinks of the container, and why."""

    at: float
    event: Event
    why: str

    def __str__(self) -> str:
        return f"{self.at:8.2f} s  {self.event:<8} {self.why}"


@dataclass(frozen=True)
class Report:
    """What happened to a container; times are in seconds since it was first started.

    `ready_after` is None where it never was ready. `unready` counts how often a probe ended that,
    `restarts` how often the kubelet restarted it, for a probe or because it had exited.
    """

    started_after: float | None
    ready_after: float | None
    unready: int
    restarts: int
    ready: bool
    probes: dict[ProbeKind, int]
    failures: dict[ProbeKind, int]
    transitions: tuple[Transition, ...]


@dataclass
class _Run:
    """The last result of a probe and how often it came in a row."""

    success: bool | None = None
    length: int = 0

    def add(self, success: bool) -> int:
        self.length = self.length + 1 if success == self.success else 1
        self.success = success
        return self.length


def succeeded(probe: HttpProbe, sample: Sample) -> bool:
    """Tell whether the kubelet takes an answer for a success: 200 to 399, in time."""
    return 200 <= sample.status < 400 and sample.latency <= probe.timeout_seconds


@dataclass
class ContainerVerdict:
    """The kubelet's opinion of one container, after each answer that it was given.

    `started_at` is the moment at which the container was started. One that is `running` has
    passed its startup probe already and is ready, as before a load test. One that has `exited` is
    not probed until `container_started`.
    """

    probes: ContainerProbes
    started_at: float = 0.0
    running: bool = False
    exited: bool = False
    terminating: bool = False
    ready: bool = field(init=False, default=False)
    started: bool = field(init=False, default=False)
    restarts: int = field(init=False, default=0)
    transitions: list[Transition] = field(init=False, default_factory=list)
    _container_started_at: float = field(init=False, default=0.0)
    _killed: bool = field(init=False, default=False)
    _runs: dict[ProbeKind, _Run] = field(init=False, default_factory=dict)
    _asked: dict[ProbeKind, int] = field(init=False, default_factory=dict)
    _failed: dict[ProbeKind, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._asked = dict.fromkeys(KINDS, 0)
        self._failed = dict.fromkeys(KINDS, 0)
        self._begin(self.started_at)
        if self.running:
            self.started = self.ready = True

    def wants(self, kind: ProbeKind, at: float) -> bool:
        """Tell whether the kubelet would send a probe of this kind at this moment."""
        probe = self.probes.probe(kind)
        if probe is None or self.exited:
            return False
        if at - self._container_started_at < probe.initial_delay_seconds:
            return False
        if kind == "startup":
            return not self.started and not self.terminating
        # A pod that is being deleted is still asked whether it is ready, but not killed twice.
        return self.started and not (kind == "liveness" and self.terminating)

    def observe(self, sample: Sample) -> list[Transition]:
        """Take an answer and return what changed by it.

        An answer to a probe that the kubelet would not have sent changes nothing. ValueError
        where the container has no such probe.
        """
        probe = self.probes.probe(sample.kind)
        if probe is None:
            raise ValueError(f"{self.probes.container} has no {sample.kind} probe")
        if not self.wants(sample.kind, sample.at):
            return []
        success = succeeded(probe, sample)
        self._asked[sample.kind] += 1
        self._failed[sample.kind] += not success
        threshold = probe.success_threshold if success else probe.failure_threshold
        if self._runs[sample.kind].add(success) < threshold:
            return []
        before = len(self.transitions)
        answered_at = sample.at + min(sample.latency, probe.timeout_seconds)
        self._conclude(sample.kind, success, answered_at, _why(probe, sample))
        return self.transitions[before:]

    def container_started(self, at: float) -> None:
        """Take note that the container's process runs from now on."""
        self.exited = False
        self._begin(at)

    def container_exited(self, at: float, why: str) -> list[Transition]:
        """Take note that the container's process has ended, and return what changed by it.

        That is a restart, unless the kubelet itself ended the process, which is counted already.
        """
        self.exited = True
        self.started = self.ready = False
        if self._killed or self.terminating:
            return []
        self.restarts += 1
        self._note(at, "restart", f"the container exited by itself: {why}")
        return self.transitions[-1:]

    def terminate(self) -> None:
        """Begin the pod's deletion: its container is no longer asked whether it lives."""
        self.terminating = True

    def report(self) -> Report:
        """Return what happened so far."""
        return Report(
            started_after=self._first("started"),
            ready_after=self._first("ready"),
            unready=self._count("unready"),
            restarts=self._count("restart"),
            ready=self.ready,
            probes=dict(self._asked),
            failures=dict(self._failed),
            transitions=tuple(self.transitions),
        )

    def _begin(self, at: float) -> None:
        self._container_started_at = at
        self._killed = False
        self._runs = {kind: _Run() for kind in KINDS}
        self.started = self.probes.startup is None
        self.ready = self.started and self.probes.readiness is None

    def _conclude(self, kind: ProbeKind, success: bool, at: float, why: str) -> None:
        if kind == "readiness":
            if success != self.ready:
                self.ready = success
                self._note(at, "ready" if success else "unready", why)
        elif not success:
            self.restarts += 1
            self._note(at, "restart", why)
            self._begin(at)
            self._killed = True
        elif kind == "startup":
            self.started = True
            self._note(at, "started", why)
            if self.probes.readiness is None:
                self.ready = True
                self._note(at, "ready", "there is no readiness probe")

    def _note(self, at: float, event: Event, why: str) -> None:
        self.transitions.append(Transition(at - self.started_at, event, why))

    def _first(self, event: Event) -> float | None:
        return next((entry.at for entry in self.transitions if entry.event == event), None)

    def _count(self, event: Event) -> int:
        return sum(entry.event == event for entry in self.transitions)


def _why(probe: HttpProbe, sample: Sample) -> str:
    asked = f"{probe.kind} probe {probe.path}"
    if sample.status and sample.latency <= probe.timeout_seconds:
        return f"{asked}: {sample.status} {sample.detail}".rstrip()
    if sample.latency >= probe.timeout_seconds:
        return f"{asked}: no answer within {probe.timeout_seconds:g} s"
    return f"{asked}: {sample.detail or 'no answer'}"


def replay(
    probes: ContainerProbes,
    samples: Iterable[Sample],
    *,
    started_at: float = 0.0,
    running: bool = False,
) -> Report:
    """Judge probes that were recorded at the manifest's own cadence, in the order of time."""
    verdict = ContainerVerdict(probes, started_at=started_at, running=running)
    for sample in sorted(samples, key=lambda sample: sample.at):
        verdict.observe(sample)
    return verdict.report()


def worst_replay(probes: ContainerProbes, kind: ProbeKind, samples: Iterable[Sample]) -> Report:
    """Judge samples of one kind that are denser than its period, whatever moment ticks fall on.

    The kubelet's ticks may come at any phase of a stall: each phase that the samples allow is
    replayed over a running container, and the report with the most restarts, then the most
    unready times, is returned. Raises ValueError for no samples.
    """
    dense = sorted(samples, key=lambda sample: sample.at)
    probe = probes.probe(kind)
    if not dense or probe is None:
        raise ValueError(f"no samples of a {kind} probe to replay")
    alone = ContainerProbes(
        container=probes.container,
        readiness=probe if kind == "readiness" else None,
        liveness=probe if kind == "liveness" else None,
        startup=probe if kind == "startup" else None,
    )
    began = dense[0].at
    phases = [sample.at for sample in dense if sample.at - began < probe.period_seconds]
    reports = [
        replay(
            alone,
            _ticks(dense, first, probe.period_seconds),
            started_at=began,
            running=kind != "startup",
        )
        for first in phases
    ]
    return max(reports, key=lambda report: (report.restarts, report.unready))


def _ticks(dense: Sequence[Sample], first: float, period: float) -> list[Sample]:
    """Pick for every tick the first sample that was sent at or after it."""
    picked: list[Sample] = []
    tick = first
    for sample in dense:
        if sample.at >= tick:
            picked.append(sample)
            while tick <= sample.at:
                tick += period
    return picked
