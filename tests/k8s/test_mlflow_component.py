"""The MLflow of the local overlay: the manifest's own command, started here and asked."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local import fetch
from local.process import Server, free_port
from tests.k8s.manifests import command, environment, rendered, workload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the container's command, its volume and its port replaced by ours."""
    directory = tmp_path_factory.mktemp("mlflow")
    container = workload("mlflow", rendered("local")).container
    variables = environment(container, rendered("local")) | {"HOME": str(directory)}
    port = free_port()
    words = [
        word.replace("/var/lib/mlflow", str(directory))
        .replace("--port=5000", f"--port={port}")
        .replace("--host=0.0.0.0", "--host=127.0.0.1")
        for word in command(container, variables)
    ]
    assert words[0] == "mlflow"
    with Server(
        [str(Path(sys.executable).with_name("mlflow")), *words[1:]],
        port=port,
        name="MLflow",
        log=directory / "log",
        environment={"PATH": os.environ["PATH"], **variables},
    ) as mlflow:
        mlflow.wait_until_answers("/health")
        yield mlflow.url


def search(url: str, host: str) -> int:
    """Return the status of an API request that was sent to `host`."""
    return fetch.get(
        f"{url}/api/2.0/mlflow/registered-models/search",
        headers={"Host": host},
        timeout=30,
    ).status_code


@pytest.mark.slow
def test_the_registry_answers_under_the_name_that_the_settings_give(server: str) -> None:
    """MLflow refuses Host headers that it was not told of, to stop DNS rebinding."""
    objects = rendered("local")
    inference = workload("inference-service", objects).container
    uri = environment(inference, objects)["MLFLOW_TRACKING_URI"]
    assert search(server, urlsplit(uri).netloc) == 200
    assert search(server, "mlflow.mlops.svc.cluster.local:5000") == 200


@pytest.mark.slow
def test_the_registry_answers_a_port_forward(server: str) -> None:
    """`kubectl port-forward service/mlflow 5000` is how people train into the cluster."""
    assert search(server, "127.0.0.1:5000") == 200
    assert search(server, "localhost:5000") == 200


@pytest.mark.slow
def test_the_registry_refuses_other_names(server: str) -> None:
    assert search(server, "rebound.example.com") == 403


@pytest.mark.slow
def test_the_probes_are_answered_whatever_the_host(server: str) -> None:
    """The kubelet sends the pod's address."""
    probe = workload("mlflow", rendered("local")).container["readinessProbe"]["httpGet"]
    answer = fetch.get(server + probe["path"], headers={"Host": "10.244.0.7:5000"})
    assert answer.status_code == 200


def test_the_server_is_of_the_clients_version() -> None:
    """The image's tag is the version that the inference service pins."""
    image = workload("mlflow", rendered("local")).container["image"]
    requirements = (ROOT / "requirements" / "inference.in").read_text()
    (pinned,) = re.findall(r"^mlflow[\w-]*==([\d.]+)$", requirements, re.MULTILINE)
    assert image.endswith(f":v{pinned}")


def test_the_server_listens_where_the_container_says() -> None:
    container = workload("mlflow", rendered("local")).container
    (port,) = container["ports"]
    words = command(container, environment(container, rendered("local")))
    assert f"--port={port['containerPort']}" in words
    assert "--host=0.0.0.0" in words
