"""The logging dashboard: what is stored, how fast, what still waits, how much room is left."""

from monitoring.grafana import shared
from monitoring.grafana.dashboard import LOGGING, TITLES, Dashboard, links_from, service_variables
from monitoring.grafana.panels import (
    YES_OR_NO,
    ZERO_IS_GOOD,
    bars,
    bound,
    gauge,
    heatmap,
    stat,
    timeseries,
    tone,
)
from monitoring.grafana.queries import (
    RANGE,
    aggregate,
    buckets,
    increase,
    max_of,
    mean,
    min_of,
    quantile,
    rate,
    ratio,
    series,
    sum_of,
)
from monitoring.grafana.schema import Panel, Row, Target, Thresholds

STORED = "logging_predictions_total"
# Replicas on one PostgreSQL all tell the size of the same database: a maximum is right for them
# and for the one that has a file.
GROWTH = f"delta({series('logging_database_bytes')}[{RANGE}])"
GROWTH_OF_FILES = aggregate("sum", aggregate("max", GROWTH, by="file"))
ERRORS = "logging_errors_total"
COMMIT = "logging_commit_duration_seconds"
DAY_SECONDS = 86_400

OUTBOX_USED = Thresholds("green", ((0.5, "yellow"), (0.8, "red")))
FREE_SPACE = Thresholds("red", ((0.1, "yellow"), (0.25, "green")))


def build() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=LOGGING,
        title=TITLES[LOGGING],
        description="Whether every prediction reaches the database, and how long it will fit.",
        readers="Who is on call for the database, and who misses a prediction in it.",
        variables=service_variables("probe_duration_seconds_count"),
        links=links_from(LOGGING),
        rows=(
            Row("Availability", "Is it ready, since when, and if not, why not?", _availability()),
            Row("Throughput", "What is stored, what is found, and what fails?", _throughput()),
            Row(
                "Time to store",
                "How long does a commit take, and so every acknowledgement?",
                _store(),
            ),
            Row(
                "What waits",
                "What is not in the database yet, and how long will there be room?",
                _waiting(),
            ),
            Row("Database", "How large is it, and how long will the disk last?", _database()),
            Row("Pictures for review", "Are they stored, and how much do they take?", _pictures()),
            Row(
                "Quality",
                "How often are the answers right, by what people say of pictures?",
                _quality(),
            ),
        ),
    )


def free_share() -> str:
    """Return the free share of the disk that the database lies on, the fullest of all."""
    return aggregate(
        "min", ratio(series("logging_disk_free_bytes"), series("logging_disk_size_bytes"))
    )


def _availability() -> tuple[Panel, ...]:
    return (
        shared.ready("logging", width=4),
        stat(
            "Database open",
            "Whether every worker has the database open with its schema up to date.",
            shared.every("logging_db_initialized"),
            unit="bool_yes_no",
            no_value="no answer",
            width=4,
            mappings=YES_OR_NO,
            alerts=("LoggingDatabaseNotInitialized",),
        ),
        shared.database_answers(width=4),
        shared.workers_missing("logging", width=4),
        shared.up_since("logging", width=4),
        shared.judged_error_rate("logging", width=4),
        shared.unready_reasons("logging", width=24),
    )


def _throughput() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Predictions stored",
            "Predictions committed to disk each second. Duplicates had come before, conflicts had "
            "come before with other content, deleted ones were too old or too many.",
            Target(rate(STORED), "stored"),
            Target(rate("logging_duplicates_total"), "duplicates"),
            Target(rate("logging_conflicts_total"), "conflicts"),
            Target(rate("logging_database_pruned_total"), "deleted"),
            unit="cps",
            alerts=("LoggingPredictionConflicts",),
        ),
        timeseries(
            "Defects",
            "Share of stored predictions that found a defect.",
            Target(ratio(rate("logging_defects_total"), rate(STORED)), "defects"),
            unit="percentunit",
            maximum=1,
        ),
        stat(
            "Stored in the chosen time",
            "Predictions, and defects among them.",
            Target(increase(STORED), "predictions"),
            Target(increase("logging_defects_total"), "defects"),
            unit="short",
            width=8,
            height=8,
            decimals=1,
        ),
        timeseries(
            "Batches",
            "Requests to /log that were acknowledged, each stored whole.",
            Target(rate("logging_batches_total"), "acknowledged"),
            unit="reqps",
        ),
        timeseries(
            "Errors",
            "Requests that failed for the service's fault, and failures of the database.",
            Target(rate(ERRORS), "requests"),
            Target(rate("logging_store_errors_total", by="reason"), "store: {{reason}}"),
            unit="cps",
            overrides=(tone("requests", "red"), tone("store: .*", "orange")),
            alerts=("LoggingStoreErrors", "LoggingDatabaseBusy"),
        ),
        shared.refusals("logging"),
    )


