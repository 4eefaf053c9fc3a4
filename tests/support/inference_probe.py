"""The inference service's probe process without its workers: the real one, on a state of ours."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bentos.inference.settings import InferenceSettings
from bentos.inference.state import MODEL, InferenceState, inference_probes
from bentos.process.probe_process import ProbeProcess
from local import fetch
from tests.support.servers import free_port, wait_until


@dataclass(frozen=True)
class InferenceStandIn:
    """A probe process and the state that it reads, which the test writes as a worker would."""

    process: ProbeProcess
    state: InferenceState
    url: str

    def serve(self, version: str = "3") -> None:
        """Say what a worker says that serves a model."""
        about = {"name": "steel-defects", "stage": "production", "version": version}
        self.state.write_text(MODEL, about)
        self.state.model_since.set(time.time() - 7_300)
        self.state.mlflow_checked_at.set(time.monotonic())
        for gauge in (self.state.serving, self.state.model_loaded, self.state.mlflow_accessible):
            gauge.set(1)
        wait_until(lambda: self.ready()["status"] == "ready", "it is ready")

    def ready(self) -> dict[str, object]:
        """Return what `/ready` answers."""
        return dict(fetch.get(f"{self.url}/ready").json())


@contextmanager
def inference_stand_in(directory: Path) -> Iterator[InferenceStandIn]:
    """Start the probe process of an inference service that serves nothing yet."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # Its worker is the test, which does not beat and asks no registry.
    settings = InferenceSettings(
        host="127.0.0.1", probe_port=port, stall_seconds=3_600.0, model_poll_seconds=3_600.0
    )
    plan = inference_probes(settings, directory)
    process = ProbeProcess(plan)
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(url), "the probe process answers")
        state = plan.probes(worker=1).state
        assert isinstance(state, InferenceState)
        yield InferenceStandIn(process, state, url)
    finally:
        process.stop()


def _answers(url: str) -> bool:
    try:
        return fetch.get(f"{url}/health").status_code in (200, 500)
    except httpx.TransportError:
        return False
