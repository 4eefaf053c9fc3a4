"""The inference dashboard: from readiness to drift, in the order in which one looks."""

from bentos.health.window import MAXIMUM_ERROR_RATE
from monitoring.grafana import shared
from monitoring.grafana.dashboard import (
    INFERENCE,
    TITLES,
    Dashboard,
    links_from,
    runbook,
    service_variables,
)
from monitoring.grafana.model import drift_panels, model_panels
from monitoring.grafana.panels import FEW_ARE_ODD, bound, gauge, heatmap, stat, timeseries, tone
from monitoring.grafana.queries import (
    RANGE,
    aggregate,
    buckets,
    mean,
    quantile,
    rate,
    ratio,
    series,
)
from monitoring.grafana.schema import Panel, Row, Target, Threshold, Thresholds

LATENCY = "inference_prediction_duration_seconds"
ERRORS = "inference_errors_total"
PREDICTIONS = "inference_predictions_total"


def build() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=INFERENCE,
        title=TITLES[INFERENCE],
        description="Whether predictions are answered, how fast, by which model, and how sure.",
        readers="Who is on call for predictions, and who owns the model.",
        variables=service_variables("inference_start_time_seconds"),
        links=links_from(INFERENCE),
        rows=(
            Row("Availability", "Is it ready, since when, and if not, why not?", _availability()),
            Row(
                "Throughput and latency",
                "How much is asked, and where does the time go: waiting, the model, one instance?",
                _traffic(),
            ),
            Row("Errors and refusals", "What fails, what is refused, and why?", _errors()),
            Row("Batches and queue", "Is the load more than the model can take?", _queue()),
            Row(
                "Model and registry",
                "Which version is served where, which should be, and do loads succeed?",
                model_panels(),
            ),
            Row(
                "Confidence and classes: signs of drift",
                "Does the model grow unsure, or does the mix of classes shift?",
                drift_panels(),
            ),
            Row(
                "Pictures for review",
                "Do the pictures that people are to look at reach the logging service?",
                _pictures(),
            ),
        ),
    )


def _availability() -> tuple[Panel, ...]:
    ready = series("inference_ready")
    return (
        shared.ready("inference", width=3),
        shared.model_loaded(),
        shared.mlflow_reachable(),
        shared.workers_missing("inference", width=3),
        stat(
            "Restarts",
            "How often an instance came up anew within the chosen time.",
            Target(
                expr=aggregate("sum", f"changes({series('inference_start_time_seconds')}[{RANGE}])")
            ),
            unit="none",
            thresholds=FEW_ARE_ODD,
        ),
        shared.up_since("inference", width=3),
        shared.judged_error_rate("inference", width=6),
        shared.unready_reasons("inference", width=12),
        timeseries(
            "Ready instances",
            "Instances that answer 200 on /ready, of those that are scraped.",
            Target(expr=aggregate("sum", ready), legend="ready"),
            Target(expr=aggregate("count", ready), legend="scraped"),
            unit="none",
            overrides=(bound("scraped"),),
            width=12,
            steps=True,
            decimals=0,
        ),
    )


def _traffic() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Predictions by instance",
            "Predictions answered each second; uneven load shows as lines that differ.",
            Target(expr=rate(PREDICTIONS, by=("instance",)), legend="{{instance}}"),
            unit="reqps",
            stacking="normal",
        ),
        shared.requests_by_route("inference", width=8),
        timeseries(
            "Latency of predictions",
            "From a request's body being whole to its answer.",
            *shared.percentiles(LATENCY),
            unit="s",
            links=(runbook("InferenceLatencyBudgetBurnFast"),),
        ),
        heatmap(
            "Spread of latency",
            "Predictions by how long they took: two bands mean two kinds of request.",
            buckets(LATENCY),
            unit="s",
        ),
        timeseries(
            "Latency by instance, p99",
            "One slow instance hides in a total; here it does not.",
            Target(expr=quantile(0.99, LATENCY, by=("instance",)), legend="{{instance}}"),
            unit="s",
        ),
        timeseries(
            "Time of one model call",
            "A whole batch through the model; what latency has on top is waiting and parsing.",
            *shared.percentiles("inference_model_duration_seconds"),
            unit="s",
        ),
    )


