"""Servers that take an MLflow model as it is: `mlflow models serve` and MLServer."""

import json
import os

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import (
    Call,
    Found,
    Launch,
    Peer,
    Site,
    dump,
    flat,
    found_in_logits,
    nested,
)

_MODEL = "steel"


class MlflowServe(Peer):
    """MLflow's own scoring server with one worker."""

    key = "mlflow"
    title = "mlflow models serve"
    health_path = ready_path = "/health"

    def launch(self, site: Site) -> Launch:
        """Serve the model's files."""
        command = [site.peers_command("mlflow"), "models", "serve", "-m", str(site.model.files)]
        command += ["-h", "127.0.0.1", "-p", str(site.port), "--workers", "1"]
        command += ["--env-manager", "local"]
        # It runs the `uvicorn` of the path, which takes its options from these variables.
        path = f"{site.peers_python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        options = {"UVICORN_LOG_LEVEL": "warning", "UVICORN_ACCESS_LOG": "false"}
        return Launch(command, {"PATH": path, **options})

    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """A batch of one nested input."""
        return Call("/invocations", dump({"inputs": [nested(pixels)]}))

    def read(self, body: bytes) -> Found:
        """Read the logits of the first row."""
        return found_in_logits(json.loads(body)["predictions"][0])


class MlServer(Peer):
    """MLServer with its MLflow runtime and one process for the model."""

    key = "mlserver"
    title = "MLServer + mlserver-mlflow"
    health_path = "/v2/health/live"
    ready_path = "/v2/health/ready"

    def launch(self, site: Site) -> Launch:
        """Write both settings files and start it on them."""
        folder = site.scratch / _MODEL
        folder.mkdir(parents=True, exist_ok=True)
        model = {
            "name": _MODEL,
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "parameters": {"uri": str(site.model.files)},
        }
        logging = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "root": {"handlers": ["console"], "level": "WARNING"},
            "loggers": {
                name: {"level": "WARNING"} for name in ("mlserver", "uvicorn", "uvicorn.access")
            },
        }
        (folder / "logging.json").write_text(json.dumps(logging))
        server = {
            "host": "127.0.0.1",
            "http_port": site.ports[0],
            "grpc_port": site.ports[1],
            "metrics_port": site.ports[2],
            "metrics_dir": str(folder / "metrics"),
            "environments_dir": str(folder / "environments"),
            "parallel_workers": 1,
            "debug": False,
            "logging_settings": str(folder / "logging.json"),
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        (folder / "settings.json").write_text(json.dumps(server))
        return Launch([site.peers_command("mlserver"), "start", str(folder)])

    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """One tensor of the open inference protocol."""
        tensor = {
            "name": "input-0",
            "shape": [1, *pixels.shape],
            "datatype": "FP32",
            "data": flat(pixels),
        }
        return Call(f"/v2/models/{_MODEL}/infer", dump({"inputs": [tensor]}))

    def read(self, body: bytes) -> Found:
        """Read the logits."""
        return found_in_logits(json.loads(body)["outputs"][0]["data"])
