"""The overview: is it up, ready, fast and right, and does it keep its objectives."""

from monitoring.grafana import inference, logging_service, shared
from monitoring.grafana.dashboard import OVERVIEW, TITLES, Dashboard, links_from, service_variables
from monitoring.grafana.objectives import objective_panels
from monitoring.grafana.panels import (
    READY_OR_NOT,
    UP_OR_DOWN,
    ZERO_IS_GOOD,
    advice,
    alerts,
    stat,
    states,
    timeseries,
    tone,
)
from monitoring.grafana.queries import (
    aggregate,
    max_of,
    min_of,
    quantile,
    rate,
    ratio,
    series,
    sum_of,
)
from monitoring.grafana.schema import Panel, Row, Target, Thresholds
from monitoring.prometheus.source.objectives import LATENCY_BOUND_SECONDS, PERIOD
from monitoring.timings import SERVICES

OWN_JOBS = f'job=~"{"|".join(SERVICES)}"'
ERROR_SHARE = Thresholds("green", ((0.01, "yellow"), (0.05, "red")))
SLOW = Thresholds("green", ((LATENCY_BOUND_SECONDS / 2, "yellow"), (LATENCY_BOUND_SECONDS, "red")))


def build() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=OVERVIEW,
        title=TITLES[OVERVIEW],
        description="Both services at a glance: up, ready, fast, right, and within their "
        "objectives.",
        readers="Whoever is on call, first; and whoever wants to know whether all is well.",
        variables=service_variables("probe_duration_seconds_count"),
        links=links_from(OVERVIEW),
        rows=(
            Row("Now", "Is it up, ready, fast and right, at this moment?", _now()),
            Row(
                "What is wrong, and what to do",
                "Which alerts are pending or firing, since when is what not ready, and which "
                "dashboard explains it?",
                _wrong(),
            ),
            Row(
                f"Objectives of /predict over {PERIOD}",
                "How much of the error budget is left, and how fast is it spent?",
                objective_panels(),
            ),
            Row(
                "Traffic",
                "What is asked, how much of it fails, and how long does it take?",
                _traffic(),
            ),
            Row(
                "From prediction to database",
                "Does every prediction reach the database, and what is found?",
                _delivery(),
            ),
        ),
    )


def stale_instances() -> str:
    """Return how many instances serve another version than wanted, where that is known."""
    served, wanted = series("inference_model_version"), series("inference_registry_version")
    return aggregate("sum", f"({served} != bool {wanted}) * ({wanted} > bool 0)")


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            "Up",
            "Whether the last scrape of every chosen target succeeded.",
            min_of("up", OWN_JOBS, by="job"),
            unit="none",
            width=6,
            mappings=UP_OR_DOWN,
            alerts=("ServingTargetDown",),
        ),
        stat(
            "Ready",
            "Whether every chosen instance answers 200 on /ready; no answer at all is not ready.",
            Target(aggregate("min", shared.readiness("inference")), "inference"),
            Target(aggregate("min", shared.readiness("logging")), "logging"),
            unit="none",
            width=6,
            mappings=READY_OR_NOT,
            alerts=("InferenceNotReady", "LoggingNotReady"),
        ),
        shared.model_loaded(),
        shared.mlflow_reachable(),
        shared.database_answers(width=3),
        stat(
            "Stale instances",
            "Instances that serve another version than the one the registry's alias points to.",
            stale_instances(),
            unit="none",
            thresholds=ZERO_IS_GOOD,
            alerts=("InferenceModelVersionStale",),
        ),
        stat(
            "Model served",
            "The version that instances say they serve.",
            Target(
                max_of("inference_model_info", by="model, stage, version"),
                "{{model}}@{{stage}} version {{version}}",
            ),
            unit="none",
            width=6,
            shows="name",
            no_value="no model",
        ),
        stat(
            "Predictions",
            "Predictions answered each second.",
            rate(inference.PREDICTIONS),
            unit="reqps",
            sparkline=True,
        ),
        stat(
            "Latency, p99",
            "Of predictions, from a request's body being whole to its answer.",
            quantile(0.99, inference.LATENCY),
            unit="s",
            thresholds=SLOW,
            no_value="no traffic",
        ),
        stat(
            "Error ratio, inference",
            "Failures of the service over all judged requests.",
            shared.error_ratio("inference"),
            unit="percentunit",
            thresholds=ERROR_SHARE,
            no_value="no traffic",
            alerts=("InferenceHighErrorRate",),
        ),
        stat(
            "Error ratio, logging",
            "Failures of the service over all judged batches.",
            shared.error_ratio("logging"),
            unit="percentunit",
            thresholds=ERROR_SHARE,
            no_value="no traffic",
            alerts=("LoggingHighErrorRate",),
        ),
        stat(
            "Not yet delivered",
            "Predictions that the logging service has not acknowledged.",
            sum_of("inference_log_backlog"),
            unit="short",
            sparkline=True,
            alerts=("InferenceLogBacklogGrowing",),
        ),
        stat(
            "Free disk",
            "Share of the database's disk that is free.",
            logging_service.free_share(),
            unit="percentunit",
            no_value="no answer",
            thresholds=logging_service.FREE_SPACE,
            alerts=("LoggingDiskFillsSoon",),
        ),
    )


