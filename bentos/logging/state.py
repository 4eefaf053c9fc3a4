"""What the logging service knows of itself, the metric of each value, and its probes."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import TypedDict

from bentos.health.checks import Check, Details, required
from bentos.health.pod import encode_text
from bentos.health.state import MAX_SECTION_BYTES, SHORT_BUCKETS, ServiceState, isoformat
from bentos.health.values import Counter, Gauge, Histogram, Samples, computed
from bentos.kit import probe_plan
from bentos.logging.settings import LoggingSettings
from bentos.process.probe_process import ProbePlan

SERVICE_NAME = "logging-service"
LOG_PATH = "/log"
STATS_PATH = "/stats"
PREDICTIONS_PATH = "/predictions"
EVIDENCE_PATH = "/evidence"
LABELS_PATH = "/labels"
REVIEW_PATH = "/review"
QUALITY_PATH = "/quality"

STORE_ERROR_REASONS = (
    *("busy", "full", "read_only", "corrupt", "missing", "other"),
    *("unreachable", "schema"),
)
# Model, version, rate, class or nothing, and low bound, estimate and high bound of the rate.
Rates: TypeAlias = "Sequence[Any]"
_BOUNDS = ("low", "estimate", "high")
_OF_VERSION = ("model_name", "model_version", "bound")
_OF_CLASS = ("model_name", "model_version", "class_name", "bound")
_FIGURES = "figures"
# The oldest proof that still counts: a check a second, and one that may wait for a lock.
_PROOF_AGE_SECONDS = 3.0


class LoggingState(ServiceState):
    """The database, the queue before it and what was stored."""

    prefix = "logging"
    label_names = ("service",)
    routes = (
        *(LOG_PATH, STATS_PATH, PREDICTIONS_PATH),
        *(EVIDENCE_PATH, LABELS_PATH, REVIEW_PATH, QUALITY_PATH),
    )

    db_initialized = Gauge(
        "{prefix}_db_initialized",
        "Whether every worker has had the database open with its schema up to date.",
        across="all",
    )
    # When the last check or commit that succeeded did, in monotonic seconds.
    db_proved_at = Gauge()
    # Which of STORE_ERROR_REASONS keeps the database from being accessible, counted from 1.
    db_failure = Gauge(across="max")
    # Since when, in monotonic seconds, a transaction has been running.
    writing_since = Gauge()
    predictions = Counter("{prefix}_predictions_total", "Predictions stored.")
    last_prediction_at = Gauge(across="max", outlives=True)
    defects = Counter("{prefix}_defects_total", "Predictions with a defect stored.")
    duplicates = Counter(
        "{prefix}_duplicates_total", "Predictions that were sent again and stored before."
    )
    conflicts = Counter(
        "{prefix}_conflicts_total",
        "Predictions refused since their device had sent other content under the same id.",
    )
    pruned = Counter(
        "{prefix}_database_pruned_total",
        "Predictions deleted for their age or for the database's size.",
    )
    batches = Counter("{prefix}_batches_total", "Batches stored.")
    errors = Counter("{prefix}_errors_total", "Requests that failed for the service's fault.")
    store_errors = Counter(
        "{prefix}_store_errors_total",
        "Transactions and checks of the database that failed.",
        labels=("reason",),
        values=[(reason,) for reason in STORE_ERROR_REASONS],
    )
    rejected = Counter(
        "{prefix}_rejected_total",
        "Requests turned away for no failure of the service.",
        labels=("reason",),
        values=[
            (reason,)
            for reason in (
                *("bad_input", "too_large", "body_timeout", "queue_full", "unauthorized"),
                *("conflict", "database_not_initialized", "database_not_accessible"),
                *(
                    "review_not_accessible",
                    "shutting_down",
                    "method_not_allowed",
                    "unknown_edge_device",
                    "other",
                ),
            )
        ],
    )
    request_duration = Histogram(
        "{prefix}_request_duration_seconds",
        "Time from a request's head to its answer, by route.",
        buckets=SHORT_BUCKETS[1:],
        labels=("route",),
        values=[(route,) for route in routes],
    )
    commit_duration = Histogram(
        "{prefix}_commit_duration_seconds",
        "Time of one transaction, until it is on disk.",
        buckets=SHORT_BUCKETS[1:],
    )
    commit_predictions = Histogram(
        "{prefix}_commit_predictions",
        "Predictions in one transaction.",
        buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500),
    )
    queue_depth = Gauge("{prefix}_queue_depth", "Predictions waiting to be stored.")
    queue_capacity = Gauge(
        "{prefix}_queue_capacity", "Predictions that may wait before requests get 429."
    )
    # The disk is looked at by the writer: a disk that hangs keeps no probe waiting.
    database_bytes = Gauge(across="max")
    wal_bytes = Gauge(across="max")
    disk_free_bytes = Gauge(
        "{prefix}_disk_free_bytes",
        "Free space where the database lies, 0 for one on a server.",
        across="max",
    )
    disk_size_bytes = Gauge(
        "{prefix}_disk_size_bytes",
        "Size of the disk it lies on, 0 for one on a server.",
        across="max",
    )
    database_capacity_bytes = Gauge(
        "{prefix}_database_capacity_bytes",
        "Size that the database may have (MAX_DATABASE_BYTES), 0 for no limit.",
        across="max",
    )
    # Of the pictures and labels for review, all 0 where REVIEW is off.
    review_pictures = Gauge(
        "{prefix}_review_pictures",
        "Pictures kept for review, each once however often it came.",
        across="max",
    )
    review_bytes = Gauge(
        "{prefix}_review_bytes", "Size of the pictures and labels for review on disk.", across="max"
    )
    review_capacity_bytes = Gauge(
        "{prefix}_review_capacity_bytes",
        "Size that the pictures and labels may have (REVIEW_MAX_BYTES).",
        across="max",
    )
    review_waiting = Gauge(
        "{prefix}_review_waiting", "Predictions whose picture waits for a label.", across="max"
    )
    labels_stored = Counter("{prefix}_labels_total", "Labels stored.")
    quality_escape_rate_limit = Gauge(
        "{prefix}_quality_escape_rate_limit",
        "Largest share of the defects that may pass (MAX_ESCAPE_RATE), 0 where REVIEW is off.",
        across="max",
    )
    review_stored = Counter("{prefix}_review_stored_total", "Pictures stored for review.")
    review_pruned = Counter(
        "{prefix}_review_pruned_total", "Pictures deleted for their age or for their size together."
    )
    review_errors = Counter(
        "{prefix}_review_errors_total",
        "Reads and writes of pictures and labels that failed; readiness does not depend on them.",
        labels=("reason",),
        values=[(reason,) for reason in STORE_ERROR_REASONS],
    )

    @computed("{prefix}_quality_escape_rate", labels=_OF_VERSION)
    def escape_rate(self) -> Samples:
        """Share of the defects that got the verdict pass, estimated from labels, with interval."""
        return self._rates("escape_rate")

    @computed("{prefix}_quality_false_reject_rate", labels=_OF_VERSION)
    def false_reject_rate(self) -> Samples:
        """Share of the good ones that got the verdict fail, estimated as the escape rate is."""
        return self._rates("false_reject_rate")

    @computed("{prefix}_quality_precision", labels=_OF_CLASS)
    def precision(self) -> Samples:
        """Share of the pictures said to show a class that do, estimated from labels."""
        return self._rates("precision")

    @computed("{prefix}_quality_recall", labels=_OF_CLASS)
    def recall(self) -> Samples:
        """Share of the pictures that show a class said to do so, estimated from labels."""
        return self._rates("recall")

    @computed("{prefix}_database_bytes", labels=("file",))
    def file_sizes(self) -> Samples:
        """Size of the database's files."""
        return [
            (("database",), self.database_bytes.value),
            (("wal",), self.wal_bytes.value),
        ]

    @computed("{prefix}_db_accessible")
    def db_accessible(self) -> float:
        """Whether the database's last check, or its last commit, succeeded, and did so just now."""
        proved = self.db_proof_age_seconds < _PROOF_AGE_SECONDS
        works = self.db_initialized.value and not self.db_failure.value
        return float(bool(works) and proved)

    @property
    def db_proof_age_seconds(self) -> float:
        """Seconds since the database last worked, in the worker where that is longest ago."""
        return self.pod.age_of("db_proved_at")

    @property
    def db_failure_reason(self) -> str:
        """Why the database is not accessible, one of STORE_ERROR_REASONS; empty where it is."""
        code = int(self.db_failure.value)
        return STORE_ERROR_REASONS[code - 1] if code else ""

    def tell_figures(self, rates: Sequence[Rates]) -> None:
        """Show these rates as metrics from now on, as many of the first as there is room for."""
        shown = list(rates)
        while len(encode_text(shown)) > MAX_SECTION_BYTES:
            shown.pop()
        self.write_text(_FIGURES, shown or None)

    def _rates(self, rate: str) -> Samples:
        """Return the samples of one rate."""
        told: Sequence[Rates] = self.text(_FIGURES) or ()
        return [
            ((model, version, *([name] if name else []), bound), number)
            for model, version, one, name, *numbers in told
            if one == rate
            for bound, number in zip(_BOUNDS, numbers, strict=True)
        ]

    def record_stored(
        self, *, batches: int, predictions: int, defects: int, duplicates: int
    ) -> None:
        """Count what one transaction stored."""
        if predictions:
            self.predictions.add(predictions)
            self.last_prediction_at.set(time.time())
        self.defects.add(defects)
        self.duplicates.add(duplicates)
        self.batches.add(batches)
        self.record_success(batches)

    def record_error(self, _reason: str = "") -> None:
        """Count a failure of the service."""
        self.errors.add()
        self.row.record(errors=1)

    def database_works(self) -> None:
        """Note that the database answered just now."""
        self.db_proved_at.set(time.monotonic())
        self.db_failure.set(0)
        self.db_initialized.set(1)

    def database_fails(self, reason: str) -> None:
        """Note that the database does not answer, and why."""
        self.db_failure.set(STORE_ERROR_REASONS.index(reason) + 1)


