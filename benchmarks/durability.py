"""What it costs to answer after the prediction is on disk: `python -m benchmarks.durability`.

Two inference services, `PREDICTION_ACK=durable` and `fast`, hand over to a logging service each and
are driven in turns by one generator, so that both see the same machine.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.generator import Driven, check_generator, drive
from benchmarks.logging_service import serve
from benchmarks.measure import start
from benchmarks.model import ServedModel, pictures, prepare_model
from benchmarks.peers.peer import PORTS, Launch, Site
from benchmarks.peers.this_project import ThisProject
from bentos.health.probes import READY_PATH
from local.process import Server, free_ports

ACKS = ("durable", "fast")
CLIENTS = (16, 64)
# At most so much slower than `fast`: the share of its rate, and milliseconds of its p99.
MOST_RATE_LOST = 0.10
MOST_P99_MS = 3.0


class _Acknowledging(ThisProject):
    def __init__(self, ack: str, logging_url: str) -> None:
        super().__init__()
        self._settings = {"PREDICTION_ACK": ack, "LOGGING_URL": logging_url}

    def launch(self, site: Site) -> Launch:
        launch = super().launch(site)
        return Launch(launch.command, {**launch.environment, **self._settings})


def main() -> int:
    """Measure in rounds and print the medians; return 0 where they are within reach."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="each load lasts")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    check_generator()
    within = True
    with tempfile.TemporaryDirectory(prefix="durability-") as name, ExitStack() as stack:
        scratch = Path(name)
        model = prepare_model(scratch, lambda line: print(line, file=sys.stderr))
        servers = {ack: stack.enter_context(_service(scratch, model, ack)) for ack in ACKS}
        call = ThisProject().binary_call(pictures()[0].pixels)
        for server in servers.values():
            drive(server.url, call, clients=16, seconds=2, scratch=scratch)
        print(
            "| clients | ack | requests/s | p50 ms | p99 ms | failed |\n|---|---|---|---|---|---|"
        )
        for clients in CLIENTS:
            found: dict[str, list[Driven]] = {ack: [] for ack in ACKS}
            for _ in range(options.rounds):
                for ack, server in servers.items():
                    found[ack].append(
                        drive(
                            server.url,
                            call,
                            clients=clients,
                            seconds=options.seconds,
                            scratch=scratch,
                        )
                    )
            rate = {ack: median(one.requests_per_second for one in found[ack]) for ack in ACKS}
            p99 = {ack: median(one.p99_ms for one in found[ack]) for ack in ACKS}
            for ack in ACKS:
                p50 = median(one.p50_ms for one in found[ack])
                failed = sum(one.errors for one in found[ack])
                print(
                    f"| {clients} | {ack} | {rate[ack]:,.0f} | {p50:.2f} | {p99[ack]:.2f} "
                    f"| {failed} |",
                    flush=True,
                )
            lost, later = 1 - rate["durable"] / rate["fast"], p99["durable"] - p99["fast"]
            print(f"{clients} clients: {lost:+.1%} of the rate lost, {later:+.2f} ms of p99")
            within &= lost <= MOST_RATE_LOST and later <= MOST_P99_MS
    return 0 if within else 1


@contextmanager
def _service(scratch: Path, model: ServedModel, ack: str) -> Iterator[Server]:
    folder = scratch / ack
    folder.mkdir()
    site = Site(free_ports(PORTS), folder, model, Path(sys.executable), Path(sys.executable))
    with (
        serve(folder / "logging", 1) as logging,
        start(_Acknowledging(ack, logging.url), site) as server,
    ):
        server.wait_until_answers(READY_PATH)
        yield server


if __name__ == "__main__":
    sys.exit(main())
