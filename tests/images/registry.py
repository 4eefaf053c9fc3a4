"""An MLflow server that containers reach, on the machine's address in their network."""

import sys
from pathlib import Path
from typing import Self

from local import fetch
from local.process import StepError, clean_environment, wait_until
from tests.support.models import ModelStore
from tests.support.servers import Server

# The port that the rendered manifests' tracking URI names.
PORT = 5000


class NetworkRegistry:
    """Serves a store's registry and artifacts at an address; its hosts are also names of it."""

    def __init__(self, store: ModelStore, artifacts: Path, *, address: str, host: str) -> None:
        self.tracking_uri = f"http://{address}:{PORT}"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", store.tracking_uri]
        command += ["--artifacts-destination", str(artifacts)]
        command += ["--host", address, "--port", str(PORT)]
        command += ["--allowed-hosts", f"{address}:{PORT},{host}:{PORT}"]
        environment = clean_environment(
            MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"
        )
        log = store.directory / "mlflow.log"
        self._server = Server(command, port=PORT, environment=environment, log_path=log)

    def __enter__(self) -> Self:
        try:
            wait_until(
                lambda: fetch.get(f"{self.tracking_uri}/health").is_success,
                "MLflow answers",
                describe=lambda: self._server.log[-3_000:],
            )
        except StepError:
            self._server.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
