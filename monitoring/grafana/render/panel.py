"""What a panel shows, read from its JSON: options, queries and their results."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitoring.grafana.render.client import Period, Prometheus, Series
from monitoring.grafana.render.interpolation import interpolate
from monitoring.grafana.render.units import write

COLORS = {
    "green": "#3f9c35",
    "yellow": "#e0a800",
    "orange": "#f2751a",
    "red": "#d0342c",
    "blue": "#3f76d8",
    "purple": "#8f4fc4",
    "text": "#3a4250",
    "transparent": "#ffffff",
}
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class NamedSeries:
    """A series with the name that its legend has."""

    name: str
    series: Series


def _shade(color: str, index: int) -> str:
    share = (0.0, 0.25, 0.45, 0.6)[index % 4]
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


class PanelView:
    """A panel of the dashboard's JSON, with the options of its kind at hand."""

    def __init__(self, panel: Mapping[str, Any]) -> None:
        self._panel = panel
        self._defaults = panel["fieldConfig"]["defaults"]
        self.kind: str = panel["type"]
        self.title: str = panel["title"]
        self.options: Mapping[str, Any] = panel["options"]
        self.custom: Mapping[str, Any] = self._defaults.get("custom", {})
        self.unit: str = self._defaults["unit"]
        self.decimals: int | None = self._defaults.get("decimals")
        self.minimum: float | None = self._defaults.get("min")
        self.maximum: float | None = self._defaults.get("max")
        self.no_value: str = self._defaults.get("noValue", "no data")

    def ask(
        self, prometheus: Prometheus, period: Period, values: Mapping[str, str]
    ) -> list[NamedSeries]:
        """Return the series of all of the panel's queries; raises QueryError."""
        found = []
        for target in self._panel["targets"]:
            expr = interpolate(target["expr"], values)
            results = (
                prometheus.instant(expr, period.end)
                if target["instant"]
                else prometheus.over(expr, period)
            )
            found += [NamedSeries(self._name(target, each), each) for each in results]
        return found

    def _name(self, target: Mapping[str, Any], series: Series) -> str:
        legend = target["legendFormat"]
        if legend == "__auto":
            return ", ".join(series.labels.values()) or self.title
        return _LABEL.sub(lambda found: series.labels.get(found[1], ""), legend).strip()

    @property
    def thresholds(self) -> list[tuple[float, str]]:
        """The thresholds above the base, with their colours."""
        steps = self._defaults["thresholds"]["steps"][1:]
        return [(step["value"], COLORS[step["color"]]) for step in steps]

    @property
    def base_color(self) -> str:
        """The colour below every threshold."""
        return COLORS[self._defaults["thresholds"]["steps"][0]["color"]]

    def color(self, value: float) -> str:
        """Return the colour of a value: its mapping's, else its threshold's."""
        mapping = self._mapping(value)
        if mapping:
            return COLORS[mapping["color"]]
        color = self.base_color
        for threshold, above in self.thresholds:
            if value >= threshold:
                color = above
        return color

    def fill_opacity(self, name: str) -> float:
        """Return how opaque the area under a series is, 0 to 1."""
        percent = self._override(name, "custom.fillOpacity", self.custom["fillOpacity"])
        return float(percent) / 100

    def line(self, name: str, color: str, index: int = 0) -> tuple[str, str]:
        """Return the colour of a series, the given one where none is fixed, and its style.

        `index` is the place among the series, which decides the shade of a colour that has shades.
        """
        option = self._override(name, "color", {})
        if "fixedColor" in option:
            color = COLORS[option["fixedColor"]]
            color = _shade(color, index) if option["mode"] == "shades" else color
        style = self._override(name, "custom.lineStyle", {}).get("fill", "solid")
        return (color, "--" if style == "dash" else "-")

    def _override(self, name: str, key: str, otherwise: Any) -> Any:
        for override in self._panel["fieldConfig"]["overrides"]:
            if re.fullmatch(override["matcher"]["options"].strip("/"), name):
                for option in override["properties"]:
                    if option["id"] == key:
                        return option["value"]
        return otherwise

    def text(self, value: float) -> str:
        """Return a value as the panel writes it: its mapping's word, else number and unit."""
        mapping = self._mapping(value)
        return mapping["text"] if mapping else write(value, self.unit, decimals=self.decimals)

    def _mapping(self, value: float) -> Mapping[str, Any] | None:
        if math.isnan(value) or value != int(value):
            return None
        for mapping in self._defaults.get("mappings", ()):
            found: Mapping[str, Any] | None = mapping["options"].get(str(int(value)))
            if found:
                return found
        return None

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The labels that a table shows, with their headings, from left to right."""
        organize = self._panel["transformations"][1]["options"]
        order = sorted(organize["indexByName"], key=organize["indexByName"].__getitem__)
        return [(name, organize["renameByName"][name]) for name in order]
