"""A running service watches its pictures for drift, and follows thresholds that are set anew."""

import json
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from tests.support.images import colour_file
from tests.support.inference import channel, metric, predict, start_inference
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore
from tests.support.servers import Server

_PICTURES = 210
# Training had pictures of one class, and bright ones.
_PROFILE = {
    "class": {"edges": [0.5, 1.5], "shares": [0.98, 0.01, 0.01], "pictures": 500},
    "brightness": {"edges": [0.6], "shares": [0.02, 0.98], "pictures": 500},
    "contrast": {"edges": [0.01], "shares": [0.98, 0.02], "pictures": 500},
}


@pytest.fixture(scope="module")
def store(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = model_store.copy(tmp_path_factory.mktemp("store"))
    set_tag(store, "profile", _PROFILE)
    return store


def set_tag(store: ModelStore, name: str, content: object) -> None:
    client = MlflowClient(store.tracking_uri, store.tracking_uri)
    client.set_model_version_tag(COLOURS, "1", name, json.dumps(content))


@pytest.fixture(scope="module")
def server(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("service")
    with start_inference(directory, store.tracking_uri) as running:
        running.wait_until_ready()
        yield running


def drift(server: Server, quantity: str) -> float:
    return metric(server, "inference_drift_psi", quantity=quantity)


def test_pictures_unlike_those_of_training_are_drift_and_the_rest_is_not(server: Server) -> None:
    assert "inference_drift_psi{" not in server.get("/metrics").text
    picture = colour_file((255, 0, 0))
    for _ in range(_PICTURES):
        assert server.post("/predict_image", files={"image": picture}).status_code == 200
    server.wait_until(lambda: drift(server, "brightness") > 0.25, "dark pictures are noticed")
    exposed = server.get("/metrics").text
    assert drift(server, "class") == drift(server, "contrast") == 0
    assert exposed.count("inference_drift_psi{") == 3
    assert server.probe("/metrics").text.count("inference_drift_psi{") == 3
    assert server.get("/ready").status_code == 200


def test_thresholds_that_are_set_on_a_version_are_followed_without_a_restart(
    server: Server, store: ModelStore
) -> None:
    assert predict(server, channel(0)).json()["verdict"] == "pass"
    set_tag(store, "thresholds", {COLOUR_CLASSES[0]: 1.0})

    def verdict() -> str:
        answer = predict(server, channel(0))
        assert answer.status_code == 200  # none is refused while the version is loaded anew
        return str(answer.json()["verdict"])

    server.wait_until(lambda: verdict() == "review", "the new threshold counts")
    assert predict(server, channel(1)).json()["verdict"] == "fail"
    assert metric(server, "inference_verdicts_total", verdict="review") >= 1
