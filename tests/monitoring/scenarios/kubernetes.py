"""Scenarios of the alerts from kube-state-metrics."""

from monitoring.prometheus.source.kubernetes import BACKUP_JOB
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import ALWAYS, NEVER, Series, Wave, events, gauge
from tests.monitoring.scenarios.world import (
    INFERENCE,
    KUBE_STATE_METRICS,
    LOGGING,
    NAMESPACE,
    OTHER_SERVICE,
    Pod,
    critical,
    exporter_up,
    warning,
)

_BREAKS = gauge((1, "5m"), (0, "25m"), (1, "1h"))
_JOB = Pod(LOGGING_SERVICE, "logging-service-backup-29384-abcde", "", {})
_REASONS = ("SchedulingGated", "Evicted", "NodeLost")
_PHASES = ("Succeeded", "Failed")


def _pod(ready: Wave, pod: Pod, *, owner: str = "ReplicaSet", has: str = "") -> list[Series]:
    """Return a pod; `has` is the reason or the phase that it has beside Running."""
    return [
        pod.of_cluster("kube_pod_status_ready", ready, condition="true"),
        pod.of_cluster("kube_pod_status_ready", NEVER, condition="false"),
        pod.of_cluster("kube_pod_owner", ALWAYS, owner_kind=owner),
        *(
            pod.of_cluster("kube_pod_status_phase", ALWAYS if has == phase else NEVER, phase=phase)
            for phase in _PHASES
        ),
        *(
            pod.of_cluster("kube_pod_status_reason", ALWAYS if has == one else NEVER, reason=one)
            for one in _REASONS
        ),
    ]


def _not_ready_story(pod: Pod, what: str, *, has: str = "") -> Story:
    return Story(
        "ServingPodNotReady",
        what,
        _pod(_BREAKS, pod, has=has),
        holds=("5m", "30m"),
        labels=warning(pod.labels, pod.service),
        local=False,
    )


def _restarts(pod: Pod, restarts: Wave, up: Wave = ALWAYS) -> list[Series]:
    return [
        exporter_up(KUBE_STATE_METRICS, up),
        pod.of_container("kube_pod_container_status_restarts_total", restarts),
    ]


def _restarting_story(what: str, restarts: Wave, onset: str) -> Story:
    return Story(
        "ServingPodRestarting",
        what,
        _restarts(INFERENCE, restarts),
        holds=(onset, "60m"),
        labels=critical({**INFERENCE.labels, "container": INFERENCE_SERVICE}, INFERENCE_SERVICE),
        value="3",
        lingers="30m",
        local=False,
    )


def _killed(pod: Pod, killed: Wave, restarts: Wave, *, reason: str = "OOMKilled") -> list[Series]:
    metric = "kube_pod_container_status_last_terminated_reason"
    return [*_restarts(pod, restarts), pod.of_container(metric, killed, reason=reason)]


def _out_of_memory_story(what: str, restarts: Wave) -> Story:
    return Story(
        "ServingOutOfMemory",
        what,
        _killed(INFERENCE, gauge((0, "30m"), (1, "2h")), restarts),
        holds=("30m", "60m"),
        labels=warning({**INFERENCE.labels, "container": INFERENCE_SERVICE}, INFERENCE_SERVICE),
        local=False,
    )


