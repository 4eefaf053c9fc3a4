"""A real MLflow server for tests, that may be stopped and started again on the same port."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from local import fetch
from local.process import START_SECONDS, clean_environment, free_port, wait_until
from tests.support.models import ModelStore
from tests.support.servers import Server


class MlflowServer:
    """Serves a store's registry and artifacts; it is down until `start`.

    `name` is another host that clients may call it by, at its port.
    """

    def __init__(
        self,
        store: ModelStore,
        artifacts: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        name: str = "",
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._host = host
        self._name = name
        self.port = port or free_port()
        self._server: Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def tracking_uri(self) -> str:
        """The same while it is down."""
        return f"http://{self._host}:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it answers."""
        if self._server is None:
            command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
            command += ["--backend-store-uri", self._store.tracking_uri]
            command += ["--artifacts-destination", str(self._artifacts)]
            command += ["--host", self._host, "--port", str(self.port)]
            if self._name:
                names = (f"{host}:{self.port}" for host in (self._host, self._name))
                command += ["--allowed-hosts", ",".join(names)]
            environment = clean_environment(
                MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"
            )
            self._server = Server(
                command,
                port=self.port,
                environment=environment,
                log_path=self._store.directory / "mlflow.log",
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return as soon as it answers."""
        server = self._server
        assert server is not None
        wait_until(
            lambda: fetch.get(f"{self.tracking_uri}/health").is_success,
            "MLflow answers",
            seconds=START_SECONDS,
            describe=lambda: server.log[-3_000:],
        )

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._server is not None:
            self._server.kill()
            self._server = None
