"""Synthetic series: how a gauge or a counter runs over the time of a scenario."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from monitoring.prometheus.source.rule import seconds

# A gauge's level, its way from one level to another, or None while the series is gone.
Level: TypeAlias = float | tuple[float, float] | None


@dataclass(frozen=True)
class Wave:
    """The samples of one series, phase after phase.

    A phase of a gauge has its level, one of a counter its growth per second; each has a PromQL
    duration. A counter that comes back after None starts at 0.
    """

    kind: Literal["gauge", "counter"]
    phases: tuple[tuple[Level, str], ...]
    start: float = 0.0

    def cut(self, at_seconds: int) -> "Wave":
        """Return the wave up to a time, and the series gone from then on."""
        kept: list[tuple[Level, str]] = []
        left = at_seconds
        for level, length in self.phases:
            if left <= 0:
                break
            taken = min(left, seconds(length))
            kept.append((_part(level, taken / seconds(length)), f"{taken}s"))
            left -= taken
        return replace(self, phases=(*kept, (None, "1d")))

    def times(self, factor: float) -> "Wave":
        """Return the wave with every level or rate multiplied."""
        scaled = ((_times(level, factor), length) for level, length in self.phases)
        return replace(self, phases=tuple(scaled))

    def notation(self, interval: str, length: int) -> str:
        """Return promtool's notation of the samples up to a length, in seconds."""
        step = seconds(interval)
        texts: list[str] = []
        value = self.start
        begun = False
        left = length // step + 1
        for level, phase_length in self.phases:
            whole = seconds(phase_length) // step
            count = min(whole, left)
            if count <= 0:
                break
            left -= count
            if level is None:
                texts.append("stale" if begun else "_")
                texts += [f"_x{count - 1}"] if count > 1 else []
                value, begun = 0.0, False
            elif self.kind == "gauge":
                first, last = level if isinstance(level, tuple) else (level, level)
                slope = round((last - first) / whole, 9)
                texts.append(_run(first, slope, count))
                begun = True
            else:
                if isinstance(level, tuple):
                    raise ValueError("a counter's phase has one rate")
                growth = round(level * step, 9)
                value = value + growth if begun else value
                texts.append(_run(value, growth, count))
                # Added up as promtool does, or the next phase might begin below and be a reset.
                for _ in range(count - 1):
                    value += growth
                begun = True
        return " ".join(texts)


def _part(level: Level, share: float) -> Level:
    if not isinstance(level, tuple):
        return level
    begin, end = level
    return begin, begin + (end - begin) * share


def _times(level: Level, factor: float) -> Level:
    if level is None:
        return None
    if isinstance(level, tuple):
        return level[0] * factor, level[1] * factor
    return level * factor


def _run(first: float, slope: float, count: int) -> str:
    """Return `count` samples in promtool's notation, which counts those after the first."""
    if count == 1:
        return _number(first)
    if slope == 0:
        return f"{_number(first)}x{count - 1}"
    sign = "-" if slope < 0 else "+"
    return f"{_number(first)}{sign}{_number(abs(slope))}x{count - 1}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def gauge(*phases: tuple[Level, str]) -> Wave:
    """Return a gauge that runs through the phases."""
    return Wave("gauge", phases)


def counter(*phases: tuple[float | None, str], start: float = 0.0) -> Wave:
    """Return a counter that grows by each phase's rate per second."""
    return Wave("counter", phases, start)


ALWAYS = gauge((1, "2h"))
NEVER = gauge((0, "2h"))
# A counter that does not grow, and one of ten a minute and more.
STILL = counter((0, "2h"), start=1000)
PROBED = counter((0.1, "2h"), start=1000)


def events(*times: int) -> Wave:
    """Return a counter, scraped every 15 seconds, that grows by 1 at each time, in seconds."""
    phases: list[tuple[float | None, str]] = []
    now = 0
    for time in times:
        phases += [(0, f"{time - now}s"), (1 / 15, "15s")]
        now = time + 15
    return counter(*phases, (0, "2h"))


@dataclass(frozen=True)
class Series:
    """A named series and its samples."""

    metric: str
    labels: Mapping[str, str]
    wave: Wave

    @property
    def selector(self) -> str:
        """Return the series' name and labels as PromQL."""
        labels = ", ".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.metric}{{{labels}}}"

    def without(self, *names: str) -> "Series":
        """Return the series without these labels."""
        left = {name: value for name, value in self.labels.items() if name not in names}
        return replace(self, labels=left)
