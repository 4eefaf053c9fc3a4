"""Alerts on the inference service alone: its model, MLflow, pods, failures and outbox."""

from functools import partial

from bentos.inference.settings import InferenceSettings
from monitoring.prometheus.source.promql import grew
from monitoring.prometheus.source.rule import (
    DEPLOYMENT,
    IN_NAMESPACE,
    INSTANCE,
    MODEL,
    Alert,
    Group,
    Recording,
    RuleFile,
)
from monitoring.prometheus.source.services import (
    INFERENCE,
    p99,
    readiness_alerts,
    request_alerts,
    request_recordings,
)
from monitoring.timings import INFERENCE as TIMINGS
from monitoring.timings import INFERENCE_SERVICE

_alert = partial(Alert, service=INFERENCE_SERVICE, dashboard="inference")

# A starting pod may be without a model for as long as its start-up probe allows, and a minute.
_STARTUP_MINUTES = TIMINGS.startup.patience_seconds // 60 + 1
# The checks of MLflow that may fail to end before they count as stuck.
_OVERDUE_CHECKS = 6
# What tells one worker pod from another, in a cluster and on one machine.
_POD = "namespace, job, instance, pod, model, stage"


def _overdue_check() -> str:
    """Return PromQL for the age of a check of MLflow that has missed six whole rounds.

    A round is the pause between checks, which the service exposes as it was set, and the longest
    time that a check may take.
    """
    longest = float(InferenceSettings.model_fields["mlflow_timeout_seconds"].default)
    return (
        "inference_mlflow_check_age_seconds"
        f" > {_OVERDUE_CHECKS} * inference_mlflow_poll_seconds + {_OVERDUE_CHECKS * longest:g}"
    )


_MODEL_ALERTS = (
    _alert(
        "InferenceModelNotLoaded",
        "critical",
        expr=f"max by ({DEPLOYMENT}) (inference_model_loaded) == 0",
        hold="2m",
        summary=f"no pod has {MODEL} loaded{IN_NAMESPACE}",
        description=(
            f"For 2 minutes no target has held a model that answered its warm-up input: /predict of"
            f" {MODEL} answers 503 model_not_loaded everywhere."
        ),
    ),
    _alert(
        "InferencePodWithoutModel",
        "warning",
        expr="inference_model_loaded == 0",
        hold=f"{_STARTUP_MINUTES}m",
        summary=f"{INSTANCE} has not loaded {MODEL}",
        description=(
            f"{INSTANCE} has been without {MODEL} for {_STARTUP_MINUTES} minutes, longer than a"
            " start may take, and gets no requests."
        ),
    ),
    _alert(
        "InferenceModelLoadFailing",
        "warning",
        expr='increase(inference_model_loads_total{outcome="failure"}[15m]) > 2.5',
        hold="1m",
        summary=f"{INSTANCE} fails to load {MODEL}",
        description=(
            f"About {{{{ $value | humanize }}}} attempts of {INSTANCE} to load {MODEL} have failed"
            " in 15 minutes; what was loaded before goes on serving."
        ),
    ),
    _alert(
        "InferenceModelProcessDying",
        "warning",
        expr="increase(inference_model_process_exits_total[15m]) > 1.5",
        hold="1m",
        summary=f"the model process of {INSTANCE} dies again and again",
        description=(
            f"The process that holds {MODEL} in {INSTANCE} has ended about"
            " {{ $value | humanize }} times in 15 minutes; each time the pod is unready until the"
            " model is loaded again, and the requests it was at have failed."
        ),
    ),
    _alert(
        "InferenceModelVersionStale",
        "warning",
        expr=(
            "inference_model_version != inference_registry_version"
            " and inference_model_version > 0 and inference_registry_version > 0"
        ),
        hold="15m",
        summary=f"{INSTANCE} serves version {{{{ $value }}}} of {MODEL}, not the registry's",
        description=(
            f"For 15 minutes {INSTANCE} has served version {{{{ $value }}}} of"
            " {{ $labels.model }} while {{ $labels.stage }} points to another version in MLflow:"
            " the new version does not load, or the service has stopped following the registry."
        ),
    ),
    _alert(
        "InferenceModelVersionsDiffer",
        "warning",
        expr=(
            f"count by ({DEPLOYMENT}) (count by ({DEPLOYMENT}, version) (inference_model_info)) > 1"
        ),
        hold="15m",
        summary=f"pods serve {{{{ $value }}}} versions of {MODEL} at once{IN_NAMESPACE}",
        description=(
            f"For 15 minutes {{{{ $value }}}} versions of {MODEL} have answered side by side: the"
            " same image may be judged differently from one request to the next."
        ),
    ),
    _alert(
        "InferenceDrift",
        "warning",
        expr=f"max by ({DEPLOYMENT}, quantity) (inference_drift_psi) > 0.25",
        hold="10m",
        summary=f"the {{{{ $labels.quantity }}}} of what {MODEL} gets has drifted{IN_NAMESPACE}",
        description=(
            "For 10 minutes the {{ $labels.quantity }} of what a pod has served has been far from"
            f" what {MODEL} was trained on: its answers may be wrong although it is sure of them."
        ),
    ),
)

