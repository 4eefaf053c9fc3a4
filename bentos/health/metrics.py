"""Prometheus metrics of the whole pod, whichever worker is asked.

Counters and gauges that `/ready` tells as well are read from the pod's shared memory, so that
the two never disagree; histograms and the request counter go through prometheus-client's
multi-process files, kept in the pod's own directory: BentoML's default one is emptied by any
other service that starts under the same BENTOML_HOME.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from bentos.health.checks import Verdict
from bentos.process.logs import event, get_logger
from bentos.edge.shared_run import SharedRun

_logger = get_logger("metrics")

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

PROBE_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0),
)

Samples = Iterable[tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Family:
    """What a metric is called, is, means, and is labelled with: its one definition."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


PROBE_DURATION = Family(
    "probe_duration_seconds",
    "histogram",
    "Time to answer a probe or a scrape, by the status it was answered with.",
    ("service", "probe", "status"),
    PROBE_BUCKETS,
)
# Of what was asked for at paths that nobody has: the paths themselves would make series without
# bound.
OTHER_ROUTE = "other"
HTTP_REQUESTS = Family(
    "http_requests_total",
    "counter",
    "Requests answered, by declared route, or other for none, and status.",
    ("service", "route", "status"),
)
EVENT_LOOP_DELAY = Family(
    "event_loop_delay_seconds",
    "histogram",
    "How late a worker's event loop was for its heartbeat, twice a second: as long any probe "
    "waits before it is read, which its own duration does not show.",
    ("service",),
    PROBE_BUCKETS,
)
SHARED_FAMILIES = (PROBE_DURATION, HTTP_REQUESTS, EVENT_LOOP_DELAY)


class Metrics:
    """The families of one service, observed in this worker and exposed for the pod."""

    def __init__(self, directory: Path, families: Sequence[Family]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._families = {family.name: family for family in families}
        # Read by prometheus-client whenever it opens a file; BentoML overrides it in workers.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        self._registry = CollectorRegistry()
        self._multiprocess = values.ValueClass is not values.MutexValue
        self._read: dict[str, Callable[[], Samples]] = {}
        self._scrapes = SharedRun(self.exposition)
        self.histograms: dict[str, Histogram] = {}
        self.counters: dict[str, Counter] = {}
        for family in families:
            if family.kind == "histogram":
                self.histograms[family.name] = Histogram(
                    family.name,
                    family.help,
                    family.labels,
                    buckets=family.buckets,
                    registry=self._registry,
                )
        if HTTP_REQUESTS.name in self._families:
            self.counters[HTTP_REQUESTS.name] = Counter(
                HTTP_REQUESTS.name,
                HTTP_REQUESTS.help,
                HTTP_REQUESTS.labels,
                registry=self._registry,
            )

    def read(self, name: str, samples: Callable[[], Samples]) -> None:
        """Tell where a counter's or gauge's samples are read from at each scrape.

        Raises KeyError for a name that is not in the catalogue.
        """
        self._read[self._families[name].name] = samples

    def value(self, name: str, labels: Mapping[str, str], value: Callable[[], float]) -> None:
        """Tell where the one sample of a counter or gauge is read from at each scrape."""
        self.read(name, lambda: [(labels, value())])

    @property
    def unread(self) -> frozenset[str]:
        """Families of the catalogue that nothing feeds: none, once a service is wired."""
        fed = {*self._read, *self.histograms, *self.counters}
        return frozenset(self._families) - fed

    def reserve(self) -> None:
        """Take the disk's blocks for this worker's files as they are now.

        They are mapped and have holes: a first write to a hole on a full disk kills the process.
        """
        for path in self._directory.glob(f"*_{os.getpid()}.db"):
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                event(_logger, logging.ERROR, f"no disk for the metrics' files: {error}")

    async def scrape(self) -> bytes:
        """Return the exposition, made off the event loop, once for all who scrape at once."""
        return await self._scrapes.result()

    def exposition(self) -> bytes:
        """Return the pod's metrics in the Prometheus text format."""
        registry = CollectorRegistry()
        registry.register(_PodCollector(self._families, self._read))
        if self._multiprocess:
            MultiProcessCollector(registry, path=str(self._directory))  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(registry) + generate_latest(self._registry)


def unready_samples(
    labels: Mapping[str, str], reasons: Sequence[str], verdict: Verdict
) -> list[tuple[Mapping[str, str], float]]:
    """Return a 0/1 sample for each reason that may keep a pod from being ready."""
    return [({**labels, "reason": reason}, float(reason in verdict.reasons)) for reason in reasons]


class _PodCollector(Collector):
    """Families whose samples are read when they are asked for."""

    def __init__(
        self, families: Mapping[str, Family], read: Mapping[str, Callable[[], Samples]]
    ) -> None:
        self._families = families
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield each family with its present samples."""
        for name, samples in self._read.items():
            family = self._families[name]
            metric: CounterMetricFamily | GaugeMetricFamily = (
                CounterMetricFamily(name, family.help, labels=family.labels)
                if family.kind == "counter"
                else GaugeMetricFamily(name, family.help, labels=family.labels)
            )
            for labels, value in samples():
                metric.add_metric([labels[label] for label in family.labels], value)
            yield metric
