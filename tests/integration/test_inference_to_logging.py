"""From a request to a row: both services as they are deployed, on one host."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bentos.inference.delivery.outbox import outbox_path
from local import fetch
from tests.support.images import colour_file
from tests.support.inference import channel, metric, predict, start_inference
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore
from tests.support.outboxes import rows_in
from tests.support.servers import Server, free_port, start_service

LOGGING_TARGET = "bentos.logging.service:LoggingService"
TOKEN = "correct horse battery staple"
DEVICE = "line-3"


class World:
    """Both services, under one BENTOML_HOME; either may be ended and started again."""

    def __init__(self, directory: Path, store: ModelStore) -> None:
        self.directory = directory
        self._tracking_uri = store.copy(directory).tracking_uri
        self._ports = {"inference": free_port(), "logging": free_port()}
        self._home = directory / "home"
        self._home.mkdir()
        self.database = directory / "predictions.db"
        self.inference = self.start_inference()
        self.logging = self.start_logging()

    def start_inference(self) -> Server:
        self.inference = start_inference(
            self.directory,
            self._tracking_uri,
            port=self._ports["inference"],
            env={
                "BENTOML_HOME": str(self._home),
                "LOGGING_URL": f"http://127.0.0.1:{self._ports['logging']}",
                "LOGGING_TOKEN": TOKEN,
                "EDGE_DEVICE_ID": DEVICE,
            },
        )
        return self.inference

    def start_logging(self) -> Server:
        self.logging = start_service(
            LOGGING_TARGET,
            self.directory,
            port=self._ports["logging"],
            env={
                "BENTOML_HOME": str(self._home),
                "DATABASE_PATH": str(self.database),
                "LOGGING_TOKEN": TOKEN,
            },
        )
        return self.logging

    def close(self) -> None:
        self.inference.kill()
        self.logging.kill()

    def predict(self, count: int) -> set[str]:
        """Predict so many times; return the predictions' ids."""
        answers = [predict(self.inference, channel(index % 3)) for index in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return {answer.json()["prediction_id"] for answer in answers}

    def rows(self) -> dict[str, dict[str, object]]:
        """Return every stored prediction by its id, read from the database itself."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute("SELECT * FROM predictions")]
        found = {str(row["prediction_id"]): row for row in rows}
        assert len(found) == len(rows)
        return found

    def on_disk(self) -> int | None:
        """Return how many predictions wait in the outbox's file."""
        return rows_in(outbox_path(self.directory / "outbox", 1))

    def wait_stored(self, ids: set[str]) -> None:
        self.logging.wait_until(lambda: ids <= set(self.rows()), f"{len(ids)} rows")


@pytest.fixture(scope="module")
def shared(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("both"), model_store)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(shared: World) -> World:
    shared.logging.wait_until_ready()
    shared.inference.wait_until_ready()
    return shared


def test_every_prediction_stands_in_the_database(world: World) -> None:
    made = world.predict(30)
    picture = colour_file((0, 255, 0), size=(64, 64))
    answer = world.inference.post("/predict_image", files={"image": ("strip 7.png", picture)})
    made.add(answer.json()["prediction_id"])
    world.wait_stored(made)
    assert set(world.rows()) == made
    row = world.rows()[answer.json()["prediction_id"]]
    assert row["image_id"] == "strip 7.png"
    assert row["model_name"] == COLOURS
    assert row["model_version"] == "1"
    assert row["edge_device_id"] == DEVICE
    assert row["defect_detected"] == 1
    assert row["verdict"] == answer.json()["verdict"] == "fail"
    assert COLOUR_CLASSES[1] in str(row["detections"])
    world.inference.wait_until(
        lambda: metric(world.inference, "inference_log_delivered_total") == 31, "all delivered"
    )
    world.inference.wait_until(
        lambda: metric(world.inference, "inference_log_backlog") == 0, "an empty backlog"
    )
    stats = world.logging.get("/stats", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert stats["total_predictions"] == 31
    assert stats["by_edge_device"] != {}


def test_a_request_id_goes_through_both_services(world: World) -> None:
    answer = predict(world.inference, channel(0), headers={"X-Request-ID": "order-4711"})
    prediction_id = answer.json()["prediction_id"]
    world.wait_stored({prediction_id})
    assert world.rows()[prediction_id]["request_id"] == "order-4711"
    assert "order-4711" in world.inference.log


@pytest.mark.parametrize("name", ["x" * 300, "strip\t7\x1b[31m", "\u00fc\u4e16.png", "a\"b'c"])
def test_whatever_a_file_is_called_its_prediction_is_stored(world: World, name: str) -> None:
    files = {"image": (name, colour_file((255, 0, 0)))}
    answer = world.inference.post("/predict_image", files=files)
    assert answer.status_code == 200
    world.wait_stored({answer.json()["prediction_id"]})
    assert metric(world.inference, "inference_log_dropped_total") == 0


def test_both_services_under_one_bentoml_home_keep_their_counters_apart(world: World) -> None:
    world.predict(3)
    before = metric(world.inference, "inference_prediction_duration_seconds_count")
    requests = metric(world.inference, "http_requests_total", route="/predict", status="200")
    assert min(before, requests) >= 3
    world.logging.kill()
    world.start_logging()
    world.logging.wait_until_ready()
    world.predict(2)
    assert metric(world.inference, "inference_prediction_duration_seconds_count") == before + 2
    after = metric(world.inference, "http_requests_total", route="/predict", status="200")
    assert after == requests + 2
    assert metric(world.logging, "http_requests_total", route="/predict") == 0
    assert metric(world.logging, "inference_predictions_total") == 0
    assert metric(world.inference, "logging_predictions_total") == 0


def test_predictions_wait_for_the_logging_service_and_survive_a_kill_of_their_own(
    world: World,
) -> None:
    world.inference.wait_until(lambda: world.on_disk() == 0, "an empty outbox")
    world.logging.kill()
    made = world.predict(40)
    world.inference.wait_until(lambda: world.on_disk() == 40, "all on disk")
    world.inference.wait_until(
        lambda: metric(world.inference, "inference_log_backlog") == 40, "a backlog of 40"
    )
    # A service that cannot hand over predicts all the same.
    assert world.inference.get("/ready").status_code == 200
    assert metric(world.inference, "inference_log_send_errors_total") > 0
    world.inference.kill()
    world.start_logging()
    world.start_inference()
    world.logging.wait_until_ready()
    world.wait_stored(made)
    world.inference.wait_until(lambda: world.on_disk() == 0, "an empty outbox")
    assert metric(world.inference, "inference_log_dropped_total") == 0


def test_only_who_has_the_token_may_log(world: World) -> None:
    url = f"{world.logging.url}/log"
    stored = set(world.rows())
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = fetch.post(url, json={"predictions": []}, headers=headers)
        assert response.status_code == 401
    made = world.predict(2)
    world.wait_stored(made)
    assert set(world.rows()) == stored | made
