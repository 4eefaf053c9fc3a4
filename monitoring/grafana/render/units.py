"""Numbers as Grafana writes them in each unit."""

import math
import time
from collections.abc import Callable, Sequence

_TIMES = (
    (1e-6, 1e-9, "ns"),
    (1e-3, 1e-6, "µs"),
    (1.0, 1e-3, "ms"),
    (60.0, 1.0, "s"),
    (3600.0, 60.0, "min"),
    (86_400.0, 3600.0, "h"),
    (math.inf, 86_400.0, "d"),
)
_SHORT = ((1e3, 1.0, ""), (1e6, 1e3, " K"), (1e9, 1e6, " M"), (math.inf, 1e9, " G"))
_BYTES = (
    (2.0**10, 1.0, "B"),
    (2.0**20, 2.0**10, "KiB"),
    (2.0**30, 2.0**20, "MiB"),
    (2.0**40, 2.0**30, "GiB"),
    (math.inf, 2.0**40, "TiB"),
)
_PER_SECOND = {"reqps": "req/s", "cps": "c/s", "ops": "ops/s"}
_SPANS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def write(value: float, unit: str, *, decimals: int | None = None) -> str:
    """Return a number in a unit, such as `12.3 ms` for 0.0123 in `s`.

    Raises KeyError for a unit that the dashboards do not use.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit in _PER_SECOND:
        return f"{_scaled(value, _SHORT, decimals)} {_PER_SECOND[unit]}"
    writers: dict[str, Callable[[], str]] = {
        "none": lambda: _digits(value, decimals),
        "short": lambda: _scaled(value, _SHORT, decimals),
        "percentunit": lambda: f"{_digits(value * 100, decimals)}%",
        "bytes": lambda: _scaled(value, _BYTES, decimals, space=" "),
        "s": lambda: _scaled(value, _TIMES, decimals, space=" "),
        "dtdurations": lambda: span(value),
        "dateTimeFromNow": lambda: f"{span(time.time() - value / 1000)} ago",
        "bool_yes_no": lambda: "Yes" if value else "No",
    }
    return writers[unit]()


def span(seconds: float) -> str:
    """Return a time in its greatest whole unit, such as `3 hours`."""
    for length, name in _SPANS:
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {name}{'s' * (count > 1)}"
    return "0 seconds"


def _scaled(
    value: float,
    scales: Sequence[tuple[float, float, str]],
    decimals: int | None,
    *,
    space: str = "",
) -> str:
    magnitude = abs(value)
    if magnitude == 0:
        _, _, suffix = next(scale for scale in scales if scale[1] == 1.0)
        return f"0{space}{suffix}"
    _, factor, suffix = next(scale for scale in scales if magnitude < scale[0])
    return f"{_digits(value / factor, decimals)}{space}{suffix}"


def _digits(value: float, decimals: int | None) -> str:
    if decimals is None:
        magnitude = abs(value)
        decimals = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{decimals}f}"
