"""Both services in containers, as a careful cluster runs them.

The user id is arbitrary, the root file system read-only, no capability is left, and a volume
stands only where one is named. A real MLflow server is on the machine.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bentos.health.probes import HEALTH_PATH, READY_PATH
from bentos.inference.state import PREDICT_IMAGE_PATH, PREDICT_PATH
from bentos.logging.state import LOG_PATH, PREDICTIONS_PATH
from bentos.process.supervisor import TERMINATION_MESSAGE
from tests.images.building import BuiltImages
from tests.images.containers import (
    ARBITRARY_USER,
    KERNEL_DIRECTORIES,
    Container,
    start_inference,
    start_logging,
    unready_reason,
)
from tests.images.engine import Engine
from tests.support.images import colour_file
from tests.support.mlflow_server import MlflowServer
from tests.support.models import COLOURS, MOODY, point_alias, remove_alias
from tests.support.predictions import batch, prediction

VOLUMES = {"/tmp", "/var/lib/outbox", "/var/lib/predictions"}
# Exit within the grace period of the manifests, and then some for a busy machine.
GRACE_SECONDS = 60.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inference(
    engine: Engine, images: BuiltImages, registry: MlflowServer, logging_container: Container
) -> Iterator[Container]:
    """The inference service with the colour model, ready, started anew when it ends."""
    with start_inference(
        engine,
        images.inference.name,
        "inference",
        restart="always",
        tracking_uri=registry.tracking_uri,
        MODEL_NAME=COLOURS,
        LOGGING_URL=logging_container.url,
    ) as container:
        container.wait_for(READY_PATH, 200)
        yield container


def test_a_container_is_alive_at_once_and_ready_when_its_model_is_there(
    engine: Engine, images: BuiltImages, registry: MlflowServer
) -> None:
    remove_alias(registry.tracking_uri, COLOURS)
    with start_inference(
        engine,
        images.inference.name,
        "early",
        tracking_uri=registry.tracking_uri,
        MODEL_NAME=COLOURS,
    ) as container:
        container.wait_for(HEALTH_PATH, 200)
        container.wait_for(READY_PATH, 503, "model_not_loaded")
        point_alias(registry.tracking_uri, COLOURS, "1")
        container.wait_for(READY_PATH, 200)
        assert container.get(READY_PATH).json()["model"]["version"] == "1"
        assert container.get(HEALTH_PATH).status_code == 200


def test_a_predicted_image_stands_in_the_logging_containers_database(
    inference: Container, logging_container: Container
) -> None:
    files = {"image": ("green.png", colour_file((0, 255, 0)), "image/png")}
    answer = inference.http.post(inference.url + PREDICT_IMAGE_PATH, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["class"] == 1
    wanted = answer.json()["prediction_id"]

    def stored() -> bool:
        page = logging_container.get(PREDICTIONS_PATH).json()
        return wanted in [row["prediction_id"] for row in page["predictions"]]

    logging_container.wait_until(stored, "the prediction in the database")


@pytest.mark.parametrize("name", ["inference", "logging_container"])
def test_a_container_has_an_arbitrary_user_and_no_rights(
    name: str, request: pytest.FixtureRequest
) -> None:
    container: Container = request.getfixturevalue(name)
    status = container.process_status()
    assert set(status["Uid"].split()) == {ARBITRARY_USER}
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("name", ["inference", "logging_container"])
def test_nothing_but_the_volumes_can_be_written_to(
    name: str, request: pytest.FixtureRequest
) -> None:
    container: Container = request.getfixturevalue(name)
    found = container.writable_directories()
    assert "/tmp" in found
    assert found <= VOLUMES | KERNEL_DIRECTORIES


def test_a_container_whose_only_worker_dies_ends_and_comes_back_ready(
    inference: Container,
) -> None:
    started = inference.state["StartedAt"]
    inference.kill_a_worker()
    inference.wait_until(lambda: inference.state["StartedAt"] != started, "a second start")
    inference.wait_for(READY_PATH, 200)
    assert inference.described["RestartCount"] == 1


def test_a_dead_worker_of_two_makes_the_container_unready_and_then_not_alive(
    engine: Engine, images: BuiltImages, registry: MlflowServer
) -> None:
    with start_inference(
        engine,
        images.inference.name,
        "pair",
        tracking_uri=registry.tracking_uri,
        MODEL_NAME=COLOURS,
        WORKERS="2",
        WORKER_GRACE_SECONDS="3",
    ) as container:
        container.wait_for(READY_PATH, 200)
        assert len(container.workers()) == 2
        container.kill_a_worker()
        container.wait_for(READY_PATH, 503, "worker_missing")
        container.wait_for(HEALTH_PATH, 500, "worker_dead")
        assert container.state["Running"]


@pytest.mark.case(52)
def test_a_container_whose_worker_died_says_so_and_ends_with_a_failure(
    engine: Engine, images: BuiltImages, tmp_path: Path
) -> None:
    """The worker dies: the container ends with status 1 and its message in the termination file.

    Kubernetes makes the file, writable by any user, and `kubectl describe pod` shows it.
    """
    message = tmp_path / "termination-log"
    message.touch()
    message.chmod(0o666)
    volume = f"{message}:{TERMINATION_MESSAGE}"
    with start_logging(
        engine, images.logging.name, name="dying", more_volumes=[volume]
    ) as container:
        container.wait_for(READY_PATH, 200)
        container.kill_a_worker()
        assert container.wait(seconds=GRACE_SECONDS) == 1
        assert "worker_dead" in message.read_text()


def test_sigterm_finishes_requests_in_flight_and_ends_within_the_grace(
    engine: Engine, images: BuiltImages, registry: MlflowServer
) -> None:
    with start_inference(
        engine,
        images.inference.name,
        "leaving",
        tracking_uri=registry.tracking_uri,
        MODEL_NAME=MOODY,
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true",
        MAX_BATCH_SIZE="1",
    ) as container:
        container.wait_for(READY_PATH, 200)
        url = container.url + PREDICT_PATH
        with ThreadPoolExecutor() as threads:
            # The model takes seconds for the first: all are in flight when the end comes.
            flights = [
                threads.submit(container.http.post, url, json={"data": [seconds, 0.0]})
                for seconds in (6.0, 0.0, 0.0)
            ]
            container.wait_until(
                lambda: container.metric("inference_queue_depth") >= 2, "requests in flight"
            )
            container.terminate()
            container.wait_until(
                lambda: unready_reason(container) == "shutting_down", "/ready shutting_down"
            )
            answers = [flight.result() for flight in flights]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert container.wait(seconds=GRACE_SECONDS) == 0


def test_the_database_outlives_its_container(engine: Engine, images: BuiltImages) -> None:
    body = batch(prediction())
    for stored in (1, 0):
        with start_logging(engine, images.logging.name, name="kept") as container:
            container.wait_for(READY_PATH, 200)
            answer = container.http.post(container.url + LOG_PATH, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions_stored"] == stored