def _store() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Time of a transaction",
            "From its beginning until it is on disk.",
            *shared.percentiles(COMMIT),
            unit="s",
            alerts=("LoggingCommitSlow",),
        ),
        heatmap(
            "Spread of transaction time",
            "Transactions by how long they took; a second band is a slow disk or another's lock.",
            buckets(COMMIT),
            unit="s",
        ),
        timeseries(
            "Predictions in a transaction",
            "What group commit brings together; it grows with load.",
            Target(mean("logging_commit_predictions"), "mean"),
            Target(quantile(0.99, "logging_commit_predictions"), "p99"),
            unit="short",
        ),
        timeseries(
            "Time to answer, p99",
            "By route; /log answers only when the rows are on disk.",
            quantile(0.99, "logging_request_duration_seconds", by="route"),
            unit="s",
            width=12,
        ),
        shared.requests_by_route("logging", width=12),
    )


def _waiting() -> tuple[Panel, ...]:
    delivered = rate("inference_log_delivered_total")
    return (
        shared.outbox_backlog(),
        timeseries(
            "Predicted, delivered, stored",
            "The three lines lie on one another while everything is well.",
            Target(rate("inference_predictions_total"), "predicted"),
            Target(delivered, "delivered"),
            Target(rate(STORED), "stored"),
            Target(rate("inference_log_dropped_total"), "dropped"),
            unit="cps",
            overrides=(tone("dropped", "red"),),
            alerts=("InferencePredictionsDropped",),
        ),
        timeseries(
            "Write queue",
            "Predictions that wait to be stored, and how many may; beyond that requests get 429.",
            Target(max_of("logging_queue_depth"), "waiting"),
            Target(min_of("logging_queue_capacity"), "capacity"),
            unit="short",
            overrides=(bound("capacity"),),
            alerts=("LoggingQueueFull",),
        ),
        timeseries(
            "Size of the outboxes",
            "What waits on disk, and how much may; beyond that predictions are refused or dropped.",
            sum_of("inference_outbox_bytes", by="instance"),
            Target(min_of("inference_outbox_capacity_bytes"), "capacity"),
            unit="bytes",
            overrides=(bound("capacity"),),
            width=6,
            alerts=("InferenceOutboxNearlyFull",),
        ),
        bars(
            "Outbox used",
            "The fullest outbox, of the bytes and of the predictions that it may hold; the alert "
            "fires above 80%.",
            Target(
                aggregate(
                    "max",
                    ratio(
                        series("inference_outbox_bytes"), series("inference_outbox_capacity_bytes")
                    ),
                ),
                "bytes",
            ),
            Target(
                aggregate(
                    "max",
                    ratio(
                        series("inference_log_backlog"), series("inference_outbox_capacity_rows")
                    ),
                ),
                "predictions",
            ),
            unit="percentunit",
            width=6,
            maximum=1,
            thresholds=OUTBOX_USED,
            alerts=("InferenceOutboxNearlyFull",),
        ),
        timeseries(
            "Refused for good",
            "Predictions that the logging service refused and that went to the dead-letter table.",
            Target(rate("inference_log_refused_total"), "refused"),
            unit="cps",
            overrides=(tone("refused", "red"),),
            alerts=("InferenceDeadLetters",),
        ),
        stat(
            "Dead letters",
            "Predictions in the dead-letter tables, each with the reason of its refusal.",
            sum_of("inference_log_dead_letters"),
            unit="short",
            width=4,
            height=8,
            thresholds=ZERO_IS_GOOD,
            alerts=("InferenceDeadLetters",),
        ),
    )


