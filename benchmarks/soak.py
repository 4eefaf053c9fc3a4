"""Memory of this project over time, under constant load."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.generator import Generator
from benchmarks.measure import start
from benchmarks.model import ServedModel, pictures
from benchmarks.peers.peer import PORTS, Site
from benchmarks.peers.this_project import ThisProject
from benchmarks.results import now, this_commit, this_machine
from local.process import free_ports

_CLIENTS = 16
_SAMPLE_SECONDS = 5.0
# What the first minute adds are pools and caches that fill once.
_SETTLED_SECONDS = 60.0
_MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """Memory of all processes, in bytes, so many seconds after the load began."""

    seconds: float
    pss: int
    rss: int


def soak(
    model: ServedModel,
    *,
    minutes: float,
    scratch: Path,
    folder: Path,
    report: Callable[[str], None],
) -> int:
    """Load one worker for some minutes, watch its memory, store and print what was seen."""
    peer = ThisProject()
    site = Site(free_ports(PORTS), scratch, model, Path(sys.executable), Path(sys.executable))
    call = peer.json_call(pictures()[0].pixels)
    with start(peer, site) as server:
        server.wait_until_answers(peer.ready_path)
        seconds = minutes * 60
        report(f"{_CLIENTS} clients for {minutes:g} minutes")
        began = time.perf_counter()
        generator = Generator(server.url, call, clients=_CLIENTS, seconds=seconds, scratch=scratch)
        samples: list[Sample] = []
        while (elapsed := time.perf_counter() - began) < seconds:
            memory = server.memory()
            samples.append(Sample(elapsed, memory.pss, memory.rss))
            if len(samples) % 12 == 1:
                report(f"  {elapsed:5.0f} s  PSS {memory.pss / _MIB:.1f} MiB")
            time.sleep(_SAMPLE_SECONDS)
        driven = generator.result()
        for process in server.processes():
            pss = process.memory_full_info().pss / _MIB
            report(f"  {pss:6.1f} MiB  {' '.join(process.cmdline()[1:])[:70]}")
    growth = growth_per_hour([one for one in samples if one.seconds >= _SETTLED_SECONDS])
    content = {
        "started_at": now(),
        "commit": this_commit(),
        "machine": asdict(this_machine()),
        "minutes": minutes,
        "driven": asdict(driven),
        "growth_mib_per_hour": None if growth is None else growth / _MIB,
        "samples": [asdict(one) for one in samples],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "soak.json"
    path.write_text(json.dumps(content) + "\n")
    report(f"{driven.requests_per_second:,.0f} requests/s, {driven.errors} failed")
    if growth is not None:
        report(f"PSS grows by {growth / _MIB:.1f} MiB an hour after the first minute")
    report(f"stored in {path}")
    return 1 if driven.errors else 0


def growth_per_hour(samples: Sequence[Sample]) -> float | None:
    """Return the slope of a line through the samples, bytes an hour; None for under three."""
    if len(samples) < 3:
        return None
    seconds = [one.seconds for one in samples]
    return float(np.polyfit(seconds, [one.pss for one in samples], 1)[0]) * 3600
