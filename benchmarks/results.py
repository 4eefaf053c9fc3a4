"""Results of a run: rounds joined to medians and pooled percentiles, stored as JSON."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.generator import Driven
from benchmarks.measure import Plan, Round
from benchmarks.probing import Probed, summarize
from local.prober import Answer
from local.process import ROOT

FOLDER = Path(__file__).with_name("results")
# What the probes of the bare socket are called; not the server's own.
BARE = "saturated: a bare socket beside it"


@dataclass(frozen=True)
class PeerResult:
    """One server over all rounds: medians of rates and times, probes of all rounds together.

    `failure` says why there are no numbers. `cpu_microseconds` is processor time a request of
    the saturating clients; memory is in bytes.
    """

    key: str
    title: str
    failure: str = ""
    rounds: int = 0
    json: Mapping[str, Driven] = field(default_factory=dict)
    json_rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    binary: Driven | None = None
    image: Driven | None = None
    probes: Mapping[str, Probed] = field(default_factory=dict)
    first_health_seconds: float = 0.0
    first_ready_seconds: float = 0.0
    cpu_microseconds: float = 0.0
    pss: int = 0
    rss: int = 0
    processes: int = 0
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str


@dataclass(frozen=True)
class Results:
    """A whole run."""

    started_at: str
    commit: str
    machine: Machine
    versions: Mapping[str, str]
    plan: Plan
    load_before: Sequence[float]
    load_after: Sequence[float]
    peers: Sequence[PeerResult]

    def peer(self, key: str) -> PeerResult | None:
        """Return a server's result where it has numbers."""
        found = [peer for peer in self.peers if peer.key == key and not peer.failure]
        return found[0] if found else None


def joined(key: str, title: str, rounds: Sequence[Round]) -> PeerResult:
    """Join the rounds of one server."""
    clients = [driven.clients for driven in rounds[0].json]
    by_clients = {
        str(number): [one.json[position] for one in rounds]
        for position, number in enumerate(clients)
    }
    probes = {
        "idle": _pooled(rounds, lambda one: one.idle_probes),
        "saturated": _pooled(rounds, lambda one: one.loaded_probes),
        BARE: _pooled(rounds, lambda one: one.bare_probes),
    }
    for name in rounds[0].extra_probes:
        probes[name] = _pooled(rounds, lambda one, name=name: one.extra_probes[name])  # type: ignore[misc]
    return PeerResult(
        key=key,
        title=title,
        rounds=len(rounds),
        json={number: _median_of(runs) for number, runs in by_clients.items()},
        json_rates={
            number: [run.requests_per_second for run in runs] for number, runs in by_clients.items()
        },
        binary=_median_of([one.binary for one in rounds if one.binary]),
        image=_median_of([one.image for one in rounds if one.image]),
        probes=probes,
        first_health_seconds=median(one.first_health_seconds for one in rounds),
        first_ready_seconds=median(one.first_ready_seconds for one in rounds),
        cpu_microseconds=median(one.cpu_microseconds for one in rounds),
        pss=round(median(one.memory.pss for one in rounds)),
        rss=round(median(one.memory.rss for one in rounds)),
        processes=rounds[-1].memory.processes,
        notes=rounds[-1].notes,
    )


def _median_of(runs: Sequence[Driven]) -> Any:
    """Return the medians of several runs; None for no runs, as of what a server does not take."""
    if not runs:
        return None
    return Driven(
        clients=runs[0].clients,
        requests_per_second=median(run.requests_per_second for run in runs),
        p50_ms=median(run.p50_ms for run in runs),
        p99_ms=median(run.p99_ms for run in runs),
        max_ms=max(run.max_ms for run in runs),
        requests=sum(run.requests for run in runs),
        errors=sum(run.errors for run in runs),
    )


def _pooled(rounds: Sequence[Round], probes: Callable[[Round], Sequence[Answer]]) -> Probed:
    return summarize([answer for one in rounds for answer in probes(one)])


def this_machine() -> Machine:
    """Describe the machine."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages * size / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def this_commit() -> str:
    """Return the checkout's commit, with a mark where files have changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def now() -> str:
    """Return the time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def store(results: Results, path: Path) -> None:
    """Write the results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(results)) + "\n")