def _errors() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Error ratio",
            "Failures of the service over all judged requests; refusals do not count.",
            Target(expr=shared.error_ratio("inference"), legend="error ratio"),
            unit="percentunit",
            overrides=(tone("error ratio", "red"),),
            thresholds=Thresholds("green", (Threshold(MAXIMUM_ERROR_RATE, "red"),)),
            links=(runbook("InferenceHighErrorRate"),),
        ),
        timeseries(
            "Errors by reason",
            "Requests that failed for the service's fault.",
            Target(expr=rate(ERRORS, by=("reason",)), legend="{{reason}}"),
            unit="reqps",
            stacking="normal",
            overrides=(tone(".*", "red"),),
            links=(runbook("InferenceHighErrorRate"),),
        ),
        shared.refusals("inference"),
    )


def _queue() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Batch size",
            "Inputs in one call of the model; it grows with load, up to the setting.",
            Target(expr=mean("inference_batch_size"), legend="mean"),
            Target(expr=quantile(0.99, "inference_batch_size"), legend="p99"),
            unit="none",
            width=6,
        ),
        timeseries(
            "Queue",
            "Inputs that wait for the model, and how many may; beyond that requests get 429.",
            Target(
                expr=aggregate("sum", series("inference_queue_depth"), "instance"),
                legend="waiting {{instance}}",
            ),
            Target(expr=aggregate("min", series("inference_queue_capacity")), legend="capacity"),
            unit="none",
            overrides=(bound("capacity"),),
            width=6,
            links=(runbook("InferenceQueueFull"),),
        ),
        gauge(
            "Queue used",
            "The fullest queue of all instances.",
            Target(
                expr=aggregate(
                    "max",
                    ratio(series("inference_queue_depth"), series("inference_queue_capacity")),
                ),
                legend="used",
            ),
            unit="percentunit",
            width=6,
            thresholds=Thresholds("green", (Threshold(0.5, "yellow"), Threshold(0.9, "red"))),
            links=(runbook("InferenceQueueFull"),),
        ),
        timeseries(
            "Model busy",
            "Share of time that each worker's model spends computing; near 100% it is the limit.",
            Target(
                expr=rate("inference_model_duration_seconds_sum", by=("instance",))
                + " / "
                + aggregate("sum", series("inference_workers"), "instance"),
                legend="{{instance}}",
            ),
            unit="percentunit",
            width=6,
            maximum=1,
        ),
    )


def _pictures() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Pictures sent and dropped",
            "Pictures are kept where KEEP_IMAGES is set. Predictions do not wait for them.",
            Target(expr=rate("inference_evidence_sent_total"), legend="sent"),
            Target(
                expr=rate("inference_evidence_dropped_total", by=("reason",)),
                legend="dropped: {{reason}}",
            ),
            unit="cps",
            width=12,
            links=(runbook("InferencePicturesDropped"),),
        ),
        timeseries(
            "Pictures that wait",
            "In memory, and how much may (KEEP_QUEUE_BYTES), 0 where no pictures are kept.",
            Target(
                expr=aggregate("max", series("inference_evidence_queue_bytes"), "instance"),
                legend="{{instance}}",
            ),
            Target(
                expr=aggregate("max", series("inference_evidence_queue_capacity_bytes")),
                legend="capacity",
            ),
            unit="bytes",
            overrides=(bound("capacity"),),
            width=12,
        ),
        timeseries(
            "Heat maps",
            "Requests to /explain (EXPLAIN) by outcome; one beside another is `refused`.",
            Target(
                expr=rate("inference_explanations_total", by=("outcome",)) + " > 0",
                legend="{{outcome}}",
            ),
            unit="reqps",
            overrides=(
                tone("answered", "green"),
                tone("refused", "yellow"),
                tone("failed", "red"),
            ),
            width=24,
            no_value="none asked for",
        ),
    )
