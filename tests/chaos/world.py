"""Both services with a proxy between them, on disks of their own, and what stands in the end."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

from bentos.inference.delivery.outbox import Outbox, outboxes_in
from tests.support.inference import metric, start_inference
from tests.support.models import COLOURS, ModelStore
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port, start_service

LOGGING_TARGET = "bentos.logging.service:LoggingService"
_MODEL_PROCESS = "bentos.inference.model"
_SETTLE_SECONDS = 300.0
# How late an answer of the logging service is where the network delays it.
DELAY_SECONDS = 4.0


class World:
    """The services as `bentoml serve` starts them; what ends is started again on what it left.

    `environment` has further settings of both, `tracking_uri` the registry where it is not a copy
    of the store. Both may be changed before a start.
    """

    def __init__(
        self,
        directory: Path,
        store: ModelStore,
        *,
        outboxes: Path,
        databases: Path,
        model: str = COLOURS,
        tracking_uri: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.environment = {"LOG_LEVEL": "WARNING", **(environment or {})}
        self._model = model
        self.outboxes = outboxes
        self.database = databases / "predictions.db"
        self._tracking_uri = tracking_uri or store.copy(directory).tracking_uri
        self._ports = {"inference": free_port(), "logging": free_port()}
        self._probe_ports = {"inference": free_port(), "logging": free_port()}
        self.proxy = Proxy(self._ports["logging"], delay_seconds=DELAY_SECONDS)
        self.logging = self.start_logging()
        self.inference = self.start_inference()

    def start_inference(self) -> Server:
        """Start the inference service on the outbox that is there."""
        self.inference = start_inference(
            self.directory,
            self._tracking_uri,
            model=self._model,
            port=self._ports["inference"],
            env={
                "LOGGING_URL": self.proxy.url,
                "OUTBOX_PATH": str(self.outboxes),
                "PROBE_PORT": str(self._probe_ports["inference"]),
                **self.environment,
            },
        )
        return self.inference

    def start_logging(self) -> Server:
        """Start the logging service on the database that is there."""
        self.logging = start_service(
            LOGGING_TARGET,
            self.directory,
            port=self._ports["logging"],
            env={
                "DATABASE_PATH": str(self.database),
                "PROBE_PORT": str(self._probe_ports["logging"]),
                **self.environment,
            },
        )
        return self.logging

    def wait_until_ready(self) -> None:
        """Return as soon as both are ready."""
        self.logging.wait_until_ready()
        self.inference.wait_until_ready()

    def kill_worker(self) -> None:
        """Kill a worker of the inference service; BentoML starts it again."""
        self.inference.wait_until(self.inference.workers, "a worker")
        self._kill(self.inference.workers())

    def kill_model_process(self) -> None:
        """Kill the process with the model; its worker starts it again."""
        self.inference.wait_until(self.model_processes, "a model process")
        self._kill(self.model_processes())

    def model_processes(self) -> list[psutil.Process]:
        """Return the processes with a model that run."""
        children = psutil.Process(self.inference.process.pid).children(recursive=True)
        return [one for one in children if _MODEL_PROCESS in _command(one)]

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
        assert processes, "there is nothing to kill"
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
