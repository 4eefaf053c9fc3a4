"""PromQL built from the metric catalogue, with the dashboard's variables as matchers."""

import re

from monitoring.catalogue import TARGET_LABELS, family_of

RATE = "$__rate_interval"
RANGE = "$__range"

_MATCHER = re.compile(r'(?P<label>[a-z_]+)(?:=~|!~|!=|=)"[^"]*"')
_VARIABLES = ("namespace", *TARGET_LABELS, "model", "stage")


def series(metric: str, *matchers: str) -> str:
    """Return the selector of a metric for what the variables choose, with further matchers.

    Namespace, job and instance are matched on every metric, model and stage where it has them.
    Raises KeyError for an unknown metric or label.
    """
    labels = family_of(metric).labels
    for matcher in matchers:
        found = _MATCHER.fullmatch(matcher)
        if found is None or found["label"] not in (*labels, *TARGET_LABELS, "le"):
            raise KeyError(f"{metric} has no label for {matcher}")
    carried = ("namespace", *TARGET_LABELS, *labels)
    chosen = [f'{name}=~"${name}"' for name in _VARIABLES if name in carried]
    return f"{metric}{{{', '.join((*chosen, *matchers))}}}"


def aggregate(operator: str, expression: str, *, by: str = "") -> str:
    """Return the aggregation of an expression, over everything where no label is named."""
    return f"{operator}{f' by ({by})' if by else ''} ({expression})"


def sum_of(metric: str, *matchers: str, by: str = "") -> str:
    """Return the sum of a gauge by the labels."""
    return aggregate("sum", series(metric, *matchers), by=by)


def max_of(metric: str, *matchers: str, by: str = "") -> str:
    """Return the highest value of a gauge by the labels."""
    return aggregate("max", series(metric, *matchers), by=by)


def min_of(metric: str, *matchers: str, by: str = "") -> str:
    """Return the lowest value of a gauge by the labels."""
    return aggregate("min", series(metric, *matchers), by=by)


def rate(metric: str, *matchers: str, by: str = "", over: str = RATE) -> str:
    """Return the per-second rate of a counter, summed by the labels."""
    return aggregate("sum", f"rate({series(metric, *matchers)}[{over}])", by=by)


def increase(metric: str, *matchers: str, by: str = "", over: str = RANGE, offset: str = "") -> str:
    """Return by how much a counter grew, over the dashboard's range where none is given."""
    back = f" offset {offset}" if offset else ""
    return aggregate("sum", f"increase({series(metric, *matchers)}[{over}]{back})", by=by)


def quantile(share: float, histogram: str, *matchers: str, by: str = "") -> str:
    """Return a quantile of a histogram's observations; no series while there were none."""
    each = rate(f"{histogram}_bucket", *matchers, by=f"le, {by}" if by else "le")
    return f"histogram_quantile({share:g}, {each}) >= 0"


def mean(histogram: str, *matchers: str, by: str = "") -> str:
    """Return the mean of a histogram's observations; no series while there were none."""
    return ratio(
        rate(f"{histogram}_sum", *matchers, by=by), rate(f"{histogram}_count", *matchers, by=by)
    )


def lifetime_mean(histogram: str) -> str:
    """Return the mean of all observations since the instances started."""
    return ratio(sum_of(f"{histogram}_sum"), sum_of(f"{histogram}_count"))


def buckets(histogram: str, *matchers: str) -> str:
    """Return the per-second rate of a histogram's buckets, for a heatmap."""
    return rate(f"{histogram}_bucket", *matchers, by="le")


def ratio(part: str, whole: str) -> str:
    """Return part over whole; no series, rather than a false zero, while the whole is zero."""
    return f"{part} / ({whole} > 0)"
