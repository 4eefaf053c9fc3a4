"""Outboxes in tests: a delivery on an event loop of its own, and files read from outside."""

import asyncio
import sqlite3
from collections.abc import Coroutine, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import orjson

from bentos.inference.delivery import Delivery, Destination, Limits
from bentos.inference.delivery.outbox import files_to_adopt, outbox_path
from bentos.inference.state import InferenceState
from tests.support.event_loop import EventLoop

T = TypeVar("T")
DEVICE = "edge-7"


def rows_in(path: Path) -> int | None:
    """Return how many predictions wait in the file; None where it cannot be read just now."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
    except sqlite3.OperationalError:
        return None


def ids_in(path: Path, table: str = "outbox") -> list[str]:
    """Return the prediction ids of a table, in their order."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(f"SELECT prediction FROM {table} ORDER BY id").fetchall()
    return [orjson.loads(row[0])["prediction_id"] for row in rows]


class Worker:
    """A worker's delivery, which may be stopped and started again as a new process would be."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        states: Path | None = None,
        worker: int = 1,
        workers: int = 1,
    ) -> None:
        self.directory = directory
        self.url = url
        self.worker = worker
        self.workers = workers
        self.path = outbox_path(directory, worker)
        states = (states or directory) / f"state-{worker}"
        states.mkdir(parents=True, exist_ok=True)
        self.state = InferenceState(states, labels={"model": "m", "stage": "s"})
        self.delivery: Delivery | None = None
        self.made = 0
        self._loop = EventLoop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the delivery's event loop."""
        return self._loop.run(work)

    def start(
        self,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        timeout_seconds: float = 10.0,
        max_rows: int = 100_000,
        max_bytes: int = 1 << 30,
        **limits: Any,
    ) -> None:
        """Start it on what an earlier one has left."""
        self.delivery = Delivery(
            self.path,
            Limits(max_rows=max_rows, max_bytes=max_bytes, **limits),
            Destination(self.url, DEVICE, token, token_file, timeout_seconds),
            self.state,
            adopt=files_to_adopt(self.directory, worker=self.worker, workers=self.workers),
        )

        async def start() -> None:
            assert self.delivery is not None
            self.delivery.start()

        self._loop.run(start())

    def predict(self, count: int = 1, **fields: object) -> list[str]:
        """Put predictions and return their ids, once all are acknowledged."""
        made = [f"{self.worker}-{number:06}" for number in range(self.made, self.made + count)]
        self.made += count
        self.put([{"prediction_id": one, **fields} for one in made])
        return made

    def put(self, records: Sequence[dict[str, object]], *, seconds: float = 60.0) -> None:
        """Put predictions, all at once; raises what the first refused one raised."""

        async def put() -> None:
            assert self.delivery is not None
            await asyncio.gather(*(self.delivery.put(orjson.dumps(one)) for one in records))

        self._loop.run(put(), seconds=seconds)

    def stop(self, seconds: float = 10.0) -> None:
        """Stop it in order."""
        if self.delivery is not None:
            self._loop.run(self.delivery.stop(seconds))
            self.delivery = None

    def close(self) -> None:
        """Stop it, and the event loop."""
        self.stop(0.1)
        self._loop.close()

    def count(self, name: str) -> int:
        """Return a value of the state: `delivered`, `backlog` and so on."""
        return int(getattr(self.state, f"log_{name}").value)
