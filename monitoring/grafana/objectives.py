"""Row of the overview about the objectives and their error budgets.

They are computed from raw counters: the recorded series of the rules have no instance any more,
and every panel shall show a chosen one.
"""

from monitoring.grafana import inference
from monitoring.grafana.charts import timeseries
from monitoring.grafana.dashboard import runbook
from monitoring.grafana.queries import increase, ratio
from monitoring.grafana.schema import Panel, Target, Threshold, Thresholds
from monitoring.grafana.values import gauge, stat
from monitoring.prometheus.source.objectives import (
    AVAILABILITY,
    LATENCY,
    LATENCY_BOUND_SECONDS,
    PERIOD,
    SPEEDS,
    Objective,
)

BUDGET_LEFT = Thresholds("red", (Threshold(0.01, "orange"), Threshold(0.25, "green")))
BURN_WINDOWS = ("5m", "1h", "6h")
FACTORS = sorted(window.factor for speed in SPEEDS for window in speed.windows)
BURN_RATE = Thresholds("green", (Threshold(FACTORS[0], "yellow"), Threshold(FACTORS[-1], "red")))


def bad_share(objective: Objective, window: str) -> str:
    """Return the share of requests within a window that broke the objective."""
    if objective is AVAILABILITY:
        errors = increase(inference.ERRORS, over=window)
        return ratio(errors, f"({errors} + {increase(inference.PREDICTIONS, over=window)})")
    within = f'le="{LATENCY_BOUND_SECONDS:g}"'
    total = increase(f"{inference.LATENCY}_count", over=window)
    fast = increase(f"{inference.LATENCY}_bucket", within, over=window)
    return ratio(f"({total} - {fast})", total)


def objective_panels() -> tuple[Panel, ...]:
    """Return the row: what was kept, what is left, how fast it goes."""
    panels: list[Panel] = []
    for objective, good in (
        (AVAILABILITY, "that did not fail"),
        (LATENCY, f"that took at most {LATENCY_BOUND_SECONDS * 1000:g} ms"),
    ):
        share = bad_share(objective, PERIOD)
        panels += [
            stat(
                objective.title,
                f"Share of requests {good}, over {PERIOD}; the objective is "
                f"{objective.target * 100:g}%.",
                Target(expr=f"1 - {share}"),
                unit="percentunit",
                height=7,
                decimals=2,
                thresholds=Thresholds("red", (Threshold(objective.target, "green"),)),
                no_value="no traffic",
            ),
            gauge(
                f"{objective.title} budget left",
                f"Of the {objective.budget * 100:g}% of requests that may break the "
                f"{objective.title.lower()} objective over {PERIOD}.",
                Target(expr=f"1 - ({share}) / {objective.budget:g}", legend="budget left"),
                unit="percentunit",
                height=7,
                thresholds=BUDGET_LEFT,
                no_value="no traffic",
                links=(runbook(f"Inference{objective.title}BudgetBurnFast"),),
            ),
            timeseries(
                f"Burn rate, {objective.title.lower()}",
                "How many times faster than the objective allows its error budget is spent, over "
                "three windows; the dashed lines are where alerts begin.",
                *(
                    Target(
                        expr=f"({bad_share(objective, window)}) / {objective.budget:g}",
                        legend=window,
                    )
                    for window in BURN_WINDOWS
                ),
                unit="short",
                width=5,
                height=7,
                thresholds=BURN_RATE,
                links=(runbook(f"Inference{objective.title}BudgetBurnSlow"),),
            ),
        ]
    return tuple(panels)
