"""What kube-state-metrics, cAdvisor and the kubelet would expose of a small cluster.

There is no cluster to scrape in the tests. The names and labels are those that the exporters
document; the values move as a cluster's do, so that rates and quantiles have something to show.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bentos.health.values import Family
from monitoring.catalogue import KUBE_STATE_FAMILIES, KUBELET_FAMILIES
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

NAMESPACE = "mlops"
PODS: Mapping[str, str] = {
    f"{INFERENCE_SERVICE}-7d9c6b5f4-k2x8q": INFERENCE_SERVICE,
    f"{INFERENCE_SERVICE}-7d9c6b5f4-z4m1w": INFERENCE_SERVICE,
    f"{LOGGING_SERVICE}-0": LOGGING_SERVICE,
}
MIB = 2**20
# How often one of the pods crashes, and how long it waits for its restart, so that every
# quarter of a minute shows some of it.
CRASH_SECONDS = 20
WAIT_SECONDS = 8
Sample = tuple[Mapping[str, str], float]


class ClusterCollector(Collector):
    """Exposes the families of some exporters as they stand at the moment of the scrape."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._families = families
        self._crashing = True
        self._started = self._crashing_since = time.monotonic()

    def crash(self, crashing: bool, /) -> None:
        """Let one of the pods crash again and again, from now on, or no more."""
        self._crashing, self._crashing_since = crashing, time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """Yield every family with its samples."""
        age = time.monotonic() - self._started
        for family in self._families:
            crashing = time.monotonic() - self._crashing_since if self._crashing else 0.0
            samples = list(_samples(family, age, crashing=crashing))
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for labels, count in samples:
                    bounds = [("0.005", count * 0.6), ("0.05", count * 0.98), ("+Inf", count)]
                    histogram.add_metric(
                        [labels[name] for name in family.labels], bounds, count * 0.006
                    )
                yield histogram
                continue
            metric: CounterMetricFamily | GaugeMetricFamily = (
                CounterMetricFamily(family.name, family.help, labels=family.labels)
                if family.kind == "counter"
                else GaugeMetricFamily(family.name, family.help, labels=family.labels)
            )
            for labels, value in samples:
                metric.add_metric([labels[name] for name in family.labels], value)
            yield metric


def _samples(family: Family, age: float, *, crashing: float) -> Iterator[Sample]:
    if "pod" in family.labels:
        for number, (pod, service) in enumerate(PODS.items()):
            base = {"namespace": NAMESPACE, "pod": pod, "container": service}
            of_pod = _of_pod(family.name, number, age, crashing=crashing if number == 1 else 0.0)
            for more, value in of_pod:
                yield {**base, **more}, value
        return
    for labels, value in _OF_WORKLOADS[family.name]:
        all_ready = family.name == "kube_deployment_status_replicas_ready" and not crashing
        yield {"namespace": NAMESPACE, **labels}, 2.0 if all_ready else value


def _of_pod(metric: str, number: int, age: float, *, crashing: float) -> list[Sample]:
    """Return the samples of a pod, which has crashed again and again for `crashing` seconds."""
    crashes = crashing > 0
    waits = crashes and crashing % CRASH_SECONDS < WAIT_SECONDS
    restarts = crashing // CRASH_SECONDS
    cores = 0.4 - 0.1 * number
    resources = (("cpu", "core", 1.0), ("memory", "byte", 2048.0 * MIB))
    values: dict[str, list[Sample]] = {
        "kube_pod_info": [({"node": f"node-{number % 2}", "created_by_name": "a"}, 1.0)],
        "kube_pod_status_ready": [
            ({"condition": "true"}, 0.0 if waits else 1.0),
            ({"condition": "false"}, 1.0 if waits else 0.0),
        ],
        "kube_pod_status_phase": [({"phase": "Running"}, 1.0), ({"phase": "Pending"}, 0.0)],
        "kube_pod_container_status_restarts_total": [({}, restarts)],
        "kube_pod_container_status_waiting_reason": [({"reason": "CrashLoopBackOff"}, 1.0)]
        if waits
        else [],
        "kube_pod_container_status_last_terminated_reason": [({"reason": "OOMKilled"}, 1.0)]
        if crashes
        else [],
        "kube_pod_container_resource_requests": [
            ({"resource": name, "unit": unit}, value / 2) for name, unit, value in resources
        ],
        "kube_pod_container_resource_limits": [
            ({"resource": name, "unit": unit}, value) for name, unit, value in resources
        ],
        "container_cpu_usage_seconds_total": [({}, cores * age)],
        "container_cpu_cfs_periods_total": [({}, 10 * age)],
        "container_cpu_cfs_throttled_periods_total": [({}, (1 + number) * 0.5 * age)],
        "container_memory_working_set_bytes": [({}, (900 + 200 * number + age % 60) * MIB)],
        "prober_probe_total": [
            ({"probe_type": "Liveness", "result": "successful"}, age / 10),
            ({"probe_type": "Readiness", "result": "successful"}, age / 5),
            ({"probe_type": "Readiness", "result": "failed"}, age / 30 if crashes else 0.0),
        ],
        "prober_probe_duration_seconds": [
            ({"probe_type": "Liveness"}, age / 10),
            ({"probe_type": "Readiness"}, age / 5),
        ],
    }
    return values[metric]


_SCALER = {"horizontalpodautoscaler": INFERENCE_SERVICE}
_CLAIM = {"persistentvolumeclaim": "predictions"}
_OF_WORKLOADS: Mapping[str, list[Sample]] = {
    "kube_deployment_spec_replicas": [({"deployment": INFERENCE_SERVICE}, 2.0)],
    "kube_deployment_status_replicas_ready": [({"deployment": INFERENCE_SERVICE}, 1.0)],
    "kube_statefulset_replicas": [({"statefulset": LOGGING_SERVICE}, 1.0)],
    "kube_statefulset_status_replicas_ready": [({"statefulset": LOGGING_SERVICE}, 1.0)],
    "kube_horizontalpodautoscaler_spec_min_replicas": [(_SCALER, 2.0)],
    "kube_horizontalpodautoscaler_spec_max_replicas": [(_SCALER, 10.0)],
    "kube_horizontalpodautoscaler_status_current_replicas": [(_SCALER, 2.0)],
    "kube_horizontalpodautoscaler_status_desired_replicas": [(_SCALER, 3.0)],
    "kube_poddisruptionbudget_status_pod_disruptions_allowed": [
        ({"poddisruptionbudget": INFERENCE_SERVICE}, 1.0)
    ],
    "kubelet_volume_stats_used_bytes": [(_CLAIM, 1.2 * 2**30)],
    "kubelet_volume_stats_capacity_bytes": [(_CLAIM, 10.0 * 2**30)],
}


class Exporter:
    """An HTTP server on a free port that answers scrapes with some families."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        registry = CollectorRegistry()
        self._collector = ClusterCollector(families)
        registry.register(self._collector)
        self._server, _ = start_http_server(0, "127.0.0.1", registry)

    def crash(self, crashing: bool, /) -> None:
        """Let one of the pods crash again and again, from now on, or no more."""
        self._collector.crash(crashing)

    @property
    def address(self) -> str:
        """Host and port to scrape."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def kube_state_metrics() -> Exporter:
    """Return a stand-in for kube-state-metrics."""
    return Exporter(KUBE_STATE_FAMILIES)


def kubelet() -> Exporter:
    """Return a stand-in for a kubelet with cAdvisor."""
    return Exporter(KUBELET_FAMILIES)
