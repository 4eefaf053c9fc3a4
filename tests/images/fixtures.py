"""Both images, built from the checkout once a run, for every test that starts containers."""

from collections.abc import Iterator

import pytest

from tests.images.base_image import base_archive
from tests.images.building import BASE_IMAGE, BuiltImages, containerize
from tests.images.engine import PACKAGES, Engine, missing
from tests.support.tools import missing_tool


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """podman and buildah, apart from the machine's own."""
    lacking = missing()
    if lacking:
        words = f"images need {', '.join(lacking)} (Debian: {PACKAGES}; root)"
        missing_tool(words)
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
