"""What runs around the containers of both images."""

from collections.abc import Iterator

import pytest

from bentos.health.probes import READY_PATH
from tests.images.building import BuiltImages
from tests.images.containers import Container, start_logging
from tests.images.engine import Engine
from tests.images.fixtures import base_image, engine, images
from tests.support.mlflow_server import MlflowServer
from tests.support.models import ModelStore

__all__ = ["base_image", "engine", "images"]

# The port that the rendered manifests' tracking URI names.
MLFLOW_PORT = 5000


@pytest.fixture(scope="package")
def logging_container(engine: Engine, images: BuiltImages) -> Iterator[Container]:
    """The logging service, ready."""
    with start_logging(engine, images.logging.name) as container:
        container.wait_for(READY_PATH, 200)
        yield container


@pytest.fixture(scope="package")
def registry(
    engine: Engine,
    logging_container: Container,
    model_store: ModelStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MlflowServer]:
    """MLflow on the machine. Its address in the network is there once a container is."""
    served = model_store.copy_to_serve(tmp_path_factory.mktemp("registry"))
    with MlflowServer(
        served, model_store.artifacts, host=engine.gateway, port=MLFLOW_PORT, name="mlflow.mlflow"
    ) as server:
        server.start()
        yield server
