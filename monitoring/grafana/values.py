"""Panels that show the state of the moment, one function a kind."""

from dataclasses import replace
from typing import Literal

from monitoring.grafana.palette import BLUE, CHART_HEIGHT, PLAIN, STAT_HEIGHT
from monitoring.grafana.schema import (
    Link,
    Panel,
    Target,
    Thresholds,
    Unit,
    ValueText,
)
from monitoring.timings import SERVICES

_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(
    title: str,
    description: str,
    *targets: Target,
    unit: Unit,
    width: int = 3,
    height: int = STAT_HEIGHT,
    thresholds: Thresholds = PLAIN,
    mappings: tuple[ValueText, ...] = (),
    links: tuple[Link, ...] = (),
    no_value: str = "no data",
    decimals: int | None = None,
    shows: Literal["auto", "name", "value", "value_and_name"] = "auto",
    sparkline: bool = False,
) -> Panel:
    """Return a panel that shows the last value of each series, large; a sparkline behind it."""
    coloured = bool(thresholds.steps or mappings)
    flat = height <= STAT_HEIGHT and not sparkline
    return Panel(
        kind="stat",
        title=title,
        description=description,
        unit=unit,
        targets=targets if sparkline else _last_only(targets),
        width=width,
        height=height,
        thresholds=thresholds,
        mappings=mappings,
        links=links,
        no_value=no_value,
        decimals=decimals,
        options={
            "reduceOptions": dict(_LAST),
            "colorMode": "background" if coloured and flat else "value",
            "graphMode": "area" if sparkline else "none",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": shows,
            "wideLayout": True,
        },
    )


def gauge(
    title: str,
    description: str,
    *targets: Target,
    unit: Unit,
    thresholds: Thresholds,
    width: int = 4,
    height: int = CHART_HEIGHT,
    minimum: float = 0,
    maximum: float = 1,
    links: tuple[Link, ...] = (),
    no_value: str = "no data",
) -> Panel:
    """Return a dial of each series' last value between a least and a greatest one."""
    return Panel(
        kind="gauge",
        title=title,
        description=description,
        unit=unit,
        targets=_last_only(targets),
        width=width,
        height=height,
        thresholds=thresholds,
        links=links,
        minimum=minimum,
        maximum=maximum,
        no_value=no_value,
        options={
            "reduceOptions": dict(_LAST),
            "orientation": "auto",
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
        },
    )


def bars(
    title: str,
    description: str,
    *targets: Target,
    unit: Unit,
    width: int = 8,
    height: int = CHART_HEIGHT,
    thresholds: Thresholds = BLUE,
    links: tuple[Link, ...] = (),
    maximum: float | None = None,
    no_value: str = "no data",
) -> Panel:
    """Return a horizontal bar for each series' last value."""
    return Panel(
        kind="bargauge",
        title=title,
        description=description,
        unit=unit,
        targets=_last_only(targets),
        width=width,
        height=height,
        thresholds=thresholds,
        links=links,
        minimum=0,
        maximum=maximum,
        no_value=no_value,
        options={
            "reduceOptions": dict(_LAST),
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": True,
            "valueMode": "text",
        },
    )


def table(
    title: str,
    description: str,
    target: Target,
    *,
    unit: Unit,
    columns: tuple[tuple[str, str], ...],
    value: str = "",
    width: int = 12,
    height: int = CHART_HEIGHT,
    thresholds: Thresholds = PLAIN,
    links: tuple[Link, ...] = (),
) -> Panel:
    """Return a row a series: its labels as columns, and its value where that has a heading.

    `columns` are pairs of label and heading, from left to right; other labels are left out.
    """
    shown = dict(columns)
    if value:
        shown["Value"] = value
    return Panel(
        kind="table",
        title=title,
        description=description,
        unit=unit,
        targets=(Target(expr=target.expr, legend=target.legend, instant=True, format="table"),),
        width=width,
        height=height,
        thresholds=thresholds,
        links=links,
        custom={"align": "auto", "cellOptions": {"type": "color-text" if value else "auto"}},
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
    )


def alerts(title: str, description: str, *, width: int = 12, height: int = CHART_HEIGHT) -> Panel:
    """Return the list of what is pending or firing for the services.

    Every alert of ours carries the service's name; others in the same Grafana are not shown.
    """
    return Panel(
        kind="alertlist",
        title=title,
        description=description,
        unit="none",
        targets=(),
        width=width,
        height=height,
        options={
            "alertInstanceLabelFilter": f'{{service=~"{"|".join(SERVICES)}"}}',
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
    )


def _last_only(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    # A range query over 30 days for one number would cost Prometheus a thousand times as much.
    return tuple(replace(target, instant=True) for target in targets)
