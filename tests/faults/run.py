"""A run: each fault for as long as it takes to be told, and what both probes said all the while."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from local.process import StepError
from tests.chaos.clients import Answers, Clients
from tests.faults.faults import Fault, Service
from tests.faults.world import INPUTS, FaultWorld
from tests.monitoring.live_alerts import Alerting
from tests.support.servers import wait_until

CLIENTS = 8
TOLD_SECONDS = 15.0
RECOVERED_SECONDS = 30.0

_PATHS = ("/health", "/ready")
_LOOK_SECONDS = 0.1
_ALERT_SECONDS = 45.0
# A fault that nobody has to tell of is there for this long.
_QUIET_SECONDS = 12.0
# Good for as long as this, all is well again.
_CALM_SECONDS = 3.0
_GIVE_UP_SECONDS = 150.0
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Said:
    """What a probe said, from a moment on, in monotonic seconds."""

    moment: float
    service: str
    path: str
    status: int
    reason: str


@dataclass
class Row:
    """One line of the table; seconds are None where it did not happen."""

    fault: Fault
    reason: str = ""
    told: float | None = None
    unhealthy: str = ""
    unhealthy_after: float | None = None
    alerts: frozenset[str] = frozenset()
    recovered: float | None = None
    restarted: tuple[str, ...] = ()
    answers: Answers = field(default_factory=Answers)
    wrong: list[str] = field(default_factory=list)


class Watch:
    """Asks the probe processes of both services all the time, from a thread."""

    def __init__(self, world: FaultWorld, alerts: Alerting | None) -> None:
        self.said: list[Said] = []
        self.firing: set[str] = set()
        self._world = world
        self._alerts = alerts
        self._latest: dict[tuple[str, str], Said] = {}
        self._bad_at = time.monotonic()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._probe, self._alert)
        ]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def calm_for(self) -> float:
        """For how many seconds every probe has been answered with 200."""
        return time.monotonic() - self._bad_at

    @property
    def bad_at(self) -> float:
        """When a probe last was anything else."""
        return self._bad_at

    def first(self, service: str, path: str, *, after: float) -> Said | None:
        """Return what a probe said first that was no 200, from a moment on."""
        for one in list(self.said):
            asked = (one.service, one.path) == (service, path)
            if asked and one.moment >= after and one.status != 200:
                return one
        return None

    def _probe(self) -> None:
        with httpx.Client(timeout=3.0, trust_env=False) as http:
            while not self._stop.wait(_LOOK_SECONDS):
                for service, url in self._world.probe_urls.items():
                    for path in _PATHS:
                        self._note(service, path, *_ask(http, url + path))

    def _note(self, service: str, path: str, status: int, reason: str) -> None:
        now = time.monotonic()
        if status != 200:
            self._bad_at = now
        before = self._latest.get((service, path))
        if before is None or (before.status, before.reason) != (status, reason):
            said = Said(now, service, path, status, reason)
            self._latest[service, path] = said
            self.said.append(said)

    def _alert(self) -> None:
        while self._alerts is not None and not self._stop.wait(0.5):
            with suppress(httpx.HTTPError, ValueError, KeyError):
                self.firing |= self._alerts.firing()


def _ask(http: httpx.Client, url: str) -> tuple[int, str]:
    try:
        answer = http.get(url)
        return answer.status_code, str(answer.json().get("reason") or "")
    except (httpx.HTTPError, ValueError):
        return 0, NO_ANSWER


def run(
    world: FaultWorld,
    alerts: Alerting | None,
    faults: Sequence[Fault],
    *,
    report: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Inject each fault while clients predict; `report` gets each row.

    Without `alerts` none has to fire.
    """
    rows = []
    clocks = False
    for fault in faults:
        if fault.clocks and not clocks:
            world.with_clocks()
            clocks = True
        row = _inject(world, alerts, fault)
        rows.append(row)
        report(row)
    return rows


def _inject(world: FaultWorld, alerts: Alerting | None, fault: Fault) -> Row:
    row = Row(fault)
    expected = frozenset(fault.alerts) if alerts is not None else frozenset()
    if alerts is not None:
        with suppress(StepError):  # one that lingers is not counted again
            wait_until(lambda: not expected & alerts.firing(), "no alert lingers", seconds=90.0)
    before = world.processes()
    lingering = alerts.firing() if alerts is not None else set()
    with (
        Watch(world, alerts) as watch,
        Clients(world.inference.url, count=CLIENTS, inputs=INPUTS) as clients,
    ):
        row.answers = clients.answers
        with suppress(StepError):
            wait_until(lambda: watch.calm_for > 1.0, "all is well", seconds=60.0)
        watch.said.clear()
        began = time.monotonic()
        with fault.inject(world):
            _wait_until_told(watch, fault, began, expected)
        ended = time.monotonic()
        with suppress(StepError):
            wait_until(
                lambda: watch.calm_for > _CALM_SECONDS,
                "all is well again",
                seconds=_GIVE_UP_SECONDS,
            )
            row.recovered = max(0.0, watch.bad_at - ended)
    row.alerts = frozenset(watch.firing - lingering)
    _record(row, watch, began, ended)
    after = world.processes()
    row.restarted = tuple(what for what, pids in before.items() if pids != after[what])
    _judge(row, watch, began, expected)
    return row


def _wait_until_told(watch: Watch, fault: Fault, began: float, expected: frozenset[str]) -> None:
    def told() -> bool:
        if not fault.reasons or fault.brief:
            return time.monotonic() - began > _QUIET_SECONDS
        return watch.first(fault.service, "/ready", after=began) is not None

    def alerted() -> bool:
        return not expected or bool(expected & watch.firing)

    with suppress(StepError):
        wait_until(told, f"{fault.name} is told", seconds=2 * TOLD_SECONDS)
        wait_until(alerted, f"{expected} fire", seconds=_ALERT_SECONDS)


def _record(row: Row, watch: Watch, began: float, ended: float) -> None:
    service = row.fault.service
    said = watch.first(service, "/ready", after=began)
    if said is not None:
        row.reason, row.told = said.reason, said.moment - began
    said = watch.first(service, "/health", after=began)
    if said is not None:
        row.unhealthy, row.unhealthy_after = said.reason, said.moment - began


def _judge(row: Row, watch: Watch, began: float, expected: frozenset[str]) -> None:
    fault = row.fault
    if fault.reasons and row.told is None and not fault.brief:
        row.wrong.append("not told")
    elif row.told is not None and row.told > TOLD_SECONDS:
        row.wrong.append(f"told after {row.told:.0f} s")
    if row.told is not None and row.reason not in fault.reasons:
        row.wrong.append(f"unready: {row.reason}")
    if row.unhealthy and not fault.unhealthy:
        row.wrong.append(f"unhealthy: {row.unhealthy}")
    if row.recovered is None:
        row.wrong.append("not ready again")
    elif row.recovered > RECOVERED_SECONDS:
        row.wrong.append(f"ready again after {row.recovered:.0f} s")
    if expected and not expected & row.alerts:
        row.wrong.append("no alert")
    if without_need := set(row.restarted) - fault.restarts:
        row.wrong.append(f"started again: {', '.join(sorted(without_need))}")
    failed = row.answers.refused.total() + row.answers.unanswered
    if fault.answers and failed:
        row.wrong.append(f"{failed} requests not answered with 200")
    other: Service = "logging" if fault.service == "inference" else "inference"
    if (said := watch.first(other, "/ready", after=began)) is not None:
        row.wrong.append(f"the {other} service unready as well: {said.reason}")
