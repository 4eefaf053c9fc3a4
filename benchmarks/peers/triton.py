"""NVIDIA Triton with its Python backend on the CPU, from the wheel that carries it."""

import json
import shutil
import sysconfig
from pathlib import Path

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
    found_in_probabilities,
)

_ROOT = Path(__file__).resolve().parents[2]
_MODEL = "steel"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_CONFIGURATION = """\
name: "steel"
backend: "python"
max_batch_size: 32
input [{ name: "pixels" data_type: TYPE_FP32 dims: [3, 32, 32] }]
output [{ name: "probabilities" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { }
"""
# The backend's process looks for modules in its own way; it is told where they are.
_MODEL_FILE = """\
import sys

sys.path[:0] = {paths!r}
from benchmarks.apps.triton_model import TritonPythonModel
"""


class Triton(Peer):
    """One instance of the model, dynamic batches of up to 32, all threads of the server."""

    key = "triton"
    title = "Triton, Python backend"
    health_path = "/v2/health/live"
    ready_path = "/v2/health/ready"

    def launch(self, site: Site) -> Launch:
        """Lay out a model repository and the backend, and start the server on them."""
        packages = _site_packages(site.peers_python)
        wheel = packages / "pytriton" / "tritonserver"
        version = sysconfig.get_python_version()
        backend = site.scratch / "backends" / "python"
        shutil.copytree(wheel / "backends" / "python", backend, dirs_exist_ok=True)
        stub = backend / "triton_python_backend_stub"
        shutil.copy(wheel / "python_backend_stubs" / version / stub.name, stub)
        stub.chmod(0o755)
        repository = site.scratch / "models"
        code = repository / _MODEL / "1"
        code.mkdir(parents=True, exist_ok=True)
        (repository / _MODEL / "config.pbtxt").write_text(_CONFIGURATION)
        paths = [str(_ROOT), str(packages)]
        (code / "model.py").write_text(_MODEL_FILE.format(paths=paths))
        command = [str(wheel / "bin" / "tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={backend.parent}", "--http-address=127.0.0.1"]
        command += [f"--http-port={site.port}", "--allow-grpc=false", "--allow-metrics=false"]
        command += ["--log-info=false"]
        libraries = [packages / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
        return Launch(command, {"LD_LIBRARY_PATH": ":".join(map(str, libraries))})

    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """One tensor of the open inference protocol, its numbers in the JSON."""
        return Call(_path(), dump({"inputs": [{**_tensor(pixels), "data": flat(pixels)}]}))

    def binary_call(self, pixels: NDArray[np.float32]) -> Call:
        """The same with its numbers as bytes behind the JSON."""
        raw = pixels.astype("<f4").tobytes()
        tensor = {**_tensor(pixels), "parameters": {"binary_data_size": len(raw)}}
        head = dump({"inputs": [tensor]})
        headers = {_HEADER_LENGTH: str(len(head))}
        return Call(_path(), head + raw, "application/octet-stream", headers)

    def read(self, body: bytes) -> Found:
        """Read the probabilities."""
        return found_in_probabilities(json.loads(body)["outputs"][0]["data"])


def _path() -> str:
    return f"/v2/models/{_MODEL}/infer"


def _tensor(pixels: NDArray[np.float32]) -> dict[str, object]:
    return {"name": "pixels", "shape": [1, *pixels.shape], "datatype": "FP32"}


def _site_packages(python: Path) -> Path:
    version = sysconfig.get_python_version()
    return python.parent.parent / "lib" / f"python{version}" / "site-packages"
