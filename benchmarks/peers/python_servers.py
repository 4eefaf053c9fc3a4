"""Servers written in a few lines of Python, as their documentation shows: see `apps`."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Call, Launch, Peer, Site, dump, flat

_APPS = "benchmarks.apps"


class _PredictServer(Peer):
    """A server that takes the flat list of this project's own route."""

    path = "/predict"

    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """A flat list of numbers."""
        return Call(self.path, dump({"data": flat(pixels)}))


class PlainFastApi(_PredictServer):
    """FastAPI under uvicorn with one worker."""

    key = "fastapi"
    title = "FastAPI, sync handler"
    health_path = ready_path = "/health"

    def launch(self, site: Site) -> Launch:
        """Run uvicorn."""
        command = [site.peers_command("uvicorn"), f"{_APPS}.fastapi_app:app", "--host", "127.0.0.1"]
        command += ["--port", str(site.port), "--log-level", "warning", "--no-access-log"]
        return Launch(command)


class StockBentoMl(_PredictServer):
    """BentoML with a typed API method; it needs the version this project is built on."""

    key = "bentoml"
    title = "BentoML, list[float]"
    health_path = "/livez"
    ready_path = "/readyz"

    def launch(self, site: Site) -> Launch:
        """Serve it from this project's environment."""
        command = [str(site.python), "-m", "bentoml", "serve", f"{_APPS}.bentoml_app:Stock"]
        command += ["--host", "127.0.0.1", "--port", str(site.port)]
        return Launch(command, {"BENTOML_HOME": str(site.scratch / "bentoml")})


class LitServe(_PredictServer):
    """LitServe with its process for the model."""

    key = "litserve"
    title = "LitServe, batches of 32"
    health_path = ready_path = "/health"

    def launch(self, site: Site) -> Launch:
        """Run the script."""
        command = [str(site.peers_python), "-m", f"{_APPS}.litserve_app", "--port", str(site.port)]
        return Launch(command)


class RayServe(_PredictServer):
    """Ray Serve: its own small cluster, an HTTP proxy and one replica."""

    key = "ray"
    title = "Ray Serve, batches of 32"
    path = "/"
    health_path = ready_path = "/-/healthz"

    def launch(self, site: Site) -> Launch:
        """Run the script that starts the cluster and the deployment."""
        command = [str(site.peers_python), "-m", f"{_APPS}.ray_app", "--port", str(site.port)]
        return Launch(command, {"RAY_USAGE_STATS_ENABLED": "0"})
