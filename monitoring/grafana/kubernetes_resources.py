"""Rows of the Kubernetes dashboard about resources, autoscaling and volumes."""

from monitoring.grafana.panels import bound, gauge, stat, timeseries
from monitoring.grafana.queries import aggregate, max_of, rate, ratio, series, sum_of
from monitoring.grafana.schema import Panel, Target, Thresholds

# Overlays may put a prefix before the names of workloads, and controllers put suffixes behind.
NAMED = '".*$workload.*"'
POD = f"pod=~{NAMED}"
CONTAINER = 'container=~"$workload"'
SHARE_OF_LIMIT = Thresholds("green", ((0.8, "yellow"), (0.95, "red")))
REQUESTS = "kube_pod_container_resource_requests"
LIMITS = "kube_pod_container_resource_limits"
CPU = "container_cpu_usage_seconds_total"
MEMORY = "container_memory_working_set_bytes"
# What the manifests call the volumes of predictions and of their backups.
CLAIMS = "predictions|backups"
AUTOSCALER = "kube_horizontalpodautoscaler"


def _used(metric: str, resource: str, bound: str) -> str:
    """Return a pod's use over the sum of its containers' requests or limits."""
    used = rate if metric == CPU else sum_of
    bounds = sum_of(bound, POD, CONTAINER, f'resource="{resource}"', by="pod")
    return f"{used(metric, POD, CONTAINER, by='pod')} / {bounds}"


def resource_panels() -> tuple[Panel, ...]:
    """Return the row about CPU and memory."""
    cpu = 'resource="cpu"'
    memory = 'resource="memory"'
    throttled, periods = (
        rate(f"container_cpu_cfs_{which}_total", POD, CONTAINER, by="pod")
        for which in ("throttled_periods", "periods")
    )
    return (
        timeseries(
            "CPU cores",
            "Cores used by pod, with the request of one container.",
            rate(CPU, POD, CONTAINER, by="pod"),
            Target(
                max_of(REQUESTS, POD, CONTAINER, cpu, by="container"),
                "request of one {{container}}",
            ),
            unit="short",
            overrides=(bound("request of .*"),),
        ),
        timeseries(
            "CPU of request",
            "What an autoscaler on CPU looks at.",
            _used(CPU, "cpu", REQUESTS),
            unit="percentunit",
        ),
        timeseries(
            "CPU throttled",
            "Share of scheduling periods in which a container was held back by its CPU limit; "
            "throttling shows as probe latency first.",
            ratio(throttled, periods),
            unit="percentunit",
            maximum=1,
            thresholds=Thresholds("green", ((0.25, "red"),)),
        ),
        timeseries(
            "Memory",
            "Working set by pod, with the limit of one container.",
            sum_of(MEMORY, POD, CONTAINER, by="pod"),
            Target(
                max_of(LIMITS, POD, CONTAINER, memory, by="container"), "limit of one {{container}}"
            ),
            unit="bytes",
            overrides=(bound("limit of .*"),),
            width=16,
        ),
        gauge(
            "Memory of limit",
            "The pod nearest to its limit; at 100% its container is killed.",
            Target(aggregate("max", _used(MEMORY, "memory", LIMITS)), "of limit"),
            unit="percentunit",
            width=8,
            thresholds=SHARE_OF_LIMIT,
            alerts=("ServingOutOfMemory",),
            no_value="no cluster",
        ),
    )


def scaling_panels() -> tuple[Panel, ...]:
    """Return the row about autoscaling, evictions and volumes."""
    scaled = f"horizontalpodautoscaler=~{NAMED}"
    budget = series(
        "kube_poddisruptionbudget_status_pod_disruptions_allowed", f"poddisruptionbudget=~{NAMED}"
    )
    claim = f'persistentvolumeclaim=~".*({CLAIMS}).*"'
    return (
        timeseries(
            "Autoscaler",
            "Pods that the autoscaler sees and wants, between the least and the most it may set.",
            *(
                Target(
                    max_of(f"{AUTOSCALER}_{part}_replicas", scaled, by="horizontalpodautoscaler"),
                    f"{name} {{{{horizontalpodautoscaler}}}}",
                )
                for part, name in (
                    ("status_current", "now"),
                    ("status_desired", "wanted"),
                    ("spec_min", "least"),
                    ("spec_max", "most"),
                )
            ),
            unit="none",
            overrides=(bound("(least|most) .*"),),
            steps=True,
            decimals=0,
            alerts=("InferenceAutoscalerMaxedOut",),
        ),
        stat(
            "Evictions allowed",
            "Pods that may be evicted now; 0 blocks the draining of nodes.",
            aggregate("min", budget, by="poddisruptionbudget"),
            unit="none",
            width=4,
            height=8,
            thresholds=Thresholds("yellow", ((1, "green"),)),
            no_value="no budget",
        ),
        timeseries(
            "Volumes used",
            "Share of each volume that is full.",
            aggregate(
                "max",
                ratio(
                    series("kubelet_volume_stats_used_bytes", claim),
                    series("kubelet_volume_stats_capacity_bytes", claim),
                ),
                by="persistentvolumeclaim",
            ),
            unit="percentunit",
            maximum=1,
            width=6,
            thresholds=Thresholds("green", ((0.75, "yellow"), (0.9, "red"))),
            alerts=("LoggingDiskFillsSoon",),
        ),
        stat(
            "Pods known",
            "Pods of the services that kube-state-metrics knows; none where it is not scraped.",
            aggregate("count", series("kube_pod_info", POD)),
            unit="none",
            width=6,
            height=8,
            no_value="no cluster",
        ),
    )