_MLFLOW_ALERTS = (
    _alert(
        "InferenceMlflowUnreachable",
        "critical",
        expr="inference_mlflow_accessible == 0",
        hold="2m",
        summary=f"{INSTANCE} cannot reach MLflow",
        description=(
            f"Checks of the MLflow registry from {INSTANCE} have failed for 2 minutes. With"
            " READINESS_REQUIRES_MLFLOW=always, the default, the pod is out of rotation; the model"
            " that is loaded stays loaded."
        ),
    ),
    _alert(
        "InferenceMlflowCheckStale",
        "warning",
        expr=_overdue_check(),
        hold="1m",
        summary=(
            f"{INSTANCE} last finished a check of MLflow {{{{ $value | humanizeDuration }}}} ago"
        ),
        description=(
            f"{INSTANCE} has not finished a check of MLflow for"
            " {{ $value | humanizeDuration }}: its watcher hangs or has died, so that"
            " inference_mlflow_accessible and the version it follows are out of date."
        ),
    ),
)

_POD_UNREADY = _alert(
    "InferencePodUnready",
    "warning",
    expr="inference_ready == 0",
    hold=f"{_STARTUP_MINUTES}m",
    summary=f"{INSTANCE} is not ready",
    description=(
        f"/ready of {INSTANCE} has answered 503 for {_STARTUP_MINUTES} minutes, longer than a"
        " start may take: the service runs with less capacity than it should."
    ),
)

_ALL_FAILING = _alert(
    "InferenceAllRequestsFailing",
    "critical",
    expr=(
        f"sum by ({DEPLOYMENT}) (increase(inference_errors_total[15m])) > 2.5"
        f" and sum by ({DEPLOYMENT}) (increase(inference_predictions_total[15m])) == 0"
    ),
    hold="1m",
    summary=f"every request to {MODEL} fails{IN_NAMESPACE}",
    description=(
        f"About {{{{ $value | humanize }}}} requests to {MODEL} have failed in 15 minutes and"
        " none has succeeded. Traffic is too low for InferenceHighErrorRate."
    ),
)

