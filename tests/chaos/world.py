"""Both services with a proxy between them, on disks of their own, and what stands in the end."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from bentos.inference.delivery.outbox import Outbox, outboxes_in
from tests.chaos.proxy import Proxy
from tests.support.inference import metric, start_inference
from tests.support.models import ModelStore
from tests.support.servers import Server, free_port, start_service

LOGGING_TARGET = "bentos.logging.service:LoggingService"
_MODEL_PROCESS = "bentos.inference.model_process"
_SETTLE_SECONDS = 300.0


class World:
    """The services as `bentoml serve` starts them; what ends is started again on what it left."""

    def __init__(self, directory: Path, store: ModelStore, *, outboxes: Path, databases: Path):
        self.directory = directory
        self.outboxes = outboxes
        self.database = databases / "predictions.db"
        self._tracking_uri = store.copy(directory).tracking_uri
        self._ports = {"inference": free_port(), "logging": free_port()}
        self.proxy = Proxy(self._ports["logging"])
        self.logging = self.start_logging()
        self.inference = self.start_inference()

    def start_inference(self) -> Server:
        """Start the inference service on the outbox that is there."""
        self.inference = start_inference(
            self.directory,
            self._tracking_uri,
            port=self._ports["inference"],
            env={
                "LOGGING_URL": f"http://127.0.0.1:{self.proxy.port}",
                "OUTBOX_PATH": str(self.outboxes),
                "LOG_LEVEL": "WARNING",
            },
        )
        return self.inference

    def start_logging(self) -> Server:
        """Start the logging service on the database that is there."""
        self.logging = start_service(
            LOGGING_TARGET,
            self.directory,
            port=self._ports["logging"],
            env={"DATABASE_PATH": str(self.database), "LOG_LEVEL": "WARNING"},
        )
        return self.logging

    def wait_until_ready(self) -> None:
        """Return as soon as both are ready."""
        self.logging.wait_until_ready()
        self.inference.wait_until_ready()

    def kill_worker(self) -> None:
        """Kill a worker of the inference service; BentoML starts it again."""
        self._kill(self.inference.workers())

    def kill_model_process(self) -> None:
        """Kill the process with the model; its worker starts it again."""
        children = psutil.Process(self.inference.process.pid).children(recursive=True)
        self._kill([one for one in children if _MODEL_PROCESS in " ".join(_command(one))])

    def settle(self) -> None:
        """Return when everything that waits has been delivered."""
        self.proxy.become("pass")
        self.wait_until_ready()
        self.inference.wait_until(
            lambda: not any(self._waiting()), "empty outboxes", seconds=_SETTLE_SECONDS
        )

    def stored(self) -> list[str]:
        """Return the ids of all rows of the database, as often as each stands there."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT prediction_id FROM predictions").fetchall()
        return [str(row[0]) for row in rows]

    def integrity(self) -> str:
        """Return what SQLite finds wrong with the database, `ok` where that is nothing."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return str(connection.execute("PRAGMA integrity_check").fetchone()[0])

    def total_of_stats(self) -> int:
        """Return how many predictions the logging service says that it has."""
        return int(self.logging.get("/stats").json()["total_predictions"])

    def counted(self, name: str) -> int:
        """Return a metric of either service, by its name's first word."""
        server = self.inference if name.startswith("inference") else self.logging
        return int(metric(server, name))

    def close(self) -> None:
        """End everything."""
        self.inference.kill()
        self.logging.kill()
        self.proxy.close()

    def _waiting(self) -> Iterator[int]:
        for path in outboxes_in(self.outboxes).values():
            with closing(Outbox(path, create=False, log_bytes=0)) as outbox:
                yield outbox.count().waiting

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Take the last byte of a directory's disk, again and again, until the block ends."""
    path = directory / "filler"
    try:
        with suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4_096))
        yield
    finally:
        path.unlink(missing_ok=True)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
