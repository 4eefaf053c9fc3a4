"""The part of Grafana's classic dashboard schema that the dashboards use, as frozen dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from monitoring.prometheus.source import ALERTS

Json: TypeAlias = dict[str, object]

PanelKind = Literal[
    "alertlist",
    "bargauge",
    "gauge",
    "heatmap",
    "stat",
    "state-timeline",
    "table",
    "text",
    "timeseries",
]
Unit = Literal[
    "none",
    "short",
    "bool_yes_no",
    "percentunit",
    "bytes",
    "s",
    "dtdurations",
    "dateTimeFromNow",
    "cps",
    "ops",
    "reqps",
]
Color = Literal["green", "yellow", "orange", "red", "blue", "purple", "text", "transparent"]

DATASOURCE: Mapping[str, object] = {"type": "prometheus", "uid": "${datasource}"}
GRID_COLUMNS = 24
SCHEMA_VERSION = 39


@dataclass(frozen=True)
class Target:
    """One PromQL query of a panel; `legend` may hold labels in double braces."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: Literal["time_series", "table", "heatmap"] = "time_series"

    def to_json(self, ref_id: str) -> Json:
        """Return the target under the letter by which the panel knows it."""
        return {
            "datasource": dict(DATASOURCE),
            "editorMode": "code",
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
            "legendFormat": self.legend or "__auto",
            "refId": ref_id,
        }


@dataclass(frozen=True)
class Thresholds:
    """The colour below every threshold, and each threshold, in rising order, with the one above."""

    base: Color
    steps: tuple[tuple[float, Color], ...] = ()

    def to_json(self) -> Json:
        """Return Grafana's steps, the first of which has no value."""
        steps: list[Json] = [{"color": self.base, "value": None}]
        steps += [{"color": color, "value": value} for value, color in self.steps]
        return {"mode": "absolute", "steps": steps}


@dataclass(frozen=True)
class ValueText:
    """What is shown in place of a value, and in which colour."""

    value: int
    text: str
    color: Color


@dataclass(frozen=True)
class Override:
    """Field options of the series whose name matches a regular expression."""

    name: str
    properties: Mapping[str, object]

    def to_json(self) -> Json:
        """Return the matcher with its properties."""
        return {
            "matcher": {"id": "byRegexp", "options": self.name},
            "properties": [{"id": key, "value": value} for key, value in self.properties.items()],
        }


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of a panel or a dashboard; variables in the URL are filled in by Grafana."""

    title: str
    url: str
    new_tab: bool = False

    def to_json(self) -> Json:
        """Return the link; one that stays in Grafana keeps the time range."""
        return {
            "asDropdown": False,
            "icon": "external link" if self.new_tab else "dashboard",
            "includeVars": False,
            "keepTime": not self.new_tab,
            "tags": [],
            "targetBlank": self.new_tab,
            "title": self.title,
            "tooltip": "",
            "type": "link",
            "url": self.url,
        }


def runbook(alert: str) -> Link:
    """Return the link to what to do when an alert fires; KeyError where there is no such alert."""
    url = ALERTS[alert].links["runbook_url"]
    return Link(title=f"Runbook: {alert}", url=url, new_tab=True)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel before it has its place: the grid and its number come from the layout.

    `alerts` watch the same thing: the panel links to their runbooks.
    """

    kind: PanelKind
    title: str
    description: str
    unit: Unit
    targets: tuple[Target, ...]
    width: int = 8
    height: int = 8
    thresholds: Thresholds = Thresholds("green")
    mappings: tuple[ValueText, ...] = ()
    overrides: tuple[Override, ...] = ()
    alerts: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    no_value: str = ""
    color_mode: str = "thresholds"
    custom: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    transformations: Sequence[Json] = ()

    def to_json(self, *, panel_id: int, x: int, y: int) -> Json:
        """Return the panel at its place in the grid."""
        panel: Json = {
            "id": panel_id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": dict(DATASOURCE),
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {
                "defaults": self._defaults(),
                "overrides": [override.to_json() for override in self.overrides],
            },
            "options": dict(self.options),
            "targets": [
                target.to_json(chr(ord("A") + index)) for index, target in enumerate(self.targets)
            ],
        }
        if self.alerts:
            panel["links"] = [runbook(alert).to_json() for alert in self.alerts]
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel

    def _defaults(self) -> Json:
        defaults: Json = {
            "unit": self.unit,
            "color": {"mode": self.color_mode},
            "thresholds": self.thresholds.to_json(),
            "custom": dict(self.custom),
        }
        if self.mappings:
            defaults["mappings"] = [
                {
                    "type": "value",
                    "options": {
                        str(mapping.value): {
                            "text": mapping.text,
                            "color": mapping.color,
                            "index": index,
                        }
                        for index, mapping in enumerate(self.mappings)
                    },
                }
            ]
        optional = {
            "min": self.minimum,
            "max": self.maximum,
            "decimals": self.decimals,
            "noValue": self.no_value or None,
        }
        return defaults | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Row:
    """A titled group of panels, laid out from left to right, and the question that it answers."""

    title: str
    question: str
    panels: tuple[Panel, ...]


def lay_out(rows: Sequence[Row]) -> list[Json]:
    """Return the panels of all rows with their places and numbers.

    Panels fill a line of 24 columns before the next one starts below the tallest of them.
    Raises ValueError for a panel wider than the grid.
    """
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": GRID_COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = line_height = 0
        for panel in row.panels:
            if panel.width > GRID_COLUMNS:
                raise ValueError(f"{panel.title} is wider than the grid")
            if x + panel.width > GRID_COLUMNS:
                y += line_height
                x = line_height = 0
            placed.append(panel.to_json(panel_id=len(placed) + 1, x=x, y=y))
            x += panel.width
            line_height = max(line_height, panel.height)
        y += line_height
    return placed
