"""The committed dashboards, read as Grafana reads them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from monitoring.generate import DASHBOARDS

Dashboard = Mapping[str, Any]

PATHS = sorted(DASHBOARDS.glob("*.json"))
PANELS_WITH_QUERIES = frozenset(
    {"bargauge", "gauge", "heatmap", "stat", "state-timeline", "table", "timeseries"}
)
PANELS_WITHOUT_QUERIES = frozenset({"alertlist", "row", "text"})
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>[a-z]+)\)")

each_dashboard = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    """Return a dashboard."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def charts(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Yield every panel that is more than a heading."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Yield the title of the panel and the query of every target."""
    for panel in charts(dashboard):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def variables(dashboard: Dashboard, kind: str = "") -> list[dict[str, Any]]:
    """Return the dashboard's variables, those of one type where it is given."""
    return [one for one in dashboard["templating"]["list"] if kind in ("", one["type"])]


def selector_of(variable: Mapping[str, Any]) -> str:
    """Return whose labels a variable offers; AssertionError for anything but label values."""
    found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
    assert found, variable["query"]
    return found["selector"]
