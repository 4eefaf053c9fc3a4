"""The inference service and its registry: late, gone, hanging, and with a new version."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.inference import channel, metric, predict, ready, start_inference
from tests.support.mlflow_server import MlflowServer
from tests.support.models import (
    COLOUR_CLASSES,
    COLOUR_CLASSES_OF_VERSION_2,
    COLOURS,
    ModelStore,
    point_alias,
    remove_alias,
)
from tests.support.servers import Server

REQUIREMENTS = ("always", "startup", "never")


class World:
    """A real MLflow server, and a service for each of what readiness may require of it."""

    def __init__(self, mlflow: MlflowServer, services: dict[str, Server]) -> None:
        self.mlflow = mlflow
        self.services = services

    def serve(self, version: str) -> None:
        """Have all of them ready with a version, whatever happened before."""
        self.mlflow.start()
        point_alias(self.mlflow.tracking_uri, COLOURS, version)
        for service in self.services.values():
            service.wait_until(
                lambda service=service: (  # type: ignore[misc]
                    service.get("/ready").status_code == 200
                    and ready(service)["model"]["version"] == version
                ),
                f"ready with version {version}",
            )


@pytest.fixture(scope="module")
def world(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("registry")
    store = model_store.copy_to_serve(directory)
    remove_alias(store.tracking_uri, COLOURS)
    with MlflowServer(store, model_store.artifacts) as mlflow:
        services = {
            required: start_inference(
                directory / required,
                mlflow.tracking_uri,
                env={"READINESS_REQUIRES_MLFLOW": required, "MLFLOW_TIMEOUT_SECONDS": "10"},
            )
            for required in REQUIREMENTS
        }
        try:
            yield World(mlflow, services)
        finally:
            for service in services.values():
                service.kill()


def test_a_service_that_starts_before_its_registry_and_its_model_waits_for_both(
    world: World,
) -> None:
    service = world.services["always"]
    for each in world.services.values():
        each.wait_for_status("/health", 200)
        each.wait_for_reason("model_not_loaded")
    content = ready(service)
    assert content["reasons"][:2] == ["model_not_loaded", "mlflow_not_accessible"]
    assert content["model_loaded"] is False
    assert content["mlflow_accessible"] is False
    assert content["model"]["version"] is None
    refused = predict(service, channel(0))
    assert refused.status_code == 503
    assert refused.json()["reason"] == "model_not_loaded"
    assert "Retry-After" in refused.headers
    assert service.get("/readyz").status_code == 503
    assert service.get("/livez").status_code == 200

    # The registry comes, without a version under the alias.
    world.mlflow.start()
    for each in world.services.values():
        each.wait_until(lambda each=each: ready(each)["mlflow_accessible"], "MLflow is seen")  # type: ignore[misc]
    content = ready(service)
    assert content["reasons"] == ["model_not_loaded"]
    assert content["load"]["phase"] == "waiting"
    assert "no alias, stage or version 'production'" in content["registry"]
    assert "its versions 3, 2, 1" in content["registry"]
    assert service.get("/ready").status_code == 503

    # A version is registered, and cannot be served.
    point_alias(world.mlflow.tracking_uri, COLOURS, "3")
    service.wait_until(lambda: ready(service)["load"]["phase"] == "failed", "the load fails")
    content = ready(service)
    assert content["reason"] == "model_not_loaded"
    assert content["load"]["version"] == "3"
    assert "3 classes, its class_names are 2" in content["load"]["error"]
    assert service.get("/health").status_code == 200
    assert metric(service, "inference_model_loads_total", outcome="failure") >= 1
    # It is tried again and again.
    service.wait_until(lambda: ready(service)["load"]["attempts"] >= 2, "a second attempt")

    # One that can.
    world.serve("1")
    assert predict(service, channel(1)).json()["class_name"] == COLOUR_CLASSES[1]
    assert metric(service, "inference_model_loads_total", outcome="success") == 1


def test_a_new_version_is_served_without_a_failed_request(world: World) -> None:
    world.serve("1")
    service = world.services["always"]
    done = threading.Event()
    seen: list[tuple[int, str, str]] = []

    def ask() -> None:
        with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as client:
            while not done.is_set():
                answer = client.post("/predict", json={"data": channel(1)})
                content = answer.json()
                seen.append((answer.status_code, content["model_version"], content["class_name"]))

    def answered(version: str, times: int) -> bool:
        return sum(one[1] == version for one in seen) >= times

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            service.wait_until(lambda: answered("1", 50), "answers of version 1")
            point_alias(world.mlflow.tracking_uri, COLOURS, "2")
            service.wait_until(lambda: answered("2", 50), "answers of version 2")
        finally:
            done.set()
        for client in clients:
            client.result()
    assert {status for status, _, _ in seen} == {200}
    # Names and versions belong together in every answer.
    assert {(version, name) for _, version, name in seen} == {
        ("1", COLOUR_CLASSES[1]),
        ("2", COLOUR_CLASSES_OF_VERSION_2[1]),
    }
    assert metric(service, "inference_model_info", version="2") == 1
    assert metric(service, "inference_model_info", version="1") == 0
    assert metric(service, "inference_model_version") == 2


def test_a_new_version_that_cannot_be_served_leaves_the_old_one(world: World) -> None:
    world.serve("2")
    service = world.services["always"]
    point_alias(world.mlflow.tracking_uri, COLOURS, "3")
    service.wait_until(lambda: ready(service)["load"]["phase"] == "failed", "the load fails")
    assert service.get("/ready").status_code == 200
    content = ready(service)
    assert content["model"]["version"] == "2"
    assert content["load"]["version"] == "3"
    assert predict(service, channel(0)).json()["model_version"] == "2"
    assert metric(service, "inference_model_version") == 2
    assert metric(service, "inference_registry_version") == 3

    # Taken back, there is nothing left to complain of.
    point_alias(world.mlflow.tracking_uri, COLOURS, "2")
    service.wait_until(lambda: ready(service)["load"]["phase"] == "loaded", "all is well")
    assert ready(service)["load"]["error"] is None


def test_an_alias_that_is_removed_leaves_the_served_version(world: World) -> None:
    world.serve("1")
    service = world.services["always"]
    remove_alias(world.mlflow.tracking_uri, COLOURS)
    service.wait_until(
        lambda: metric(service, "inference_registry_version") == 0, "no version is told"
    )
    assert service.get("/ready").status_code == 200
    assert predict(service, channel(0)).json()["model_version"] == "1"


def test_a_registry_that_goes_takes_readiness_only_where_that_is_asked_and_gives_it_back(
    world: World,
) -> None:
    world.serve("1")
    world.mlflow.stop()
    for service in world.services.values():
        service.wait_until(lambda s=service: not ready(s)["mlflow_accessible"], "it is noticed")  # type: ignore[misc]
    strict = world.services["always"]
    strict.wait_for_reason("mlflow_not_accessible")
    assert ready(strict)["model_loaded"] is True
    assert strict.get("/health").status_code == 200
    assert metric(strict, "inference_mlflow_accessible") == 0
    for required in ("startup", "never"):
        assert world.services[required].get("/ready").status_code == 200
    for service in world.services.values():
        assert predict(service, channel(0)).status_code == 200

    world.mlflow.start()
    strict.wait_until_ready()
    assert metric(strict, "inference_mlflow_accessible") == 1


@pytest.mark.case(32)
@pytest.mark.case(35)
def test_ready_says_what_the_registry_lacks_and_no_password(world: World, tmp_path: Path) -> None:
    """A misspelt MODEL_NAME and a password in MLFLOW_TRACKING_URI: the first is named only."""
    world.mlflow.start()
    uri = world.mlflow.tracking_uri.replace("http://", "http://bob:secretpw@")
    with start_inference(tmp_path, uri, model="colors") as service:
        service.wait_until(lambda: ready(service)["registry"], "it is said")
        content = ready(service)
        assert "there is no model 'colors'; the registry has" in content["registry"]
        assert COLOURS in content["registry"]
        world.mlflow.stop()
        service.wait_until(lambda: not ready(service)["mlflow_accessible"], "it is noticed")
        service.wait_until(lambda: "Connection refused" in str(ready(service)), "the reason")
        assert "secretpw" not in service.get("/ready").text
        service.stop()
        assert "secretpw" not in service.log
    world.mlflow.start()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A registry that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


def test_a_registry_that_hangs_keeps_no_probe_waiting(
    model_store: ModelStore, tmp_path: Path, silent_port: int
) -> None:
    uri = f"http://127.0.0.1:{silent_port}"
    # No check of the registry ends while this test runs.
    env = {"MLFLOW_TIMEOUT_SECONDS": "600"}
    with start_inference(tmp_path, uri, env=env) as service:
        service.wait_for_status("/health", 200)
        service.wait_until(lambda: "loading" not in service.get("/ready").text, "an answer")
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            for path, status in (("/health", 200), ("/ready", 503), ("/metrics", 200)):
                assert service.get(path).status_code == status
        assert ready(service)["reason"] == "model_not_loaded"
        assert predict(service, channel(0)).status_code == 503
        assert service.stop() == 0
