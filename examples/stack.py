"""Both services on this machine, started with `bentoml serve` as a user would start them."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from bentos.health.probes import READY_PATH
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import load_settings
from local.process import HOST, ROOT, Program, Servers

DATA = ROOT / ".data"
READY_SECONDS = 120.0
STOP_SECONDS = 60.0


def inference_settings() -> InferenceSettings:
    """Return the inference service's settings; where none is named, it logs to the stack's own."""
    port = load_settings(LoggingSettings).logging_port
    os.environ.setdefault("LOGGING_URL", f"http://{HOST}:{port}")
    return load_settings(InferenceSettings)


class Stack:
    """The two services as child processes; leaving the `with` block stops them in order."""

    def __init__(self, *, log_folder: Path | None) -> None:
        inference, logging = inference_settings(), load_settings(LoggingSettings)
        # Without probe processes the services' own ports answer the same.
        port = inference.inference_port
        default = InferenceSettings.model_fields["probe_port"].default
        probes = port if os.environ.get("PROBE_PORT") == "0" else default
        self.logging = _service(
            "logging",
            logging.logging_port,
            {
                "INFERENCE_PROBE_URL": f"http://{HOST}:{probes}",
                "INFERENCE_DOCS_URL": f"http://{HOST}:{port}/docs",
                **({"EXPLAIN_URL": f"http://{HOST}:{port}"} if inference.explain else {}),
            },
        )
        self.inference = _service("inference", inference.inference_port, {})
        # The inference service stops first, so that it can still hand over what it predicted.
        self._servers = Servers(log_folder, stop_seconds=STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.stop()

    def start(self) -> None:
        """Start both; raises StepError where a port is taken."""
        self._servers.start(self.logging, self.inference)

    def wait_until_ready(
        self, report: Callable[[str], None], *, interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        """Return once both are ready, reporting why they are not as that changes.

        Raises StepError where one ended, was not ready in time, or the wait was interrupted.
        """
        self._servers.wait_until_ready(
            seconds=READY_SECONDS, report=report, interrupted=interrupted
        )

    def raise_if_ended(self) -> None:
        """Raise StepError where a service is no longer running."""
        self._servers.raise_if_ended()


def _service(kind: str, port: int, defaults: Mapping[str, str]) -> Program:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    # A home of its own, outside the checkout: BentoML empties a shared one's metrics at each
    # start and copies one inside the build context into itself.
    home = cache / "truthful-serving" / f"bentoml-{kind}-service-{port}"
    home.mkdir(parents=True, exist_ok=True)
    target = f"bentos.{kind}.service:{kind.capitalize()}Service"
    command = [sys.executable, "-m", "bentoml", "serve", target]
    environment = {
        "LOG_FORMAT": "plain",
        "DRAIN_SECONDS": "0",
        "HOST": HOST,
        **defaults,
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    if environment.get("PROBE_PORT") != "0":
        environment.pop("PROBE_PORT", None)  # one port cannot be both services'
    return Program(
        name=f"{kind}-service",
        command=[*command, "--host", HOST, "--port", str(port)],
        port=port,
        ready_path=READY_PATH,
        port_setting=f"{kind.upper()}_PORT",
        environment=environment,
    )
