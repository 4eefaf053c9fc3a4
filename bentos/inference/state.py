"""What the inference service knows of itself, the metric of each value, and its probes."""

import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

from bentos.health.checks import Check, Details, required, stuck
from bentos.health.state import SHORT_BUCKETS, ServiceState, isoformat
from bentos.health.values import Counter, Gauge, Histogram, Samples, computed

# The probe process imports this module: what only a worker needs would be 10 MiB there.
if TYPE_CHECKING:
    from bentos.inference.channel import LoadChanged, RegistryChecked
    from bentos.inference.engine import Prediction
    from bentos.inference.model.spec import ServedModel
    from bentos.inference.settings import InferenceSettings
    from bentos.process.probe_process import ProbePlan

SERVICE_NAME = "inference-service"
PREDICT_PATH = "/predict"
PREDICT_IMAGE_PATH = "/predict_image"
EXPLAIN_PATH = "/explain"
# The Open Inference Protocol; see bentos.inference.v2.
V2_PATH = "/v2"
V2_MODEL_PATH = f"{V2_PATH}/models/{{model}}"
V2_VERSION_PATH = f"{V2_MODEL_PATH}/versions/{{version}}"

# Names of what a worker says in words; see ServiceState.write_text.
MODEL = "model"
LOAD = "load"
REGISTRY = "registry"
# By quantity, how far it is from the profile. Every worker says so of the whole pod.
DRIFT = "drift"
_MOST_TEXT = 600
# The model process says something every second, however busy its model is.
_SILENT_SECONDS = 5.0
# A worker beats every second, and later where its machine is busy.
_LATE_BEAT_SECONDS = 3.0

_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
# Series of a metric that has one for each class of the model; all others are `other`.
_CLASSES_SHOWN = 100
# What is compared with the model's profile, the last three only of pictures.
PICTURE_QUANTITIES = ("brightness", "contrast", "sharpness")
QUANTITIES = ("class", "confidence", *PICTURE_QUANTITIES)
MOST_BUCKETS = 20
# A disk that has not taken a write after this time keeps every prediction waiting.
_WRITE_SECONDS = 5.0


