"""What this project set out to reach, and whether a run reached it."""

from collections.abc import Callable
from dataclasses import dataclass

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
    ours = results.peer(ONE_WORKER)
    workers = [
        peer
        for peer in results.peers
        if peer.key.startswith("this-project-") and peer.key.removeprefix("this-project-").isdigit()
    ]
    all_cores = workers[-1] if workers and not workers[-1].failure else None
    fastapi = results.peer("fastapi")

    def ratio(
        peer: PeerResult | None,
        rate: Callable[[PeerResult], float | None],
        base: PeerResult | None,
    ) -> float | None:
        if peer is None or base is None:
            return None
        found = rate(peer)
        return None if found is None else found / base.json[many].requests_per_second

    def json_rate(peer: PeerResult) -> float | None:
        return peer.json[many].requests_per_second

    def raw_rate(peer: PeerResult) -> float | None:
        return peer.binary.requests_per_second if peer.binary else None

    def image_rate(peer: PeerResult) -> float | None:
        return peer.image.requests_per_second if peer.image else None

    mlserver, triton = results.peer("mlserver"), results.peer("triton")
    found = [
        Target(
            "JSON, one worker against MLServer",
            ratio(ours, json_rate, mlserver),
            _TIMES_MLSERVER,
            " times",
        ),
        Target(
            "JSON, as many workers as cores against Triton",
            ratio(all_cores, json_rate, triton),
            1.0,
            " times",
        ),
        Target(
            "raw tensors, one worker, against the JSON of FastAPI",
            ratio(ours, raw_rate, fastapi),
            _TIMES_FASTAPI,
            " times",
        ),
        Target(
            "PNG images, one worker, against the JSON of FastAPI",
            ratio(ours, image_rate, fastapi),
            _TIMES_FASTAPI,
            " times",
        ),
    ]
    for meanwhile in ("saturated", "images of 500 kB", "model loads"):
        probed = ours.probes.get(meanwhile) if ours else None
        found.append(
            Target(
                f"probe p99, {meanwhile}",
                probed.p99_ms if probed else None,
                PROBE_P99_MS,
                " ms",
                most=True,
            )
        )
        found.append(
            Target(
                f"probe p99.9, {meanwhile}",
                probed.p999_ms if probed else None,
                PROBE_P999_MS,
                " ms",
                most=True,
            )
        )
    return found
