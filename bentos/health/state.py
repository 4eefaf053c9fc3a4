"""What a service knows of itself, declared once: each value and the metric that shows it.

A service derives a class from `ServiceState` and declares its values as class attributes::

    class CacheState(ServiceState):
        prefix = "cache"
        hits = Counter("{prefix}_hits_total", "Look-ups that were answered.")
        warm = Gauge("{prefix}_warm", "Whether the cache is filled.", across="all")

    state = CacheState(directory, service="my-service")
    state.hits.add()
    state.warm.set(1)

The values live in the pod's shared memory, so `/ready` and `/metrics` are the same whichever
process of the pod answers.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain, product
from pathlib import Path
from typing import Any, ClassVar, Literal

from bentos.health.pod import TEXT_BYTES, Clock, Layout, PodMemory, Row, encode_text
from bentos.health.values import (
    EXEMPLARS,
    NAMES,
    OTHER,
    Computed,
    Counter,
    Family,
    Gauge,
    Histogram,
    Value,
    computed,
)
from bentos.health.window import WINDOW_SECONDS, Outcomes, sum_outcomes

_NAME_CHARACTERS = 100
# Of a row's text: the names of places in histograms together, and each section.
_NAMES_BYTES = TEXT_BYTES // 4
MAX_SECTION_BYTES = TEXT_BYTES // 8
# A bucket's exemplar is replaced when it is older: every change writes the row's whole text.
_EXEMPLAR_SECONDS = 1.0
PROBES = ("health", "ready", "metrics")
_STATUSES = (
    *("200", "400", "401", "404", "405", "408", "409", "413", "415", "422", "429"),
    *("500", "503", "504"),
)
SHORT_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


def _routes_and_statuses(owner: "type[ServiceState]") -> list[tuple[str, str]]:
    routes = (*owner.routes, *(f"/{probe}" for probe in PROBES), OTHER)
    return [*product(routes, (*_STATUSES, OTHER))]


class ServiceState:
    """The one state object that a service owns: counters, gauges, the window of outcomes.

    `worker` is the place of the calling process: 1 the first of `workers`, 0 the pod's probe
    process, -1 one that only reads. `labels` are the values of `label_names` beside `service`;
    `probe_port` is 0 where the pod has no probe process.
    """

    prefix: ClassVar[str] = "service"
    label_names: ClassVar[tuple[str, ...]] = ("service",)
    routes: ClassVar[tuple[str, ...]] = ()
    # Requests turned away, by `reason`: declared by a service that counts them.
    rejected: Counter

    probe_duration = Histogram(
        "probe_duration_seconds",
        "Time to answer a probe or a scrape, by the status it was answered with.",
        buckets=SHORT_BUCKETS,
        labels=("probe", "status"),
        values=[*product(PROBES, ("200", "500", "503"))],
    )
    http_requests = Counter(
        "http_requests_total",
        "Requests answered, by declared route, or other for none, and status.",
        labels=("route", "status"),
        values=_routes_and_statuses,
    )
    event_loop_delay = Histogram(
        "event_loop_delay_seconds",
        "How late a worker's event loop was for its heartbeat, twice a second: a request may wait "
        "this long before it is read.",
        buckets=SHORT_BUCKETS,
    )
    # Whether the server of a worker, or of the probe process, takes connections.
    serving = Gauge(across="all")
    # Since when, in monotonic seconds, the service's own port has not answered the probe process.
    port_failing_since = Gauge(across="max")

    def __init__(
        self,
        directory: Path,
        *,
        service: str = "service",
        labels: Mapping[str, str] | None = None,
        worker: int = 1,
        workers: int = 1,
        window_seconds: int = WINDOW_SECONDS,
        probe_port: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.labels = {"service": service, **(labels or {})}
        self.probe_port = probe_port
        declarations = self.declarations()
        layout = Layout(
            {one.name: one.cells(type(self)) for one in declarations},
            frozenset(one.name for one in declarations if one.restarts_at_zero),
            window_seconds,
        )
        self.pod = PodMemory(directory / "pod.state", layout, workers=workers, clock=clock)
        self.row: Row = self.pod.rows[max(worker, 0) - 1]
        # Which name has which place outlives the worker, as the counts do that stand there.
        self._texts: dict[str, object] = {
            NAMES: self.row.read_text().get(NAMES) or {},
            EXEMPLARS: {},
        }
        if worker >= 0:
            self.pod.claim(worker)
            self.row.write_text(self._texts)
        for one in declarations:
            self.__dict__[one.name] = one.bind(self)

    @classmethod
    def declarations(cls) -> list[Value]:
        """Return all declared values, the base class's first."""
        return [one for one in _attributes(cls) if isinstance(one, Value)]

    @classmethod
    def computed_values(cls) -> "list[Computed[Any]]":
        """Return all values that are computed when they are asked for."""
        return [one for one in _attributes(cls) if isinstance(one, Computed)]

    @classmethod
    def families(cls) -> list[Family]:
        """Return every metric that a scrape of the service gets."""
        declared = [one.family(cls) for one in cls.declarations() if one.metric]
        computed = [one.family(cls) for one in cls.computed_values()]
        return [*declared, *computed, *verdict_families(cls)]

    @property
    def service(self) -> str:
        """The service's name, as it stands in probes and metrics."""
        return self.labels["service"]

    @computed("{prefix}_start_time_seconds")
    def started_at(self) -> float:
        """When the pod started, Unix seconds."""
        return self.pod.started_at

    @computed("{prefix}_workers")
    def workers(self) -> float:
        """Worker processes that the pod should have."""
        return float(len(self.pod.workers))

    @computed("{prefix}_workers_alive")
    def workers_alive(self) -> float:
        """Worker processes that run."""
        return float(len(self.pod.live_workers()))

    @computed("{prefix}_error_ratio")
    def error_ratio(self) -> float:
        """Errors over all outcomes in the sliding window that /ready judges."""
        return self.outcomes.error_rate

    @property
    def shutting_down(self) -> bool:
        """Whether any live worker was asked to stop, or all are gone and one of them was."""
        rows = self.pod.live_workers() or self.pod.workers
        return any(row.get("shutting_down") for row in rows)

    @property
    def outcomes(self) -> Outcomes:
        """Successes and errors of the pod within the sliding window."""
        return sum_outcomes(row.window for row in self.pod.workers)

    @property
    def probe_process(self) -> Literal["running", "missing", "off"]:
        """Whether the pod's probe process answers, or is switched off by `PROBE_PORT=0`."""
        if not self.probe_port:
            return "off"
        row = self.pod.probe_process
        return "running" if row.alive and row.get("serving") else "missing"

    def text(self, section: str) -> Any:
        """Return what the first live worker that has it wrote in a section, None for nothing."""
        texts = (row.read_text().get(section) for row in self.pod.live_workers())
        return next((text for text in texts if text is not None), None)

    def write_text(self, section: str, content: object) -> None:
        """Say something that is no number, as JSON, to all processes of the pod.

        Content of more than 8 kB is replaced by its size.
        """
        size = len(encode_text(content))
        if size > MAX_SECTION_BYTES:
            content = {"text_too_long": size}
        if self._texts.get(section) != content:
            self._texts[section] = content
            self.row.write_text(self._texts)

    def place_of(self, histogram: str, name: str, places: int) -> int:
        """Return which of the places a name has in a histogram, taking a free one for a new name.

        The last place is for `other`: all names beyond the places, or beyond 16 kB of names.
        """
        # A label's value is UTF-8.
        name = name[:_NAME_CHARACTERS].encode("utf-8", "replace").decode()
        known: dict[str, list[str]] = self._texts[NAMES]  # type: ignore[assignment]
        names = known.setdefault(histogram, [])
        if name not in names:
            full = len(names) == places - 1 or name == OTHER
            if full or len(encode_text([known, name])) > _NAMES_BYTES:
                return places - 1
            names.append(name)
            self.row.write_text(self._texts)
        return names.index(name)

    def keep_exemplar(self, histogram: str, bound: str, trace_id: str, amount: float) -> None:
        """Keep an observation of a trace for its bucket, unless that has a recent one."""
        kept: dict[str, dict[str, list[object]]] = self._texts[EXEMPLARS]  # type: ignore[assignment]
        by_bound = kept.setdefault(histogram, {})
        now = time.time()
        last: Any = by_bound.get(bound)
        if last is None or abs(now - last[2]) > _EXEMPLAR_SECONDS:
            by_bound[bound] = [trace_id, amount, now]
            self.row.write_text(self._texts)

    def exemplars(self, histogram: str) -> dict[str, tuple[str, float, float]]:
        """Return by upper bound the last trace's id, its observation and when, in Unix seconds."""
        found: dict[str, tuple[str, float, float]] = {}
        for row in self.pod.workers:
            kept: Any = row.read_text().get(EXEMPLARS) or {}
            for bound, (trace_id, amount, moment) in kept.get(histogram, {}).items():
                if bound not in found or moment > found[bound][2]:
                    found[bound] = (trace_id, amount, moment)
        return found

    def count_request(self, route: str, status: str) -> None:
        """Count an answered request, under `other` where its route or status is not declared."""
        key = (route, status)
        known = key in self.http_requests
        self.http_requests[key if known else (OTHER, OTHER)].add()

    def record_success(self, requests: int = 1) -> None:
        """Count requests that the service answered as it should."""
        self.row.record(successes=requests)

    def record_refusal(self, reason: str) -> None:
        """Count a request that was turned away for no failure of the service."""
        self.rejected[reason if reason in self.rejected else OTHER].add()

    def begin_shutdown(self) -> None:
        """Say in `/ready` from now on that the pod is going."""
        self.row.set("shutting_down", 1.0)


def verdict_families(owner: type[ServiceState]) -> tuple[Family, Family]:
    """Return the two metrics that show the verdict of `/ready`: whether, and why not."""
    labels = owner.label_names
    return (
        Family(f"{owner.prefix}_ready", "gauge", "Whether /ready answers 200.", labels),
        Family(
            f"{owner.prefix}_unready",
            "gauge",
            "Whether this reason keeps the pod from being ready.",
            (*labels, "reason"),
        ),
    )


def isoformat(seconds: float) -> str | None:
    """Return Unix seconds as ISO 8601, UTC with its offset; None for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _attributes(cls: type) -> list[object]:
    """Return a class's attributes and its bases', a base's first, each name once."""
    found: dict[str, object] = {}
    for one in chain.from_iterable(vars(base).items() for base in reversed(cls.__mro__)):
        found[one[0]] = one[1]
    return list(found.values())
