"""Metrics that others expose and that panels read, with the labels that panels may use.

Sources: Prometheus itself (`up`), kube-state-metrics 2.x, cAdvisor and the kubelet's own
`/metrics` and `/metrics/probes`. All of them carry the labels of their scrape target.
"""

from bentos.health.metrics import Family

TARGET_LABELS = ("job", "instance")

_POD = ("namespace", "pod")
_CONTAINER = (*_POD, "container")
_RESOURCE = (*_CONTAINER, "resource", "unit")
_AUTOSCALER = ("namespace", "horizontalpodautoscaler")
_BUDGET = ("namespace", "poddisruptionbudget")
_CLAIM = ("namespace", "persistentvolumeclaim")
_PROBE = (*_CONTAINER, "probe_type")


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "gauge", text, labels)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "counter", text, labels)


PROMETHEUS_FAMILIES = (_gauge("up", (), "Whether the last scrape of the target succeeded."),)

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
        "prober_probe_duration_seconds",
        "histogram",
        "Time the kubelet waited for a probe.",
        _PROBE,
    ),
)

EXTERNAL_FAMILIES = (*PROMETHEUS_FAMILIES, *KUBE_STATE_FAMILIES, *KUBELET_FAMILIES)
CLUSTER_METRICS = frozenset(family.name for family in (*KUBE_STATE_FAMILIES, *KUBELET_FAMILIES))
