"""Panels that show a course in time: lines, areas, heatmaps, bands of states."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from monitoring.grafana.render.canvas import FAINT, INK, LINES, Box, Canvas
from monitoring.grafana.render.client import Period
from monitoring.grafana.render.panel import NamedSeries, PanelView
from monitoring.grafana.render.units import write

PALETTE = (
    *("#3f9c35", "#e0a800", "#3f76d8", "#f2751a", "#d0342c", "#2aa7b8"),
    *("#8f4fc4", "#7a5c3a", "#d6629e", "#6b7f99", "#9bbb3c", "#1f3f77"),
)
LEGEND_LINE = 16
AXIS_ROOM = 22
LABEL_SIZE = 7.5
_TICK_SECONDS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


def timeseries(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], period: Period
) -> None:
    """Draw lines, or areas where the panel stacks its series."""
    mode = view.custom["stacking"]["mode"]
    grid = period.moments
    lines = np.array([each.series.at_moments(period) for each in found])
    if mode == "percent":
        with np.errstate(invalid="ignore", divide="ignore"):
            lines = lines / np.nansum(lines, axis=0)
    unit = "percentunit" if mode == "percent" else view.unit
    top = 1.0 if mode == "percent" else view.maximum
    names = [each.name for each in found]
    lines_of = [
        view.line(name, PALETTE[index % len(PALETTE)], index) for index, name in enumerate(names)
    ]
    colors = [color for color, _ in lines_of]
    plot = _plot(canvas, box, names, colors)
    stepped = view.custom["lineInterpolation"] == "stepAfter"
    steps: Literal["post"] | None = "post" if stepped else None
    below = np.zeros(len(grid))
    for index, line in enumerate(lines):
        name = found[index].name
        color, style = lines_of[index]
        opacity = view.fill_opacity(name)
        if mode == "none":
            form = "steps-post" if stepped else "default"
            plot.plot(grid, line, style, color=color, linewidth=1.3, drawstyle=form)
            if opacity:
                plot.fill_between(grid, 0, line, color=color, alpha=opacity, lw=0, step=steps)
        else:
            above = below + np.nan_to_num(line)
            plot.fill_between(grid, below, above, color=color, alpha=opacity, linewidth=0)
            plot.plot(grid, above, color=color, linewidth=view.custom["lineWidth"])
            below = above
    _limits(plot, view.minimum, top)
    if view.custom["thresholdsStyle"]["mode"] != "off":
        _, highest = plot.get_ylim()
        for value, color in view.thresholds:
            if value <= highest:
                plot.axhline(value, color=color, linewidth=1, linestyle=(0, (5, 3)))
    _value_axis(plot, "s" if unit == "dtdurations" else unit, whole=view.decimals == 0)
    _time_axis(plot, period, box.width)


def heatmap(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], period: Period
) -> None:
    """Draw how observations spread over a histogram's buckets, which Prometheus counts up."""
    buckets = sorted(found, key=lambda each: float(each.series.labels["le"]))
    grid = period.moments
    counted = np.nan_to_num([each.series.at_moments(period) for each in buckets])
    cells = np.clip(np.diff(counted, axis=0, prepend=0), 0, None)
    filled = np.flatnonzero(cells.max(axis=1) > 0)
    first = max(filled[0] - 1, 0) if len(filled) else 0
    finite = len(buckets) - 2  # the last bucket is +Inf
    last = max(min(filled[-1] + 1, finite), filled[-1]) if len(filled) else finite
    shown = np.ma.masked_less_equal(cells[first : last + 1], 1e-9)
    plot = _plot(canvas, box, [], [])
    edges = np.append(grid, grid[-1] + period.step) - period.step / 2
    heights = np.arange(first, last + 2)
    plot.pcolormesh(edges, heights, np.sqrt(shown), cmap="Oranges", vmin=0)
    ticks = list(range(first, last + 1))
    every = math.ceil(len(ticks) / 8)
    plot.set_yticks(
        [tick + 1 for tick in ticks[::every]],
        [write(float(buckets[tick].series.labels["le"]), view.unit) for tick in ticks[::every]],
    )
    plot.set_ylim(first, last + 1)
    _time_axis(plot, period, box.width)


