"""The rendered manifest, played by podman: the images work with all that it sets.

podman plays the pods with their users, limits, volumes, settings and secrets. What it cannot do is
changed here: it has no StatefulSet, gives no names to Services, and would publish the ports on the
machine.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from bentos.health.probes import READY_PATH
from bentos.inference.state import PREDICT_IMAGE_PATH
from bentos.logging.state import LOG_PATH, PREDICTIONS_PATH
from k8s.render import render_overlay
from tests.images.building import BuiltImages
from tests.images.containers import (
    INFERENCE_PORT,
    KERNEL_DIRECTORIES,
    LOGGING_PORT,
    Container,
)
from tests.images.engine import Engine
from tests.support.images import colour_file
from tests.support.mlflow_server import MlflowServer
from tests.support.models import ALIAS, COLOURS
from tests.support.predictions import batch, prediction

TOKEN = "a-token-of-the-cluster"

pytestmark = pytest.mark.slow

Manifest = list[dict[str, Any]]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The objects of the production overlay."""
    return [item for item in yaml.safe_load_all(render_overlay("production")) if item]


def workload(manifest: Manifest, name: str) -> dict[str, Any]:
    """Return a copy of the workload with this name."""
    (found,) = (
        item
        for item in manifest
        if item["kind"] in ("Deployment", "StatefulSet") and item["metadata"]["name"] == name
    )
    return copy.deepcopy(found)


def play(
    engine: Engine,
    directory: Path,
    manifest: Manifest,
    name: str,
    *,
    image: str,
    port: int,
    hosts: dict[str, str],
) -> Container:
    """Play a workload with the settings and the claims that it refers to."""
    item = workload(manifest, name)
    item["kind"] = "Deployment"
    pod = item["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container.pop("ports")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        container.pop(probe)  # podman would run them inside, and they name the port
    for volume in pod["volumes"]:
        if "secret" in volume:
            volume["secret"]["optional"] = False  # podman reads the field without its default
    pod["hostAliases"] = [{"ip": ip, "hostnames": [host]} for host, ip in hosts.items()]
    settings = {source["configMapRef"]["name"] for source in container["envFrom"]}
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    needed = [
        other
        for other in manifest
        if (other["kind"] == "ConfigMap" and other["metadata"]["name"] in settings)
        or (other["kind"] == "PersistentVolumeClaim" and other["metadata"]["name"] in claims)
    ]
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all([*needed, item]))
    engine.run("tag", image, container["image"])
    engine.run("kube", "play", "--network=services", str(path))
    pods = json.loads(engine.run("pod", "ps", "--format=json").stdout)
    (members,) = (pod["Containers"] for pod in pods if pod["Name"].startswith(name))
    names = [str(member["Names"]) for member in members]
    (service,) = (found for found in names if found.endswith(f"-{name}"))
    (infrastructure,) = (found for found in names if found.endswith("-infra"))
    return Container(engine, service, port=port, address_of=infrastructure)


