"""Numbers as Grafana writes them in each unit; a test compares them with Grafana's own code."""

import math
import time
from collections.abc import Callable, Sequence

_Scales = Sequence[tuple[float, float, str]]  # below the first, divide by the second, suffix

_TIMES: _Scales = (
    (1e-6, 1e-9, " ns"),
    (1e-3, 1e-6, " µs"),
    (1.0, 1e-3, " ms"),
    (60.0, 1.0, " s"),
    (3600.0, 60.0, " mins"),
    (86_400.0, 3600.0, " hours"),
    (604_800.0, 86_400.0, " days"),
    (31_536_000.0, 604_800.0, " weeks"),
    (math.inf, 31_556_900.0, " years"),
)
_SHORT: _Scales = ((1e3, 1.0, ""), (1e6, 1e3, " K"), (1e9, 1e6, " Mil"), (math.inf, 1e9, " Bil"))
_COUNTS: _Scales = ((1e3, 1.0, ""), (1e6, 1e3, "K"), (1e9, 1e6, "M"), (math.inf, 1e9, "B"))
_BYTES: _Scales = (
    (2.0**10, 1.0, " B"),
    (2.0**20, 2.0**10, " KiB"),
    (2.0**30, 2.0**20, " MiB"),
    (2.0**40, 2.0**30, " GiB"),
    (math.inf, 2.0**40, " TiB"),
)
_PER_SECOND = {"reqps": "req/s", "cps": "c/s", "ops": "ops/s"}
_SPANS = (
    (31_536_000, "year"),
    (2_628_000, "month"),
    (604_800, "week"),
    (86_400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
    (0.001, "millisecond"),
)


def write(value: float, unit: str, *, decimals: int | None = None) -> str:
    """Return a number in a unit, such as `12.3 ms` for 0.0123 in `s`.

    Raises KeyError for a unit that the dashboards do not use.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit in _PER_SECOND:
        return f"{_scaled(value, _COUNTS, decimals)} {_PER_SECOND[unit]}"
    writers: dict[str, Callable[[], str]] = {
        "none": lambda: _digits(value, decimals),
        "short": lambda: _scaled(value, _SHORT, decimals),
        "percentunit": lambda: f"{_digits(value * 100, decimals)}%",
        "bytes": lambda: _scaled(value, _BYTES, decimals),
        "s": lambda: _scaled(value, _TIMES, decimals),
        "dtdurations": lambda: span(value),
        "dateTimeFromNow": lambda: f"{span(time.time() - value / 1000)} ago",
        "bool_yes_no": lambda: "Yes" if value else "No",
    }
    return writers[unit]()


def span(seconds: float) -> str:
    """Return a time in its greatest whole unit, such as `3 hours`."""
    for length, name in _SPANS:
        count = int(seconds / length)
        if count >= 1:
            return f"{count} {name}{'s' * (count > 1)}"
    return "0 seconds"


def _scaled(value: float, scales: _Scales, decimals: int | None) -> str:
    magnitude = abs(value)
    if magnitude == 0:
        factor, suffix = next((factor, suffix) for _, factor, suffix in scales if factor == 1.0)
        decimals = None if scales is _TIMES else decimals
    else:
        factor, suffix = next(
            (factor, suffix) for limit, factor, suffix in scales if magnitude < limit
        )
    return _digits(round(value / factor, 12), decimals) + suffix


def _digits(value: float, decimals: int | None) -> str:
    """Return about three significant digits, or so many decimals, halves rounded up."""
    if decimals is None:
        decimals = _decimals(value)
    rounded = math.floor(value * 10**decimals + 0.5) / 10**decimals
    return f"{rounded:.{decimals}f}"


def _decimals(value: float) -> int:
    if value == int(value):
        return 0
    decimals: int = 1 - math.floor(math.log10(abs(value)))
    # Grafana gives numbers such as 2.5 one more.
    return max(decimals + (abs(value) * 10.0**decimals > 2.25), 0)
