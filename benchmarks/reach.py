"""What this project set out to reach, and whether a run reached it."""

import re
from dataclasses import dataclass
from typing import Literal

from benchmarks.results import PeerResult, Results

ONE_WORKER = "this-project-1"
PROBE_P99_MS = 3.0
PROBE_P999_MS = 5.0
_TIMES_MLSERVER = 2.0
_TIMES_FASTAPI = 3.0


@dataclass(frozen=True)
class Target:
    """A number to reach: at least `bound`, or at most where `most` is set; None: not measured."""

    what: str
    value: float | None
    bound: float
    unit: str
    most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the number was reached; one that was not measured was not."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.most else self.value >= self.bound


def targets(results: Results) -> list[Target]:
    """Return every target with the number of this run."""
    many = str(results.plan.saturating_clients)
    ours, fastapi = results.peer(ONE_WORKER), results.peer("fastapi")
    workers = [peer for peer in results.peers if re.fullmatch(r"this-project-\d+", peer.key)]
    all_cores = results.peer(workers[-1].key) if workers else None

    def rate(peer: PeerResult | None, kind: Literal["json", "binary", "image"]) -> float | None:
        found = peer and (peer.json[many] if kind == "json" else getattr(peer, kind))
        return found.requests_per_second if found else None

    def times(rate: float | None, base: PeerResult | None) -> float | None:
        return rate / base.json[many].requests_per_second if rate and base else None

    found = [
        Target(what, value, bound, " times")
        for what, value, bound in (
            (
                "JSON, one worker against MLServer",
                times(rate(ours, "json"), results.peer("mlserver")),
                _TIMES_MLSERVER,
            ),
            (
                "JSON, as many workers as cores against Triton",
                times(rate(all_cores, "json"), results.peer("triton")),
                1.0,
            ),
            (
                "raw tensors, one worker, against the JSON of FastAPI",
                times(rate(ours, "binary"), fastapi),
                _TIMES_FASTAPI,
            ),
            (
                "PNG images, one worker, against the JSON of FastAPI",
                times(rate(ours, "image"), fastapi),
                _TIMES_FASTAPI,
            ),
        )
    ]
    for meanwhile in ("saturated", "images of 500 kB", "model loads"):
        probed = ours.probes.get(meanwhile) if ours else None
        p99, p999 = (probed.p99_ms, probed.p999_ms) if probed else (None, None)
        found += [
            Target(f"probe p99, {meanwhile}", p99, PROBE_P99_MS, " ms", most=True),
            Target(f"probe p99.9, {meanwhile}", p999, PROBE_P999_MS, " ms", most=True),
        ]
    return found
