"""The rotation of docs/operations.md, run command by command with both services and predictions.

kubectl is the real one, and so are the services. The Secret lies in an API of the tests' own.
"""

import base64
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.k8s.api_server import Cluster, api_server
from tests.k8s.manifests import Object
from tests.k8s.test_operations_page import TEXT
from tests.support.models import COLOUR_SHAPE, COLOURS, ModelStore
from tests.support.predictions import batch, prediction
from tests.support.repeating import repeating
from tests.support.servers import Server, free_port, start_service

pytestmark = [pytest.mark.slow, pytest.mark.case(16)]

INFERENCE = "bentos.inference.service:InferenceService"
LOGGING = "bentos.logging.service:LoggingService"
OLD = "the-token-from-before"


def page_commands(heading: str) -> str:
    """Return the commands of a section of the page, as a script."""
    section = TEXT.partition(f"### {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^ *\$ (.+)$", section, re.MULTILINE))


class MountedSecret:
    """A Secret in a cluster, and the folder where the kubelet keeps it up to date in a pod."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.file = folder / "tokens"
        self._folder = folder
        self._numbers = itertools.count()
        self._cluster = cluster
        folder.mkdir()
        self.file.symlink_to("..data/tokens")
        cluster.changed = self._project
        data = {"tokens": base64.b64encode(OLD.encode()).decode()}
        metadata = {"name": "logging-tokens", "namespace": "mlops"}
        cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    def _project(self, item: Object) -> None:
        """Write a new folder and move a link to it, as the kubelet does."""
        made = self._folder / f"..{next(self._numbers)}"
        made.mkdir()
        (made / "tokens").write_bytes(base64.b64decode(item["data"]["tokens"]))
        (self._folder / "..next").symlink_to(made.name)
        (self._folder / "..next").rename(self._folder / "..data")

    def run(self, script: str) -> None:
        """Run commands of the page; where it waits for minutes, two seconds pass."""
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"sleep() {{ command sleep 2; }}\n{script}"],
            env={**os.environ, "KUBECONFIG": str(self._cluster.config)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[MountedSecret]:
    """A mounted Secret with the old token."""
    with api_server(tmp_path) as cluster:
        yield MountedSecret(cluster, tmp_path / "logging-tokens")


@contextmanager
def predicting(server: Server) -> Iterator[list[str]]:
    """Predict until the block ends; the ids of all that were answered with 200 are in the list."""
    channels, height, width = COLOUR_SHAPE
    body = {"data": [0.5] * (channels * height * width)}
    acknowledged: list[str] = []
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:

        def predict() -> None:
            answer = client.post("/predict", json=body)
            assert answer.status_code == 200, answer.text
            acknowledged.append(answer.json()["prediction_id"])

        with repeating(predict, pause=0.02):
            yield acknowledged


def start_inference(
    store: ModelStore, directory: Path, logging_url: str, token_file: Path
) -> Server:
    """Start the inference service, which delivers with the first token of a file."""
    environment = {
        "MLFLOW_TRACKING_URI": store.tracking_uri,
        "MODEL_NAME": COLOURS,
        "LOGGING_URL": logging_url,
        "LOGGING_TOKEN_FILE": str(token_file),
        "OUTBOX_PATH": str(directory / "outbox"),
    }
    return start_service(INFERENCE, directory, env=environment)


def test_a_rotation_in_the_pages_order_loses_no_prediction(
    model_store: ModelStore, secret: MountedSecret, tmp_path: Path
) -> None:
    """The token is rotated by the page's commands during predictions: each of them is stored.

    At the end the new token is accepted and the old one refused.
    """
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "LOGGING_TOKENS_FILE": str(secret.file),
    }
    with (
        start_service(LOGGING, tmp_path, env=environment) as logging,
        start_inference(model_store, tmp_path, logging.url, secret.file) as inference,
    ):
        logging.wait_until_ready()
        inference.wait_until_ready()
        with predicting(inference) as acknowledged:
            secret.run(page_commands("Rotate the token"))
            after = len(acknowledged)
            inference.wait_until(lambda: len(acknowledged) > after + 20, "more predictions")
        (new,) = secret.file.read_text().split()
        assert new != OLD
        bearer = {"Authorization": f"Bearer {new}"}

        def stored() -> int:
            return int(logging.get("/stats", headers=bearer).json()["total_predictions"])

        inference.wait_until(lambda: stored() == len(acknowledged), "all of them stored")
        assert len(set(acknowledged)) == len(acknowledged)
        statuses = [
            logging.post(
                "/log", json=batch(prediction()), headers={"Authorization": f"Bearer {token}"}
            ).status_code
            for token in (new, OLD)
        ]
        assert statuses == [200, 401]


def test_a_pod_with_its_predecessors_claim_delivers_what_that_could_not(
    model_store: ModelStore, secret: MountedSecret, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with start_inference(model_store, tmp_path, url, secret.file) as inference:
        inference.wait_until_ready()
        with predicting(inference) as acknowledged:
            inference.wait_until(lambda: len(acknowledged) >= 30, "predictions")
        assert inference.stop(seconds=60) == 0
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "LOGGING_TOKENS_FILE": str(secret.file),
    }
    with (
        start_service(LOGGING, tmp_path, env=environment, port=port) as logging,
        start_inference(model_store, tmp_path, url, secret.file) as inference,
    ):
        logging.wait_until_ready()
        bearer = {"Authorization": f"Bearer {OLD}"}
        inference.wait_until(
            lambda: (
                logging.get("/stats", headers=bearer).json()["total_predictions"]
                == len(acknowledged)
            ),
            "all of them stored",
        )
