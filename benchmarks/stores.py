"""The two stores side by side: `python -m benchmarks.stores --url postgresql://...`.

The database of the URL has to be empty. Processes stand for replicas: each has a store of its own
and 16 clients that hand over batches, or single predictions, and wait for each commit. SQLite has
one writer, so it is measured with one. Then as many rows are added to both, and what `/stats` and
`/predictions` read is timed. HTTP is left out: it is the same before both.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psycopg
from msgspec import Raw

from bentos.logging.state import LoggingState
from bentos.logging.store import (
    PageQuery,
    StatsQuery,
    Store,
    StoredPrediction,
)
from bentos.logging.store.database import Database
from bentos.logging.store.postgres import PostgresDatabase
from bentos.logging.store.sqlite import SqliteDatabase

CLIENTS = 16
BATCH = 100
DEVICES = 200
_FILL_BATCH = 10_000
REPLICAS = (1, 2, 4)
_READS = 30
_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Written:
    """What replicas stored together in how many seconds."""

    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the two tables."""
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="stores-", dir=options.folder))
    path = str(folder / "predictions.db")
    try:
        _say("| store | replicas | batches of 100, rows/s | singles, rows/s |")
        _say("|---|--:|--:|--:|")
        for where, replicas in ((path, 1), *((options.url, number) for number in REPLICAS)):
            rates = [
                write(where, folder, replicas=replicas, size=size, seconds=options.seconds).rate
                for size in (BATCH, 1)
            ]
            _say(f"| {_name(where)} | {replicas} | {rates[0]:,.0f} | {rates[1]:,.0f} |")
        _say("")
        _say("| store | rows | `/stats`, ms | `/predictions`, ms | of a device | defects |")
        _say("|---|--:|--:|--:|--:|--:|")
        for where in (path, options.url):
            fill(where, options.rows)
            rows, times = asyncio.run(_read(where, folder))
            _say(f"| {_name(where)} | {rows:,} | {' | '.join(f'{one:.1f}' for one in times)} |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def write(where: str, folder: Path, *, replicas: int, size: int, seconds: float) -> Written:
    """Store batches of a size from replicas at once."""
    with ProcessPoolExecutor(replicas, mp_context=get_context("spawn")) as processes:
        # Each waits for this moment, when all of them are connected.
        start = time.time() + 4.0
        runs = [
            processes.submit(_replica, where, folder / f"{n}-{size}", start, seconds, size)
            for n in range(replicas)
        ]
        return Written(sum(run.result() for run in runs), seconds)


def fill(where: str, rows: int) -> None:
    """Store so many rows more, without a queue or clients."""
    database = _database(where)
    database.open()
    for first in range(0, rows, _FILL_BATCH):
        numbers = range(first, min(first + _FILL_BATCH, rows))
        database.write([[_row(f"filled-{number}") for number in numbers]])
    database.close()
    if not _is_file(where):
        # The server would do it by itself, at some time during the reads.
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE) predictions")


def _replica(where: str, folder: Path, start: float, seconds: float, size: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_store(where, folder, start, seconds, size))


async def _store(where: str, folder: Path, start: float, seconds: float, size: int) -> int:
    store = await _opened(where, folder)
    numbers = count()
    prefix = f"{os.getpid()}-{time.monotonic_ns()}"
    await asyncio.sleep(max(start - time.time(), 0))
    end = time.monotonic() + seconds
    stored = 0

    async def client() -> None:
        nonlocal stored
        while time.monotonic() < end:
            done = await store.store([_row(f"{prefix}-{next(numbers)}") for _ in range(size)])
            # What is committed later is not of this time.
            stored += done.predictions if time.monotonic() < end else 0

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await store.stop(_WAIT_SECONDS)
    return stored


async def _read(where: str, folder: Path) -> tuple[int, list[float]]:
    """Return the number of rows, and the median times in ms of what the two routes read."""
    store = await _opened(where, folder)
    rows = json.loads(await store.stats(StatsQuery()))["total_predictions"]
    times = []
    for query in (
        StatsQuery(),
        PageQuery(),
        PageQuery(edge_device_id="line-17"),
        PageQuery(defect_only=True),
    ):
        taken = []
        for _ in range(_READS):
            started = time.perf_counter()
            await (store.stats(query) if isinstance(query, StatsQuery) else store.page(query))
            taken.append((time.perf_counter() - started) * 1_000)
        times.append(median(taken))
    await store.stop(_WAIT_SECONDS)
    return rows, times


async def _opened(where: str, folder: Path) -> Store:
    store = Store(
        _database(where),
        LoggingState(folder, worker=1, workers=1),
        queue_rows=100_000,
        query_timeout_seconds=60.0,
    )
    store.start()
    while store.unavailable() is not None:  # noqa: ASYNC110 - the store has no event for it
        await asyncio.sleep(0.02)
    return store


def _database(where: str) -> Database:
    if _is_file(where):
        return SqliteDatabase(Path(where), busy_timeout_seconds=10.0)
    return PostgresDatabase(where, busy_timeout_seconds=10.0)


def _row(prediction_id: str) -> StoredPrediction:
    now = time.time()
    return StoredPrediction(
        prediction_id=prediction_id,
        image_id=f"{prediction_id}.png",
        timestamp=now,
        received_at=now,
        sent_at=now,
        edge_device_id=f"line-{hash(prediction_id) % DEVICES}",
        model_name="steel-defects",
        model_version="3",
        inference_time_ms=2.5,
        defect_detected=prediction_id.endswith("7"),
        detections=Raw(b'[{"class":"pit","confidence":0.9,"bbox":null,"uncertain":false}]'),
        confidence_scores=Raw(b"[0.9,0.02,0.02,0.02,0.02,0.02]"),
    )


def _is_file(where: str) -> bool:
    return "://" not in where


def _name(where: str) -> str:
    return "SQLite" if _is_file(where) else "PostgreSQL"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--url", required=True, help="an empty PostgreSQL database")
    parser.add_argument("--rows", type=int, default=10_000_000, help="added to each")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--folder", type=Path, default=None, help="where the SQLite file goes")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