_POD_SCENARIOS: tuple[Scenario, ...] = (
    _not_ready_story(INFERENCE, "a running pod is unready"),
    _not_ready_story(LOGGING, "the node is lost", has="NodeLost"),
    *(
        Silence("ServingPodNotReady", what, series, at=("10m", "30m"))
        for what, series in (
            ("a scheduling gate holds the pod back", _pod(NEVER, INFERENCE, has="SchedulingGated")),
            ("a shutdown of the node has left a failed pod", _pod(NEVER, INFERENCE, has="Failed")),
            ("the pod has ended well", _pod(NEVER, INFERENCE, has="Succeeded")),
            ("the pod belongs to a job", _pod(NEVER, _JOB, owner="Job")),
            ("another service's pod is unready", _pod(NEVER, OTHER_SERVICE)),
        )
    ),
    Silence(
        "ServingPodNotReady",
        "every pod is ready and nobody asks for a prediction",
        _pod(ALWAYS, INFERENCE),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    _restarting_story("the third restart in half an hour", events(1800, 2100, 2400), "40m"),
    _restarting_story(
        "a pod has restarted three times before it is first seen",
        gauge((None, "30m"), (3, "2h")),
        "30m",
    ),
    Silence(
        "ServingPodRestarting",
        "kube-state-metrics was never scraped before and counts old restarts",
        _restarts(INFERENCE, gauge((None, "20m"), (7, "2h")), gauge((None, "20m"), (1, "2h"))),
        at=("20m15s", "40m"),
    ),
    Silence(
        "ServingPodRestarting",
        "another service's container restarts",
        _restarts(OTHER_SERVICE, events(1800, 2100, 2400)),
        at=("45m",),
    ),
    Silence(
        "ServingPodRestarting",
        "a pod has run for an hour",
        _restarts(INFERENCE, gauge((7, "2h"))),
        kind=Kind.NO_TRAFFIC,
        at=("60m",),
    ),
    _out_of_memory_story("one kill for want of memory", events(1800)),
    _out_of_memory_story("a new pod is killed at once", gauge((None, "30m"), (1, "2h"))),
    *(
        Silence("ServingOutOfMemory", what, series, kind=kind, at=at)
        for what, series, kind, at in (
            (
                "a restart for another reason",
                _killed(INFERENCE, ALWAYS, events(1800), reason="Error")
                + _killed(INFERENCE, NEVER, events(1800))[2:],
                Kind.HEALTHY,
                ("31m", "40m"),
            ),
            (
                "another service's container runs out of memory",
                _killed(OTHER_SERVICE, ALWAYS, events(1800)),
                Kind.HEALTHY,
                ("31m", "40m"),
            ),
            (
                "the last kill was yesterday",
                _killed(INFERENCE, ALWAYS, gauge((7, "2h"))),
                Kind.NO_TRAFFIC,
                ("45m",),
            ),
            (
                "the last kill was before kube-state-metrics was first scraped",
                [
                    exporter_up(KUBE_STATE_METRICS, gauge((None, "20m"), (1, "2h"))),
                    *_killed(INFERENCE, ALWAYS, gauge((None, "20m"), (7, "2h")))[1:],
                ],
                Kind.HEALTHY,
                ("20m15s", "40m"),
            ),
        )
    ),
)

_AUTOSCALER = {"namespace": NAMESPACE, "horizontalpodautoscaler": INFERENCE_SERVICE}


def _autoscaler(name: str, *, current: Wave, least: float, most: float) -> list[Series]:
    labels = {**KUBE_STATE_METRICS, **_AUTOSCALER, "horizontalpodautoscaler": name}
    metric = "kube_horizontalpodautoscaler"
    return [
        Series(f"{metric}_status_current_replicas", labels, current),
        Series(f"{metric}_spec_min_replicas", labels, gauge((least, "2h"))),
        Series(f"{metric}_spec_max_replicas", labels, gauge((most, "2h"))),
    ]


_AUTOSCALER_SCENARIOS: tuple[Scenario, ...] = (
    Story(
        "InferenceAutoscalerMaxedOut",
        "all of eight pods run for half an hour",
        _autoscaler(
            INFERENCE_SERVICE, current=gauge((7, "5m"), (8, "25m"), (7, "1h")), least=2, most=8
        ),
        holds=("5m", "30m"),
        labels=warning(_AUTOSCALER, INFERENCE_SERVICE),
        value="8",
        local=False,
    ),
    Silence(
        "InferenceAutoscalerMaxedOut",
        "the autoscaler has no room by intent",
        _autoscaler(INFERENCE_SERVICE, current=gauge((2, "1h")), least=2, most=2),
        at=("10m", "30m"),
    ),
    Silence(
        "InferenceAutoscalerMaxedOut",
        "another service's autoscaler is at its limit",
        _autoscaler("mlflow", current=gauge((8, "1h")), least=2, most=8),
        at=("10m", "30m"),
    ),
    Silence(
        "InferenceAutoscalerMaxedOut",
        "nobody asks for a prediction",
        _autoscaler(INFERENCE_SERVICE, current=gauge((2, "1h")), least=2, most=8),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
)


_BACKUP = {"namespace": NAMESPACE, "cronjob": BACKUP_JOB}
# 26 hours before the tenth minute of a scenario, whose time begins at 0.
_LONG_AGO = -93_000.0


def _backup(
    *,
    succeeded: Wave | None,
    created: float = -172_800.0,
    suspended: float = 0.0,
    name: str = BACKUP_JOB,
) -> list[Series]:
    """Return a CronJob, made two days before the scenario; `succeeded` is when it last did."""
    job = {**KUBE_STATE_METRICS, "namespace": NAMESPACE, "cronjob": name}
    series = [
        Series("kube_cronjob_created", job, gauge((created, "2h"))),
        Series("kube_cronjob_spec_suspend", job, gauge((suspended, "2h"))),
    ]
    if succeeded is not None:
        series.append(Series("kube_cronjob_status_last_successful_time", job, succeeded))
    return series


_BACKUP_SCENARIOS = (
    Story(
        "LoggingBackupOverdue",
        "the backup of the night fails, one by hand succeeds",
        _backup(succeeded=gauge((_LONG_AGO, "40m"), (2_400.0, "1h"))),
        holds=("10m15s", "40m"),
        labels=warning(_BACKUP, LOGGING_SERVICE),
        value="1d 2h 15m 15s",
        local=False,
    ),
    Story(
        "LoggingBackupOverdue",
        "no backup has ever succeeded, one by hand does",
        [
            *_backup(succeeded=None, created=_LONG_AGO),
            Series(
                "kube_cronjob_status_last_successful_time",
                {**KUBE_STATE_METRICS, **_BACKUP},
                gauge((None, "40m"), (2_400.0, "1h")),
            ),
        ],
        holds=("10m15s", "40m"),
        labels=warning(_BACKUP, LOGGING_SERVICE),
        value="1d 2h 15m 15s",
        local=False,
    ),
    Silence(
        "LoggingBackupOverdue",
        "the last backup is of this night",
        _backup(succeeded=gauge((-50_000.0, "2h"))),
        at=("30m", "1h"),
    ),
    Silence(
        "LoggingBackupOverdue",
        "backups are suspended",
        _backup(succeeded=gauge((_LONG_AGO, "2h")), suspended=1.0),
        at=("30m", "1h"),
    ),
    Silence(
        "LoggingBackupOverdue",
        "another service's job is overdue",
        _backup(succeeded=gauge((_LONG_AGO, "2h")), name="mlflow-gc"),
        at=("30m", "1h"),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (*_POD_SCENARIOS, *_AUTOSCALER_SCENARIOS, *_BACKUP_SCENARIOS)
