"""A figure measured in pixels from its upper left corner, and text that fits its room."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text
from PIL import Image

DPI = 100
INK = "#24292f"
FAINT = "#6b7280"
LINES = "#e3e6ea"
PAGE = "#f3f4f6"
PAPER = "#ffffff"

Weight = Literal["normal", "bold"]
Align = Literal["left", "center", "right"]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, `y` counted downwards."""

    x: float
    y: float
    width: float
    height: float

    def inset(
        self, *, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0
    ) -> "Box":
        """Return the box with room taken from its sides."""
        return Box(
            self.x + left, self.y + top, self.width - left - right, self.height - top - bottom
        )


class Canvas:
    """What panels are drawn on."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAGE)
        self._agg = FigureCanvasAgg(self._figure)

    def rectangle(self, box: Box, color: str, *, edge: str = "none", radius: float = 0) -> None:
        """Fill a box, its corners rounded by a radius in pixels."""
        x, y = box.x / self.width, 1 - (box.y + box.height) / self.height
        width, height = box.width / self.width, box.height / self.height
        if not radius:
            patch: Rectangle | FancyBboxPatch = Rectangle((x, y), width, height)
        else:
            patch = FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={radius / self.width:.5f}",
                mutation_aspect=self.width / self.height,
            )
        patch.set(facecolor=color, edgecolor=edge, linewidth=0.8, zorder=-1)
        patch.set_transform(self._figure.transFigure)
        self._figure.add_artist(patch)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 9,
        color: str = INK,
        weight: Weight = "normal",
        align: Align = "left",
        room: float | None = None,
        shrink: bool = False,
    ) -> float:
        """Write a line centred on `y` and return its width.

        What has no room is made smaller where it may shrink, else cut.
        """
        written = self._figure.text(
            x / self.width,
            1 - y / self.height,
            _plain(text),
            fontsize=size,
            color=color,
            fontweight=weight,
            ha=align,
            va="center_baseline",
        )
        if room is not None:
            self._fit(written, text, room, shrink=shrink)
        return self._width_of(written)

    def measure(self, text: str, *, size: float = 9, weight: Weight = "normal") -> float:
        """Return the width of a line in pixels."""
        written = self._figure.text(0, 0, _plain(text), fontsize=size, fontweight=weight)
        width = self._width_of(written)
        written.remove()
        return width

    def axes(self, box: Box) -> Axes:
        """Return axes that fill a box."""
        axes = self._figure.add_axes(
            (
                box.x / self.width,
                1 - (box.y + box.height) / self.height,
                box.width / self.width,
                box.height / self.height,
            )
        )
        axes.set_facecolor(PAPER)
        return axes

    def save(self, path: Path) -> None:
        """Write a PNG of few colours, which charts do with and which halves the file."""
        self._agg.draw()  # type: ignore[no-untyped-call]
        image = Image.frombuffer("RGBA", (self.width, self.height), self._agg.buffer_rgba())  # type: ignore[no-untyped-call]
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)

    def _fit(self, written: Text, text: str, room: float, *, shrink: bool) -> None:
        width = self._width_of(written)
        if width <= room:
            return
        if shrink:
            written.set_fontsize(max(float(written.get_fontsize()) * room / width, 6))
            return
        shown = text
        while shown and self._width_of(written) > room:
            shown = shown[:-1]
            written.set_text(_plain(shown.rstrip()) + "…")

    def _width_of(self, written: Text) -> float:
        renderer = self._agg.get_renderer()  # type: ignore[no-untyped-call]
        return float(written.get_window_extent(renderer).width)


def _plain(text: str) -> str:
    # A pair of dollar signs would begin a formula.
    return text.replace("$", r"\$")