@pytest.fixture(scope="module")
def directory(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the played manifests lie; the Secret that they refer to is there."""
    made = tmp_path_factory.mktemp("played")
    secret = made / "logging-tokens.yaml"
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "logging-tokens"}}
    # podman 4 writes the data to the volume as they are, without decoding them.
    data = {"tokens": f"{TOKEN}\nanother-token\n"}
    secret.write_text(yaml.safe_dump({**document, "data": data}))
    engine.run("secret", "create", "logging-tokens", str(secret))
    yield made
    engine.run("pod", "rm", "--all", "--force", "--time=0")


@pytest.fixture(scope="module")
def logging_pod(
    engine: Engine, images: BuiltImages, manifest: Manifest, directory: Path
) -> Container:
    """The pod of the logging service, ready."""
    container = play(
        engine,
        directory,
        manifest,
        "logging-service",
        image=images.logging.name,
        port=LOGGING_PORT,
        hosts={},
    )
    container.wait_for(READY_PATH, 200)
    return container


@pytest.fixture(scope="module")
def inference_pod(
    engine: Engine,
    images: BuiltImages,
    manifest: Manifest,
    directory: Path,
    logging_pod: Container,
    registry: MlflowServer,
) -> Container:
    """The pod of the inference service, ready with a model of the name that its settings have."""
    register_as(registry.tracking_uri, setting(manifest, "MODEL_NAME"))
    host = setting(manifest, "MLFLOW_TRACKING_URI").removeprefix("http://").partition(":")[0]
    container = play(
        engine,
        directory,
        manifest,
        "inference-service",
        image=images.inference.name,
        port=INFERENCE_PORT,
        hosts={host: engine.gateway, "logging-service": logging_pod.address},
    )
    container.wait_for(READY_PATH, 200)
    return container


def setting(manifest: Manifest, name: str) -> str:
    """Return a setting of the inference service."""
    (value,) = (
        item["data"][name]
        for item in manifest
        if item["kind"] == "ConfigMap" and name in item.get("data", {})
    )
    return str(value)


def register_as(tracking_uri: str, name: str) -> None:
    """Register the colour model under another name."""
    client = MlflowClient(tracking_uri, tracking_uri)
    source = client.get_model_version(COLOURS, "1").source
    client.create_registered_model(name)
    model_id = source.rpartition("/")[2]
    version = client.create_model_version(name, source, model_id=model_id).version
    client.set_registered_model_alias(name, ALIAS, version)


@pytest.fixture(params=["inference-service", "logging-service"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod(name: str, request: pytest.FixtureRequest) -> Container:
    found: Container = request.getfixturevalue(f"{name.partition('-')[0]}_pod")
    return found


def test_pods_of_the_manifest_predict_and_log(
    inference_pod: Container, logging_pod: Container
) -> None:
    content = colour_file((0, 0, 255))
    answer = inference_pod.http.post(inference_pod.url + PREDICT_IMAGE_PATH, content=content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["class"] == 2
    wanted = answer.json()["prediction_id"]

    def stored() -> bool:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        page = logging_pod.http.get(logging_pod.url + PREDICTIONS_PATH, headers=headers).json()
        return wanted in [row["prediction_id"] for row in page["predictions"]]

    logging_pod.wait_until(stored, "the prediction in the database")


def test_the_manifests_secret_guards_the_logging_pod(logging_pod: Container) -> None:
    url, body = logging_pod.url + LOG_PATH, batch(prediction())
    assert logging_pod.http.post(url, json=body).status_code == 401
    for token in (TOKEN, "another-token"):
        headers = {"Authorization": f"Bearer {token}"}
        assert logging_pod.http.post(url, json=body, headers=headers).status_code == 200


def test_a_pod_has_the_manifests_user_and_no_rights(
    pod: Container, manifest: Manifest, name: str
) -> None:
    context = workload(manifest, name)["spec"]["template"]["spec"]["securityContext"]
    status = pod.process_status()
    assert set(status["Uid"].split()) == {str(context["runAsUser"])}
    assert set(status["Gid"].split()) == {str(context["runAsGroup"])}
    assert {int(status[field], 16) for field in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_a_pod_writes_to_the_manifests_volumes_and_nowhere_else(
    pod: Container, manifest: Manifest, name: str
) -> None:
    (container,) = workload(manifest, name)["spec"]["template"]["spec"]["containers"]
    volumes = {
        mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
    }
    assert pod.writable_directories() - KERNEL_DIRECTORIES == volumes


def test_a_pod_serves_within_the_manifests_limits(
    pod: Container, manifest: Manifest, name: str
) -> None:
    (container,) = workload(manifest, name)["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    host = pod.described["HostConfig"]
    assert host["NanoCpus"] == int(limits["cpu"]) * 10**9
    assert host["Memory"] == memory(limits["memory"])
    assert not pod.state["OOMKilled"]
    assert pod.get(READY_PATH).status_code == 200


def memory(text: str) -> int:
    """Return the bytes of a Kubernetes quantity in Mi or Gi."""
    return int(text[:-2]) * {"Mi": 2**20, "Gi": 2**30}[text[-2:]]
