"""Panels that show a course in time, one function a kind."""

from typing import Literal

from monitoring.grafana.palette import CHART_HEIGHT
from monitoring.grafana.schema import (
    Json,
    Link,
    Override,
    Panel,
    Target,
    Thresholds,
    Unit,
    ValueText,
)

_LEGEND: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True}


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


def timeseries(
    title: str,
    description: str,
    *targets: Target,
    unit: Unit,
    width: int = 8,
    height: int = CHART_HEIGHT,
    thresholds: Thresholds | None = None,
    overrides: tuple[Override, ...] = (),
    links: tuple[Link, ...] = (),
    minimum: float | None = 0,
    maximum: float | None = None,
    stacking: Literal["none", "normal", "percent"] = "none",
    steps: bool = False,
    area: bool = True,
    no_value: str = "",
    decimals: int | None = None,
) -> Panel:
    """Return lines over time; thresholds are drawn as dashed lines, stacked series as areas."""
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        unit=unit,
        targets=targets,
        width=width,
        height=height,
        thresholds=thresholds or Thresholds("green"),
        overrides=overrides,
        links=links,
        minimum=minimum,
        maximum=maximum,
        decimals=decimals,
        no_value=no_value,
        color_mode="palette-classic",
        custom={
            "drawStyle": "line",
            "lineInterpolation": "stepAfter" if steps else "linear",
            "lineWidth": 1,
            "fillOpacity": 60 if stacking != "none" else 8 if area else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": stacking, "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        },
        options={
            "legend": dict(_LEGEND),
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def heatmap(
    title: str,
    description: str,
    expr: str,
    *,
    unit: Unit,
    width: int = 8,
    height: int = CHART_HEIGHT,
    links: tuple[Link, ...] = (),
) -> Panel:
    """Return how a histogram's observations spread over its buckets in time."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        unit=unit,
        targets=(Target(expr=expr, legend="{{le}}", format="heatmap"),),
        width=width,
        height=height,
        links=links,
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
    )


def states(
    title: str,
    description: str,
    *targets: Target,
    mappings: tuple[ValueText, ...],
    width: int = 12,
    height: int = CHART_HEIGHT,
    links: tuple[Link, ...] = (),
) -> Panel:
    """Return a coloured band over time for each series of zeros and ones."""
    return Panel(
        kind="state-timeline",
        title=title,
        description=description,
        unit="none",
        targets=targets,
        width=width,
        height=height,
        mappings=mappings,
        links=links,
        custom={"fillOpacity": 80, "lineWidth": 0},
        options={
            "alignValue": "left",
            "legend": {**_LEGEND, "showLegend": False},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "tooltip": {"mode": "single"},
        },
    )