class InferenceState(ServiceState):
    """The model, MLflow, the queue before the model and the outbox behind it."""

    prefix = "inference"
    label_names = ("model", "stage")
    routes = (
        *(PREDICT_PATH, PREDICT_IMAGE_PATH),
        *(f"{V2_MODEL_PATH}/infer", f"{V2_VERSION_PATH}/infer"),
    )

    model_loaded = Gauge(
        "{prefix}_model_loaded",
        "Whether every worker holds a model that answered its warm-up input.",
        across="all",
    )
    mlflow_accessible = Gauge(
        "{prefix}_mlflow_accessible",
        "Whether the last check of the MLflow registry succeeded.",
        across="all",
    )
    mlflow_checked_at = Gauge()
    mlflow_poll_seconds = Gauge(
        "{prefix}_mlflow_poll_seconds",
        "Pause between checks of the MLflow registry, as it is set.",
        across="max",
    )
    model_version = Gauge()
    # Since when the model is served, Unix seconds.
    model_since = Gauge(across="max")
    registry_version = Gauge(
        "{prefix}_registry_version",
        "The version that the registry's alias or stage points to, 0 while it is unknown.",
        across="max",
    )
    loads = Counter(
        "{prefix}_model_loads_total",
        "Attempts to load a model.",
        labels=("outcome",),
        values=(("success",), ("failure",)),
    )
    load_duration = Histogram(
        "{prefix}_model_load_duration_seconds",
        "Time to download, load and warm up a model.",
        buckets=(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
    )
    model_exits = Counter(
        "{prefix}_model_process_exits_total",
        "Model processes that ended by themselves and were started again.",
    )
    last_prediction_at = Gauge(across="max", outlives=True)
    errors = Counter(
        "{prefix}_errors_total",
        "Requests that failed for the service's fault.",
        labels=("reason",),
        values=(("model_failure",), ("timeout",), ("internal_error",)),
    )
    rejected = Counter(
        "{prefix}_rejected_total",
        "Requests turned away for no failure of the service.",
        labels=("reason",),
        values=[
            (reason,)
            for reason in (
                *("bad_input", "too_large", "body_timeout", "queue_full", "model_not_loaded"),
                *("model_rejected_input", "outbox_full", "outbox_not_accessible", "unauthorized"),
                *("shutting_down", "method_not_allowed", "other"),
            )
        ],
    )
    duration = Histogram(
        "{prefix}_prediction_duration_seconds",
        "Time from a request's body being whole to its answer.",
        buckets=SHORT_BUCKETS[1:],
    )
    model_duration = Histogram(
        "{prefix}_model_duration_seconds",
        "Time of one call of the model, a whole batch.",
        buckets=SHORT_BUCKETS[1:],
    )
    batch_size = Histogram(
        "{prefix}_batch_size",
        "Inputs in one call of the model.",
        buckets=(1, 2, 4, 8, 16, 32, 64, 128),
    )
    confidence = Histogram(
        "{prefix}_confidence",
        "Confidence of the predicted class; classes beyond the first 100 together as other.",
        buckets=_CONFIDENCES,
        labels=("class_name",),
        names=_CLASSES_SHOWN,
    )
    verdicts = Counter(
        "{prefix}_verdicts_total",
        "Predictions by verdict: pass, fail, or review by a person.",
        labels=("verdict",),
        values=(("pass",), ("fail",), ("review",)),
    )
    # Predictions by the buckets of the model's profile.
    drift_counts = Counter(
        labels=("quantity", "bucket"),
        values=[*product(QUANTITIES, map(str, range(MOST_BUCKETS)))],
    )
    queue_depth = Gauge("{prefix}_queue_depth", "Inputs waiting for the model.")
    queue_capacity = Gauge(
        "{prefix}_queue_capacity", "Inputs that may wait before requests get 429."
    )
    # Since when, in monotonic seconds, the model owes an answer.
    model_busy_since = Gauge()
    # When, in monotonic seconds, the model process last said anything; it does so every second.
    model_heard_at = Gauge()
    log_backlog = Gauge(
        "{prefix}_log_backlog",
        "Predictions in the outbox that the logging service has not acknowledged.",
    )
    log_dead_letters = Gauge(
        "{prefix}_log_dead_letters",
        "Predictions that the logging service refused for good, kept in the dead-letter table.",
    )
    log_delivered = Counter(
        "{prefix}_log_delivered_total", "Predictions that the logging service acknowledged."
    )
    log_dropped = Counter(
        "{prefix}_log_dropped_total",
        "Predictions given up because the outbox was full (OUTBOX_FULL=drop_oldest).",
    )
    log_refused = Counter(
        "{prefix}_log_refused_total", "Predictions that the logging service refused for good."
    )
    log_send_errors = Counter(
        "{prefix}_log_send_errors_total",
        "Batches that the logging service did not acknowledge and that are sent again.",
    )
    log_lost = Counter(
        "{prefix}_log_lost_total",
        "Predictions that a damaged outbox held and that could not be recovered.",
    )
    evidence_sent = Counter(
        "{prefix}_evidence_sent_total", "Kept pictures that the logging service acknowledged."
    )
    evidence_dropped = Counter(
        "{prefix}_evidence_dropped_total",
        "Kept pictures given up: too many waited, it was refused, or the service ended.",
        labels=("reason",),
        values=(("queue_full",), ("refused",), ("shutdown",)),
    )
    evidence_queue_bytes = Gauge(
        "{prefix}_evidence_queue_bytes", "Size of the kept pictures that wait to be sent."
    )
    evidence_queue_capacity_bytes = Gauge(
        "{prefix}_evidence_queue_capacity_bytes",
        "Size that they may have (KEEP_QUEUE_BYTES), 0 where no pictures are kept.",
    )
    outbox_bytes = Gauge("{prefix}_outbox_bytes", "Size of the outbox on disk.")
    outbox_capacity_bytes = Gauge(
        "{prefix}_outbox_capacity_bytes", "Size that the outbox may have (OUTBOX_MAX_BYTES)."
    )
    outbox_capacity_rows = Gauge(
        "{prefix}_outbox_capacity_rows",
        "Predictions that may wait in the outbox (OUTBOX_MAX_ROWS).",
    )
    # Whether a worker takes no prediction because its outbox holds as much as it may.
    outbox_full = Gauge(across="max")
    # Whether a worker's outbox cannot be written although its disk is not full.
    outbox_failing = Gauge(across="max")
    # Since when, in monotonic seconds, a worker writes to its outbox; 0 while it does not.
    outbox_writing_since = Gauge()

    shadow = Counter(
        "{prefix}_shadow_total",
        "Predictions that the challenger (SHADOW_STAGE) was to make as well: whether it said the "
        "same class, was left out for lack of spare capacity, or failed.",
        labels=("outcome",),
        values=(("agreed",), ("differed",), ("skipped",), ("failed",)),
    )
    shadow_version = Gauge()
    explanations = Counter(
        "{prefix}_explanations_total",
        "Requests for the part of a picture that decided (EXPLAIN).",
        labels=("outcome",),
        values=(("answered",), ("refused",), ("failed",)),
    )

    @computed("{prefix}_predictions_total", kind="counter")
    def predictions(self) -> float:
        """Predictions answered."""
        # Every prediction has one verdict.
        return self.verdicts.value

    @computed("{prefix}_mlflow_check_age_seconds")
    def mlflow_check_age_seconds(self) -> float:
        """Time since a check of the MLflow registry last ended, whatever its outcome."""
        return self.pod.age_of("mlflow_checked_at")

    @computed("{prefix}_model_info", labels=("version",))
    def model_info(self) -> Samples:
        """The version served, constant 1."""
        return [((str(version),), 1.0) for version in self.served_versions]

    @computed("{prefix}_model_version")
    def lowest_version(self) -> float:
        """The version served, the lowest where workers differ, 0 without a model."""
        return float(min(self.served_versions, default=0))

    @computed("{prefix}_shadow_model_info", labels=("version",))
    def shadow_model_info(self) -> Samples:
        """The challenger's version, constant 1; none while there is no challenger."""
        return [((str(version),), 1.0) for version in self._versions("shadow_version")]

    @computed("{prefix}_drift_psi", labels=("quantity",))
    def drift_psi(self) -> Samples:
        """Population stability index of what was served against the model's profile.

        Within the window, what chance explains taken off; 0.25 is much.
        """
        known: dict[str, float] = self.text(DRIFT) or {}
        return [((name,), drift) for name, drift in known.items()]

    @property
    def served_versions(self) -> list[int]:
        """The versions that live workers serve; more than one only while a new one comes in."""
        return self._versions("model_version")

    def _versions(self, gauge: str) -> list[int]:
        return sorted({int(row.get(gauge)) for row in self.pod.live_workers()} - {0})

    def record_predictions(self, predictions: Sequence["Prediction"]) -> None:
        """Count the predictions of a request that was answered."""
        for one in predictions:
            self.confidence[one.class_name].observe(one.confidence)
            self.verdicts[one.verdict].add()
        self.last_prediction_at.set(time.time())
        self.record_success()

    def record_error(self, reason: str) -> None:
        """Count a failure of the service; KeyError for a reason that is not declared."""
        self.errors[reason].add()
        self.row.record(errors=1)

    def model_is(self, model: "ServedModel") -> None:
        """Note that this worker serves a model from now on."""
        identity = model.identity
        about = {"name": identity.name, "stage": identity.stage, "version": identity.version}
        self.write_text(MODEL, about)
        for name in model.spec.class_names[:_CLASSES_SHOWN]:
            self.confidence[name]  # its series stands at 0 from now on
        self.model_version.set(_as_number(identity.version))
        self.model_since.set(time.time())
        self.model_loaded.set(1)

    def challenger_is(self, version: str | None) -> None:
        """Note which version this worker compares the served one with, None for none."""
        self.shadow_version.set(_as_number(version))

    def loading(self, load: "LoadChanged") -> None:
        """Note how the loading of a model stands, and count an attempt that ended."""
        error = load.error and load.error[:_MOST_TEXT]
        about = {"phase": load.phase, "version": load.version, "attempts": load.attempts}
        self.write_text(LOAD, {**about, "error": error, "retry_at": load.retry_at})
        if load.succeeded is not None:
            self.loads["success" if load.succeeded else "failure"].add()
            self.load_duration.observe(load.seconds)

    def model_is_gone(self) -> None:
        """Note that this worker's model process ended, and the model with it."""
        self.model_exits.add()
        self.model_loaded.set(0)
        self.model_version.set(0)
        self.model_since.set(0)
        self.model_busy_since.set(0)
        self.model_heard_at.set(0)

    def registry_checked(self, check: "RegistryChecked") -> None:
        """Note the end of a check of MLflow, and the version the alias points to."""
        self.mlflow_accessible.set(float(check.accessible))
        self.mlflow_checked_at.set(time.monotonic())
        self.write_text(REGISTRY, check.note[:_MOST_TEXT] or None)
        if check.accessible:
            self.registry_version.set(_as_number(check.version))


class ModelNamed(TypedDict):
    """A model of the registry; `version` is null while none is served."""

    name: str
    stage: str
    version: str | None


class Loading(TypedDict):
    """How the loading of a model stands; `error` is why the last attempt failed."""

    phase: Literal["waiting", "loading", "loaded", "failed"]
    version: str | None
    attempts: int
    error: str | None
    retry_in_seconds: float | None


class InferenceReady(TypedDict):
    """What `/ready` says beside its verdict; counts are the pod's, times ISO 8601, UTC."""

    model_loaded: bool
    mlflow_accessible: bool
    predictions_served: int
    errors: int
    last_prediction: str | None
    model: ModelNamed
    model_since: str | None
    load: Loading
    registry: str | None
    mlflow_check_age_seconds: float
    log_backlog: int
    log_dead_letters: int


def inference_probes(settings: "InferenceSettings", directory: Path) -> "ProbePlan":
    """Return what the service's probes are made of."""
    from bentos.kit import probe_plan

    oldest = 3 * settings.model_poll_seconds + 2 * settings.mlflow_timeout_seconds
    mlflow = partial(_mlflow_as_required, settings.readiness_requires_mlflow, oldest)
    # After a request's time-out every one of them is a 504.
    most_seconds = min(
        settings.stall_seconds, max(settings.request_timeout_seconds, _SILENT_SECONDS)
    )
    return probe_plan(
        InferenceState,
        SERVICE_NAME,
        settings,
        directory,
        labels={"model": settings.model_name, "stage": settings.model_stage},
        liveness=[
            stuck("model_thread_stuck", "model_busy_since", stall_seconds=settings.stall_seconds)
        ],
        readiness=[
            required("model_not_loaded", "model_loaded"),
            # Before MLflow, which a process that does not run cannot ask either.
            Check("model_thread_stuck", partial(_model_stuck, most_seconds)),
            Check("mlflow_not_accessible", mlflow),
            Check("outbox_full", _outbox_full),
            Check("outbox_not_accessible", _outbox_failing),
            stuck("outbox_not_accessible", "outbox_writing_since", stall_seconds=_WRITE_SECONDS),
        ],
        describe=_describe,
    )


def _model_stuck(most_seconds: float, state: InferenceState) -> Details | None:
    busy, silent = _waited("model_busy_since", state), _waited("model_heard_at", state)
    if busy <= most_seconds and silent <= _SILENT_SECONDS:
        return None
    return {"stuck_for_seconds": round(max(busy, silent), 1)}


def _waited(moment: str, state: InferenceState) -> float:
    """Return the seconds since a moment, the longest of all workers.

    A worker that is stopped itself hears nothing, which is no fault of its model process: there
    it counts until the worker's last beat.
    """
    now = time.monotonic()
    seconds = [0.0]
    for row in state.pod.live_workers():
        beat, since = row.get("heartbeat"), row.get(moment)
        if since:
            seconds.append((now if now - beat < _LATE_BEAT_SECONDS else beat) - since)
    return max(seconds)


def _mlflow_as_required(
    required_when: str, oldest_seconds: float, state: InferenceState
) -> Details | None:
    if required_when == "never" or (required_when == "startup" and state.model_loaded.value):
        return None
    # A check that hangs says nothing any more: what it last said goes out of date.
    fresh = state.mlflow_check_age_seconds < oldest_seconds
    return None if state.mlflow_accessible.value and fresh else {}


def _outbox_full(state: InferenceState) -> Details | None:
    if not state.outbox_full.value:
        return None
    return {
        "outbox_bytes": int(state.outbox_bytes.value),
        "outbox_capacity_bytes": int(state.outbox_capacity_bytes.value),
        "log_backlog": int(state.log_backlog.value),
    }


def _outbox_failing(state: InferenceState) -> Details | None:
    return {} if state.outbox_failing.value else None


def _describe(state: InferenceState) -> InferenceReady:
    model: ModelNamed = {
        "name": state.labels["model"],
        "stage": state.labels["stage"],
        "version": None,
    }
    if state.model_loaded.value:
        served: ModelNamed | None = state.text(MODEL)
        model = served or model
    return {
        "model_loaded": bool(state.model_loaded.value),
        "mlflow_accessible": bool(state.mlflow_accessible.value),
        "predictions_served": int(state.predictions),
        "errors": int(state.errors.value),
        "last_prediction": isoformat(state.last_prediction_at.value),
        "model": model,
        "model_since": isoformat(state.model_since.value),
        "load": _load(state.text(LOAD) or {"phase": "waiting"}),
        "registry": state.text(REGISTRY),
        "mlflow_check_age_seconds": round(state.mlflow_check_age_seconds, 1),
        "log_backlog": int(state.log_backlog.value),
        "log_dead_letters": int(state.log_dead_letters.value),
    }


def _load(load: dict[str, Any]) -> Loading:
    """Return how the loading stands; the time to the next attempt in seconds from now."""
    retry_at = load.get("retry_at")
    wait = None if retry_at is None else round(max(0.0, retry_at - time.monotonic()), 1)
    return {
        "phase": load["phase"],
        "version": load.get("version"),
        "attempts": load.get("attempts", 0),
        "error": load.get("error"),
        "retry_in_seconds": wait,
    }


def _as_number(version: str | None) -> float:
    return float(version) if version is not None and version.isdigit() else 0.0
