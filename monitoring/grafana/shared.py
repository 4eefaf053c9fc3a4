"""Panels that more than one dashboard shows."""

from typing import Literal

from bentos.health.window import MAXIMUM_ERROR_RATE
from monitoring.grafana.panels import (
    BY_STATUS,
    FAILING,
    READY_OR_NOT,
    YES_OR_NO,
    ZERO_IS_GOOD,
    gauge,
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
from monitoring.grafana.schema import Panel, Target, Thresholds
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

Service = Literal["inference", "logging"]

PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
NAMES: dict[Service, str] = {"inference": INFERENCE_SERVICE, "logging": LOGGING_SERVICE}
OUTCOMES: dict[Service, str] = {
    "inference": "inference_predictions_total",
    "logging": "logging_batches_total",
}
JUDGED = Thresholds("green", ((MAXIMUM_ERROR_RATE / 5, "yellow"), (MAXIMUM_ERROR_RATE, "red")))


def percentiles(histogram: str) -> tuple[Target, ...]:
    """Return the targets of a histogram's percentiles."""
    return tuple(Target(quantile(share, histogram), name) for share, name in PERCENTILES)


def error_ratio(service: Service) -> str:
    """Return the share of judged requests that failed for the service's fault."""
    errors, successes = rate(f"{service}_errors_total"), rate(OUTCOMES[service])
    return ratio(errors, f"({errors} + {successes})")


def readiness(service: Service) -> str:
    """Return 1 for an instance that is ready, 0 for one that is not or gives no answer at all."""
    # An instance that cannot be scraped has no series but this one.
    silent = f"{series('up', _of(service))} == 0"
    return f"{series(f'{service}_ready')} or {silent}"


def _of(service: Service) -> str:
    return f'job="{NAMES[service]}"'


def every(metric: str) -> str:
    """Return 1 where the 0/1 gauge is 1 on every chosen instance."""
    return min_of(metric)


def ready(service: Service, *, width: int) -> Panel:
    """Return whether every instance of a service is ready."""
    return stat(
        "Ready",
        "Whether every chosen instance answers 200 on /ready; no answer at all is not ready.",
        aggregate("min", readiness(service)),
        unit="none",
        width=width,
        mappings=READY_OR_NOT,
        alerts=(f"{service.title()}NotReady",),
    )


def model_loaded() -> Panel:
    """Return whether there is a model everywhere."""
    return stat(
        "Model loaded",
        "Whether every worker of every instance holds a model that answered its warm-up.",
        every("inference_model_loaded"),
        unit="bool_yes_no",
        no_value="no answer",
        mappings=YES_OR_NO,
        alerts=("InferenceModelNotLoaded",),
    )


def mlflow_reachable() -> Panel:
    """Return whether the registry answers every instance."""
    return stat(
        "MLflow reachable",
        "Whether the last check of the registry succeeded on every instance.",
        every("inference_mlflow_accessible"),
        unit="bool_yes_no",
        no_value="no answer",
        mappings=YES_OR_NO,
        alerts=("InferenceMlflowUnreachable",),
    )


def database_answers(*, width: int) -> Panel:
    """Return whether the logging service's database answers queries."""
    return stat(
        "Database answers",
        "Whether the last query of every worker's readiness check succeeded in time.",
        every("logging_db_accessible"),
        unit="bool_yes_no",
        no_value="no answer",
        width=width,
        mappings=YES_OR_NO,
        alerts=("LoggingDatabaseNotAccessible",),
    )


def workers_missing(service: Service, *, width: int) -> Panel:
    """Return how many worker processes are gone."""
    wanted, alive = series(f"{service}_workers"), series(f"{service}_workers_alive")
    return stat(
        "Workers missing",
        "Worker processes that should run and do not.",
        f"{aggregate('sum', wanted)} - {aggregate('sum', alive)}",
        unit="none",
        no_value="no answer",
        width=width,
        thresholds=ZERO_IS_GOOD,
        alerts=(f"{service.title()}WorkersMissing",),
    )


def up_since(service: Service, *, width: int) -> Panel:
    """Return when the service started."""
    return stat(
        "Up since",
        "When the longest-running instance started.",
        f"{min_of(f'{service}_start_time_seconds')} * 1000",
        unit="dateTimeFromNow",
        no_value="no answer",
        width=width,
    )


def judged_error_rate(service: Service, *, width: int) -> Panel:
    """Return the error rate that readiness depends on."""
    return gauge(
        "Error rate that /ready judges",
        "Errors over all outcomes in the sliding window, the worst instance; above the threshold, "
        "and with enough requests, /ready answers 503 high_error_rate.",
        Target(max_of(f"{service}_error_ratio"), "error rate"),
        unit="percentunit",
        no_value="no answer",
        width=width,
        height=4,
        thresholds=JUDGED,
        alerts=(f"{service.title()}HighErrorRate",),
    )


def unready_reasons(service: Service, *, width: int) -> Panel:
    """Return each reason against readiness, over time."""
    return states(
        "Why instances are not ready",
        "Each reason that may keep an instance from being ready, over time; red is why.",
        max_of(f"{service}_unready", by="reason"),
        Target(aggregate("max", f"{series('up', _of(service))} == bool 0", by="job"), "no answer"),
        mappings=FAILING,
        width=width,
        alerts=(f"{service.title()}NotReady",),
    )


def refusals(service: Service) -> Panel:
    """Return what was refused, and why."""
    return timeseries(
        "Refusals by reason",
        "Refused requests: bad input is the client's, queue_full is load, the rest are states.",
        rate(f"{service}_rejected_total", by="reason") + " > 0",
        unit="reqps",
        stacking="normal",
        overrides=(tone(".*", "yellow"),),
        no_value="nothing is refused",
        alerts=(f"{service.title()}QueueFull",),
    )


def requests_by_route(service: Service, *, width: int) -> Panel:
    """Return everything that a service answered."""
    # The metric's name is a common one: other programs' series have other labels.
    own = f'service="{NAMES[service]}"'
    return timeseries(
        "Requests by route and status",
        "Everything that was answered, probes and refusals included.",
        rate("http_requests_total", own, by="route, status") + " > 0",
        unit="reqps",
        width=width,
        stacking="normal",
        overrides=BY_STATUS,
    )


def outbox_backlog() -> Panel:
    """Return what waits in the inference service's outboxes."""
    return timeseries(
        "Not yet delivered",
        "Predictions in the inference service's outboxes that were not acknowledged.",
        sum_of("inference_log_backlog", by="instance"),
        unit="short",
        alerts=("InferenceLogBacklogGrowing",),
    )