class LoggingReady(TypedDict):
    """What `/ready` says beside its verdict; counts are the pod's, times ISO 8601, UTC."""

    db_initialized: bool
    predictions_logged: int
    defects_detected: int
    errors: int
    last_prediction: str | None


def logging_probes(settings: LoggingSettings, directory: Path) -> ProbePlan:
    """Return what the service's probes are made of."""
    return probe_plan(
        LoggingState,
        SERVICE_NAME,
        settings,
        directory,
        readiness=[
            required("database_not_initialized", "db_initialized"),
            Check("database_not_accessible", _not_accessible),
        ],
        describe=_describe,
    )


def _not_accessible(state: LoggingState) -> Details | None:
    if state.db_accessible:
        return None
    return {
        "database_failure": state.db_failure_reason or "no_answer",
        "database_proof_age_seconds": round(state.db_proof_age_seconds, 1),
        "transaction_seconds": round(state.pod.longest_since("writing_since"), 1),
    }


def _describe(state: LoggingState) -> LoggingReady:
    return {
        "db_initialized": bool(state.db_initialized.value),
        "predictions_logged": int(state.predictions.value),
        "defects_detected": int(state.defects.value),
        "errors": int(state.errors.value),
        "last_prediction": isoformat(state.last_prediction_at.value),
    }
