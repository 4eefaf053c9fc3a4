"""Row of the overview about the objectives and their error budgets.

They are computed from raw counters: the recorded series of the rules have no instance any more,
and every panel shall show a chosen one.
"""

import re

from monitoring.grafana.panels import gauge, stat, timeseries
from monitoring.grafana.queries import increase, ratio
from monitoring.grafana.schema import Panel, Target, Thresholds
from monitoring.prometheus.source.objectives import (
    AVAILABILITY,
    LATENCY,
    LATENCY_BOUND_SECONDS,
    PERIOD,
    SPEEDS,
    Objective,
)

BUDGET_LEFT = Thresholds("red", ((0.01, "orange"), (0.25, "green")))
BURN_WINDOWS = ("5m", "1h", "6h")
FACTORS = sorted(window.factor for speed in SPEEDS for window in speed.windows)
BURN_RATE = Thresholds("green", ((FACTORS[0], "yellow"), (FACTORS[-1], "red")))


_COUNTED = re.compile(
    r"sum by \([^)]*\) \(increase\((?P<metric>\w+)(?:\{(?P<matchers>[^}]*)\})?\[\{window\}\]\)\)"
)
_MATCHER = re.compile(r'\w+(?:=~|!~|!=|=)"[^"]*"')


def bad_share(objective: Objective, window: str) -> str:
    """Return the share of requests within a window that broke the objective.

    It counts what the objective's rules count. Raises ValueError where they are written in a way
    that is not understood here.
    """
    return ratio(f"({_chosen(objective.bad, window)})", f"({_chosen(objective.total, window)})")


def _chosen(expression: str, window: str) -> str:
    """Return an objective's expression for what the dashboard's variables choose."""

    def count(found: re.Match[str]) -> str:
        matchers = _MATCHER.findall(found["matchers"] or "")
        return increase(found["metric"], *matchers, over=window)

    chosen = _COUNTED.sub(count, expression)
    if "{window}" in chosen:
        raise ValueError(f"not understood: {expression}")
    return chosen


def objective_panels() -> tuple[Panel, ...]:
    """Return the row: what was kept, what is left, how fast it goes."""
    panels: list[Panel] = []
    for objective, good in (
        (AVAILABILITY, "that neither failed nor found no model"),
        (LATENCY, f"that took at most {LATENCY_BOUND_SECONDS * 1000:g} ms"),
    ):
        share = bad_share(objective, PERIOD)
        panels += [
            stat(
                objective.title,
                f"Share of requests {good}, over {PERIOD}; the objective is "
                f"{objective.target * 100:g}%.",
                f"1 - {share}",
                unit="percentunit",
                height=7,
                decimals=2,
                thresholds=Thresholds("red", ((objective.target, "green"),)),
                no_value="no traffic",
            ),
            gauge(
                f"{objective.title} budget left",
                f"Of the {objective.budget * 100:g}% of requests that may break the "
                f"{objective.title.lower()} objective over {PERIOD}.",
                Target(f"1 - ({share}) / {objective.budget:g}", "budget left"),
                unit="percentunit",
                height=7,
                thresholds=BUDGET_LEFT,
                no_value="no traffic",
                alerts=(f"Inference{objective.title}BudgetBurnFast",),
            ),
            timeseries(
                f"Burn rate, {objective.title.lower()}",
                "How many times faster than the objective allows its error budget is spent, over "
                "three windows; the dashed lines are where alerts begin.",
                *(
                    Target(f"({bad_share(objective, window)}) / {objective.budget:g}", window)
                    for window in BURN_WINDOWS
                ),
                unit="short",
                width=5,
                height=7,
                thresholds=BURN_RATE,
                alerts=(f"Inference{objective.title}BudgetBurnSlow",),
            ),
        ]
    return tuple(panels)
