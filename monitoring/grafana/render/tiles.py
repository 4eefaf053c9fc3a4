"""Panels that show the state of the moment: big numbers, dials, bars, tables, alerts."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Wedge

from monitoring.grafana.render.canvas import FAINT, INK, LINES, PAPER, Box, Canvas, Weight
from monitoring.grafana.render.client import FiringAlert, Period
from monitoring.grafana.render.panel import COLORS, NamedSeries, PanelView

LABEL_SIZE = 8.0
ROW_HEIGHT = 24
_EMPTY = "#e7eaee"
# A dial leaves open what a clock has between twenty past and twenty to.
_DIAL_START, _DIAL_SPAN = 215.0, 250.0


def stat(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], period: Period
) -> None:
    """Draw each series' last value, large, side by side or one above the other."""
    area = box.inset(left=8, top=2, right=8, bottom=8)
    beside = area.width / len(found) >= 90
    filled = view.options["colorMode"] == "background"
    names_only = view.options["textMode"] == "name"
    for index, each in enumerate(found):
        width = area.width / len(found) if beside else area.width
        height = area.height if beside else area.height / len(found)
        x = area.x + (index * width if beside else 0)
        y = area.y + (0 if beside else index * height)
        tile = Box(x + 2, y + 1, width - 4, height - 2)
        color = view.color(each.series.last)
        if filled:
            canvas.rectangle(tile, color, radius=4)
        ink = PAPER if filled else color
        middle = tile.x + tile.width / 2
        if tile.height < 34 and len(found) > 1 and not names_only:
            canvas.text(
                middle,
                tile.y + tile.height / 2,
                f"{each.name}: {view.text(each.series.last)}",
                size=9,
                color=ink,
                align="center",
                room=tile.width - 8,
                weight="bold",
            )
            continue
        if view.options["graphMode"] == "area":
            _sparkline(canvas, tile, each, period)
        text = each.name if names_only else view.text(each.series.last)
        named = len(found) > 1 and not names_only
        size = min(tile.height * (0.26 if named else 0.34), 30)
        high = named or view.options["graphMode"] == "area"
        at = tile.y + tile.height * (0.4 if high else 0.5)
        canvas.text(
            middle,
            at,
            text,
            size=size,
            color=ink,
            weight="bold",
            align="center",
            room=tile.width - 8,
            shrink=True,
        )
        if named:
            canvas.text(
                middle,
                tile.y + tile.height * 0.8,
                each.name,
                size=LABEL_SIZE,
                color=ink if filled else FAINT,
                align="center",
                room=tile.width - 6,
            )


def gauge(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], _: Period
) -> None:
    """Draw a dial for each series, with its thresholds on the rim."""
    low, high = view.minimum or 0.0, view.maximum or 1.0
    width = box.width / len(found)
    for index, each in enumerate(found):
        dial = Box(box.x + index * width, box.y, width, box.height)
        side = min(dial.width - 20, (dial.height - 24) * 1.25)
        height = side * 0.8
        top = dial.y + (dial.height - 24 - height) / 2
        plot = canvas.axes(Box(dial.x + (dial.width - side) / 2, top, side, height))
        plot.set(xlim=(-1.05, 1.05), ylim=(-0.63, 1.05), aspect="equal")
        plot.axis("off")
        share = min(max((each.series.last - low) / (high - low), 0), 1)
        color = view.color(each.series.last)
        plot.add_patch(_arc(0, 1, 0.94, 0.24, _EMPTY))
        plot.add_patch(_arc(0, share, 0.94, 0.24, color))
        start, rim = 0.0, view.base_color
        for threshold, above in [*view.thresholds, (high, "")]:
            end = min(max((threshold - low) / (high - low), 0), 1)
            plot.add_patch(_arc(start, end, 1.0, 0.04, rim))
            start, rim = end, above
        size = max(min(side * 0.085, 20), 9)
        plot.text(
            0,
            -0.08,
            view.text(each.series.last),
            fontsize=size,
            color=color,
            fontweight="bold",
            ha="center",
            va="center",
        )
        canvas.text(
            dial.x + dial.width / 2,
            top + height + 8,
            each.name,
            size=LABEL_SIZE,
            color=FAINT,
            align="center",
            room=dial.width - 8,
        )


def bars(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], _: Period
) -> None:
    """Draw a bar for each series, the longest first where not all have room."""
    area = box.inset(left=12, top=4, right=12, bottom=10)
    shown = list(found)[: max(int(area.height / 18), 1)]
    height = min(area.height / len(shown), 40)
    names = max(canvas.measure(each.name, size=LABEL_SIZE) for each in shown)
    room = min(names + 10, area.width * 0.45)
    longest = view.maximum or max(*(each.series.last for each in shown), 1e-12)
    for index, each in enumerate(shown):
        y = area.y + index * height
        middle = y + height / 2
        canvas.text(area.x, middle, each.name, size=LABEL_SIZE, room=room - 6)
        track = Box(area.x + room, y + height * 0.18, area.width - room - 62, height * 0.64)
        canvas.rectangle(track, _EMPTY)
        share = min(max(each.series.last / longest, 0), 1)
        color = view.color(each.series.last)
        canvas.rectangle(Box(track.x, track.y, track.width * share, track.height), color)
        right = area.x + area.width
        text = view.text(each.series.last)
        canvas.text(right, middle, text, size=LABEL_SIZE, color=color, weight="bold", align="right")


