"""Every family of both services as series, for whole worlds: idle, busy, gone."""

from collections.abc import Iterator, Mapping

from bentos.inference.metrics import FAMILIES as INFERENCE_FAMILIES
from bentos.logging.metrics import FAMILIES as LOGGING_FAMILIES

from bentos.health.metrics import Family
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_POD,
    INFERENCE_TARGET,
    LOGGING_POD,
    LOGGING_TARGET,
    MODEL,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

LENGTH = "1h"

# Gauges of healthy services; what is not named here is 0.
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
    "start_time_seconds": 1_700_000_000,
    "db_initialized": 1,
    "db_accessible": 1,
    "database_bytes": 1 << 20,
    "disk_free_bytes": 50 << 30,
    "disk_size_bytes": 80 << 30,
}
# Values of labels that a family has beside those of its target.
_LABELS: Mapping[str, tuple[str, ...]] = {
    "version": ("3",),
    "class_name": ("crack", "flawless"),
    "file": ("database", "wal"),
    "route": ("/predict", "/log"),
    "outcome": ("success", "failure"),
    "probe": ("health", "ready", "metrics"),
}
_REASONS = ("bad_input", "queue_full", "timeout", "busy", "full", "unauthorized", "shutting_down")
# Growth per second of counters while there is traffic: clients err, the services do not.
_BUSY = {"bad_input": 3.0, "success": 0.0, "failure": 0.0}
_FAULTS = ("errors", "dropped", "send_errors", "exits")


def world(*, busy: bool) -> list[Series]:
    """Return a healthy pod of each service, with kube-state-metrics and the kubelet's word."""
    inference = {**INFERENCE_TARGET, **MODEL}
    logging = {**LOGGING_TARGET, "service": LOGGING_SERVICE}
    series = [
        Series("up", INFERENCE_TARGET, gauge((1, LENGTH))),
        Series("up", LOGGING_TARGET, gauge((1, LENGTH))),
    ]
    for families, labels in ((INFERENCE_FAMILIES, inference), (LOGGING_FAMILIES, logging)):
        for family in families:
            series += _series(family, labels, busy)
    series += _kubernetes(INFERENCE_POD, INFERENCE_SERVICE)
    series += _kubernetes(LOGGING_POD, LOGGING_SERVICE)
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


def _kubernetes(pod: Mapping[str, str], container: str) -> Iterator[Series]:
    still, one = gauge((0, LENGTH)), gauge((1, LENGTH))
    yield Series("kube_pod_status_ready", {**pod, "condition": "true"}, one)
    yield Series("kube_pod_status_phase", {**pod, "phase": "Running"}, one)
    yield Series("kube_pod_status_phase", {**pod, "phase": "Succeeded"}, still)
    yield Series("kube_pod_owner", {**pod, "owner_kind": "ReplicaSet"}, one)
    inside = {**pod, "container": container}
    yield Series("kube_pod_container_status_restarts_total", inside, gauge((3, LENGTH)))
    reason = {**inside, "reason": "OOMKilled"}
    yield Series("kube_pod_container_status_last_terminated_reason", reason, one)
    for kind in ("Startup", "Readiness", "Liveness"):
        probe = {**inside, "probe_type": kind}
        ok = counter((0.1, LENGTH), start=9)
        yield Series("prober_probe_total", {**probe, "result": "successful"}, ok)
        yield Series(
            "prober_probe_total", {**probe, "result": "failed"}, counter((0, LENGTH), start=4)
        )
        for bound in ("0.005", "1", "+Inf"):
            yield Series("prober_probe_duration_seconds_bucket", {**probe, "le": bound}, ok)
