"""What a load test observes: probes one by one, unrounded, and requests by their outcome."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from local.prober import MISSED, Answer

Outcome = Literal["succeeded", "rejected", "failed", "dropped"]
Phase = Literal["idle", "loaded"]
Cadence = Literal["manifest", "dense", "scrape"]
# The names of the container's ports: the service's own, and the one that the kubelet probes.
Port = Literal["http", "probes"]


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What one schedule of probes asks. `probe` is a kind of probe in Kubernetes, or `metrics`."""

    service: str
    port: Port
    path: str
    probe: str
    cadence: Cadence


@dataclass(frozen=True, slots=True)
class ProbeSample:
    """One probe; `intended` is Unix time, `delay` and `latency` are in seconds.

    A probe is sent whether or not the ones before it were answered, so no stall of the service
    is missed. `delay` is how late the prober itself was.
    """

    service: str
    port: Port
    path: str
    probe: str
    cadence: Cadence
    intended: float
    delay: float
    latency: float
    status: int
    error: str

    @classmethod
    def of(cls, target: ProbeTarget, answer: Answer) -> "ProbeSample":
        """Join an answer to what was asked."""
        return cls(
            **asdict(target),
            intended=answer.intended,
            delay=answer.delay,
            latency=answer.latency,
            status=answer.status,
            error=answer.error,
        )

    @property
    def missed(self) -> bool:
        """Whether the probe was not sent at all."""
        return self.error == MISSED

    @property
    def succeeded(self) -> bool:
        """Whether the kubelet would take the answer for a success."""
        return 200 <= self.status < 400

    @property
    def since_intended(self) -> float:
        """Seconds from when the probe should have been sent to its answer."""
        return self.delay + self.latency


@dataclass(frozen=True, slots=True)
class Change:
    """From this moment, Unix time, this many clients send."""

    at: float
    clients: int


@dataclass(frozen=True)
class Observations:
    """All that one load test observed.

    `outcomes` counts requests by name and outcome; `changes` is in the order of time.
    """

    samples: Sequence[ProbeSample]
    changes: Sequence[Change]
    outcomes: dict[str, dict[Outcome, int]]
    ended_at: float

    def phase(self, moment: float) -> Phase:
        """Tell whether clients were sending at a moment; a test without changes was all load."""
        clients = 0 if self.changes else 1
        for change in self.changes:
            if change.at > moment:
                break
            clients = change.clients
        return "loaded" if clients else "idle"

    def split(self) -> dict[Phase, list[ProbeSample]]:
        """Return the samples of each phase."""
        parts: dict[Phase, list[ProbeSample]] = {"idle": [], "loaded": []}
        for sample in self.samples:
            parts[self.phase(sample.intended)].append(sample)
        return parts


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile, a value that was observed; ValueError for no values."""
    if not values:
        raise ValueError("no values have no percentile")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


_COLUMNS = [column.name for column in fields(ProbeSample)]
_SAMPLES = TypeAdapter(list[ProbeSample])


def write_samples(path: Path, samples: Iterable[ProbeSample]) -> None:
    """Write the samples as CSV, numbers unrounded."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(sample) for sample in samples)


def read_samples(path: Path) -> list[ProbeSample]:
    """Read what `write_samples` wrote; ValueError where that is not what the file has."""
    with path.open(newline="") as file:
        return _SAMPLES.validate_python(list(csv.DictReader(file)))