_OUTBOX_ALERTS = (
    _alert(
        "InferenceLogBacklogGrowing",
        "warning",
        expr="inference_log_backlog > 1000 and deriv(inference_log_backlog[10m]) > 0",
        hold="10m",
        summary=f"{{{{ $value | humanize }}}} predictions wait in the outbox of {INSTANCE}",
        description=(
            f"The outbox of {INSTANCE} has held more than 1000 predictions for 10 minutes and"
            " grows; now {{ $value | humanize }}. The logging service takes them more slowly than"
            " they come. Nothing is lost until the outbox is full."
        ),
        dashboard="logging",
    ),
    _alert(
        "InferenceLogDeliveryStalled",
        "warning",
        expr="inference_log_backlog > 0 and increase(inference_log_delivered_total[5m]) == 0",
        hold="5m",
        summary=f"{INSTANCE} delivers no predictions to the logging service",
        description=(
            f"{{{{ $value | humanize }}}} predictions wait in the outbox of {INSTANCE}, and the"
            " logging service has acknowledged none for 5 minutes: it is down, unreachable, or"
            " refuses the token."
        ),
        dashboard="logging",
    ),
    _alert(
        "InferenceOutboxNearlyFull",
        "critical",
        expr=(
            "inference_outbox_bytes / inference_outbox_capacity_bytes > 0.8"
            " or inference_log_backlog / inference_outbox_capacity_rows > 0.8"
        ),
        hold="2m",
        summary=f"the outbox of {INSTANCE} is {{{{ $value | humanizePercentage }}}} full",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of what the outbox of {INSTANCE} may hold, in"
            " bytes or in predictions, is used (limit 80%). When it is full, predictions are"
            " refused with 503 outbox_full, or the oldest are dropped where OUTBOX_FULL says so."
        ),
        dashboard="logging",
    ),
    _alert(
        "InferenceDeadLetters",
        "warning",
        expr="inference_log_dead_letters > 0",
        hold="1m",
        summary=f"{{{{ $value | humanize }}}} predictions of {INSTANCE} were refused for good",
        description=(
            f"{{{{ $value | humanize }}}} predictions are in the dead-letter table of {INSTANCE}:"
            " the logging service refused each of them, with a reason that is stored beside it."
            " They are kept and are not in the database."
        ),
        dashboard="logging",
    ),
    _alert(
        "InferencePredictionsDropped",
        "critical",
        expr=grew("inference_log_dropped_total", "15m", "inference_start_time_seconds")
        + " or "
        + grew("inference_log_lost_total", "15m", "inference_start_time_seconds"),
        hold="30s",
        summary=f"{INSTANCE} has lost about {{{{ $value | humanize }}}} predictions",
        description=(
            f"About {{{{ $value | humanize }}}} predictions of {INSTANCE} were lost in the last 15"
            " minutes and will never be in the database: they were dropped from a full outbox"
            " (OUTBOX_FULL is drop_oldest), or not recovered from a damaged one."
        ),
        dashboard="logging",
    ),
    _alert(
        "InferencePicturesDropped",
        "warning",
        expr=(
            f"sum by ({_POD}) ("
            'increase(inference_evidence_dropped_total{reason!="shutdown"}[30m]))'
            f" > sum by ({_POD}) (increase(inference_evidence_sent_total[30m]))"
        ),
        hold="15m",
        summary=f"{INSTANCE} drops more pictures for review than it sends",
        description=(
            f"{INSTANCE} gave up about {{{{ $value | humanize }}}} kept pictures in the last 30"
            " minutes, more than the logging service took. Predictions are not affected; figures"
            " of how right they are rest on fewer pictures."
        ),
    ),
)

INFERENCE_RULES = (
    RuleFile("inference-model", (Group("inference-model", _MODEL_ALERTS),)),
    RuleFile("inference-mlflow", (Group("inference-mlflow", _MLFLOW_ALERTS),)),
    RuleFile(
        "inference-readiness",
        (Group("inference-readiness", (*readiness_alerts(INFERENCE), _POD_UNREADY)),),
    ),
    RuleFile(
        "inference-requests",
        (
            request_recordings(
                INFERENCE,
                Recording(
                    "inference:prediction_duration_seconds:p99_rate5m",
                    p99(INFERENCE, "inference_prediction_duration_seconds"),
                ),
            ),
            Group("inference-requests", (*request_alerts(INFERENCE), _ALL_FAILING)),
        ),
    ),
    RuleFile("inference-outbox", (Group("inference-outbox", _OUTBOX_ALERTS),)),
)
