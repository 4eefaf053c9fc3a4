"""Every family of both services as series of a whole world, idle or busy."""

from collections.abc import Iterator, Mapping

from bentos.health.values import Family
from monitoring.catalogue import INFERENCE_FAMILIES, LOGGING_FAMILIES
from monitoring.timings import INFERENCE_SERVICE
from tests.monitoring.scenarios.wave import Series, Wave, counter, gauge
from tests.monitoring.scenarios.world import (
    BOTH,
    KUBE_STATE_METRICS,
    KUBELET,
    MODEL,
    Pod,
    exporter_up,
)

LENGTH = "1h"

# Gauges of healthy services, whose time begins at 0; what is not named here is 0.
_LEVELS = {
    "ready": 1,
    "model_loaded": 1,
    "mlflow_accessible": 1,
    "mlflow_check_age_seconds": 4,
    "model_info": 1,
    "model_version": 3,
    "registry_version": 3,
    "queue_capacity": 256,
    "workers": 2,
    "workers_alive": 2,
    "start_time_seconds": -86_400,
    "db_initialized": 1,
    "db_accessible": 1,
    "database_bytes": 1 << 20,
    "disk_free_bytes": 50 << 30,
    "disk_size_bytes": 80 << 30,
    "mlflow_poll_seconds": 5,
    "outbox_capacity_bytes": 1 << 29,
    "outbox_capacity_rows": 1_000_000,
    "database_capacity_bytes": 1 << 33,
    "quality_escape_rate": 0.01,
    "quality_escape_rate_limit": 0.05,
}
# Values of labels that a family has beside those of its target.
_LABELS: Mapping[str, tuple[str, ...]] = {
    "version": ("3",),
    "model_name": ("steel-defects",),
    "model_version": ("3",),
    "bound": ("low", "estimate", "high"),
    "class_name": ("crack", "flawless"),
    "file": ("database", "wal"),
    "route": ("/predict", "/log"),
    "outcome": ("success", "failure"),
    "verdict": ("pass", "fail", "review"),
    "probe": ("health", "ready", "metrics"),
    "quantity": ("class", "brightness"),
}
_REASONS = ("bad_input", "queue_full", "timeout", "busy", "full", "unauthorized", "shutting_down")
# Growth per second of counters while there is traffic: clients err, the services do not.
_BUSY = {"bad_input": 3.0, "success": 0.0, "failure": 0.0}
_FAULTS = ("errors", "dropped", "lost", "refused", "conflicts", "send_errors", "exits")


def world(*, busy: bool) -> list[Series]:
    """Return a healthy pod of each service, and all that watches them."""
    series = [
        exporter_up(KUBE_STATE_METRICS, gauge((1, LENGTH))),
        exporter_up(KUBELET, gauge((1, LENGTH))),
        Series("prometheus_build_info", {"job": "prometheus"}, gauge((1, LENGTH))),
        Series("alertmanager_build_info", {"job": "alertmanager"}, gauge((1, LENGTH))),
    ]
    for pod in BOTH:
        inference = pod.service == INFERENCE_SERVICE
        series.append(pod.up(gauge((1, LENGTH))))
        for family in INFERENCE_FAMILIES if inference else LOGGING_FAMILIES:
            series += _series(family, {**pod.target, **pod.own}, busy)
        series += _kubernetes(pod)
    return series


def _series(family: Family, target: Mapping[str, str], busy: bool) -> Iterator[Series]:
    for labels in _label_sets(family, target):
        if family.kind == "gauge":
            level = _LEVELS.get(family.name.partition("_")[2], 0)
            yield Series(family.name, labels, gauge((level, LENGTH)))
        elif family.kind == "counter":
            yield Series(family.name, labels, _growth(family, labels, busy))
        else:
            rate = 0.1 if family.name.startswith("probe") else 20.0 * busy
            wave = counter((rate, LENGTH), start=5)
            for bound in (*family.buckets, float("inf")):
                le = "+Inf" if bound == float("inf") else str(float(bound))
                # All observations lie in the third bucket: quick, small, or as it may be.
                within = bound >= family.buckets[2]
                quick = wave if within else counter((0, LENGTH))
                yield Series(f"{family.name}_bucket", {**labels, "le": le}, quick)
            yield Series(f"{family.name}_count", labels, wave)
            yield Series(f"{family.name}_sum", labels, wave)


def _growth(family: Family, labels: Mapping[str, str], busy: bool) -> Wave:
    if not busy or any(fault in family.name for fault in _FAULTS):
        return counter((0, LENGTH), start=2)
    kind = labels.get("reason") or labels.get("outcome")
    rate = _BUSY.get(kind, 0.0) if kind else 20.0
    return counter((rate, LENGTH), start=2)


def _label_sets(family: Family, target: Mapping[str, str]) -> Iterator[dict[str, str]]:
    own = {name: value for name, value in target.items() if name not in (*MODEL, "service")}
    sets: list[dict[str, str]] = [own]
    for label in family.labels:
        if label in target:
            values: tuple[str, ...] = (target[label],)
        elif label == "service":
            values = (target["job"],)
        elif label == "reason":
            values = _REASONS
        elif label == "status":
            values = ("200",)
        else:
            values = _LABELS[label]
        sets = [{**one, label: value} for one in sets for value in values]
    yield from sets


def _kubernetes(pod: Pod) -> Iterator[Series]:
    still, one = gauge((0, LENGTH)), gauge((1, LENGTH))
    yield pod.of_cluster("kube_pod_info", one)
    yield pod.of_cluster("kube_pod_status_ready", one, condition="true")
    yield pod.of_cluster("kube_pod_status_phase", one, phase="Running")
    yield pod.of_cluster("kube_pod_status_phase", still, phase="Succeeded")
    yield pod.of_cluster("kube_pod_owner", one, owner_kind="ReplicaSet")
    yield pod.of_container("kube_pod_container_status_restarts_total", gauge((3, LENGTH)))
    yield pod.of_container(
        "kube_pod_container_status_last_terminated_reason", one, reason="OOMKilled"
    )
    probed = counter((0.1, LENGTH), start=9)
    for kind in ("Startup", "Readiness", "Liveness"):
        for result, wave in (("successful", probed), ("failed", counter((0, LENGTH), start=4))):
            yield pod.of_kubelet("prober_probe_total", wave, probe_type=kind, result=result)
        for bound in ("0.005", "1", "+Inf"):
            yield pod.of_kubelet(
                "prober_probe_duration_seconds_bucket", probed, probe_type=kind, le=bound
            )
