"""The one generator of requests that drives every server: wrk, on one thread."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import Call

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_SECONDS = 30


class GeneratorMissing(Exception):  # noqa: N818 - told to the user
    """wrk is not installed."""


class GeneratorFailed(Exception):  # noqa: N818 - what happened to a run
    """wrk did not come to a result."""


@dataclass(frozen=True)
class Driven:
    """What a number of clients got, each sending its next request when it has its answer.

    Times are in milliseconds; `errors` counts answers that were no success and broken ones.
    """

    clients: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    errors: int


def check_generator() -> str:
    """Return wrk's path; GeneratorMissing where there is none."""
    found = shutil.which("wrk")
    if found is None:
        raise GeneratorMissing("wrk is not there; install it: apt-get install wrk")
    return found


class Generator:
    """One run of wrk, in the background until `result` is asked for."""

    def __init__(
        self, url: str, call: Call, *, clients: int, seconds: float, scratch: Path
    ) -> None:
        self._clients = clients
        self._seconds = seconds
        body = scratch / "body"
        body.write_bytes(call.body)
        command = [check_generator(), "--threads", "1", "--connections", str(clients)]
        command += ["--duration", f"{max(1, round(seconds))}s", "--latency"]
        command += ["--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT), url + call.path]
        command += ["--", str(body), f"Content-Type: {call.content_type}"]
        command += [f"{name}: {value}" for name, value in call.headers.items()]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def result(self) -> Driven:
        """Wait for the end and return what came of it; GeneratorFailed where nothing did."""
        out, errors = self._process.communicate(timeout=self._seconds + 2 * _TIMEOUT_SECONDS)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if self._process.returncode != 0 or not lines:
            raise GeneratorFailed(f"wrk ended with {self._process.returncode}: {errors or out}")
        found = json.loads(lines[-1])
        return Driven(
            clients=self._clients,
            requests_per_second=found["requests"] / (found["duration_us"] / 1e6),
            p50_ms=found["p50_us"] / 1000,
            p99_ms=found["p99_us"] / 1000,
            max_ms=found["max_us"] / 1000,
            requests=found["requests"],
            errors=found["refused"] + found["broken"],
        )


def drive(url: str, call: Call, *, clients: int, seconds: float, scratch: Path) -> Driven:
    """Run wrk to its end."""
    return Generator(url, call, clients=clients, seconds=seconds, scratch=scratch).result()
