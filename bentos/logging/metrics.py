"""The logging service's metric families: names, labels and meanings, defined here only."""

from bentos.health.metrics import SHARED_FAMILIES, Family

LOG_PATH = "/log"
STATS_PATH = "/stats"
PREDICTIONS_PATH = "/predictions"
ROUTES = (LOG_PATH, STATS_PATH, PREDICTIONS_PATH)

ERROR_REASONS = ("store_failure", "timeout", "internal_error")
REFUSAL_REASONS = (
    "bad_input",
    "too_large",
    "body_timeout",
    "queue_full",
    "unauthorized",
    "database_not_initialized",
    "database_not_accessible",
    "shutting_down",
    "method_not_allowed",
    "unknown_edge_device",
)
STORE_ERROR_REASONS = ("busy", "full", "read_only", "corrupt", "missing", "other")
UNREADY_REASONS = (
    "shutting_down",
    "worker_missing",
    "database_not_initialized",
    "database_not_accessible",
    "high_error_rate",
)

_SERVICE = ("service",)
_DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

FAMILIES = (
    *SHARED_FAMILIES,
    Family("logging_ready", "gauge", "Whether /ready answers 200.", _SERVICE),
    Family(
        "logging_unready",
        "gauge",
        "Whether this reason keeps the pod from being ready.",
        (*_SERVICE, "reason"),
    ),
    Family(
        "logging_db_initialized",
        "gauge",
        "Whether every worker has the database open with its schema up to date.",
        _SERVICE,
    ),
    Family(
        "logging_db_accessible",
        "gauge",
        "Whether the last query of every worker's readiness check succeeded in time.",
        _SERVICE,
    ),
    Family(
        "logging_predictions_total", "counter", "Predictions stored, duplicates aside.", _SERVICE
    ),
    Family("logging_defects_total", "counter", "Stored predictions with a defect.", _SERVICE),
    Family(
        "logging_duplicates_total",
        "counter",
        "Predictions received again and not stored again.",
        _SERVICE,
    ),
    Family("logging_batches_total", "counter", "Batches acknowledged.", _SERVICE),
    Family(
        "logging_errors_total",
        "counter",
        "Requests that failed for the service's fault.",
        _SERVICE,
    ),
    Family(
        "logging_rejected_total",
        "counter",
        "Requests turned away for no failure of the service.",
        (*_SERVICE, "reason"),
    ),
    Family(
        "logging_store_errors_total",
        "counter",
        "Failed transactions and checks of the database.",
        (*_SERVICE, "reason"),
    ),
    Family(
        "logging_error_ratio",
        "gauge",
        "Errors over all outcomes in the sliding window that /ready judges.",
        _SERVICE,
    ),
    Family(
        "logging_request_duration_seconds",
        "histogram",
        "Time to answer a request of this route.",
        (*_SERVICE, "route"),
        _DURATION_BUCKETS,
    ),
    Family(
        "logging_commit_duration_seconds",
        "histogram",
        "Time of one transaction, until it is on disk.",
        _SERVICE,
        _DURATION_BUCKETS,
    ),
    Family(
        "logging_commit_predictions",
        "histogram",
        "Predictions in one transaction.",
        _SERVICE,
        (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500),
    ),
    Family("logging_queue_depth", "gauge", "Predictions waiting to be stored.", _SERVICE),
    Family(
        "logging_queue_capacity",
        "gauge",
        "Predictions that may wait before requests get 429.",
        _SERVICE,
    ),
    Family(
        "logging_database_bytes",
        "gauge",
        "Size of the database's files.",
        (*_SERVICE, "file"),
    ),
    Family("logging_disk_free_bytes", "gauge", "Free space where the database lies.", _SERVICE),
    Family("logging_disk_size_bytes", "gauge", "Size of the disk it lies on.", _SERVICE),
    Family("logging_workers", "gauge", "Worker processes that the pod should have.", _SERVICE),
    Family("logging_workers_alive", "gauge", "Worker processes that run.", _SERVICE),
    Family("logging_start_time_seconds", "gauge", "When the pod started, Unix seconds.", _SERVICE),
)
