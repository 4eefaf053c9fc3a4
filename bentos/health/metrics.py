"""The exposition of a state: every declared value, for the whole pod.

prometheus-client writes it, in the Prometheus text format or, where the scraper asks for it, as
OpenMetrics, which also names the trace that an observation belongs to. The numbers are read from
the pod's shared memory, so that `/metrics` and `/ready` never disagree and any process of the pod
can answer.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Exemplar

from bentos.health.state import ServiceState
from bentos.health.values import Family, Histogram, Samples


def wants_openmetrics(accept: str) -> bool:
    """Return whether a scraper's `Accept` header names OpenMetrics."""
    return "application/openmetrics-text" in accept


def exposition(
    state: ServiceState,
    more: Iterable[tuple[Family, Samples]] = (),
    *,
    openmetrics: bool = False,
) -> tuple[bytes, str]:
    """Return the pod's metrics and their content type.

    `more` are families that the state does not hold, with their samples.
    """
    registry = _StateRegistry(state, more)
    if openmetrics:
        return generate_openmetrics(registry), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _StateRegistry(CollectorRegistry):
    """Families of a state, read when they are asked for."""

    def __init__(self, state: ServiceState, more: Iterable[tuple[Family, Samples]]) -> None:
        super().__init__()
        self._state = state
        self._more = more

    def collect(self) -> Iterator[Metric]:
        """Yield each family with its present samples."""
        state, owner = self._state, type(self._state)
        for declared in filter(lambda one: one.metric, owner.declarations()):
            value, family = getattr(state, declared.name), declared.family(owner)
            if isinstance(value, Histogram):
                yield self._histogram(family, value)
            else:
                yield self._numbers(family, value.samples())
        for one in owner.computed_values():
            found = one.method(state)
            yield self._numbers(one.family(owner), _as_samples(found))
        for family, samples in self._more:
            yield self._numbers(family, samples)

    def _constant(self, family: Family) -> list[str]:
        return [self._state.labels[name] for name in family.labels if name in self._state.labels]

    def _numbers(self, family: Family, samples: Samples) -> Metric:
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = kind(family.name, family.help, labels=family.labels)
        constant = self._constant(family)
        for key, value in samples:
            metric.add_metric([*constant, *key], value)
        return metric

    def _histogram(self, family: Family, value: Histogram) -> Metric:
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        constant = self._constant(family)
        exemplars = {
            upper: Exemplar({"trace_id": trace_id}, amount, moment)
            for upper, (trace_id, amount, moment) in self._state.exemplars(value.name).items()
        }
        for key, buckets, total in value.series():
            marked = [
                (upper, count, exemplars[upper]) if upper in exemplars else (upper, count)
                for upper, count in buckets
            ]
            metric.add_metric([*constant, *key], marked, total)
        return metric


def _as_samples(found: "float | Samples") -> Samples:
    return [((), found)] if isinstance(found, int | float) else found
