"""Numbers and times as people read them; all times are UTC, since the page has no script."""

from datetime import UTC, datetime

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(number: float) -> str:
    """Return a whole number with its thousands apart, as 12,034."""
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Return a size in bytes with two or three digits, as 3.4 GB."""
    unit = 0
    while number >= 999.5 and unit < len(_SIZES) - 1:
        number, unit = number / 1_000, unit + 1
    return (
        f"{number:.1f} {_SIZES[unit]}" if unit and number < 9.95 else f"{number:.0f} {_SIZES[unit]}"
    )


def duration(seconds: float) -> str:
    """Return a length of time by its largest unit, as 3 h."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def moment(seconds: float, *, now: float) -> str:
    """Return Unix seconds as a time, with its date where that is another day than today's."""
    when = datetime.fromtimestamp(seconds, UTC)
    today = datetime.fromtimestamp(now, UTC)
    if when.date() == today.date():
        return f"{when:%H:%M:%S}"
    return (
        f"{when.day} {when:%b} {when:%H:%M}"
        if when.year == today.year
        else f"{when:%Y-%m-%d %H:%M}"
    )


def since(seconds: float, *, now: float) -> str:
    """Return Unix seconds as a time and how long ago that is."""
    return f"{moment(seconds, now=now)} UTC, {ago(seconds, now=now)}"


def ago(seconds: float, *, now: float) -> str:
    """Return how long ago Unix seconds are; a clock that is ahead is told."""
    if seconds > now + 60:
        return f"{duration(seconds - now)} ahead of this clock"
    return f"{duration(max(0.0, now - seconds))} ago"


def seconds_of(text: str | None) -> float | None:
    """Return ISO 8601 as Unix seconds, None for anything else."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return None


def shorten(text: str, most: int) -> str:
    """Return the beginning of a text that is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