def states(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], period: Period
) -> None:
    """Draw a band of colours for each series, and what the colours mean."""
    room = min(max(canvas.measure(each.name, size=LABEL_SIZE) for each in found), box.width * 0.4)
    area = box.inset(left=room + 14, top=4, right=12, bottom=AXIS_ROOM + LEGEND_LINE)
    plot = canvas.axes(area)
    grid = period.moments
    for row, each in enumerate(reversed(found)):
        values = each.series.at_moments(period)
        changes = [0, *(np.flatnonzero(np.diff(np.nan_to_num(values, nan=-1))) + 1), len(values)]
        for start, end in pairwise(changes):
            if not math.isnan(values[start]):
                plot.barh(
                    row,
                    (end - start) * period.step,
                    left=grid[start],
                    height=0.8,
                    color=view.color(values[start]),
                    alpha=0.85,
                )
        y = area.y + area.height * (1 - (row + 0.5) / len(found))
        canvas.text(area.x - 6, y, each.name, size=LABEL_SIZE, align="right", room=room)
    plot.set_ylim(-0.5, len(found) - 0.5)
    plot.set_yticks([])
    _time_axis(plot, period, box.width)
    meanings = {view.text(value): view.color(value) for value in (1.0, 0.0)}
    _legend(canvas, box, list(meanings), list(meanings.values()), lines=1)


def _plot(canvas: Canvas, box: Box, names: Sequence[str], colors: Sequence[str]) -> Axes:
    lines = _legend(canvas, box, names, colors, lines=2) if names else 0
    bottom = AXIS_ROOM + lines * LEGEND_LINE
    return canvas.axes(box.inset(left=58, top=6, right=12, bottom=bottom))


def _legend(
    canvas: Canvas, box: Box, names: Sequence[str], colors: Sequence[str], *, lines: int
) -> int:
    """Write the names at the bottom and return how many lines they took, `lines` at most."""
    gap, mark, more = 14, 16, 44
    rows: list[list[tuple[float, int]]] = [[]]
    x = 0.0
    for index, name in enumerate(names):
        width = mark + min(canvas.measure(name, size=LABEL_SIZE), box.width - 3 * gap - more)
        if x + width > box.width - 2 * gap - (more if len(rows) == lines else 0):
            if len(rows) == lines:
                break
            rows.append([])
            x = 0.0
        rows[-1].append((x, index))
        x += width + gap
    top = box.y + box.height - len(rows) * LEGEND_LINE
    for line, row in enumerate(rows):
        y = top + (line + 0.35) * LEGEND_LINE
        for start, index in row:
            left = box.x + gap + start
            canvas.rectangle(Box(left, y - 1.5, 10, 3), colors[index])
            room = box.width - 2 * gap - start - mark
            canvas.text(left + mark, y, names[index], size=LABEL_SIZE, color=INK, room=room)
    hidden = len(names) - sum(len(row) for row in rows)
    if hidden:
        text = f"+{hidden} more"
        y = top + (len(rows) - 0.65) * LEGEND_LINE
        right = box.x + box.width - gap
        canvas.text(right, y, text, size=LABEL_SIZE, color=FAINT, align="right")
    return len(rows)


def _limits(plot: Axes, minimum: float | None, maximum: float | None) -> None:
    highest = max((np.nanmax(line.get_ydata(), initial=0) for line in plot.lines), default=0)
    low, high = plot.get_ylim()
    low = low if minimum is None else minimum
    high = high if maximum is None else maximum
    # Nothing but zeros would be drawn on a scale of trifles.
    plot.set_ylim(low, high if highest > 0 or maximum is not None else low + 1)


def _value_axis(plot: Axes, unit: str, *, whole: bool) -> None:
    if unit == "bytes":
        _, high = plot.get_ylim()
        distance = 2.0 ** math.ceil(math.log2(high / 5))
        plot.yaxis.set_major_locator(MultipleLocator(distance))
    else:
        plot.yaxis.set_major_locator(MaxNLocator(5, integer=whole))
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))


def _tick(value: float, unit: str) -> str:
    """Return a tick's label: an axis has round numbers, which need no zeros at their end."""
    return re.sub(r"\.0+(?!\d)|(\.\d*[1-9])0+(?!\d)", r"\1", write(value, unit))


def _time_axis(plot: Axes, period: Period, width: float) -> None:
    # A label is about 60 pixels wide, and the last one must not leave the panel.
    most = max(min(width / 85, 7), 2)
    distance = next(each for each in _TICK_SECONDS if period.seconds / each <= most)
    first = math.ceil(period.start / distance) * distance
    ticks = np.arange(first, period.end - period.seconds * 20 / width, distance)
    form = "%H:%M:%S" if distance < 60 else "%H:%M" if distance < 86_400 else "%d %b"
    plot.set_xticks(ticks, [datetime.fromtimestamp(tick, UTC).strftime(form) for tick in ticks])
    plot.set_xlim(period.start, period.end)
    plot.tick_params(labelsize=LABEL_SIZE, colors=FAINT, length=0, pad=4)
    plot.grid(visible=True, color=LINES, linewidth=0.7)
    plot.set_axisbelow(True)
    for side in plot.spines.values():
        side.set_visible(False)
