"""The inference service's metric families: names, labels and meanings, defined here only."""

from bentos.health.metrics import SHARED_FAMILIES, Family

ERROR_REASONS = ("model_failure", "timeout", "internal_error")
REFUSAL_REASONS = (
    "bad_input",
    "too_large",
    "body_timeout",
    "queue_full",
    "model_not_loaded",
    "shutting_down",
    "method_not_allowed",
)
UNREADY_REASONS = (
    "shutting_down",
    "worker_missing",
    "model_not_loaded",
    "mlflow_not_accessible",
    "high_error_rate",
)

_MODEL = ("model", "stage")
_DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

FAMILIES = (
    *SHARED_FAMILIES,
    Family("inference_ready", "gauge", "Whether /ready answers 200.", _MODEL),
    Family(
        "inference_unready",
        "gauge",
        "Whether this reason keeps the pod from being ready.",
        (*_MODEL, "reason"),
    ),
    Family(
        "inference_model_loaded",
        "gauge",
        "Whether every worker holds a model that answered its warm-up input.",
        _MODEL,
    ),
    Family(
        "inference_mlflow_accessible",
        "gauge",
        "Whether the last check of the MLflow registry succeeded.",
        _MODEL,
    ),
    Family(
        "inference_mlflow_check_age_seconds",
        "gauge",
        "Time since a check of the MLflow registry last ended, whatever its outcome.",
        _MODEL,
    ),
    Family(
        "inference_model_info", "gauge", "The version served, constant 1.", (*_MODEL, "version")
    ),
    Family(
        "inference_model_version",
        "gauge",
        "The version served, the lowest where workers differ, 0 without a model.",
        _MODEL,
    ),
    Family(
        "inference_registry_version",
        "gauge",
        "The version that the registry's alias or stage points to, 0 while it is unknown.",
        _MODEL,
    ),
    Family(
        "inference_model_loads_total",
        "counter",
        "Attempts to load a model.",
        (*_MODEL, "outcome"),
    ),
    Family(
        "inference_model_load_duration_seconds",
        "histogram",
        "Time to download, load and warm up a model.",
        _MODEL,
        (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
    ),
    Family(
        "inference_model_process_exits_total",
        "counter",
        "Model processes that ended by themselves and were started again.",
        _MODEL,
    ),
    Family("inference_predictions_total", "counter", "Predictions answered.", _MODEL),
    Family(
        "inference_errors_total",
        "counter",
        "Requests that failed for the service's fault.",
        (*_MODEL, "reason"),
    ),
    Family(
        "inference_rejected_total",
        "counter",
        "Requests turned away for no failure of the service.",
        (*_MODEL, "reason"),
    ),
    Family(
        "inference_error_ratio",
        "gauge",
        "Errors over all outcomes in the sliding window that /ready judges.",
        _MODEL,
    ),
    Family(
        "inference_prediction_duration_seconds",
        "histogram",
        "Time from a request's body being whole to its answer.",
        _MODEL,
        _DURATION_BUCKETS,
    ),
    Family(
        "inference_model_duration_seconds",
        "histogram",
        "Time of one call of the model, a whole batch.",
        _MODEL,
        _DURATION_BUCKETS,
    ),
    Family(
        "inference_batch_size",
        "histogram",
        "Inputs in one call of the model.",
        _MODEL,
        (1, 2, 4, 8, 16, 32, 64, 128),
    ),
    Family(
        "inference_confidence",
        "histogram",
        "Confidence of the predicted class.",
        (*_MODEL, "class_name"),
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
    ),
    Family("inference_queue_depth", "gauge", "Inputs waiting for the model.", _MODEL),
    Family(
        "inference_queue_capacity", "gauge", "Inputs that may wait before requests get 429.", _MODEL
    ),
    Family(
        "inference_log_backlog",
        "gauge",
        "Predictions in the outbox that the logging service has not acknowledged.",
        _MODEL,
    ),
    Family(
        "inference_log_delivered_total",
        "counter",
        "Predictions that the logging service acknowledged.",
        _MODEL,
    ),
    Family(
        "inference_log_dropped_total",
        "counter",
        "Predictions given up: the outbox was full, or the logging service refused them.",
        _MODEL,
    ),
    Family(
        "inference_log_send_errors_total",
        "counter",
        "Batches that the logging service did not acknowledge and that are sent again.",
        _MODEL,
    ),
    Family("inference_workers", "gauge", "Worker processes that the pod should have.", _MODEL),
    Family("inference_workers_alive", "gauge", "Worker processes that run.", _MODEL),
    Family("inference_start_time_seconds", "gauge", "When the pod started, Unix seconds.", _MODEL),
)
