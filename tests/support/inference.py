"""The inference service as it is deployed, for tests: started, asked, and read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.metrics import total
from tests.support.models import COLOUR_SHAPE, COLOURS
from tests.support.servers import Server, start_service

TARGET = "bentos.inference.service:InferenceService"

_CHANNELS, _HEIGHT, _WIDTH = COLOUR_SHAPE


def start_inference(
    directory: Path,
    tracking_uri: str,
    *,
    model: str = COLOURS,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Server:
    """Start the service for a registered model; its outbox lies in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MODEL_NAME": model,
        "MODEL_POLL_SECONDS": "0.2",
        "MODEL_SPREAD_SECONDS": "0",
        "OUTBOX_PATH": str(directory / "outbox"),
    }
    return start_service(TARGET, directory, env={**settings, **(env or {})}, port=port)


def channel(index: int) -> list[float]:
    """Return an input of the colour model that has the class of this index."""
    pixels = _HEIGHT * _WIDTH
    return [float(at // pixels == index) for at in range(_CHANNELS * pixels)]


def predict(server: Server, data: Sequence[float], **options: Any) -> httpx.Response:
    """Ask for a prediction."""
    return server.post("/predict", json={"data": list(data)}, **options)


def ready(server: Server) -> dict[str, Any]:
    """Return the body of `/ready`, whatever its status."""
    content: dict[str, Any] = server.get("/ready").json()
    return content


def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels; 0.0 where there is none."""
    return total(server.get("/metrics").text, name, **labels)
