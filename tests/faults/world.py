"""Both services, MLflow behind a proxy, Prometheus on the shipped rules, and clients' requests."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bentos.inference.delivery.outbox import outbox_path
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.chaos.world import World
from tests.faults.injectors import faketime_library, replace
from tests.monitoring.live_alerts import Alerting, alerting
from tests.support.disks import small_disk
from tests.support.mlflow_server import MlflowServer
from tests.support.models import MODEL_FAULT_FILE, SWITCHED, ModelStore
from tests.support.proxy import Proxy
from tests.support.servers import Server

INPUTS = ((0.0, 0.0),)
TOKENS = ("the-token", "another-token")
# Longer than the logging service waits for a lock; a check of MLflow takes two answers.
MLFLOW_DELAY_SECONDS = 1.5


class FaultWorld(World):
    """The world of chaos with what else can be broken: the registry, the model, tokens, clocks."""

    def __init__(
        self,
        directory: Path,
        store: ModelStore,
        mlflow: MlflowServer,
        *,
        outboxes: Path,
        databases: Path,
    ) -> None:
        self.mlflow = mlflow
        self.mlflow_proxy = Proxy(mlflow.port, delay_seconds=MLFLOW_DELAY_SECONDS)
        self.artifacts = store.artifacts
        self.model_mode = directory / "mode"
        self.model_mode.write_text("")
        self.tokens = directory / "tokens"
        self.tokens.write_text(TOKENS[0])
        self.clock = directory / "clock"
        self.clock.write_text("+0")
        sent = directory / "token"
        sent.write_text(TOKENS[0])
        environment = {
            # As they are shipped; tests look more often.
            "MODEL_POLL_SECONDS": "5",
            "DRAIN_SECONDS": "3",
            MODEL_FAULT_FILE: str(self.model_mode),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "LOGGING_TOKENS_FILE": str(self.tokens),
            "LOGGING_TOKEN_FILE": str(sent),
        }
        super().__init__(
            directory,
            store,
            outboxes=outboxes,
            databases=databases,
            model=SWITCHED,
            tracking_uri=self.mlflow_proxy.url,
            environment=environment,
        )

    @property
    def probe_urls(self) -> Mapping[str, str]:
        """Where each service's probe process answers."""
        return {
            "inference": f"http://127.0.0.1:{self._probe_ports['inference']}",
            "logging": f"http://127.0.0.1:{self._probe_ports['logging']}",
        }

    @property
    def outbox(self) -> Path:
        """The outbox of the one worker."""
        return outbox_path(self.outboxes, 1)

    @property
    def registry(self) -> Any:
        """A client of MLflow that goes around the proxy."""
        from mlflow import MlflowClient

        return MlflowClient(self.mlflow.tracking_uri, self.mlflow.tracking_uri)

    def model_files(self, version: str) -> Path:
        """Return the folder with the files of a version of the model."""
        uri: str = self.registry.get_model_version_download_uri(SWITCHED, version)
        return self.artifacts / uri.partition("mlflow-artifacts:/")[2]

    def server(self, service: str) -> Server:
        """Return a service by its name."""
        return self.inference if service == "inference" else self.logging

    def worker(self, service: str) -> psutil.Process:
        """Return the one worker of a service."""
        (worker,) = self.server(service).workers()
        return worker

    def model_process(self) -> psutil.Process:
        """Return the one process with a model."""
        (process,) = self.model_processes()
        return process

    def processes(self) -> dict[str, set[int]]:
        """Return the ids of what must not be started again without need, by what they are."""
        return {
            "inference service": {self.inference.pid},
            "logging service": {self.logging.pid},
            "inference worker": {one.pid for one in self.inference.workers()},
            "logging worker": {one.pid for one in self.logging.workers()},
            "model process": {one.pid for one in self.model_processes()},
        }

    def with_clocks(self) -> None:
        """Start both services anew, with clocks that read the file `clock`."""
        self.environment |= {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        for server in (self.inference, self.logging):
            server.stop()
            server.kill()
        self.start_logging()
        self.start_inference()
        self.wait_until_ready()

    @contextmanager
    def clock_off(self, seconds: int) -> Iterator[None]:
        """Let the clocks of both services be wrong meanwhile."""
        replace(self.clock, f"{seconds:+d}".encode())
        try:
            for server in (self.inference, self.logging):
                server.wait_until(partial(self._is_off, server, seconds), "its clock is wrong")
            yield
        finally:
            replace(self.clock, b"+0")

    def _is_off(self, server: Server, seconds: int) -> bool:
        told = datetime.fromisoformat(server.get("/health").json()["timestamp"]).timestamp()
        return abs(told - time.time() - seconds) < 60

    def close(self) -> None:
        """End everything."""
        super().close()
        self.mlflow_proxy.close()


@contextmanager
def fault_world(directory: Path, store: ModelStore) -> Iterator[tuple[FaultWorld, Alerting]]:
    """Start everything, each service with a small disk of its own, and wait until it is ready."""
    with ExitStack() as stack:
        outboxes = stack.enter_context(small_disk(directory / "outboxes", size="64M"))
        databases = stack.enter_context(small_disk(directory / "databases", size="256M"))
        served = store.copy_to_serve(directory / "mlflow")
        # Files of models are deleted and damaged here.
        shutil.copytree(store.artifacts, served.artifacts)
        mlflow = stack.enter_context(MlflowServer(served, served.artifacts))
        mlflow.start()
        world = FaultWorld(directory, served, mlflow, outboxes=outboxes, databases=databases)
        stack.callback(world.close)
        targets = {
            INFERENCE_SERVICE: world.probe_urls["inference"].removeprefix("http://"),
            LOGGING_SERVICE: world.probe_urls["logging"].removeprefix("http://"),
        }
        alerts = stack.enter_context(alerting(directory, targets))
        world.wait_until_ready()
        alerts.wait_scraped(*targets)
        yield world, alerts
