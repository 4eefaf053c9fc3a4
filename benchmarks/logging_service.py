"""The logging service's benchmark: `python -m benchmarks.logging_service --rows 10000000`.

It logs batches and single predictions by 16 clients while `/ready` is probed every 20 ms, each
time over a new connection, fills a database with so many predictions, and then reads it and logs
to it. Exit status: 0 where everything was answered with 200, 1 otherwise.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
from msgspec import Raw

from benchmarks.probing import Probed, probe, summarize
from bentos.health.probes import READY_PATH
from bentos.logging.state import LOG_PATH, PREDICTIONS_PATH, STATS_PATH
from bentos.logging.store.schema import StoredPrediction
from bentos.logging.store.sqlite import SqliteDatabase
from loadtests.samples import percentile
from local.process import Server, StepError, clean_environment, free_port

TARGET = "bentos.logging.service:LoggingService"
CLIENTS = 16
BATCH = 100
DEVICES = 200
_FILL_BATCH = 10_000
_FIRST_SECOND = 1_750_000_000.0
_SCRIPT = Path(__file__).with_suffix(".lua")


class BenchmarkFailed(Exception):  # noqa: N818 - told to the user
    """A part of the benchmark did not come to a result."""


@dataclass(frozen=True)
class Logged:
    """What clients that log got, times in milliseconds, and the probes meanwhile."""

    rows_per_second: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    ready: Probed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    options = _parser().parse_args(arguments)
    if shutil.which("wrk") is None:
        sys.exit("wrk is not there; install it: apt-get install wrk")
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="logging-") as name:
        try:
            failed = _measure(Path(name), options)
        except BenchmarkFailed as failure:
            sys.exit(f"error: {failure}")
    return 1 if failed else 0


def _measure(directory: Path, options: argparse.Namespace) -> int:
    if options.expired:
        return _measure_retention(directory, options)
    failed = 0
    _say(f"{options.workers} worker(s), {CLIENTS} clients, synchronous=FULL, in {directory}")
    _say("")
    _say("| logged | rows/s | requests/s | p50 ms | p99 ms | max ms | /ready p99 | max | failed |")
    _say("|---|---|---|---|---|---|---|---|---|")
    for what, batch, ids in (
        (f"batches of {BATCH}, ids sorted by time", BATCH, "sorted"),
        (f"batches of {BATCH}, random ids", BATCH, "random"),
        ("single predictions", 1, "sorted"),
    ):
        with serve(directory / "fresh", options.workers) as server:
            logged = _log(server.url, batch=batch, ids=ids, seconds=options.seconds)
        shutil.rmtree(directory / "fresh")
        failed += _print_logged(what, logged)
    if options.rows:
        failed += _measure_full(directory / "full", options)
    return failed


def _measure_retention(directory: Path, options: argparse.Namespace) -> int:
    """Log single predictions while a database of expired ones is pruned."""
    path = directory / "predictions.db"
    seconds, size = _fill(path, options.expired, devices=options.devices)
    _say(f"{options.expired:,} rows ({size / 1e6:.0f} MB) were written in {seconds:.0f} s.")
    _say("")
    _say("| logged | rows/s | requests/s | p50 ms | p99 ms | max ms | /ready p99 | max | failed |")
    _say("|---|---|---|---|---|---|---|---|---|")
    failed = 0
    for what, settings in (("nothing is pruned", {}), ("pruned", {"RETENTION_DAYS": "1"})):
        with serve(directory, options.workers, settings=settings) as server:
            before = _rows(path)
            logged = _log(server.url, batch=1, ids="sorted", seconds=options.seconds)
            failed += _print_logged(f"single predictions, {what}", logged)
            if not settings:
                _say_reads(server.url, [STATS_PATH])
            else:
                _say(f"{before - _rows(path):,} fewer rows than before it.")
    return failed


def _rows(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])


def _say_reads(url: str, paths: Iterable[str]) -> None:
    _say("")
    _say("| read | answer | p50 ms | p99 ms | max ms |")
    _say("|---|---|---|---|---|")
    for path in paths:
        _say(_read(url, path))


def _measure_full(directory: Path, options: argparse.Namespace) -> int:
    directory.mkdir()
    seconds, size = _fill(directory / "predictions.db", options.rows, devices=options.devices)
    rows = f"{options.rows:,} rows"
    with serve(directory, options.workers) as server:
        failed = 0
        for what, ids in (("ids sorted by time", "sorted"), ("random ids", "random")):
            logged = _log(server.url, batch=BATCH, ids=ids, seconds=options.seconds)
            failed += _print_logged(f"batches of {BATCH} to {rows}, {what}", logged)
        _say("")
        _say(f"{rows} ({size / 1e9:.1f} GB) were written in {seconds:.0f} s.")
        _say_reads(server.url, _reads(options.rows))
    return failed


def _reads(rows: int) -> Iterator[str]:
    middle = _FIRST_SECOND + rows / 2
    yield STATS_PATH
    for query in (
        "limit=100",
        "limit=1000",
        f"limit=100&before={middle}",
        "limit=100&edge_device_id=edge-7",
        f"limit=100&edge_device_id=edge-7&before={middle}",
        "limit=100&defect_only=true",
        f"limit=100&defect_only=true&edge_device_id=edge-7&before={middle}",
    ):
        yield f"{PREDICTIONS_PATH}?{query}"


def _read(url: str, path: str, *, times: int = 100) -> str:
    latencies = []
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
        for _ in range(times):
            started = time.perf_counter()
            answer = client.get(path)
            latencies.append((time.perf_counter() - started) * 1000)
            if answer.status_code != 200:
                raise BenchmarkFailed(f"{path} was answered {answer.status_code}: {answer.text}")
    return (
        f"| `{path}` | {len(answer.content) / 1000:.0f} kB | {percentile(latencies, 0.5):.1f}"
        f" | {percentile(latencies, 0.99):.1f} | {max(latencies):.1f} |"
    )


def _fill(path: Path, rows: int, *, devices: int) -> tuple[float, int]:
    """Write so many predictions, a second apart, and return the time it took and the bytes."""
    started = time.perf_counter()
    database = SqliteDatabase(path, busy_timeout_seconds=5.0)
    database.open()
    for first in range(0, rows, _FILL_BATCH):
        numbers = range(first, min(first + _FILL_BATCH, rows))
        database.write([[_row(number, devices) for number in numbers]])
    database.close()
    return time.perf_counter() - started, path.stat().st_size


def _row(number: int, devices: int) -> StoredPrediction:
    return StoredPrediction(
        prediction_id=f"{number:016x}{hash((number, 1)) & 0xFFFFFFFFFFFFFFFF:016x}",
        image_id=f"line-4/image-{number:08d}.png",
        timestamp=_FIRST_SECOND + number,
        received_at=_FIRST_SECOND + number + 0.5,
        sent_at=_FIRST_SECOND + number + 0.25,
        edge_device_id=f"edge-{number % devices}",
        model_name="steel-defects",
        model_version=str(1 + number * 10 // 10_000_000),
        inference_time_ms=2.418,
        defect_detected=number % 7 == 0,
        detections=Raw(
            b'[{"class":"scratch","confidence":0.934512,"bbox":null,"uncertain":false}]'
        ),
        confidence_scores=Raw(b"[0.934512,0.04,0.02,0.005488]"),
        processing_notes=None,
        request_id=f"{number:032x}",
    )


def serve(
    directory: Path,
    workers: int,
    *,
    probe_port: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Start the logging service with its database in the directory.

    Raises BenchmarkFailed where it does not get ready.
    """
    directory.mkdir(exist_ok=True)
    (directory / "home").mkdir(exist_ok=True)
    port = free_port()
    server = Server(
        [
            *(sys.executable, "-m", "bentoml", "serve", TARGET),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        port=port,
        log=directory / "server.log",
        environment=clean_environment(
            BENTOML_DO_NOT_TRACK="True",
            BENTOML_HOME=str(directory / "home"),
            DATABASE_PATH=str(directory / "predictions.db"),
            DRAIN_SECONDS="0",
            LOG_LEVEL="WARNING",
            WORKERS=str(workers),
            HOST="127.0.0.1",
            PROBE_PORT=str(probe_port),
            **(settings or {}),
        ),
    )
    try:
        server.wait_until_answers(READY_PATH)
    except StepError as failure:
        server.stop()
        raise BenchmarkFailed(str(failure)) from failure
    return server


def _log(url: str, *, batch: int, ids: str, seconds: int) -> Logged:
    found: list[dict[str, float]] = []

    def drive() -> None:
        command = ["wrk", "--threads", "1", "--connections", str(CLIENTS), "--latency"]
        command += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(_SCRIPT)]
        command += [url + LOG_PATH, "--", str(batch), ids, f"{time.time_ns() & 0xFFFFFFFF:08x}"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.extend(json.loads(line) for line in out.splitlines() if line.startswith("{"))

    ready = summarize(probe(url, READY_PATH, drive))
    if not found:
        raise BenchmarkFailed("wrk told nothing")
    result = found[-1]
    rate = (result["requests"] - result["failed"]) / (result["duration_us"] / 1e6)
    return Logged(
        rows_per_second=rate * batch,
        requests_per_second=rate,
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        max_ms=result["max_us"] / 1000,
        failed=int(result["failed"]) + ready.failed,
        ready=ready,
    )


def _print_logged(what: str, logged: Logged) -> int:
    _say(
        f"| {what} | {logged.rows_per_second:,.0f} | {logged.requests_per_second:,.0f}"
        f" | {logged.p50_ms:.1f} | {logged.p99_ms:.1f} | {logged.max_ms:.1f}"
        f" | {logged.ready.p99_ms:.1f} | {logged.ready.max_ms:.1f} | {logged.failed} |"
    )
    return logged.failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the filled database")
    parser.add_argument("--devices", type=int, default=DEVICES, help="that these rows are of")
    parser.add_argument(
        "--expired", type=int, default=0, help="instead, prune so many rows while clients log"
    )
    parser.add_argument("--seconds", type=int, default=10, help="each load lasts")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the service")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
