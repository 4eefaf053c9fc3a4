"""Collects what the users of one Locust process observe and, on a master, what its workers do."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from loadtests.samples import (
    Change,
    Observations,
    Outcome,
    ProbeSample,
    read_samples,
    write_samples,
)

SAMPLES_FILE = "probes.csv"
LOAD_FILE = "load.json"
_RECENT = 600
_KEY = "loadtest"


class Recorder:
    """Observations of one test; `drain` and `merge` carry them from workers to the master."""

    def __init__(self) -> None:
        self.samples: list[ProbeSample] = []
        self.changes: list[Change] = []
        self._outcomes: Counter[tuple[str, Outcome]] = Counter()

    def probe(self, sample: ProbeSample) -> None:
        """Note a probe."""
        self.samples.append(sample)

    def request(self, name: str, outcome: Outcome) -> None:
        """Note what became of a request."""
        self._outcomes[name, outcome] += 1

    def clients(self, count: int) -> None:
        """Note that this many clients send from now on."""
        self.changes.append(Change(time.time(), count))

    def recent(self, path: str) -> Sequence[ProbeSample]:
        """Return the last probes of a path on the probe port, for a progress line."""
        return [
            sample
            for sample in self.samples[-_RECENT:]
            if sample.path == path and sample.port == "probes"
        ]

    def count(self, *outcomes: Outcome) -> int:
        """Return how many requests had one of the outcomes, or any where none is named."""
        return sum(
            number
            for (_, outcome), number in self._outcomes.items()
            if not outcomes or outcome in outcomes
        )

    def drain(self, report: dict[str, Any]) -> None:
        """Move what was observed into a worker's report to its master."""
        samples, self.samples = self.samples, []
        outcomes, self._outcomes = self._outcomes, Counter()
        report[_KEY] = {
            "samples": [list(astuple(sample)) for sample in samples],
            "outcomes": [[*key, count] for key, count in outcomes.items()],
        }

    def merge(self, report: Mapping[str, Any]) -> None:
        """Take over what a worker reported."""
        part = report.get(_KEY, {"samples": [], "outcomes": []})
        self.samples += [ProbeSample(*fields) for fields in part["samples"]]
        for name, outcome, count in part["outcomes"]:
            self._outcomes[name, outcome] += count

    def write(self, folder: Path) -> None:
        """Write the observations for `read_observations`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_samples(folder / SAMPLES_FILE, sorted(self.samples, key=lambda one: one.intended))
        outcomes: dict[str, dict[str, int]] = {}
        for (name, outcome), count in sorted(self._outcomes.items()):
            outcomes.setdefault(name, {})[outcome] = count
        content = {
            "changes": [asdict(change) for change in self.changes],
            "outcomes": outcomes,
            "ended_at": time.time(),
        }
        (folder / LOAD_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_observations(folder: Path) -> Observations:
    """Read what a recorder wrote; FileNotFoundError where the test wrote nothing."""
    content = json.loads((folder / LOAD_FILE).read_text())
    return Observations(
        samples=read_samples(folder / SAMPLES_FILE),
        changes=[Change(**change) for change in content["changes"]],
        outcomes=content["outcomes"],
        ended_at=content["ended_at"],
    )
