"""Probes of a server from a process of their own, each over a new connection."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from loadtests.samples import percentile
from local.prober import MISSED, Answer, Schedule, probing
from local.process import Server, free_port

_INTERVAL_SECONDS = 0.02
_TIMEOUT_SECONDS = 5.0
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Probed:
    """Percentiles in milliseconds of the answers, from sending to the whole answer.

    Probes are sent at their time whatever became of those before; `late_p99_ms` is how late the
    prober itself was, `failed` counts answers other than 200 and none at all.
    """

    probes: int
    failed: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late_p99_ms: float


def probe(url: str, path: str, during: Callable[[], None]) -> list[Answer]:
    """Probe a path every 20 ms while something goes on, and return the answers."""
    (answers,) = probe_all([url + path], during)
    return answers


def probe_all(
    urls: Sequence[str],
    during: Callable[[], None],
    *,
    interval_seconds: float = _INTERVAL_SECONDS,
) -> list[list[Answer]]:
    """Probe every URL at the interval, in turn, while something goes on; return each's answers."""
    schedules = [
        Schedule(
            url,
            interval_seconds=interval_seconds,
            timeout_seconds=_TIMEOUT_SECONDS,
            offset_seconds=interval_seconds * position / len(urls),
        )
        for position, url in enumerate(urls)
    ]
    with probing(schedules) as answers:
        during()
    return [[one for one in answers if one.schedule == index] for index in range(len(urls))]


def probe_idle(url: str, path: str, seconds: float) -> list[Answer]:
    """Probe a server that does nothing else."""
    return probe(url, path, lambda: time.sleep(seconds))


def summarize(answers: Sequence[Answer]) -> Probed:
    """Return the percentiles of the probes that were sent; ValueError for none."""
    sent = [answer for answer in answers if answer.error != MISSED]
    latencies = [answer.latency * 1000 for answer in sent]
    return Probed(
        probes=len(sent),
        failed=sum(answer.status != 200 for answer in sent),
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        p999_ms=percentile(latencies, 0.999),
        max_ms=max(latencies),
        late_p99_ms=percentile([answer.delay * 1000 for answer in answers], 0.99),
    )


@contextmanager
def bare_server() -> Iterator[str]:
    """Run the bare socket that is probed beside a loaded server and give its URL.

    Raises StepError where it does not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.apps.bare", str(port)]
    with Server(command, port=port, name="the bare socket") as server:
        server.wait_until_answers("/", seconds=_START_SECONDS)
        yield f"{server.url}/"
