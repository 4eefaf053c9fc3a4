"""Service level objectives of `/predict`, and alerts on how fast their error budgets burn.

Multi-window, multi-burn-rate alerts after the Site Reliability Workbook, chapter 5. Bad is what
a client gets as a 5xx: failures, and refusals without a model, with a full outbox or while shutting
down. A 429 is not: it is the answer that was promised for overload, clients retry it, and
InferenceQueueFull alerts on it; counted, one client's burst would spend the budget of all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from monitoring.prometheus.source.rule import (
    DEPLOYMENT,
    IN_NAMESPACE,
    MODEL,
    Alert,
    Group,
    Recording,
    RuleFile,
    Severity,
)
from monitoring.timings import INFERENCE_SERVICE

PERIOD = "30d"
LATENCY_BOUND_SECONDS = 0.25

# An alert needs as many bad requests as this, so that one failure in a quiet hour is none.
LEAST_BAD_REQUESTS = 5


@dataclass(frozen=True)
class BurnWindow:
    """A pair of windows over which a burn rate must hold for its alert."""

    long: str
    short: str
    factor: float


@dataclass(frozen=True)
class Speed:
    """How fast a budget burns, who must know, and for how long it must last."""

    name: str
    severity: Severity
    hold: str
    windows: tuple[BurnWindow, ...]


SPEEDS = (
    Speed("Fast", "critical", "2m", (BurnWindow("1h", "5m", 14.4), BurnWindow("6h", "30m", 6.0))),
    Speed("Slow", "warning", "1h", (BurnWindow("1d", "2h", 3.0), BurnWindow("3d", "6h", 1.0))),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# A window of 30 days reads 170,000 samples a series: its rules are evaluated at this pace, which
# is below the 5 minutes after which Prometheus takes a series for gone.
PERIOD_INTERVAL = "2m"


@dataclass(frozen=True)
class Objective:
    """A share of requests, over PERIOD, that shall be good.

    `total` and `bad` are PromQL for the number of requests within `{window}`; `bad_means` ends
    the sentence "... of requests". `expected` is PromQL for the series in whose namespaces it must
    be measured.
    """

    name: str
    title: str
    target: float
    total: str
    bad: str
    bad_means: str
    expected: str

    @property
    def budget(self) -> float:
        """Return the share of requests that may be bad."""
        return round(1 - self.target, 6)

    def least_requests(self, factor: float) -> int:
        """Return the requests in which LEAST_BAD_REQUESTS burn at the factor."""
        return math.ceil(LEAST_BAD_REQUESTS / round(factor * self.budget, 9))


def _increase(metric: str, matchers: str = "") -> str:
    selector = f"{metric}{{{matchers}}}" if matchers else metric
    return f"sum by ({DEPLOYMENT}) (increase({selector}[{{window}}]))"


_FAST_ENOUGH = _increase(
    "inference_prediction_duration_seconds_bucket", f'le="{LATENCY_BOUND_SECONDS:g}"'
)

_FAILED = f"{_increase('inference_errors_total')} + " + _increase(
    "inference_rejected_total", 'reason=~"model_not_loaded|outbox_full|shutting_down"'
)

AVAILABILITY = Objective(
    name="predict-availability",
    title="Availability",
    target=0.995,
    total=f"{_increase('inference_predictions_total')} + {_FAILED}",
    bad=_FAILED,
    bad_means="failed",
    expected=f'up{{job="{INFERENCE_SERVICE}"}} == 1',
)
LATENCY = Objective(
    name="predict-latency",
    title="Latency",
    target=0.99,
    total=_increase("inference_prediction_duration_seconds_count"),
    bad=f"{_increase('inference_prediction_duration_seconds_count')} - {_FAST_ENOUGH}",
    bad_means=f"took longer than {LATENCY_BOUND_SECONDS * 1000:g} ms",
    # Durations have no series before the first prediction.
    expected="inference_predictions_total > 0",
)
OBJECTIVES = (AVAILABILITY, LATENCY)


def _recordings(objective: Objective, *windows: str) -> Iterator[Recording]:
    for window in windows:
        labels = {"slo": objective.name, "window": window}
        selector = f'slo="{objective.name}",window="{window}"'
        total = objective.total.replace("{window}", window)
        bad = objective.bad.replace("{window}", window)
        yield Recording("slo:requests:increase", total, labels)
        yield Recording("slo:sli_error:ratio", f"({bad}) / ({total})", labels)
        yield Recording(
            "slo:burn_rate:ratio",
            f"slo:sli_error:ratio{{{selector}}} / {objective.budget:g}",
            labels,
        )


def _budget_remaining(objective: Objective) -> Recording:
    return Recording(
        "slo:error_budget_remaining:ratio",
        f'1 - slo:burn_rate:ratio{{slo="{objective.name}",window="{PERIOD}"}}',
        {"slo": objective.name},
    )


def _burns(objective: Objective, window: BurnWindow) -> str:
    def burn_rate(length: str) -> str:
        return f'slo:burn_rate:ratio{{slo="{objective.name}",window="{length}"}} > {window.factor}'

    requests = f'slo:requests:increase{{slo="{objective.name}",window="{window.long}"}}'
    least = objective.least_requests(window.factor)
    return (
        f"({burn_rate(window.long)}"
        f" and ignoring (window) {burn_rate(window.short)}"
        f" and {requests} >= {least})"
    )


def _burn_alert(objective: Objective, speed: Speed) -> Alert:
    return Alert(
        name=f"Inference{objective.title}BudgetBurn{speed.name}",
        severity=speed.severity,
        service=INFERENCE_SERVICE,
        expr=" or ".join(_burns(objective, window) for window in speed.windows),
        hold=speed.hold,
        summary=(
            f"{MODEL}: the error budget of {objective.name} burns"
            " {{ $value | humanize }} times too fast"
        ),
        description=(
            f"Over the last {{{{ $labels.window }}}} requests to /predict {objective.bad_means}"
            " {{ $value | humanize }} times as often as the objective of"
            f" {objective.target * 100:g}% over {PERIOD} allows"
            "{{ with $labels.namespace }} (namespace {{ . }}){{ end }}."
        ),
        dashboard="overview",
    )


def _absent_alert(objective: Objective) -> Alert:
    return Alert(
        name=f"Inference{objective.title}ObjectiveAbsent",
        severity="warning",
        service=INFERENCE_SERVICE,
        expr=(
            f"group by (namespace, job) ({objective.expected}) unless on (namespace, job)"
            f' slo:sli_error:ratio{{slo="{objective.name}",window="5m"}}'
        ),
        hold="10m",
        summary=f"the objective {objective.name} is not measured{IN_NAMESPACE}",
        description=(
            f"There has been no error ratio for {objective.name}{IN_NAMESPACE} for 10 minutes,"
            " though the service is scraped: its metrics or rules have changed, and its burn-rate"
            " alerts cannot fire."
        ),
        dashboard="overview",
        labels={"slo": objective.name},
    )


def _rule_file(objective: Objective) -> RuleFile:
    alerts = (*(_burn_alert(objective, speed) for speed in SPEEDS), _absent_alert(objective))
    return RuleFile(
        objective.name,
        (
            Group(f"{objective.name}-recordings", tuple(_recordings(objective, *WINDOWS))),
            Group(
                f"{objective.name}-period",
                (*_recordings(objective, PERIOD), _budget_remaining(objective)),
                PERIOD_INTERVAL,
            ),
            Group(f"{objective.name}-alerts", alerts),
        ),
    )


OBJECTIVE_RULES = tuple(_rule_file(objective) for objective in OBJECTIVES)
