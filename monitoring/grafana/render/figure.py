"""A dashboard as one image: its panels where the grid has them."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring.grafana.render import charts, tiles
from monitoring.grafana.render.canvas import FAINT, INK, LINES, PAPER, Box, Canvas
from monitoring.grafana.render.client import Period, Prometheus
from monitoring.grafana.render.interpolation import choose
from monitoring.grafana.render.panel import NamedSeries, PanelView
from monitoring.timings import SERVICES

COLUMNS = 24
WIDTH = 1500
UNIT_HEIGHT = 34
GAP = 6
HEADER = 58
TITLE_HEIGHT = 26

Draw = Callable[[Canvas, Box, PanelView, Sequence[NamedSeries], Period], None]
DRAWS: Mapping[str, Draw] = {
    "timeseries": charts.timeseries,
    "heatmap": charts.heatmap,
    "state-timeline": charts.states,
    "stat": tiles.stat,
    "gauge": tiles.gauge,
    "bargauge": tiles.bars,
    "table": tiles.table,
}


def draw(
    dashboard: Mapping[str, Any],
    prometheus: Prometheus,
    period: Period,
    path: Path,
    *,
    scrape_interval: float,
) -> None:
    """Ask every query of a dashboard and write its image; raises QueryError."""
    values = choose(dashboard, prometheus, period, scrape_interval=scrape_interval)
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    canvas = Canvas(WIDTH, HEADER + rows * UNIT_HEIGHT + 2 * GAP)
    _header(canvas, dashboard, period)
    for panel in panels:
        box = place(panel["gridPos"])
        if panel["type"] == "row":
            middle = box.y + box.height / 2
            canvas.text(box.x + 2, middle + 1, panel["title"], size=12, weight="bold")
            continue
        canvas.rectangle(box, PAPER, edge=LINES, radius=4)
        room = box.width - 20
        canvas.text(box.x + 10, box.y + 15, panel["title"], size=9, weight="bold", room=room)
        content = box.inset(top=TITLE_HEIGHT)
        if panel["type"] == "alertlist":
            ours = [alert for alert in prometheus.alerts() if alert.service in SERVICES]
            tiles.alerts(canvas, content, ours)
            continue
        if panel["type"] == "text":
            tiles.text(canvas, content, panel["options"]["content"])
            continue
        view = PanelView(panel)
        _panel(canvas, content, view, view.ask(prometheus, period, values), period)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _panel(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], period: Period
) -> None:
    finite = [each for each in found if any(map(math.isfinite, each.series.values))]
    if finite:
        DRAWS[view.kind](canvas, box, view, finite, period)
    else:
        tiles.nothing(canvas, box, view.no_value)


def place(at: Mapping[str, int]) -> Box:
    """Return where a panel of the grid lies in the image."""
    column = (WIDTH - 2 * GAP) / COLUMNS
    return Box(
        GAP + at["x"] * column + GAP / 2,
        HEADER + at["y"] * UNIT_HEIGHT + GAP / 2,
        at["w"] * column - GAP,
        at["h"] * UNIT_HEIGHT - GAP,
    )


def _header(canvas: Canvas, dashboard: Mapping[str, Any], period: Period) -> None:
    canvas.rectangle(Box(0, 0, WIDTH, HEADER - 6), PAPER)
    canvas.text(16, 18, dashboard["title"], size=14, weight="bold", color=INK)
    names = [
        each["name"] for each in dashboard["templating"]["list"] if each["type"] != "datasource"
    ]
    shown = "    ".join(f"{name}: All" for name in names)
    canvas.text(16, 39, shown, size=8.5, color=FAINT, room=WIDTH - 380)
    start, end = (datetime.fromtimestamp(each, UTC) for each in (period.start, period.end))
    text = f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
    canvas.text(WIDTH - 16, 28, text, size=9, color=FAINT, align="right")
