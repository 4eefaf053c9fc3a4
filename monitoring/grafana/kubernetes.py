"""The Kubernetes dashboard: pods, resources, autoscaling and volumes of both services."""

from monitoring.grafana.dashboard import (
    KUBERNETES,
    TITLES,
    Choice,
    Dashboard,
    links_from,
    service_variables,
)
from monitoring.grafana.kubernetes_resources import (
    CONTAINER,
    CPU,
    NAMED,
    POD,
    resource_panels,
    scaling_panels,
)
from monitoring.grafana.panels import (
    FEW_ARE_ODD,
    READY_OR_NOT,
    bars,
    stat,
    states,
    table,
    timeseries,
    tone,
)
from monitoring.grafana.queries import RATE, aggregate, increase, max_of, ratio, series, sum_of
from monitoring.grafana.schema import Panel, Row, Thresholds
from monitoring.timings import SERVICES

RESTARTS = "kube_pod_container_status_restarts_total"


def build() -> Dashboard:
    """Return the dashboard."""
    namespace, *others = service_variables("kube_pod_info", CPU)
    workload = Choice(
        name="workload",
        values=tuple(SERVICES),
        description="Deployment or StatefulSet of a service.",
    )
    return Dashboard(
        uid=KUBERNETES,
        title=TITLES[KUBERNETES],
        description="The services' pods as kube-state-metrics, the kubelet and cAdvisor see them.",
        readers="Who runs the cluster.",
        variables=(namespace, workload, *others),
        links=links_from(KUBERNETES),
        rows=(
            Row("Pods", "Are the pods there and ready, where, and what do they serve?", _pods()),
            Row("Restarts", "Which containers restart, and why?", _restarts()),
            Row(
                "CPU and memory",
                "What do pods use of what they asked for and may have?",
                resource_panels(),
            ),
            Row(
                "Autoscaling, disruptions and volumes",
                "Is there room to scale, to drain a node, to store?",
                scaling_panels(),
            ),
        ),
    )


def _pods() -> tuple[Panel, ...]:
    ready = 'condition="true"'
    return (
        bars(
            "Ready of wanted",
            "Share of wanted pods that are ready, by workload.",
            aggregate(
                "sum",
                ratio(
                    series("kube_deployment_status_replicas_ready", f"deployment=~{NAMED}"),
                    series("kube_deployment_spec_replicas", f"deployment=~{NAMED}"),
                ),
                by="deployment",
            ),
            aggregate(
                "sum",
                ratio(
                    series("kube_statefulset_status_replicas_ready", f"statefulset=~{NAMED}"),
                    series("kube_statefulset_replicas", f"statefulset=~{NAMED}"),
                ),
                by="statefulset",
            ),
            unit="percentunit",
            width=6,
            maximum=1,
            thresholds=Thresholds("red", ((0.5, "yellow"), (1, "green"))),
            no_value="no cluster",
            alerts=("ServingPodNotReady",),
        ),
        states(
            "Pods ready",
            "Readiness of each pod, as the endpoints controller sees it.",
            max_of("kube_pod_status_ready", POD, ready, by="pod"),
            mappings=READY_OR_NOT,
            width=10,
            alerts=("ServingPodNotReady",),
        ),
        timeseries(
            "Pods by phase",
            "Pending for long means no room, no image or no volume.",
            sum_of("kube_pod_status_phase", POD, by="phase") + " > 0",
            unit="none",
            stacking="normal",
            decimals=0,
            overrides=(
                tone("Running|Succeeded", "green"),
                tone("Pending", "yellow"),
                tone("Failed|Unknown", "red"),
            ),
            no_value="no cluster",
        ),
        table(
            "Pods and nodes",
            "Where each pod runs.",
            max_of("kube_pod_info", POD, by="namespace, pod, node"),
        ),
        table(
            "What each pod serves",
            "The model and version that each inference pod says it serves.",
            max_of("inference_model_info", by="namespace, instance, model, stage, version"),
        ),
    )


def _restarts() -> tuple[Panel, ...]:
    return (
        stat(
            "Restarts",
            "Restarts of the services' containers within the chosen time.",
            increase(RESTARTS, POD, CONTAINER, by="container"),
            unit="none",
            width=4,
            height=8,
            decimals=0,
            thresholds=FEW_ARE_ODD,
            no_value="no cluster",
            alerts=("ServingPodRestarting",),
        ),
        timeseries(
            "Restarts by pod",
            "When containers were restarted.",
            increase(RESTARTS, POD, CONTAINER, by="pod", over=RATE),
            unit="none",
            width=6,
            decimals=0,
            alerts=("ServingPodRestarting",),
        ),
        timeseries(
            "Why containers wait",
            "CrashLoopBackOff, ImagePullBackOff and the like.",
            sum_of("kube_pod_container_status_waiting_reason", POD, CONTAINER, by="pod, reason"),
            unit="none",
            width=6,
            decimals=0,
            no_value="nothing waits",
            alerts=("ServingPodRestarting",),
        ),
        table(
            "Why containers last ended",
            "OOMKilled means that the memory limit is too small for the model.",
            max_of(
                "kube_pod_container_status_last_terminated_reason",
                POD,
                CONTAINER,
                by="pod, container, reason",
            )
            + " > 0",
            width=8,
            no_value="no container has ended",
            alerts=("ServingPodRestarting",),
        ),
    )
