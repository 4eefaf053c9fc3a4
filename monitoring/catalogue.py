"""Every metric that rules and dashboards may read: the services' own and those of exporters.

This is the only module that reads the services' declarations.
"""

from collections.abc import Iterator, Mapping

from bentos.health.state import ServiceState, verdict_families
from bentos.health.values import Family
from bentos.inference.state import InferenceState
from bentos.logging.state import LoggingState

STATES: tuple[type[ServiceState], ...] = (InferenceState, LoggingState)


def families_of(state: type[ServiceState]) -> tuple[Family, ...]:
    """Return every metric that a service exposes."""
    return (*state.families(), *verdict_families(state))


INFERENCE_FAMILIES = families_of(InferenceState)
LOGGING_FAMILIES = families_of(LoggingState)

# Labels that Prometheus puts on every series of a target, in a cluster and outside.
TARGET_LABELS = ("job", "instance")
CLUSTER_LABELS = ("namespace", "pod")

_POD = ("namespace", "pod")
_CONTAINER = (*_POD, "container")
_RESOURCE = (*_CONTAINER, "resource", "unit")
_AUTOSCALER = ("namespace", "horizontalpodautoscaler")
_BUDGET = ("namespace", "poddisruptionbudget")
_CLAIM = ("namespace", "persistentvolumeclaim")
_CRON_JOB = ("namespace", "cronjob")
_PROBE = (*_CONTAINER, "probe_type")


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "gauge", text, labels)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "counter", text, labels)


PROMETHEUS_FAMILIES = (_gauge("up", (), "Whether the last scrape of the target succeeded."),)

# kube-state-metrics 2.x
KUBE_STATE_FAMILIES = (
    _gauge("kube_pod_info", (*_POD, "node", "created_by_name"), "A pod, constant 1."),
    _gauge("kube_pod_status_ready", (*_POD, "condition"), "Whether a pod is ready."),
    _gauge("kube_pod_status_phase", (*_POD, "phase"), "The phase a pod is in."),
    _counter(
        "kube_pod_container_status_restarts_total", _CONTAINER, "Restarts of a pod's container."
    ),
    _gauge(
        "kube_pod_container_status_waiting_reason",
        (*_CONTAINER, "reason"),
        "Why a container is waiting.",
    ),
    _gauge(
        "kube_pod_container_status_last_terminated_reason",
        (*_CONTAINER, "reason"),
        "Why a container last ended.",
    ),
    _gauge("kube_pod_container_resource_requests", _RESOURCE, "What a container requests."),
    _gauge("kube_pod_container_resource_limits", _RESOURCE, "What a container is limited to."),
    _gauge(
        "kube_deployment_spec_replicas", ("namespace", "deployment"), "Pods a Deployment wants."
    ),
    _gauge(
        "kube_deployment_status_replicas_ready",
        ("namespace", "deployment"),
        "Ready pods of a Deployment.",
    ),
    _gauge("kube_statefulset_replicas", ("namespace", "statefulset"), "Pods a StatefulSet wants."),
    _gauge(
        "kube_statefulset_status_replicas_ready",
        ("namespace", "statefulset"),
        "Ready pods of a StatefulSet.",
    ),
    _gauge(
        "kube_horizontalpodautoscaler_spec_min_replicas", _AUTOSCALER, "Fewest pods it may set."
    ),
    _gauge("kube_horizontalpodautoscaler_spec_max_replicas", _AUTOSCALER, "Most pods it may set."),
    _gauge(
        "kube_horizontalpodautoscaler_status_current_replicas", _AUTOSCALER, "Pods it counts now."
    ),
    _gauge(
        "kube_horizontalpodautoscaler_status_desired_replicas", _AUTOSCALER, "Pods it asks for."
    ),
    _gauge(
        "kube_poddisruptionbudget_status_pod_disruptions_allowed",
        _BUDGET,
        "Pods that may be evicted now.",
    ),
)

# The kubelet's own /metrics and /metrics/probes, and cAdvisor.
KUBELET_FAMILIES = (
    _counter("container_cpu_usage_seconds_total", _CONTAINER, "CPU time used."),
    _counter("container_cpu_cfs_periods_total", _CONTAINER, "Scheduling periods with a CPU limit."),
    _counter(
        "container_cpu_cfs_throttled_periods_total",
        _CONTAINER,
        "Periods in which it was throttled.",
    ),
    _gauge("container_memory_working_set_bytes", _CONTAINER, "Memory that cannot be reclaimed."),
    _gauge("kubelet_volume_stats_used_bytes", _CLAIM, "Used space of a volume."),
    _gauge("kubelet_volume_stats_capacity_bytes", _CLAIM, "Size of a volume."),
    _counter("prober_probe_total", (*_PROBE, "result"), "Probes by the kubelet's verdict."),
    Family(
        "prober_probe_duration_seconds", "histogram", "Time the kubelet waited for a probe.", _PROBE
    ),
)

# Read by rules and runbooks alone.
RULE_FAMILIES = (
    _gauge("ALERTS", ("alertname", "alertstate"), "An alert that is pending or firing."),
    _gauge("prometheus_build_info", (), "A Prometheus, constant 1."),
    _gauge("alertmanager_build_info", (), "An Alertmanager, constant 1."),
    _gauge("kube_cronjob_created", _CRON_JOB, "When a CronJob was made."),
    _gauge("kube_cronjob_spec_suspend", _CRON_JOB, "Whether a CronJob is suspended."),
    _gauge("kube_cronjob_status_last_successful_time", _CRON_JOB, "When a job last succeeded."),
    _gauge("kube_pod_owner", (*_POD, "owner_kind"), "What a pod belongs to."),
    _gauge("kube_pod_status_reason", (*_POD, "reason"), "Why a pod is in its phase."),
)

EXTERNAL_FAMILIES = (*PROMETHEUS_FAMILIES, *KUBE_STATE_FAMILIES, *KUBELET_FAMILIES)
CLUSTER_METRICS = frozenset(family.name for family in (*KUBE_STATE_FAMILIES, *KUBELET_FAMILIES))
CATALOGUE = {
    family.name: family
    for family in (*INFERENCE_FAMILIES, *LOGGING_FAMILIES, *EXTERNAL_FAMILIES, *RULE_FAMILIES)
}


def _label_values() -> Iterator[tuple[tuple[str, str], frozenset[str]]]:
    for state in STATES:
        for one in state.declarations():
            keys = one.values(state)
            if one.metric and one.labels and len(keys[0]) == len(one.labels):
                for index, label in enumerate(one.labels):
                    yield (one.family(state).name, label), frozenset(key[index] for key in keys)


# The values that a label of a service's own metric may have, where they are declared.
LABEL_VALUES: Mapping[tuple[str, str], frozenset[str]] = dict(_label_values())

_SERIES_OF_HISTOGRAM = ("_bucket", "_sum", "_count")


def family_of(metric: str) -> Family:
    """Return the family of a metric, or of the histogram whose series it is.

    Raises KeyError for a metric that is not in the catalogue.
    """
    if metric in CATALOGUE:
        return CATALOGUE[metric]
    for suffix in _SERIES_OF_HISTOGRAM:
        found = CATALOGUE.get(metric.removesuffix(suffix))
        if metric.endswith(suffix) and found and found.kind == "histogram":
            return found
    raise KeyError(f"{metric} is not in the catalogue")
