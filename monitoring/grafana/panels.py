"""The kinds of panel that dashboards are made of, one function a kind, and their colours."""

import re
from dataclasses import replace
from typing import Literal, TypeAlias, TypedDict, Unpack

from monitoring.grafana.schema import (
    Color,
    Json,
    Override,
    Panel,
    Target,
    Thresholds,
    Unit,
    ValueText,
)
from monitoring.prometheus.source.rule import MONITORING
from monitoring.timings import SERVICES

STAT_HEIGHT = 4

UP_OR_DOWN = (ValueText(1, "Up", "green"), ValueText(0, "Down", "red"))
READY_OR_NOT = (ValueText(1, "Ready", "green"), ValueText(0, "Not ready", "red"))
YES_OR_NO = (ValueText(1, "Yes", "green"), ValueText(0, "No", "red"))
FAILING = (ValueText(0, "No", "green"), ValueText(1, "Keeps it from being ready", "red"))

PLAIN = Thresholds("text")
BLUE = Thresholds("blue")
ZERO_IS_GOOD = Thresholds("green", ((1, "red"),))
DRIFT = Thresholds("green", ((0.1, "yellow"), (0.25, "red")))
FEW_ARE_ODD = Thresholds("green", ((1, "yellow"), (3, "red")))

_GROUPING = re.compile(r"\bby \(([^)]*)\)")
_LEGEND: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True}
_LAST: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}


# A query; one without a legend of its own is called by the labels that it is grouped by.
Query: TypeAlias = str | Target


class Options(TypedDict, total=False):
    """What may be set for every kind of panel; each kind has defaults of its own."""

    width: int
    height: int
    thresholds: Thresholds
    mappings: tuple[ValueText, ...]
    overrides: tuple[Override, ...]
    alerts: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    decimals: int | None
    no_value: str


def bound(name: str) -> Override:
    """Return how a series that only bounds the others looks: dashed, grey, without an area."""
    return Override(
        name=f"/^{name}$/",
        properties={
            "color": {"mode": "fixed", "fixedColor": "text"},
            "custom.fillOpacity": 0,
            "custom.lineStyle": {"fill": "dash", "dash": [6, 4]},
        },
    )


def tone(pattern: str, color: Color) -> Override:
    """Return that series whose names match have a colour that says good or bad.

    Several that match have shades of it.
    """
    mode = "shades" if ".*" in pattern else "fixed"
    return Override(
        name=f"/^{pattern}$/", properties={"color": {"mode": mode, "fixedColor": color}}
    )


# Answers by their status, which stands at the end of a series' name.
BY_STATUS = (tone(".*2..", "green"), tone(".*4..", "yellow"), tone(".*5..", "red"))


def timeseries(
    title: str,
    description: str,
    *queries: Query,
    unit: Unit,
    stacking: Literal["none", "normal", "percent"] = "none",
    steps: bool = False,
    area: bool = True,
    **given: Unpack[Options],
) -> Panel:
    """Return lines over time; thresholds are drawn as dashed lines, stacked series as areas."""
    options: Options = {"minimum": 0, **given}
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        unit=unit,
        targets=_targets(queries),
        color_mode="palette-classic",
        custom={
            "drawStyle": "line",
            "lineInterpolation": "stepAfter" if steps else "linear",
            # The line of a stacked series that is zero would lie on the one below it.
            "lineWidth": 0 if stacking != "none" else 1,
            "fillOpacity": 60 if stacking != "none" else 8 if area else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": stacking, "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if "thresholds" in given else "off"},
        },
        options={"legend": dict(_LEGEND), "tooltip": {"mode": "multi", "sort": "desc"}},
        **options,
    )


