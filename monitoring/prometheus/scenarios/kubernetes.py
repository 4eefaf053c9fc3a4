"""Scenarios of the alerts from kube-state-metrics."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, events, gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_POD,
    LOGGING_POD,
    critical,
    kubernetes,
    warning,
)
from monitoring.prometheus.source.kubernetes import BACKUP_JOB
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_BREAKS = gauge((1, "5m"), (0, "25m"), (1, "1h"))
_NEVER = gauge((0, "2h"))
_ALWAYS = gauge((1, "2h"))
_INFERENCE_CONTAINER = {**INFERENCE_POD, "container": INFERENCE_SERVICE}
_AUTOSCALER = {"namespace": "mlops", "horizontalpodautoscaler": INFERENCE_SERVICE}


def _pod(ready: Wave, pod: dict[str, str], **states: Wave) -> list[Series]:
    """Return a pod; `states` are owners, reasons and phases that it has, by their names."""
    return [
        kubernetes("kube_pod_status_ready", pod, ready, condition="true"),
        kubernetes("kube_pod_status_ready", pod, _NEVER, condition="false"),
        kubernetes("kube_pod_owner", pod, _ALWAYS, owner_kind="ReplicaSet"),
        kubernetes("kube_pod_status_phase", pod, _ALWAYS, phase="Running"),
        kubernetes(
            "kube_pod_status_phase", pod, states.get("succeeded", _NEVER), phase="Succeeded"
        ),
        *(
            kubernetes("kube_pod_status_reason", pod, states.get(reason, _NEVER), reason=reason)
            for reason in ("SchedulingGated", "Evicted", "NodeLost")
        ),
    ]


def _not_ready_story(pod: dict[str, str], service: str, what: str, **states: Wave) -> Story:
    name = f"mlops/{pod['pod']}"
    return Story(
        alert="ServingPodNotReady",
        what=what,
        series=_pod(_BREAKS, pod, **states),
        onset="5m",
        hold="12m",
        over="30m",
        labels=warning({**pod, "condition": "true"}, service),
        summary=f"pod {name} is not ready",
        description=(
            f"Kubernetes has not counted {name} as ready for 12 minutes, longer than a start may"
            " take: it is pending, crashes, or its readiness probe fails."
        ),
        local=False,
    )


_POD_SCENARIOS = (
    _not_ready_story(INFERENCE_POD, INFERENCE_SERVICE, "a running pod is unready"),
    _not_ready_story(LOGGING_POD, LOGGING_SERVICE, "the node is lost", NodeLost=_ALWAYS),
    Silence(
        alert="ServingPodNotReady",
        what="a scheduling gate holds the pod back",
        series=_pod(_NEVER, INFERENCE_POD, SchedulingGated=_ALWAYS),
        at=("10m", "30m"),
    ),
    Silence(
        alert="ServingPodNotReady",
        what="the pod was evicted and replaced",
        series=_pod(_NEVER, INFERENCE_POD, Evicted=_ALWAYS),
        at=("10m", "30m"),
    ),
    Silence(
        alert="ServingPodNotReady",
        what="the pod has ended well",
        series=_pod(_NEVER, INFERENCE_POD, succeeded=_ALWAYS),
        at=("10m", "30m"),
    ),
    Silence(
        alert="ServingPodNotReady",
        what="the pod belongs to a job",
        series=[
            kubernetes(
                "kube_pod_status_ready",
                {"namespace": "mlops", "pod": "logging-service-backup-29384-abcde"},
                _NEVER,
                condition="true",
            ),
            kubernetes(
                "kube_pod_owner",
                {"namespace": "mlops", "pod": "logging-service-backup-29384-abcde"},
                _ALWAYS,
                owner_kind="Job",
            ),
        ],
        at=("10m", "30m"),
    ),
    Silence(
        alert="ServingPodNotReady",
        what="a stranger's pod is unready",
        series=_pod(_NEVER, {"namespace": "mlops", "pod": "mlflow-0"}),
        at=("10m", "30m"),
    ),
    Silence(
        alert="ServingPodNotReady",
        what="every pod is ready and nobody asks for a prediction",
        series=_pod(_ALWAYS, INFERENCE_POD),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Story(
        alert="ServingPodRestarting",
        what="the third restart in half an hour",
        series=[
            kubernetes(
                "kube_pod_container_status_restarts_total",
                _INFERENCE_CONTAINER,
                events(1800, 2100, 2400),
            )
        ],
        onset="40m",
        hold="1m",
        over="60m",
        labels=critical(_INFERENCE_CONTAINER, INFERENCE_SERVICE),
        summary=f"container inference-service of mlops/{INFERENCE_POD['pod']} keeps restarting",
        description=(
            f"Container inference-service of mlops/{INFERENCE_POD['pod']} has restarted about 3"
            " times in 30 minutes."
        ),
        lingers="30m",
        local=False,
    ),
    Silence(
        alert="ServingPodRestarting",
        what="a stranger's container restarts",
        series=[
            kubernetes(
                "kube_pod_container_status_restarts_total",
                {"namespace": "mlops", "pod": "mlflow-0", "container": "mlflow"},
                events(1800, 2100, 2400),
            )
        ],
        at=("45m",),
    ),
    Silence(
        alert="ServingPodRestarting",
        what="a pod has run for an hour",
        series=[
            kubernetes(
                "kube_pod_container_status_restarts_total",
                _INFERENCE_CONTAINER,
                gauge((7, "2h")),
            )
        ],
        kind=Kind.NO_TRAFFIC,
        at=("60m",),
    ),
    Story(
        alert="ServingOutOfMemory",
        what="one kill for want of memory",
        series=[
            kubernetes(
                "kube_pod_container_status_last_terminated_reason",
                _INFERENCE_CONTAINER,
                gauge((0, "30m"), (1, "2h")),
                reason="OOMKilled",
            ),
            kubernetes(
                "kube_pod_container_status_restarts_total", _INFERENCE_CONTAINER, events(1800)
            ),
        ],
        onset="30m",
        hold="30s",
        over="60m",
        labels=warning({**_INFERENCE_CONTAINER, "reason": "OOMKilled"}, INFERENCE_SERVICE),
        summary=f"container inference-service of mlops/{INFERENCE_POD['pod']} ran out of memory",
        description=(
            f"Container inference-service of mlops/{INFERENCE_POD['pod']} was killed within the"
            " last 30 minutes for using more than its memory limit."
        ),
        local=False,
    ),
    Silence(
        alert="ServingOutOfMemory",
        what="a restart for another reason",
        series=[
            kubernetes(
                "kube_pod_container_status_last_terminated_reason",
                _INFERENCE_CONTAINER,
                gauge((0, "2h")),
                reason="OOMKilled",
            ),
            kubernetes(
                "kube_pod_container_status_last_terminated_reason",
                _INFERENCE_CONTAINER,
                gauge((1, "2h")),
                reason="Error",
            ),
            kubernetes(
                "kube_pod_container_status_restarts_total", _INFERENCE_CONTAINER, events(1800)
            ),
        ],
        at=("31m", "40m"),
    ),
    Silence(
        alert="ServingOutOfMemory",
        what="a stranger's container runs out of memory",
        series=[
            kubernetes(
                "kube_pod_container_status_last_terminated_reason",
                {"namespace": "mlops", "pod": "mlflow-0", "container": "mlflow"},
                gauge((1, "2h")),
                reason="OOMKilled",
            ),
            kubernetes(
                "kube_pod_container_status_restarts_total",
                {"namespace": "mlops", "pod": "mlflow-0", "container": "mlflow"},
                events(1800),
            ),
        ],
        at=("31m", "40m"),
    ),
    Silence(
        alert="ServingOutOfMemory",
        what="the last kill was yesterday",
        series=[
            kubernetes(
                "kube_pod_container_status_last_terminated_reason",
                _INFERENCE_CONTAINER,
                gauge((1, "2h")),
                reason="OOMKilled",
            ),
            kubernetes(
                "kube_pod_container_status_restarts_total",
                _INFERENCE_CONTAINER,
                gauge((7, "2h")),
            ),
        ],
        kind=Kind.NO_TRAFFIC,
        at=("45m",),
    ),
)


def _autoscaler(name: str, *, current: Wave, least: float, most: float) -> list[Series]:
    labels = {**_AUTOSCALER, "horizontalpodautoscaler": name}
    metric = "kube_horizontalpodautoscaler"
    return [
        Series(f"{metric}_status_current_replicas", labels, current),
        Series(f"{metric}_spec_min_replicas", labels, gauge((least, "2h"))),
        Series(f"{metric}_spec_max_replicas", labels, gauge((most, "2h"))),
    ]


_AUTOSCALER_SCENARIOS = (
    Story(
        alert="InferenceAutoscalerMaxedOut",
        what="all of eight pods run for half an hour",
        series=_autoscaler(
            INFERENCE_SERVICE,
            current=gauge((7, "5m"), (8, "25m"), (7, "1h")),
            least=2,
            most=8,
        ),
        onset="5m",
        hold="15m",
        over="30m",
        labels=warning(_AUTOSCALER, INFERENCE_SERVICE),
        summary="the autoscaler of mlops/inference-service is at its limit of 8 pods",
        description=(
            "For 15 minutes mlops/inference-service has run all 8 pods that its autoscaler may"
            " start: more traffic makes it slower, then answers 429."
        ),
        local=False,
    ),
    Silence(
        alert="InferenceAutoscalerMaxedOut",
        what="the autoscaler has no room by intent",
        series=_autoscaler(INFERENCE_SERVICE, current=gauge((2, "1h")), least=2, most=2),
        at=("10m", "30m"),
    ),
    Silence(
        alert="InferenceAutoscalerMaxedOut",
        what="a stranger's autoscaler is at its limit",
        series=_autoscaler("mlflow", current=gauge((8, "1h")), least=2, most=8),
        at=("10m", "30m"),
    ),
    Silence(
        alert="InferenceAutoscalerMaxedOut",
        what="nobody asks for a prediction",
        series=_autoscaler(INFERENCE_SERVICE, current=gauge((2, "1h")), least=2, most=8),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
)


_BACKUP = {"namespace": "mlops", "cronjob": BACKUP_JOB}
_STRANGER = {**_BACKUP, "cronjob": "mlflow-gc"}
# 26 hours before the tenth minute of a scenario, whose time begins at 0.
_LONG_AGO = -93_000.0


def _backup(
    *,
    succeeded: Wave | None,
    created: float = -172_800.0,
    suspended: float = 0.0,
    job: dict[str, str] = _BACKUP,
) -> list[Series]:
    """Return a CronJob, made two days before the scenario; `succeeded` is when it last did."""
    series = [
        Series("kube_cronjob_created", job, gauge((created, "2h"))),
        Series("kube_cronjob_spec_suspend", job, gauge((suspended, "2h"))),
    ]
    if succeeded is not None:
        series.append(Series("kube_cronjob_status_last_successful_time", job, succeeded))
    return series


_BACKUP_SCENARIOS = (
    Story(
        alert="LoggingBackupOverdue",
        what="the backup of the night fails, one by hand succeeds",
        series=_backup(succeeded=gauge((_LONG_AGO, "40m"), (2_400.0, "1h"))),
        onset="10m15s",
        hold="15m",
        over="40m",
        labels=warning(_BACKUP, LOGGING_SERVICE),
        summary="the predictions in mlops were last backed up 1d 2h 15m 15s ago",
        description=(
            "mlops/logging-backup has not succeeded for 26 hours, though it runs daily: what is"
            " predicted meanwhile is in one copy only."
        ),
        local=False,
    ),
    Story(
        alert="LoggingBackupOverdue",
        what="no backup has ever succeeded, one by hand does",
        series=[
            *_backup(succeeded=None, created=_LONG_AGO),
            Series(
                "kube_cronjob_status_last_successful_time",
                _BACKUP,
                gauge((None, "40m"), (2_400.0, "1h")),
            ),
        ],
        onset="10m15s",
        hold="15m",
        over="40m",
        labels=warning(_BACKUP, LOGGING_SERVICE),
        summary="the predictions in mlops were last backed up 1d 2h 15m 15s ago",
        description=(
            "mlops/logging-backup has not succeeded for 26 hours, though it runs daily: what is"
            " predicted meanwhile is in one copy only."
        ),
        local=False,
    ),
    Silence(
        alert="LoggingBackupOverdue",
        what="the last backup is of this night",
        series=_backup(succeeded=gauge((-50_000.0, "2h"))),
        at=("30m", "1h"),
    ),
    Silence(
        alert="LoggingBackupOverdue",
        what="backups are suspended",
        series=_backup(succeeded=gauge((_LONG_AGO, "2h")), suspended=1.0),
        at=("30m", "1h"),
    ),
    Silence(
        alert="LoggingBackupOverdue",
        what="a stranger's job is overdue",
        series=_backup(succeeded=gauge((_LONG_AGO, "2h")), job=_STRANGER),
        at=("30m", "1h"),
    ),
)

SCENARIOS = (*_POD_SCENARIOS, *_AUTOSCALER_SCENARIOS, *_BACKUP_SCENARIOS)
