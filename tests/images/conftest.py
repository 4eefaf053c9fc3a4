"""Both images, built from the checkout once a run, and what runs around their containers."""

import os
from collections.abc import Iterator

import pytest

from bentos.health.probes import READY_PATH
from tests.images.base_image import base_archive
from tests.images.building import BASE_IMAGE, BuiltImages, containerize
from tests.images.containers import Container, start_logging
from tests.images.engine import PACKAGES, Engine, missing
from tests.images.registry import NetworkRegistry
from tests.support.models import ModelStore


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """podman and buildah, apart from the machine's own."""
    lacking = missing()
    if lacking:
        words = f"images need {', '.join(lacking)} (Debian: {PACKAGES}; root)"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    Engine.sweep()
    made = Engine()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> BuiltImages:
    """Both images, one by each backend that works without a daemon."""
    engine.import_base(base_archive(), BASE_IMAGE)
    home = tmp_path_factory.mktemp("bentoml")
    return BuiltImages(
        logging=containerize(engine, home, "logging_service", backend="buildah"),
        inference=containerize(engine, home, "inference_service", backend="podman"),
    )


@pytest.fixture(scope="session")
def logging_container(engine: Engine, images: BuiltImages) -> Iterator[Container]:
    """The logging service, ready."""
    container = start_logging(engine, images.logging.name)
    try:
        container.wait_for(READY_PATH, 200)
        yield container
    finally:
        container.close()


@pytest.fixture(scope="session")
def registry(
    engine: Engine,
    logging_container: Container,
    model_store: ModelStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[NetworkRegistry]:
    """MLflow on the machine. Its address in the network is there once a container is."""
    served = model_store.copy_to_serve(tmp_path_factory.mktemp("registry"))
    with NetworkRegistry(
        served, model_store.artifacts, address=engine.gateway, host="mlflow.mlflow"
    ) as server:
        yield server
