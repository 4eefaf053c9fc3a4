"""Pictures on their way from `/predict_image` to the store of the logging service."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import colour_file
from tests.support.inference import channel, metric, predict, start_inference
from tests.support.models import ModelStore
from tests.support.servers import Server, free_port, start_service

pytestmark = pytest.mark.slow

LOGGING_TARGET = "bentos.logging.service:LoggingService"
TOKEN = "a-token-for-both"
# The model's classes: good, and the defects scratch and stain. Of the latter none is sure enough.
PASS, FAIL, REVIEW = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class World:
    """Both services; the inference service keeps every picture."""

    def __init__(self, directory: Path, store: ModelStore) -> None:
        self.directory = directory
        self._port = free_port()
        self.inference = start_inference(
            directory,
            store.copy(directory).tracking_uri,
            env={
                "LOGGING_URL": f"http://127.0.0.1:{self._port}",
                "LOGGING_TOKEN": TOKEN,
                "EDGE_DEVICE_ID": "line-3",
                "THRESHOLDS": '{"good": 0, "scratch": 0, "stain": 1}',
                "KEEP_IMAGES": "true",
                "KEEP_PASS_SHARE": "1",
                "KEEP_SAMPLE_SHARE": "0.5",
            },
        )
        self.logging = self.start_logging()

    def start_logging(self) -> Server:
        self.logging = start_service(
            LOGGING_TARGET,
            self.directory,
            port=self._port,
            env={
                "DATABASE_PATH": str(self.directory / "predictions.db"),
                "LOGGING_TOKEN": TOKEN,
            },
        )
        return self.logging

    def inspect(self, picture: bytes, name: str = "part.png") -> dict[str, Any]:
        answer = self.inference.post("/predict_image", files={"image": (name, picture)})
        assert answer.status_code == 200
        return dict(answer.json())

    def kept(self) -> dict[str, dict[str, Any]]:
        """Return every kept picture by its prediction's id, read from the database itself."""
        path = self.directory / "review" / "review.db"
        # Before the first picture there is no database, and none with tables while it is made.
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection,
        ):
            connection.row_factory = sqlite3.Row
            query = "SELECT * FROM evidence JOIN pictures USING (sha256)"
            return {str(row["prediction_id"]): dict(row) for row in connection.execute(query)}
        return {}

    def wait_kept(self, prediction_id: str) -> dict[str, Any]:
        self.inference.wait_until(lambda: prediction_id in self.kept(), "the picture is kept")
        return self.kept()[prediction_id]


@pytest.fixture(scope="module")
def world(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("kept"), model_store)
    try:
        made.logging.wait_until_ready()
        made.inference.wait_until_ready()
        yield made
    finally:
        made.inference.kill()
        made.logging.kill()


@pytest.mark.parametrize(
    ("colour", "verdict", "class_name", "share"),
    [(PASS, "pass", "good", 1.0), (FAIL, "fail", "scratch", 0.5), (REVIEW, "review", "stain", 0.5)],
)
def test_a_picture_is_kept_as_it_was_sent_with_its_verdict(
    world: World, colour: tuple[int, int, int], verdict: str, class_name: str, share: float
) -> None:
    picture = colour_file(colour, size=(40, 30))
    answer = world.inspect(picture)
    row = world.wait_kept(answer["prediction_id"])
    assert answer["verdict"] == row["verdict"] == verdict
    assert row["class_name"] == class_name
    assert row["content"] == picture
    assert (row["media_type"], row["image_id"]) == ("image/png", "part.png")
    assert row["edge_device_id"] == "line-3"
    assert row["confidence"] == answer["confidence"]
    assert row["sample_probability"] == share
    assert row["keep_probability"] == 1.0


@pytest.mark.parametrize(("form", "kind"), [("JPEG", "jpeg"), ("BMP", "bmp")])
def test_a_raw_body_is_kept_as_well(world: World, form: str, kind: str) -> None:
    picture = colour_file(FAIL, form=form)
    answer = world.inference.post(
        "/predict_image", content=picture, headers={"Content-Type": f"image/{kind}"}
    )
    row = world.wait_kept(answer.json()["prediction_id"])
    assert row["content"] == picture
    assert row["media_type"] == f"image/{kind}"
    assert row["image_id"] == answer.json()["prediction_id"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "x" * 300, "<script>.png", "a\"b'c\t.png"])
def test_whatever_a_file_is_called_its_picture_is_kept(world: World, name: str) -> None:
    answer = world.inspect(colour_file(FAIL), name)
    world.wait_kept(answer["prediction_id"])
    assert metric(world.inference, "inference_evidence_dropped_total") == 0


def test_numbers_have_no_picture_and_are_not_kept(world: World) -> None:
    numbers = predict(world.inference, channel(1)).json()["prediction_id"]
    later = world.inspect(colour_file(FAIL))["prediction_id"]
    world.wait_kept(later)
    assert numbers not in world.kept()


def test_an_image_that_is_refused_is_not_kept(world: World) -> None:
    answer = world.inference.post("/predict_image", files={"image": ("x.png", b"no image")})
    assert answer.status_code == 400
    later = world.inspect(colour_file(FAIL))["prediction_id"]
    world.wait_kept(later)
    pictures = {row["content"] for row in world.kept().values()}
    assert b"no image" not in pictures


def test_pictures_wait_while_the_logging_service_is_gone(world: World) -> None:
    world.logging.kill()
    made = [world.inspect(colour_file(FAIL, size=(20 + n, 20))) for n in range(5)]
    assert world.inference.get("/ready").status_code == 200
    world.inference.wait_until(
        lambda: metric(world.inference, "inference_evidence_queue_bytes") > 0, "pictures wait"
    )
    world.start_logging()
    for one in made:
        world.wait_kept(one["prediction_id"])
    world.inference.wait_until(
        lambda: metric(world.inference, "inference_evidence_queue_bytes") == 0, "none waits"
    )
    assert metric(world.inference, "inference_evidence_dropped_total") == 0
    assert metric(world.inference, "inference_evidence_sent_total") == len(world.kept())


def test_what_waits_is_sent_before_the_service_ends(world: World) -> None:
    made = [world.inspect(colour_file(FAIL, size=(50 + n, 20))) for n in range(10)]
    assert world.inference.stop() == 0
    assert {one["prediction_id"] for one in made} <= world.kept().keys()
