"""This project's inference service."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Call, Launch, Peer, Site, dump, flat
from bentos.health.probes import HEALTH_PATH, READY_PATH
from bentos.inference.request import TENSOR
from bentos.inference.state import PREDICT_IMAGE_PATH, PREDICT_PATH

TARGET = "bentos.inference.service:InferenceService"
# A model load has to come soon after the alias moves, or few would fall into a measurement.
_POLL_SECONDS = "0.5"


def probe_url(site: Site) -> str:
    """Return where the probe process answers."""
    return f"http://127.0.0.1:{site.ports[1]}"


class ThisProject(Peer):
    """Some worker processes, on the CPU or on a GPU."""

    health_path = HEALTH_PATH
    ready_path = READY_PATH

    def __init__(self, *, workers: int = 1, device: str = "cpu") -> None:
        self._workers = workers
        self._device = device
        self.probed_further = workers == 1
        plural = "worker" if workers == 1 else "workers"
        self.key = f"this-project-{workers}" if device == "cpu" else f"this-project-{device}"
        self.title = f"this project, {workers} {plural}"
        if device != "cpu":
            self.title += f", {device}"

    def unavailable(self) -> str | None:
        """A GPU is not everywhere."""
        if self._device == "cpu":
            return None
        import torch

        return None if torch.cuda.is_available() else "no GPU"

    def launch(self, site: Site) -> Launch:
        """Serve the registered model as `make serve` does, without a logging service."""
        command = [str(site.python), "-m", "bentoml", "serve", TARGET]
        command += ["--host", "127.0.0.1", "--port", str(site.port)]
        return Launch(
            command,
            {
                "MLFLOW_TRACKING_URI": site.model.tracking_uri,
                "MODEL_NAME": site.model.name,
                "MODEL_STAGE": site.model.alias,
                "MODEL_POLL_SECONDS": _POLL_SECONDS,
                "MODEL_SPREAD_SECONDS": "0",
                "WORKERS": str(self._workers),
                "DEVICE": self._device,
                "TORCH_THREADS": "1",
                "DRAIN_SECONDS": "0",
                "LOG_LEVEL": "WARNING",
                "OUTBOX_PATH": str(site.scratch / "outbox"),
                "HOST": "127.0.0.1",
                "PROBE_PORT": str(site.ports[1]),
                "BENTOML_HOME": str(site.scratch / "bentoml"),
            },
        )

    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """A flat list of numbers."""
        return Call(PREDICT_PATH, dump({"data": flat(pixels)}))

    def binary_call(self, pixels: NDArray[np.float32]) -> Call:
        """Little-endian float32."""
        return Call(PREDICT_PATH, pixels.astype("<f4").tobytes(), TENSOR.decode())

    def image_call(self, file: bytes) -> Call:
        """The file as it is."""
        return Call(PREDICT_IMAGE_PATH, file, "image/png")
