"""Samples of a scrape."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(exposition: str, name: str, **labels: str) -> Iterator[Sample]:
    """Yield the samples of this name, as `..._total` or `..._count`, that have these labels.

    Other lines are not parsed: tests ask for one number again and again until it changes.
    """
    lines = (line for line in exposition.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    for family in text_string_to_metric_families("\n".join(lines)):
        yield from (one for one in family.samples if labels.items() <= one.labels.items())


def total(exposition: str, name: str, **labels: str) -> float:
    """Return the sum of those samples; 0.0 where there is none."""
    return sum(sample.value for sample in samples(exposition, name, **labels))
