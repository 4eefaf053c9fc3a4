"""The benchmark of `make bench`.

Run `python -m benchmarks --help` for its options. Exit status: 0 where every server was
measured, 1 where one failed, 2 where the benchmark could not run.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.environment import DEFAULT, EnvironmentBroken, peers_python, versions
from benchmarks.generator import GeneratorFailed, GeneratorMissing, check_generator
from benchmarks.measure import FULL, QUICK, Bench, Plan, Round, measure
from benchmarks.model import ModelMismatch, pictures, prepare_model, reference, register_again
from benchmarks.peers import all_peers
from benchmarks.peers.peer import Peer
from benchmarks.results import (
    FOLDER,
    PeerResult,
    Results,
    joined,
    now,
    store,
    this_commit,
    this_machine,
)
from benchmarks.soak import soak
from benchmarks.table import tables, write_page
from local.process import ROOT, StepError

PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "benchmarks.png"
_BUSY = 0.5
_MEASURED_DISTRIBUTIONS = [
    *("fastapi", "uvicorn", "litserve", "mlserver", "mlflow", "nvidia-pytriton", "ray", "torch"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    options = _parser().parse_args(arguments)
    # SIGTERM ends the run in order: the server that is being measured is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        check_generator()
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            return _run(options, Path(scratch))
    except (EnvironmentBroken, GeneratorMissing, ModelMismatch, StepError) as error:
        _say(f"error: {error}")
    except KeyboardInterrupt:
        _say("error: interrupted, nothing was stored")
    return 2


def _run(options: argparse.Namespace, scratch: Path) -> int:
    model = prepare_model(scratch, _say)
    inputs = pictures()
    if options.soak:
        return soak(
            model, minutes=options.soak, scratch=scratch, folder=options.results, report=_say
        )
    peers = chosen(options.only)
    python = peers_python(options.environment, _say)
    bench = Bench(
        plan=_plan(options),
        model=model,
        second_version=register_again(model),
        pictures=inputs,
        expected=reference(model, inputs),
        python=Path(sys.executable),
        peers_python=python,
        scratch=scratch,
    )
    started_at, before = now(), os.getloadavg()
    if before[0] > _BUSY * len(os.sched_getaffinity(0)):
        _say(f"note: the machine is busy (load average {before[0]:.2f}); the figures tell little")
    measured = _measure_all(peers, bench)
    results = Results(
        started_at=started_at,
        commit=this_commit(),
        machine=this_machine(),
        versions=_versions(python),
        plan=bench.plan,
        load_before=before,
        load_after=os.getloadavg(),
        peers=measured,
    )
    path = options.results / f"{'quick' if options.quick else 'full'}.json"
    store(results, path)
    _say("")
    _say(tables(results))
    _say(f"\nstored in {path}")
    if options.publish:
        write_page(PAGE, results, CHART)
        draw(results, CHART)
        _say(f"written to {PAGE.relative_to(ROOT)} and {CHART.relative_to(ROOT)}")
    missing = {peer.key for peer in peers if peer.unavailable()}
    failed = [peer for peer in measured if peer.failure and peer.key not in missing]
    for peer in failed:
        _say(f"failed: {peer.title}: {peer.failure}")
    return 1 if failed else 0


def chosen(only: Sequence[str] | None) -> list[Peer]:
    """Return the servers of these keys, all where none is named.

    Raises StepError for a key that no server has.
    """
    peers = all_peers(workers=len(os.sched_getaffinity(0)))
    unknown = set(only or ()) - {peer.key for peer in peers}
    if unknown:
        known = ", ".join(peer.key for peer in peers)
        raise StepError(f"no server {', '.join(sorted(unknown))}; there are {known}")
    return [peer for peer in peers if not only or peer.key in only]


def _measure_all(peers: Sequence[Peer], bench: Bench) -> list[PeerResult]:
    rounds: dict[str, list[Round]] = {peer.key: [] for peer in peers}
    failures = {peer.key: peer.unavailable() or "" for peer in peers}
    for number in range(bench.plan.rounds):
        # Whoever goes first meets another machine than whoever goes last.
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            if failures[peer.key]:
                continue
            _say(f"round {number + 1} of {bench.plan.rounds}: {peer.title}")
            try:
                rounds[peer.key].append(measure(peer, bench, _indented(_say)))
            except (StepError, GeneratorFailed) as error:
                failures[peer.key] = str(error)
                _say(f"  failed: {error}")
    return [
        PeerResult(peer.key, peer.title, failure=failures[peer.key])
        if failures[peer.key]
        else joined(peer.key, peer.title, rounds[peer.key])
        for peer in peers
    ]


def _versions(python: Path) -> dict[str, str]:
    ours = versions(Path(sys.executable), ["bentoml", "torch"])
    return {**versions(python, _MEASURED_DISTRIBUTIONS), **ours}


def _indented(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"  {line}")


def _say(line: str) -> None:
    print(line, flush=True)


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return replace(plan, rounds=options.rounds) if options.rounds else plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this project beside other servers of the same MLflow model.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round, to see that everything runs")
    add("--rounds", type=int, choices=range(1, 11), metavar="N", help="rounds, instead of 3")
    add("--only", nargs="+", metavar="SERVER", help="measure only these servers")
    add("--publish", action="store_true", help="write the tables and chart of docs/benchmarks.md")
    add("--soak", type=float, metavar="MINUTES", help="instead: memory of this project over time")
    add("--environment", type=Path, default=DEFAULT, help="the peers' virtual environment")
    add("--results", type=Path, default=FOLDER, help="folder that takes the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
