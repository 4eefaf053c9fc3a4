"""This service, Triton and MLServer with the same model: the same answers to the same clients.

They come from the environment of `make bench`, which is gigabytes; without it these are skipped.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from benchmarks.environment import DEFAULT
from benchmarks.measure import start
from benchmarks.model import pictures, prepare_model
from benchmarks.peers.mlflow_servers import MlServer
from benchmarks.peers.peer import PORTS, Peer, Site
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton
from benchmarks.v2 import Side, request_of
from local.process import ROOT, Server, free_ports

SAME = 1e-6
PEERS_PYTHON = DEFAULT.absolute() / "bin" / "python"
CLIENT = ROOT / "benchmarks" / "apps" / "mlserver_client.py"

pytestmark = pytest.mark.skipif(
    not PEERS_PYTHON.exists(),
    reason=f"Triton and MLServer are not installed in {DEFAULT.name}; `make bench` installs them",
)


class Three:
    """All three servers, and where each has its model."""

    def __init__(self, scratch: Path) -> None:
        self.model = prepare_model(scratch, print)
        self.ours = Side(ThisProject(), self.model.name, "input")
        self.triton = Side(Triton(), "steel", "pixels")
        self.mlserver = Side(MlServer(), "steel", "input-0")
        self.servers: dict[str, Server] = {}
        for side in (self.ours, self.triton, self.mlserver):
            self.servers[side.peer.key] = self._start(side.peer, scratch / side.peer.key)

    def _start(self, peer: Peer, scratch: Path) -> Server:
        scratch.mkdir()
        return start(
            peer, Site(free_ports(PORTS), scratch, self.model, Path(sys.executable), PEERS_PYTHON)
        )

    def url(self, side: Side) -> str:
        return f"{self.servers[side.peer.key].url}/v2/models/{side.model}"

    def close(self) -> None:
        for server in self.servers.values():
            server.kill()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    made = Three(tmp_path_factory.mktemp("peers"))
    try:
        for side in (made.ours, made.triton, made.mlserver):
            made.servers[side.peer.key].wait_until_answers(side.peer.ready_path)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return np.stack([picture.pixels for picture in pictures()])


def by_triton(three: Three, side: Side, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, or logits, asked for with NVIDIA's client."""
    address = three.servers[side.peer.key].url.removeprefix("http://")
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_model_ready(side.model)
        result = client.infer(
            side.model,
            [request_of(side, rows)],
            outputs=[triton.InferRequestedOutput("probabilities")],
        )
    found: NDArray[np.float32] = result.as_numpy("probabilities")
    return found


def by_mlserver(three: Three, rows: NDArray[np.float32], folder: Path) -> list[dict[str, list]]:  # type: ignore[type-arg]
    """Return the outputs of our service and of MLServer, asked for with MLServer's codecs."""
    np.save(folder / "rows.npy", rows)
    command = [str(PEERS_PYTHON), str(CLIENT), str(folder / "rows.npy")]
    command += [three.url(three.ours), three.url(three.mlserver)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_all_three_answer_the_same(three: Three, rows: NDArray[np.float32], tmp_path: Path) -> None:
    ours = by_triton(three, three.ours, rows)
    np.testing.assert_allclose(by_triton(three, three.triton, rows), ours, rtol=0, atol=SAME)
    mine, theirs = by_mlserver(three, rows, tmp_path)
    np.testing.assert_allclose(np.array(mine["probabilities"]), ours, rtol=0, atol=SAME)
    (logits,) = theirs.values()
    np.testing.assert_allclose(softmax(np.array(logits)), ours, rtol=0, atol=SAME)


def test_mlservers_own_codecs_read_every_output(
    three: Three, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    mine, _ = by_mlserver(three, rows, tmp_path)
    best = np.array(mine["probabilities"]).argmax(axis=1)
    assert mine["class"] == best.tolist()
    assert len(set(mine["class_name"])) == len(set(best.tolist()))
    assert len(set(mine["prediction_id"])) == len(rows)
    assert mine["defect_detected"][0] in (True, False)