def heatmap(
    title: str, description: str, expr: str, *, unit: Unit, **given: Unpack[Options]
) -> Panel:
    """Return how a histogram's observations spread over its buckets in time."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        unit=unit,
        targets=(Target(expr, "{{le}}", format="heatmap"),),
        options={
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "cps"},
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
        **given,
    )


def states(title: str, description: str, *queries: Query, **given: Unpack[Options]) -> Panel:
    """Return a coloured band over time for each series of zeros and ones."""
    options: Options = {"width": 12, **given}
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        unit="none",
        targets=_targets(queries),
        custom={"fillOpacity": 80, "lineWidth": 0},
        options={
            "alignValue": "left",
            "legend": {**_LEGEND, "showLegend": False},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "tooltip": {"mode": "single"},
        },
        **options,
    )


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: Unit,
    shows: Literal["auto", "name", "value", "value_and_name"] = "auto",
    sparkline: bool = False,
    **given: Unpack[Options],
) -> Panel:
    """Return a panel that shows the last value of each series, large; a sparkline behind it."""
    options: Options = {
        "width": 3,
        "height": STAT_HEIGHT,
        "thresholds": PLAIN,
        "no_value": "no data",
        **given,
    }
    coloured = bool(options["thresholds"].steps or given.get("mappings"))
    flat = options["height"] <= STAT_HEIGHT and not sparkline
    return Panel(
        kind="stat",
        title=title,
        description=description,
        unit=unit,
        targets=_targets(queries, last_only=not sparkline),
        options={
            "reduceOptions": dict(_LAST),
            "colorMode": "background" if coloured and flat else "value",
            "graphMode": "area" if sparkline else "none",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": shows,
            "wideLayout": True,
        },
        **options,
    )


def gauge(
    title: str, description: str, *queries: Query, unit: Unit, **given: Unpack[Options]
) -> Panel:
    """Return a dial of each series' last value, from 0 to 1 where nothing else is said."""
    options: Options = {"width": 4, "minimum": 0, "maximum": 1, "no_value": "no data", **given}
    return Panel(
        kind="gauge",
        title=title,
        description=description,
        unit=unit,
        targets=_targets(queries, last_only=True),
        options={
            "reduceOptions": dict(_LAST),
            "orientation": "auto",
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
        },
        **options,
    )


def bars(
    title: str, description: str, *queries: Query, unit: Unit, **given: Unpack[Options]
) -> Panel:
    """Return a horizontal bar for each series' last value."""
    options: Options = {"thresholds": BLUE, "minimum": 0, "no_value": "no data", **given}
    return Panel(
        kind="bargauge",
        title=title,
        description=description,
        unit=unit,
        targets=_targets(queries, last_only=True),
        options={
            "reduceOptions": dict(_LAST),
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": True,
            "valueMode": "text",
        },
        **options,
    )


def table(title: str, description: str, query: str, **given: Unpack[Options]) -> Panel:
    """Return a row for each series, with the labels that it is grouped by as columns."""
    shown = {label: label.title() for label in _labels(query)}
    options: Options = {"width": 12, "thresholds": PLAIN, **given}
    return Panel(
        kind="table",
        title=title,
        description=description,
        unit="none",
        targets=(Target(query, instant=True, format="table"),),
        custom={"align": "auto", "cellOptions": {"type": "auto"}},
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=(
            {"id": "filterFieldsByName", "options": {"include": {"names": list(shown)}}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {},
                    "indexByName": {name: index for index, name in enumerate(shown)},
                    "renameByName": shown,
                },
            },
        ),
        **options,
    )


def advice(title: str, description: str, *lines: str, **given: Unpack[Options]) -> Panel:
    """Return what to do, as a list in Markdown."""
    options: Options = {"width": 6, **given}
    return Panel(
        kind="text",
        title=title,
        description=description,
        unit="none",
        targets=(),
        options={"mode": "markdown", "content": "\n".join(f"- {line}" for line in lines)},
        **options,
    )


def alerts(title: str, description: str, **given: Unpack[Options]) -> Panel:
    """Return the list of what is pending or firing for the services and their monitoring.

    Every alert of ours carries a service's name; others in the same Grafana are not shown, nor is
    the Watchdog, which always fires.
    """
    services = "|".join((*SERVICES, MONITORING))
    return Panel(
        kind="alertlist",
        title=title,
        description=description,
        unit="none",
        targets=(),
        options={
            "alertInstanceLabelFilter": f'{{service=~"{services}", severity!="none"}}',
            "alertName": "",
            "dashboardAlerts": False,
            "groupMode": "default",
            "groupBy": [],
            "maxItems": 20,
            "sortOrder": 3,
            "stateFilter": {
                "firing": True,
                "pending": True,
                "error": True,
                "noData": False,
                "normal": False,
            },
            "viewMode": "list",
        },
        **given,
    )


def _targets(queries: tuple[Query, ...], *, last_only: bool = False) -> tuple[Target, ...]:
    # A range query over 30 days for one number would cost Prometheus a thousand times as much.
    targets = (one if isinstance(one, Target) else Target(one, _legend(one)) for one in queries)
    return tuple(replace(target, instant=last_only) for target in targets)


def _legend(query: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in _labels(query))


def _labels(query: str) -> list[str]:
    """Return the labels that a query is grouped by, but not the bounds of buckets."""
    grouping = _GROUPING.search(query)
    return [label for label in grouping[1].split(", ") if label != "le"] if grouping else []