def table(
    canvas: Canvas, box: Box, view: PanelView, found: Sequence[NamedSeries], _: Period
) -> None:
    """Draw a row for each series, its labels as columns."""
    rows = [
        [
            view.text(each.series.last) if label == "Value" else each.series.labels.get(label, "")
            for label, _ in view.columns
        ]
        for each in sorted(found, key=lambda each: sorted(each.series.labels.items()))
    ]
    _rows(canvas, box, [heading for _, heading in view.columns], rows)


def alerts(canvas: Canvas, box: Box, found: Sequence[FiringAlert]) -> None:
    """Draw the alerts that are pending or firing."""
    if not found:
        canvas.text(
            box.x + box.width / 2,
            box.y + box.height / 2,
            "nothing is pending or firing",
            size=11,
            color=COLORS["green"],
            weight="bold",
            align="center",
        )
        return
    area = box.inset(left=14, top=4, right=14, bottom=8)
    room = int(area.height / ROW_HEIGHT)
    for index, alert in enumerate(found[:room]):
        y = area.y + (index + 0.5) * ROW_HEIGHT
        color = COLORS["red" if alert.state == "firing" else "orange"]
        canvas.rectangle(Box(area.x, y - 8, 58, 17), color, radius=3)
        canvas.text(
            area.x + 29, y, alert.state, size=7.5, color=PAPER, weight="bold", align="center"
        )
        name = canvas.text(area.x + 68, y, alert.name, size=LABEL_SIZE, weight="bold")
        left = area.x + 78 + name
        canvas.text(
            left, y, alert.summary, size=LABEL_SIZE, color=FAINT, room=area.x + area.width - left
        )


def text(canvas: Canvas, box: Box, content: str) -> None:
    """Draw the lines of a list in Markdown, without its emphasis, wrapped to the width."""
    area = box.inset(left=14, top=2, right=10, bottom=6)
    y = area.y + 8
    for item in content.splitlines():
        line = "•"
        for word in re.sub(r"\*+", "", item.removeprefix("- ")).split():
            longer = f"{line} {word}"
            if canvas.measure(longer, size=LABEL_SIZE) > area.width:
                canvas.text(area.x, y, line, size=LABEL_SIZE)
                y += 15
                longer = f"   {word}"
            line = longer
        canvas.text(area.x, y, line, size=LABEL_SIZE)
        y += 19


def nothing(canvas: Canvas, box: Box, text: str) -> None:
    """Say what is said where a query returns no series."""
    middle = box.x + box.width / 2
    canvas.text(
        middle,
        box.y + box.height / 2 - 6,
        text,
        size=10,
        color=FAINT,
        align="center",
        room=box.width - 12,
        shrink=True,
    )


def _rows(canvas: Canvas, box: Box, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    area = box.inset(left=12, top=0, right=12, bottom=6)
    wanted = [
        max(canvas.measure(text, size=LABEL_SIZE) for text in (heading, *column)) + 18
        for heading, column in zip(headings, zip(*rows, strict=True), strict=True)
    ]
    widths = [each * area.width / sum(wanted) for each in wanted]
    room = int(area.height / ROW_HEIGHT) - 1
    lines = [(headings, FAINT), *((row, INK) for row in rows[:room])]
    for number, (cells, color) in enumerate(lines):
        y = area.y + (number + 0.5) * ROW_HEIGHT
        x = area.x
        for text, width in zip(cells, widths, strict=True):
            weight: Weight = "bold" if number == 0 else "normal"
            canvas.text(x, y, text, size=LABEL_SIZE, color=color, weight=weight, room=width - 10)
            x += width
        canvas.rectangle(Box(area.x, y + ROW_HEIGHT / 2, area.width, 0.8), LINES)
    if len(rows) > room:
        text = f"+{len(rows) - room} more"
        canvas.text(area.x + area.width, area.y + 6, text, size=7, color=FAINT, align="right")


def _sparkline(canvas: Canvas, tile: Box, each: NamedSeries, period: Period) -> None:
    plot = canvas.axes(tile.inset(top=tile.height * 0.45))
    values = each.series.at_moments(period)
    plot.fill_between(period.moments, 0, values, color=COLORS["blue"], alpha=0.18, linewidth=0)
    plot.plot(period.moments, values, color=COLORS["blue"], linewidth=1, alpha=0.6)
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if len(finite) else 1.0
    plot.set(xlim=(period.start, period.end), ylim=(0, top * 1.1 if top > 0 else 1))
    plot.axis("off")


def _arc(start: float, end: float, radius: float, width: float, color: str) -> Wedge:
    return Wedge(
        (0, 0),
        radius,
        _DIAL_START - _DIAL_SPAN * end,
        _DIAL_START - _DIAL_SPAN * start,
        width=width,
        facecolor=color,
        edgecolor="none",
    )
