"""Expressions that several alerts are made of."""

from monitoring.prometheus.source.rule import seconds


def growth(counter: str, window: str) -> str:
    """Return PromQL for how much a counter grew within a window, its first value included.

    `increase` does not see a series begin: three failures within one scrape are a counter whose
    first value is 3, and an increase of 0. A series has begun within the window if it has fewer
    samples than its target had successful scrapes. A target that was not scraped before, or not
    for a while, has as many, so that old counts are not taken for growth. One address may be
    several targets: a kubelet has its metrics on three paths.
    """
    scrapes = f"min by (job, instance) (sum_over_time(up[{window}]))"
    begun = f"count_over_time({counter}[{window}]) < on (job, instance) group_left () {scrapes}"
    return f"({counter} and {begun} or increase({counter}[{window}]))"


def grew(counter: str, window: str, started: str) -> str:
    """Return PromQL that holds where a counter grew within a window, even before its first scrape.

    For counters that are 0 when their process starts. `started` is the gauge of when that was, by
    the clock of its host, which may be wrong.
    """
    young = f"abs(time() - {started}) < {seconds(window)}"
    return f"({counter} > 0 and on (job, instance) {young} or increase({counter}[{window}]) > 0)"


def missing(series: str, by: str, *, condition: str = "") -> str:
    """Return PromQL for each group of labels that had a series within a day and has none now.

    `absent` alone asks whether there is a series anywhere: staging would hide that production is
    gone. It is asked as well, for what was never there. With a condition such as `== 1` only
    series that meet it count as being there.
    """
    present = f"{series} {condition}".strip()
    return (
        f"group by ({by}) (last_over_time({series}[1d])) unless on ({by}) {present}"
        f" or on () absent({present})"
    )
