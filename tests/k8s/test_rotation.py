"""The rotation of docs/operations.md, run command by command with both services and predictions.

The Secret is a file that this test changes as the kubelet changes a mounted one. Of kubectl's
commands those that need a cluster are answered here; the others are the real ones.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from k8s.render import kubectl
from tests.k8s.test_operations_page import TEXT
from tests.support.models import COLOUR_SHAPE, COLOURS, ModelStore
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, free_port, start_service

pytestmark = [pytest.mark.slow, pytest.mark.case(16)]

INFERENCE = "bentos.inference.service:InferenceService"
LOGGING = "bentos.logging.service:LoggingService"
OLD = "the-token-from-before"
# `kubectl get secret` and `kubectl replace`; what it replaces is mounted as the kubelet mounts it:
# a new folder, and a link that is moved to it.
_KUBECTL = """
import base64, os, pathlib, subprocess, sys, time, yaml
mount = pathlib.Path(os.environ["MOUNT"])
if sys.argv[1] == "get":
    print(base64.b64encode((mount / "tokens").read_bytes()).decode(), end="")
elif sys.argv[1] == "replace":
    made = mount / f"..{time.time_ns()}"
    made.mkdir()
    secret = yaml.safe_load(sys.stdin)
    assert secret["kind"] == "Secret" and secret["metadata"]["namespace"] == "mlops"
    (made / "tokens").write_bytes(base64.b64decode(secret["data"]["tokens"]))
    (mount / "..next").symlink_to(made.name)
    os.replace(mount / "..next", mount / "..data")
else:
    sys.exit(subprocess.run([os.environ["REAL_KUBECTL"], *sys.argv[1:]]).returncode)
"""


def page_commands(heading: str) -> str:
    """Return the commands of a section of the page, as a script."""
    section = TEXT.partition(f"### {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^ *\$ (.+)$", section, re.MULTILINE))


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A mounted Secret with the old token."""
    folder = tmp_path / "logging-tokens"
    (folder / "..first").mkdir(parents=True)
    (folder / "..first" / "tokens").write_text(OLD)
    (folder / "..data").symlink_to("..first")
    (folder / "tokens").symlink_to("..data/tokens")
    return folder


def run_page(script: str, mount: Path, programs: Path) -> None:
    """Run the page's commands with this Secret; the waits are two seconds instead of minutes."""
    programs.mkdir()
    for name, content in {
        "kubectl": f"#!{sys.executable}\n{_KUBECTL}",
        "sleep": "#!/bin/sh\nexec /bin/sleep 2\n",
    }.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(programs),
        "MOUNT": str(mount),
        "REAL_KUBECTL": kubectl(),
    }
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@contextmanager
def predicting(server: Server) -> Iterator[list[str]]:
    """Predict until the block ends; the ids of all that were answered with 200 are in the list."""
    channels, height, width = COLOUR_SHAPE
    body = {"data": [0.5] * (channels * height * width)}
    acknowledged: list[str] = []
    ended = threading.Event()

    def predict() -> None:
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            while not ended.wait(0.02):
                answer = client.post("/predict", json=body)
                assert answer.status_code == 200, answer.text
                acknowledged.append(answer.json()["prediction_id"])

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        yield acknowledged
    finally:
        ended.set()
        thread.join()


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
    model_store: ModelStore, mount: Path, tmp_path: Path
) -> None:
    """The token is rotated by the page's commands during predictions: each of them is stored.

    At the end the new token is accepted and the old one refused.
    """
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "LOGGING_TOKENS_FILE": str(mount / "tokens"),
    }
    with (
        start_service(LOGGING, tmp_path, env=environment) as logging,
        start_inference(model_store, tmp_path, logging.url, mount / "tokens") as inference,
    ):
        logging.wait_until_ready()
        inference.wait_until_ready()
        with predicting(inference) as acknowledged:
            run_page(page_commands("Rotate the token"), mount, tmp_path / "programs")
            after = len(acknowledged)
            inference.wait_until(lambda: len(acknowledged) > after + 20, "more predictions")
        (new,) = (mount / "tokens").read_text().split()
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
    model_store: ModelStore, mount: Path, tmp_path: Path
) -> None:
    """A pod ends while the logging service is away: the next one with its claim delivers all."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    token_file = mount / "tokens"
    with start_inference(model_store, tmp_path, url, token_file) as inference:
        inference.wait_until_ready()
        with predicting(inference) as acknowledged:
            inference.wait_until(lambda: len(acknowledged) >= 30, "predictions")
        assert inference.stop(seconds=60) == 0
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "LOGGING_TOKENS_FILE": str(token_file),
    }
    with (
        start_service(LOGGING, tmp_path, env=environment, port=port) as logging,
        start_inference(model_store, tmp_path, url, token_file) as inference,
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
