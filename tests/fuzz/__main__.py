"""`make fuzz`: parsers and running services under hostile input by the hundred thousand.

Exit status: 0 where nothing was found, 1 otherwise. What was found stands in the output; the page
named by `--page` gets the numbers.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.http import Findings, send_by_document, send_damaged
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, FoundError
from tests.support.inference import start_inference
from tests.support.models import make_store
from tests.support.servers import ROOT, Server, free_port, start_service

LOGGING = "bentos.logging.service:LoggingService"
# Caches fill with the first requests; what grows afterwards is a leak.
WARM_UP = 4_000
MOST_GROWTH = 0.15
_SLOW_TARGETS = {"MLmodel": 10, "batches": 2}

_PAGE = """\
# Fuzzing

`make fuzz` sends what nobody sends: to the parsers in one process, and to both services as they
are deployed. Nothing may be answered with a 5xx, but for 429, 503 and 504 with a declared reason;
nothing may hang; every error has the one shape, `{{"error", "reason"}}`; memory may not grow.

- **Parsers**: atheris follows which branches an input takes and mutates those that reach new ones,
  from real files; where atheris is not installed, the same files are mutated at random. A parser
  has to return or to refuse with a 4xx.
- **By their documents**: schemathesis makes valid and invalid requests of `/docs.json`.
- **Damaged requests**: real ones with bits turned, pieces cut, repeated, moved and joined, three in
  four in the body alone, on {connections} connections. They go to every route that the running
  service says it has, with the examples of its document.

Last run: {date}, {minutes:.0f} minutes, seed {seed}.

| parser | inputs | seconds | found |
|---|---|---|---|
{parsers}

| service | sent | requests | 2xx | 4xx | 429, 503, 504 | other 5xx | closed | wrong | memory |
|---|---|---|---|---|---|---|---|---|---|
{services}

*closed*: no request that could be answered, as a damaged head; the connection is closed. *memory*:
of all processes of the service (PSS), before and after, once {warm_up} requests have filled what
is filled once.

A share of it runs in `make test` (`tests/fuzz/test_fuzz.py`).
"""


@dataclass(frozen=True)
class Sent:
    """What was sent to a service, what came of it, and its memory before and after, in bytes."""

    service: str
    how: str
    findings: Findings
    before: int
    after: int

    @property
    def wrong(self) -> list[str]:
        """What must not be, the growth of memory included."""
        grown = self.after / self.before - 1
        more = [f"memory grew by {grown:.0%}"] if grown > MOST_GROWTH else []
        return [*self.findings.wrong, *more]

    def line(self) -> str:
        """Return its line of the table."""
        statuses = self.findings.statuses
        by = {
            digit: sum(n for one, n in statuses.items() if one // 100 == digit) for digit in (2, 4)
        }
        overloaded = sum(statuses[one] for one in (429, 503, 504))
        failed = sum(n for one, n in statuses.items() if one >= 500) - statuses[503] - statuses[504]
        memory = f"{self.before >> 20} to {self.after >> 20} MiB"
        cells = (
            *(self.service, self.how, self.findings.requests, by[2], by[4] - statuses[429]),
            *(overloaded, failed, self.findings.closed, len(self.wrong), memory),
        )
        return f"| {' | '.join(str(cell) for cell in cells)} |"


def main() -> int:
    """Fuzz everything, print what was found, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="to both services (100000)")
    parser.add_argument("--inputs", type=int, default=200_000, help="to each parser (200000)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--page", type=Path, help="where the numbers go, e.g. docs/fuzzing.md")
    options = parser.parse_args()
    started = time.monotonic()
    parsers = [_fuzz(name, options.inputs, options.seed) for name in TARGETS]
    sent = []
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with services(directory, make_store(directory / "models").tracking_uri) as running:
            for service, server in running.items():
                sent += list(send(server, service, count=options.requests // 2, seed=options.seed))
    if options.page:
        options.page.write_text(
            _PAGE.format(
                connections=16,
                date=datetime.now(UTC).date(),
                minutes=(time.monotonic() - started) / 60,
                seed=options.seed,
                parsers="\n".join(line for line, _ in parsers),
                services="\n".join(one.line() for one in sent),
                warm_up=f"{WARM_UP:,}",
            )
        )
    good = not any(one.wrong for one in sent) and all(found for _, found in parsers)
    return 0 if good else 1


@contextmanager
def services(directory: Path, tracking_uri: str) -> Iterator[dict[str, Server]]:
    """Start both services as they are deployed, with every part on, so that all routes are there.

    The inference service hands over to the logging service, which asks it for heat maps.
    """
    port = free_port()
    of_both = {"LOG_LEVEL": "ERROR"}
    of_logging = {
        "DATABASE_PATH": str(directory / "predictions.db"),
        "EXPLAIN_URL": f"http://127.0.0.1:{port}",
    }
    with start_service(LOGGING, directory, env=of_both | of_logging) as logging:
        of_inference = {"LOGGING_URL": logging.url, "EXPLAIN": "true", "KEEP_IMAGES": "true"}
        with start_inference(
            directory, tracking_uri, env=of_both | of_inference, port=port
        ) as inference:
            logging.wait_until_ready()
            inference.wait_until_ready()
            yield {"logging": logging, "inference": inference}


def send(server: Server, service: str, *, count: int, seed: int) -> Iterator[Sent]:
    """Send a tenth by the document and the others damaged, after some that warm it up."""
    send_damaged(server, service, count=min(WARM_UP, count), seed=seed + 1)
    for how, sending, share in (
        ("by its document", send_by_document, count // 10),
        ("damaged", send_damaged, count - count // 10),
    ):
        before = server.memory().pss
        findings = sending(server, service, count=share, seed=seed)
        sent = Sent(service, how, findings, before, server.memory().pss)
        print(sent.line(), flush=True)
        for text in sent.wrong[:20]:
            print(f"  {text}", flush=True)
        yield sent


def _fuzz(name: str, inputs: int, seed: int) -> tuple[str, bool]:
    """Fuzz a parser in a process of its own; return its line, and whether nothing was found."""
    inputs //= _SLOW_TARGETS.get(name, 1)
    started = time.monotonic()
    if find_spec("atheris") is None:
        how, error = "random", _fuzz_at_random(name, inputs, seed)
    else:
        command = [sys.executable, "-m", "tests.fuzz.coverage", name, str(inputs), str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        how, error = "atheris", done.stderr[-3_000:] if done.returncode else ""
    found = "nothing" if not error else "**something**"
    line = f"| {name} ({how}) | {inputs:,} | {time.monotonic() - started:.0f} | {found} |"
    print(f"{line}{error and chr(10)}{error}", flush=True)
    return line, not error


def _fuzz_at_random(name: str, inputs: int, seed: int) -> str:
    chance = random.Random(seed)
    target = TARGETS[name]
    seeds = target.seeds()
    for _ in range(inputs):
        content = mutated(seeds, chance)
        try:
            target.check(content)
        except FoundError as error:
            return f"{error}: {content!r}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