def _database() -> tuple[Panel, ...]:
    free = series("logging_disk_free_bytes")
    left = aggregate("min", f"predict_linear({free}[1h], {DAY_SECONDS})")
    return (
        timeseries(
            "Size of the database's files",
            "A write-ahead log that only grows means that some reader never ends. The limit is "
            "MAX_DATABASE_BYTES, 0 for none.",
            max_of("logging_database_bytes", by="file"),
            Target(max_of("logging_database_capacity_bytes"), "limit"),
            unit="bytes",
            overrides=(bound("limit"),),
        ),
        timeseries(
            "Free space, and where it goes",
            "Free space where the database lies, and what the last hour's pace leaves in a day.",
            Target(aggregate("min", free), "free"),
            Target(f"clamp_min({left}, 0)", "in 24 hours"),
            unit="bytes",
            alerts=("LoggingDiskFillsSoon",),
        ),
        gauge(
            "Free space",
            "Share of the disk that is free.",
            Target(free_share(), "free"),
            unit="percentunit",
            no_value="no answer",
            thresholds=FREE_SPACE,
            alerts=("LoggingDiskAlmostFull",),
        ),
        stat(
            "Bytes a prediction",
            "Growth of the database's files over the predictions stored in the chosen time; none"
            " where they shrank, as when the service ends and empties its write-ahead log.",
            Target(ratio(f"({GROWTH_OF_FILES} >= 0)", increase(STORED))),
            unit="bytes",
            width=4,
            height=8,
            no_value="no growth",
        ),
    )


def _pictures() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Pictures stored and deleted",
            "Deleted for their age or size. Where their store fails, predictions are stored all "
            "the same.",
            Target(rate("logging_review_stored_total"), "stored"),
            Target(rate("logging_review_pruned_total"), "deleted"),
            Target(rate("logging_review_errors_total", by="reason"), "failed: {{reason}}"),
            unit="cps",
        ),
        timeseries(
            "Pictures kept",
            "Those that can be looked at, each once however often it came, and the predictions"
            " whose picture waits for a label.",
            Target(max_of("logging_review_pictures"), "kept"),
            Target(max_of("logging_review_waiting"), "waiting"),
            unit="short",
        ),
        timeseries(
            "Size of the pictures and labels",
            "Beyond REVIEW_MAX_BYTES the oldest pictures are deleted.",
            Target(max_of("logging_review_bytes"), "used"),
            Target(max_of("logging_review_capacity_bytes"), "limit"),
            unit="bytes",
            overrides=(bound("limit"),),
        ),
    )


def _quality() -> tuple[Panel, ...]:
    limit = Target(aggregate("max", f"{series('logging_quality_escape_rate_limit')} > 0"), "limit")
    return (
        timeseries(
            "Defects that passed",
            "Share of the defects that got the verdict pass, with its 95% interval, estimated from"
            " labels of the random sample. The alert fires where the whole interval lies above"
            " MAX_ESCAPE_RATE, the limit.",
            *_interval("logging_quality_escape_rate"),
            limit,
            unit="percentunit",
            overrides=(bound("limit"),),
            alerts=("EscapeRateHigh",),
        ),
        timeseries(
            "Good ones that failed",
            "Share of the good ones that got the verdict fail, with its 95% interval.",
            *_interval("logging_quality_false_reject_rate"),
            unit="percentunit",
        ),
        timeseries(
            "Labels",
            "How many labels people gave in each quarter of an hour.",
            Target(increase("logging_labels_total", over="15m"), "labels"),
            unit="short",
        ),
        _by_class(
            "Recall",
            "Of the pictures that show a class, the share that the model says shows it.",
            "logging_quality_recall",
        ),
        _by_class(
            "Precision",
            "Of the pictures that the model says show a class, the share that does.",
            "logging_quality_precision",
        ),
    )


def _by_class(title: str, description: str, metric: str) -> Panel:
    """Return a panel of a rate's estimate for each class and version."""
    return timeseries(
        title,
        description,
        Target(
            max_of(metric, 'bound="estimate"', by="model_version, class_name"),
            "{{class_name}}, version {{model_version}}",
        ),
        unit="percentunit",
        maximum=1,
        width=12,
    )


def _interval(metric: str) -> tuple[Target, ...]:
    """Return the bounds of a rate and its estimate, by version."""
    return tuple(
        Target(
            max_of(metric, f'bound="{name}"', by="model_name, model_version"),
            f"version {{{{model_version}}}}, {shown}",
        )
        for name, shown in (("low", "at least"), ("estimate", "estimate"), ("high", "at most"))
    )