def _wrong() -> tuple[Panel, ...]:
    return (
        alerts("Alerts", "What is pending or firing, with the runbook of each.", width=10),
        states(
            "Ready over time",
            "What /ready answers, instance by instance; no answer at all is not ready.",
            *(
                aggregate("min", shared.readiness(service), by="job, instance")
                for service in shared.NAMES
            ),
            mappings=READY_OR_NOT,
            width=8,
            alerts=("InferenceNotReady", "LoggingNotReady"),
        ),
        advice(
            "Where to look",
            "The dashboard that explains what is red here.",
            "An alert has a link to its **runbook**: impact, first commands, causes.",
            "**Not ready**: the reason is on *Inference* or *Logging*, first row.",
            "**Model loaded: No**: *Inference*, row *Model and registry*.",
            "**Not yet delivered** grows: *Logging*, row *What waits*.",
            "**Error ratio** is red: *Inference*, row *Errors and refusals*.",
            "**Latency** is red: *Inference*, row *Batches and queue*.",
            "Ready goes up and down: *Probes*. Pods restart: *Kubernetes*.",
        ),
    )


def _traffic() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Requests by outcome",
            "Answered, failed for the service's fault, and refused.",
            Target(rate(inference.PREDICTIONS), "answered"),
            Target(rate(inference.ERRORS), "failed"),
            Target(rate("inference_rejected_total", by="reason") + " > 0", "refused: {{reason}}"),
            unit="reqps",
            stacking="normal",
            overrides=(
                tone("answered", "green"),
                tone("failed", "red"),
                tone("refused: .*", "yellow"),
            ),
        ),
        timeseries(
            "Latency of predictions",
            "From a request's body being whole to its answer; the dashed line is the objective's.",
            *shared.percentiles(inference.LATENCY),
            unit="s",
            thresholds=Thresholds("green", ((LATENCY_BOUND_SECONDS, "red"),)),
        ),
        timeseries(
            "Probes, p99",
            "What the kubelet waits for; slow probes are the first sign of a starved service.",
            quantile(0.99, "probe_duration_seconds", 'probe!="metrics"', by="service, probe"),
            unit="s",
            alerts=("ServingProbeSlow",),
        ),
    )


def _delivery() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Predicted, delivered, stored",
            "The lines lie on one another while everything is well.",
            Target(rate(inference.PREDICTIONS), "predicted"),
            Target(rate("inference_log_delivered_total"), "delivered"),
            Target(rate(logging_service.STORED), "stored"),
            unit="cps",
        ),
        timeseries(
            "Lost or sent again",
            "Predictions dropped from a full outbox or lost with a damaged one, batches not "
            "acknowledged at first, and duplicates not stored.",
            Target(rate("inference_log_dropped_total"), "dropped"),
            Target(rate("inference_log_lost_total"), "lost"),
            Target(rate("inference_log_send_errors_total"), "sent again"),
            Target(rate("logging_duplicates_total"), "duplicates"),
            unit="cps",
            overrides=(
                tone("dropped|lost", "red"),
                tone("sent again", "yellow"),
                tone("duplicates", "blue"),
            ),
            alerts=("InferencePredictionsDropped",),
        ),
        timeseries(
            "Defects",
            "Share of stored predictions that found a defect.",
            Target(ratio(rate("logging_defects_total"), rate(logging_service.STORED)), "defects"),
            unit="percentunit",
            maximum=1,
        ),
    )
