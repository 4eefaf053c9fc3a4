"""Variables in queries, filled in as Grafana's Prometheus data source fills them in."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.grafana.dashboard import ALL
from monitoring.grafana.render.client import Period, Prometheus

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)")
_SPECIAL = re.compile(r"[$()*+.?\[\\\]^{|}]")


def rate_interval(step: float, scrape_interval: float) -> float:
    """Return `$__rate_interval`: four scrapes at least, or a step and a scrape.

    Source: Grafana's documentation of the Prometheus data source.
    """
    return max(step + scrape_interval, 4 * scrape_interval)


def built_in(period: Period, scrape_interval: float) -> dict[str, str]:
    """Return Grafana's own variables, in whole seconds as PromQL wants them."""
    return {
        "__rate_interval": f"{round(rate_interval(period.step, scrape_interval))}s",
        "__interval": f"{max(round(period.step), 1)}s",
        "__range": f"{period.seconds}s",
    }


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """Return the text with variables filled in; KeyError for one that has no value."""
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def pattern(chosen: Sequence[str]) -> str:
    """Return the regular expression that matches the chosen values and nothing else.

    Backslashes are doubled, since the expression stands in a string of PromQL.
    """
    escaped = [_SPECIAL.sub(lambda found: "\\\\" + found[0], value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def options(
    variable: Mapping[str, Any], prometheus: Prometheus, period: Period, values: Mapping[str, str]
) -> list[str]:
    """Return what a variable offers to choose from; ValueError for a query of another kind."""
    if variable["type"] == "custom":
        return [option["value"] for option in variable["options"] if option["value"] != ALL]
    found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
    if found is None:
        raise ValueError(f"{variable['name']}: {variable['query']['query']}")
    selector = interpolate(found["selector"], values)
    return prometheus.label_values(found["label"], selector, period)


def choose(
    dashboard: Mapping[str, Any],
    prometheus: Prometheus,
    period: Period,
    *,
    scrape_interval: float,
) -> dict[str, str]:
    """Return the value of every variable with all of its values chosen."""
    values = built_in(period, scrape_interval)
    for variable in dashboard["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "datasource":
            continue
        if variable.get("allValue"):
            values[name] = variable["allValue"]
        else:
            offered = options(variable, prometheus, period, values)
            values[name] = pattern(offered) if offered else ""
    return values
