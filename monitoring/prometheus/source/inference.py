"""Alerts on the inference service: its model, MLflow, readiness, errors, queue and outbox."""

from bentos.inference.settings import InferenceSettings
from monitoring.prometheus.source.recordings import INFERENCE_RECORDINGS
from monitoring.prometheus.source.rule import DEPLOYMENT, INSTANCE, MODEL, Alert, Group, RuleFile
from monitoring.timings import INFERENCE, INFERENCE_SERVICE

_NAMESPACE = "{{ with $labels.namespace }} in namespace {{ . }}{{ end }}"

# A starting pod may be without a model for as long as its start-up probe allows, and a minute.
_STARTUP_MINUTES = INFERENCE.startup.patience_seconds // 60 + 1


def _mlflow_silence_seconds() -> int:
    """Return the age at which a check of MLflow is overdue: six whole rounds of checking."""
    fields = InferenceSettings.model_fields
    pause = float(fields["model_poll_seconds"].default)
    longest = float(fields["mlflow_timeout_seconds"].default)
    return round(6 * (pause + longest))


_MODEL_ALERTS = (
    Alert(
        name="InferenceModelNotLoaded",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr=f"max by ({DEPLOYMENT}) (inference_model_loaded) == 0",
        hold="2m",
        summary=f"no pod has {MODEL} loaded{_NAMESPACE}",
        description=(
            f"For 2 minutes no target has held a model that answered its warm-up input: /predict of"
            f" {MODEL} answers 503 model_not_loaded everywhere."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferencePodWithoutModel",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="inference_model_loaded == 0",
        hold=f"{_STARTUP_MINUTES}m",
        summary=f"{INSTANCE} has not loaded {MODEL}",
        description=(
            f"{INSTANCE} has been without {MODEL} for {_STARTUP_MINUTES} minutes, longer than a"
            " start may take, and gets no requests."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceModelLoadFailing",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr='increase(inference_model_loads_total{outcome="failure"}[15m]) > 2.5',
        hold="1m",
        summary=f"{INSTANCE} fails to load {MODEL}",
        description=(
            f"About {{{{ $value | humanize }}}} attempts of {INSTANCE} to load {MODEL} have failed"
            " in 15 minutes; what was loaded before goes on serving."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceModelProcessDying",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="increase(inference_model_process_exits_total[15m]) > 1.5",
        hold="1m",
        summary=f"the model process of {INSTANCE} dies again and again",
        description=(
            f"The process that holds {MODEL} in {INSTANCE} has ended about"
            " {{ $value | humanize }} times in 15 minutes; each time the pod is unready until the"
            " model is loaded again, and the requests it was at have failed."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceModelVersionStale",
        severity="warning",
        service=INFERENCE_SERVICE,
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
        dashboard="inference",
    ),
    Alert(
        name="InferenceModelVersionsDiffer",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr=(
            f"count by ({DEPLOYMENT}) (count by ({DEPLOYMENT}, version) (inference_model_info)) > 1"
        ),
        hold="15m",
        summary=f"pods serve {{{{ $value }}}} versions of {MODEL} at once{_NAMESPACE}",
        description=(
            f"For 15 minutes {{{{ $value }}}} versions of {MODEL} have answered side by side: the"
            " same image may be judged differently from one request to the next."
        ),
        dashboard="inference",
    ),
)

_MLFLOW_ALERTS = (
    Alert(
        name="InferenceMlflowUnreachable",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr="inference_mlflow_accessible == 0",
        hold="2m",
        summary=f"{INSTANCE} cannot reach MLflow",
        description=(
            f"Checks of the MLflow registry from {INSTANCE} have failed for 2 minutes. With"
            " READINESS_REQUIRES_MLFLOW=always, the default, the pod is out of rotation; the model"
            " that is loaded stays loaded."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceMlflowCheckStale",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr=f"inference_mlflow_check_age_seconds > {_mlflow_silence_seconds()}",
        hold="1m",
        summary=(
            f"{INSTANCE} last finished a check of MLflow {{{{ $value | humanizeDuration }}}} ago"
        ),
        description=(
            f"{INSTANCE} has not finished a check of MLflow for"
            " {{ $value | humanizeDuration }}: its watcher hangs or has died, so that"
            " inference_mlflow_accessible and the version it follows are old news."
        ),
        dashboard="inference",
    ),
)

_READINESS_ALERTS = (
    Alert(
        name="InferenceNotReady",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr=f"max by ({DEPLOYMENT}) (inference_ready) == 0",
        hold="2m",
        summary=f"no pod of {MODEL} is ready{_NAMESPACE}",
        description=(
            f"For 2 minutes /ready of every pod of {MODEL} has answered 503: in a cluster no"
            " request reaches the model. inference_unready tells the reason."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferencePodUnready",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="inference_ready == 0",
        hold=f"{_STARTUP_MINUTES}m",
        summary=f"{INSTANCE} is not ready",
        description=(
            f"/ready of {INSTANCE} has answered 503 for {_STARTUP_MINUTES} minutes, longer than a"
            " start may take: the service runs with less capacity than it should."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceReadinessFlapping",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="changes(inference_ready[15m]) > 5",
        hold="1m",
        summary=f"readiness of {INSTANCE} flaps",
        description=(
            f"{INSTANCE} has changed between ready and not ready {{{{ $value }}}} times in 15"
            " minutes; each change moves its traffic to the others and back."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceWorkersMissing",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="inference_workers - inference_workers_alive > 0",
        hold="1m",
        summary=f"{{{{ $value }}}} workers of {INSTANCE} are dead",
        description=(
            f"For a minute {{{{ $value }}}} worker processes of {INSTANCE} have been missing. The"
            " pod is not ready, and its liveness probe restarts it unless the worker returns."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceRestartLoop",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr="changes(inference_start_time_seconds[30m]) > 2",
        hold="1m",
        summary=f"{INSTANCE} keeps restarting",
        description=(
            f"{INSTANCE} has started {{{{ $value }}}} times in 30 minutes; each start unloads the"
            " model and fails the requests in flight."
        ),
        dashboard="inference",
    ),
)

_REQUEST_ALERTS = (
    Alert(
        name="InferenceHighErrorRate",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr="inference:errors:ratio_rate5m > 0.05 and inference:outcomes:increase5m >= 20",
        hold="2m",
        summary=f"{{{{ $value | humanizePercentage }}}} of predictions of {MODEL} fail{_NAMESPACE}",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the requests to {MODEL} in the last 5"
            " minutes failed for the service's fault (limit 5%); refused input is not counted."
            " Above 50% a pod takes itself out of rotation."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceAllRequestsFailing",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr=(
            f"sum by ({DEPLOYMENT}) (increase(inference_errors_total[15m])) > 2.5"
            f" and sum by ({DEPLOYMENT}) (increase(inference_predictions_total[15m])) == 0"
        ),
        hold="1m",
        summary=f"every request to {MODEL} fails{_NAMESPACE}",
        description=(
            f"About {{{{ $value | humanize }}}} requests to {MODEL} have failed in 15 minutes and"
            " none has succeeded. Traffic is too low for InferenceHighErrorRate to tell."
        ),
        dashboard="inference",
    ),
    Alert(
        name="InferenceQueueFull",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="inference:queue_full:ratio_rate5m > 0.05",
        hold="5m",
        summary=(
            f"{{{{ $value | humanizePercentage }}}} of requests to {MODEL} get 429{_NAMESPACE}"
        ),
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the requests to {MODEL} in the last 5"
            " minutes found the queue full (limit 5%): there is more traffic than the pods can"
            " predict."
        ),
        dashboard="inference",
    ),
)

_OUTBOX_ALERTS = (
    Alert(
        name="InferenceLogBacklogGrowing",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr="inference_log_backlog > 1000 and deriv(inference_log_backlog[10m]) > 0",
        hold="10m",
        summary=f"{{{{ $value | humanize }}}} predictions wait in the outbox of {INSTANCE}",
        description=(
            f"The outbox of {INSTANCE} has held more than 1000 predictions for 10 minutes and"
            " grows; now {{ $value | humanize }}. The logging service takes them more slowly than"
            " they come. Nothing is lost until OUTBOX_MAX_ROWS."
        ),
        dashboard="logging",
    ),
    Alert(
        name="InferenceLogDeliveryStalled",
        severity="warning",
        service=INFERENCE_SERVICE,
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
    Alert(
        name="InferencePredictionsDropped",
        severity="critical",
        service=INFERENCE_SERVICE,
        expr="increase(inference_log_dropped_total[15m]) > 0",
        hold="30s",
        summary=f"{INSTANCE} has given up about {{{{ $value | humanize }}}} predictions",
        description=(
            f"About {{{{ $value | humanize }}}} predictions of {INSTANCE} were dropped in the last"
            " 15 minutes and will never be in the database: the outbox is full, or the logging"
            " service refused them."
        ),
        dashboard="logging",
    ),
)

INFERENCE_RULES = (
    RuleFile("inference-model", (Group("inference-model", _MODEL_ALERTS),)),
    RuleFile("inference-mlflow", (Group("inference-mlflow", _MLFLOW_ALERTS),)),
    RuleFile("inference-readiness", (Group("inference-readiness", _READINESS_ALERTS),)),
    RuleFile(
        "inference-requests",
        (INFERENCE_RECORDINGS, Group("inference-requests", _REQUEST_ALERTS)),
    ),
    RuleFile("inference-outbox", (Group("inference-outbox", _OUTBOX_ALERTS),)),
)
