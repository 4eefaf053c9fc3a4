"""The inference dashboard: from readiness to drift, in the order in which one looks."""

from bentos.health.window import MAXIMUM_ERROR_RATE
from monitoring.grafana import shared
from monitoring.grafana.dashboard import INFERENCE, TITLES, Dashboard, links_from, service_variables
from monitoring.grafana.model import drift_panels, model_panels
from monitoring.grafana.panels import FEW_ARE_ODD, bound, gauge, heatmap, stat, timeseries, tone
from monitoring.grafana.queries import (
    RANGE,
    aggregate,
    buckets,
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
            aggregate("sum", f"changes({series('inference_start_time_seconds')}[{RANGE}])"),
            unit="none",
            thresholds=FEW_ARE_ODD,
        ),
        shared.up_since("inference", width=3),
        shared.judged_error_rate("inference", width=6),
        shared.unready_reasons("inference", width=12),
        timeseries(
            "Ready instances",
            "Instances that answer 200 on /ready, of those that are scraped.",
            Target(aggregate("sum", ready), "ready"),
            Target(aggregate("count", ready), "scraped"),
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
            rate(PREDICTIONS, by="instance"),
            unit="reqps",
            stacking="normal",
        ),
        shared.requests_by_route("inference", width=8),
        timeseries(
            "Latency of predictions",
            "From a request's body being whole to its answer.",
            *shared.percentiles(LATENCY),
            unit="s",
            alerts=("InferenceLatencyBudgetBurnFast",),
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
            quantile(0.99, LATENCY, by="instance"),
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
            Target(shared.error_ratio("inference"), "error ratio"),
            unit="percentunit",
            overrides=(tone("error ratio", "red"),),
            thresholds=Thresholds("green", ((MAXIMUM_ERROR_RATE, "red"),)),
            alerts=("InferenceHighErrorRate",),
        ),
        timeseries(
            "Errors by reason",
            "Requests that failed for the service's fault.",
            rate(ERRORS, by="reason"),
            unit="reqps",
            stacking="normal",
            overrides=(tone(".*", "red"),),
            alerts=("InferenceHighErrorRate",),
        ),
        shared.refusals("inference"),
    )


def _queue() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Batch size",
            "Inputs in one call of the model; it grows with load, up to the setting.",
            Target(mean("inference_batch_size"), "mean"),
            Target(quantile(0.99, "inference_batch_size"), "p99"),
            unit="none",
            width=6,
        ),
        timeseries(
            "Queue",
            "Inputs that wait for the model, and how many may; beyond that requests get 429.",
            Target(sum_of("inference_queue_depth", by="instance"), "waiting {{instance}}"),
            Target(min_of("inference_queue_capacity"), "capacity"),
            unit="none",
            overrides=(bound("capacity"),),
            width=6,
            alerts=("InferenceQueueFull",),
        ),
        gauge(
            "Queue used",
            "The fullest queue of all instances.",
            Target(
                aggregate(
                    "max",
                    ratio(series("inference_queue_depth"), series("inference_queue_capacity")),
                ),
                "used",
            ),
            unit="percentunit",
            width=6,
            thresholds=Thresholds("green", ((0.5, "yellow"), (0.9, "red"))),
            alerts=("InferenceQueueFull",),
        ),
        timeseries(
            "Model busy",
            "Share of time that each worker's model spends computing; near 100% it is the limit.",
            rate("inference_model_duration_seconds_sum", by="instance")
            + " / "
            + sum_of("inference_workers", by="instance"),
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
            Target(rate("inference_evidence_sent_total"), "sent"),
            Target(rate("inference_evidence_dropped_total", by="reason"), "dropped: {{reason}}"),
            unit="cps",
            width=12,
            alerts=("InferencePicturesDropped",),
        ),
        timeseries(
            "Pictures that wait",
            "In memory, and how much may (KEEP_QUEUE_BYTES), 0 where no pictures are kept.",
            max_of("inference_evidence_queue_bytes", by="instance"),
            Target(max_of("inference_evidence_queue_capacity_bytes"), "capacity"),
            unit="bytes",
            overrides=(bound("capacity"),),
            width=12,
        ),
        timeseries(
            "Heat maps",
            "Requests to /explain (EXPLAIN) by outcome; one beside another is `refused`.",
            rate("inference_explanations_total", by="outcome") + " > 0",
            unit="reqps",
            overrides=(tone("answered", "green"), tone("refused", "yellow"), tone("failed", "red")),
            width=24,
            no_value="none asked for",
        ),
    )
