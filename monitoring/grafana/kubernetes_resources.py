"""Rows of the Kubernetes dashboard about resources, autoscaling and volumes."""

from monitoring.grafana.dashboard import runbook
from monitoring.grafana.panels import bound, gauge, stat, timeseries
from monitoring.grafana.queries import RATE, aggregate, ratio, series
from monitoring.grafana.schema import Panel, Target, Threshold, Thresholds

# Overlays may put a prefix before the names of workloads, and controllers put suffixes behind.
NAMED = '".*$workload.*"'
POD = f"pod=~{NAMED}"
CONTAINER = 'container=~"$workload"'
SHARE_OF_LIMIT = Thresholds("green", (Threshold(0.8, "yellow"), Threshold(0.95, "red")))
REQUESTS = "kube_pod_container_resource_requests"
LIMITS = "kube_pod_container_resource_limits"
CPU = "container_cpu_usage_seconds_total"
MEMORY = "container_memory_working_set_bytes"
# What the manifests call the volumes of predictions and of their backups.
CLAIMS = "predictions|backups"
AUTOSCALER = "kube_horizontalpodautoscaler"


def _used(metric: str, resource: str, bound: str) -> str:
    """Return a pod's use over the sum of its containers' requests or limits."""
    usage = (
        aggregate("sum", f"rate({series(metric, POD, CONTAINER)}[{RATE}])", "pod")
        if metric == CPU
        else aggregate("sum", series(metric, POD, CONTAINER), "pod")
    )
    bounds = series(bound, POD, CONTAINER, f'resource="{resource}"')
    return f"{usage} / {aggregate('sum', bounds, 'pod')}"


def resource_panels() -> tuple[Panel, ...]:
    """Return the row about CPU and memory."""
    cpu = 'resource="cpu"'
    memory = 'resource="memory"'
    throttled = (
        series("container_cpu_cfs_throttled_periods_total", POD, CONTAINER),
        series("container_cpu_cfs_periods_total", POD, CONTAINER),
    )
    return (
        timeseries(
            "CPU cores",
            "Cores used by pod, with the request of one container.",
            Target(
                expr=aggregate("sum", f"rate({series(CPU, POD, CONTAINER)}[{RATE}])", "pod"),
                legend="{{pod}}",
            ),
            Target(
                expr=aggregate("max", series(REQUESTS, POD, CONTAINER, cpu), "container"),
                legend="request of one {{container}}",
            ),
            unit="short",
            overrides=(bound("request of .*"),),
        ),
        timeseries(
            "CPU of request",
            "What an autoscaler on CPU looks at.",
            Target(expr=_used(CPU, "cpu", REQUESTS), legend="{{pod}}"),
            unit="percentunit",
        ),
        timeseries(
            "CPU throttled",
            "Share of scheduling periods in which a container was held back by its CPU limit; "
            "throttling shows as probe latency first.",
            Target(
                expr=ratio(
                    aggregate("sum", f"rate({throttled[0]}[{RATE}])", "pod"),
                    aggregate("sum", f"rate({throttled[1]}[{RATE}])", "pod"),
                ),
                legend="{{pod}}",
            ),
            unit="percentunit",
            maximum=1,
            thresholds=Thresholds("green", (Threshold(0.25, "red"),)),
        ),
        timeseries(
            "Memory",
            "Working set by pod, with the limit of one container.",
            Target(expr=aggregate("sum", series(MEMORY, POD, CONTAINER), "pod"), legend="{{pod}}"),
            Target(
                expr=aggregate("max", series(LIMITS, POD, CONTAINER, memory), "container"),
                legend="limit of one {{container}}",
            ),
            unit="bytes",
            overrides=(bound("limit of .*"),),
            width=16,
        ),
        gauge(
            "Memory of limit",
            "The pod nearest to its limit; at 100% its container is killed.",
            Target(expr=aggregate("max", _used(MEMORY, "memory", LIMITS)), legend="of limit"),
            unit="percentunit",
            width=8,
            thresholds=SHARE_OF_LIMIT,
            links=(runbook("ServingOutOfMemory"),),
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
                    expr=aggregate(
                        "max",
                        series(f"{AUTOSCALER}_{part}_replicas", scaled),
                        "horizontalpodautoscaler",
                    ),
                    legend=f"{name} {{{{horizontalpodautoscaler}}}}",
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
            links=(runbook("InferenceAutoscalerMaxedOut"),),
        ),
        stat(
            "Evictions allowed",
            "Pods that may be evicted now; 0 blocks the draining of nodes.",
            Target(
                expr=aggregate("min", budget, "poddisruptionbudget"),
                legend="{{poddisruptionbudget}}",
            ),
            unit="none",
            width=4,
            height=8,
            thresholds=Thresholds("yellow", (Threshold(1, "green"),)),
            no_value="no budget",
        ),
        timeseries(
            "Volumes used",
            "Share of each volume that is full.",
            Target(
                expr=aggregate(
                    "max",
                    ratio(
                        series("kubelet_volume_stats_used_bytes", claim),
                        series("kubelet_volume_stats_capacity_bytes", claim),
                    ),
                    "persistentvolumeclaim",
                ),
                legend="{{persistentvolumeclaim}}",
            ),
            unit="percentunit",
            maximum=1,
            width=6,
            thresholds=Thresholds("green", (Threshold(0.75, "yellow"), Threshold(0.9, "red"))),
            links=(runbook("LoggingDiskFillsSoon"),),
        ),
        stat(
            "Pods known",
            "Pods of the services that kube-state-metrics knows; none where it is not scraped.",
            Target(expr=aggregate("count", series("kube_pod_info", POD))),
            unit="none",
            width=6,
            height=8,
            no_value="no cluster",
        ),
    )
