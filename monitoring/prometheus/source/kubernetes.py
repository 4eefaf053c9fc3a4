"""Alerts from kube-state-metrics on the pods, the backup and the autoscaler."""

from functools import partial

from monitoring.prometheus.source.promql import growth
from monitoring.prometheus.source.rule import EITHER_SERVICE, POD, PODS, Alert, Group, RuleFile
from monitoring.timings import INFERENCE, INFERENCE_SERVICE, LOGGING_SERVICE

_alert = partial(Alert, service="{{ $labels.container }}", dashboard="kubernetes")

BACKUP_JOB = "logging-backup"
# Daily, may start an hour late and run for an hour.
_BACKUP_HOURS = 26

_RESTARTS = f'kube_pod_container_status_restarts_total{{container=~"{EITHER_SERVICE}"}}'

_STARTUP_MINUTES = INFERENCE.startup.patience_seconds // 60 + 2


def _with_service(expr: str) -> str:
    """Label series of a pod with the service that its name begins with."""
    return f'label_replace({expr}, "service", "$1", "pod", "{PODS}")'


def _backups_overdue() -> str:
    """Return PromQL for the seconds since a backup last succeeded, where they are too many.

    A CronJob that never succeeded has no time of it: its own age counts. One that is suspended
    is meant to rest.
    """
    job = f'{{cronjob="{BACKUP_JOB}"}}'
    last = f"kube_cronjob_status_last_successful_time{job}"
    created = f"kube_cronjob_created{job}"
    suspended = f"kube_cronjob_spec_suspend{job} == 1"
    longest = _BACKUP_HOURS * 3600
    return (
        f"time() - max by (namespace, cronjob) ({last} or on (namespace, cronjob) {created})"
        f" > {longest}"
        f" unless on (namespace, cronjob) {suspended}"
    )


def _unready_pods() -> str:
    """Return PromQL for pods that should be ready and are not.

    Pods of Jobs (the backup) end and are then unready for good. A pod held back by a scheduling
    gate waits on purpose. A pod whose phase is Succeeded or Failed does not run again: its
    controller has replaced it, after an eviction or a shutdown of its node for instance.
    """
    return (
        f'kube_pod_status_ready{{pod=~"{PODS}",condition="true"}} == 0'
        ' unless on (namespace, pod) kube_pod_owner{owner_kind="Job"}'
        ' unless on (namespace, pod) kube_pod_status_reason{reason="SchedulingGated"} == 1'
        ' unless on (namespace, pod) kube_pod_status_phase{phase=~"Succeeded|Failed"} == 1'
    )


KUBERNETES = RuleFile(
    "kubernetes",
    (
        Group(
            "kubernetes-alerts",
            (
                _alert(
                    "ServingPodNotReady",
                    "warning",
                    service="",
                    expr=_with_service(f"max by (namespace, pod) ({_unready_pods()})"),
                    hold=f"{_STARTUP_MINUTES}m",
                    summary=f"pod {POD} is not ready",
                    description=(
                        f"Kubernetes has not counted {POD} as ready for {_STARTUP_MINUTES} minutes,"
                        " longer than a start may take: it is pending, crashes, or its readiness"
                        " probe fails."
                    ),
                ),
                _alert(
                    "ServingPodRestarting",
                    "critical",
                    expr=f"max by (namespace, pod, container) {growth(_RESTARTS, '30m')} > 2.5",
                    hold="1m",
                    summary=f"container {{{{ $labels.container }}}} of {POD} keeps restarting",
                    description=(
                        f"Container {{{{ $labels.container }}}} of {POD} has restarted about"
                        " {{ $value | humanize }} times in 30 minutes."
                    ),
                ),
                _alert(
                    "ServingOutOfMemory",
                    "warning",
                    expr=(
                        "max by (namespace, pod, container)"
                        " (kube_pod_container_status_last_terminated_reason"
                        f'{{container=~"{EITHER_SERVICE}",reason="OOMKilled"}}) == 1'
                        f" and on (namespace, pod, container) {growth(_RESTARTS, '30m')} > 0"
                    ),
                    hold="30s",
                    summary=f"container {{{{ $labels.container }}}} of {POD} ran out of memory",
                    description=(
                        f"Container {{{{ $labels.container }}}} of {POD} was killed within the last"
                        " 30 minutes for using more than its memory limit."
                    ),
                ),
                _alert(
                    "LoggingBackupOverdue",
                    "warning",
                    service=LOGGING_SERVICE,
                    expr=_backups_overdue(),
                    hold="15m",
                    summary=(
                        "the predictions in {{ $labels.namespace }} were last backed up"
                        " {{ $value | humanizeDuration }} ago"
                    ),
                    description=(
                        "{{ $labels.namespace }}/{{ $labels.cronjob }} has not succeeded for"
                        f" {_BACKUP_HOURS} hours, though it runs daily: what is predicted"
                        " meanwhile is in one copy only."
                    ),
                ),
                _alert(
                    "InferenceAutoscalerMaxedOut",
                    "warning",
                    service=INFERENCE_SERVICE,
                    expr=(
                        "kube_horizontalpodautoscaler_status_current_replicas"
                        f'{{horizontalpodautoscaler="{INFERENCE_SERVICE}"}}'
                        " >= on (namespace, horizontalpodautoscaler)"
                        " kube_horizontalpodautoscaler_spec_max_replicas"
                        " and on (namespace, horizontalpodautoscaler)"
                        " kube_horizontalpodautoscaler_spec_max_replicas"
                        " > on (namespace, horizontalpodautoscaler)"
                        " kube_horizontalpodautoscaler_spec_min_replicas"
                    ),
                    hold="15m",
                    summary=(
                        "the autoscaler of {{ $labels.namespace }}/inference-service is at its"
                        " limit of {{ $value }} pods"
                    ),
                    description=(
                        "For 15 minutes {{ $labels.namespace }}/inference-service has run all"
                        " {{ $value }} pods that its autoscaler may start: more traffic makes it"
                        " slower, then answers 429."
                    ),
                ),
            ),
        ),
    ),
)
