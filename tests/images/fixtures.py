"""Both images, built from the checkout once a run, for every test that starts containers.

They are fixtures of a package, each of which imports them into its conftest.py: at its end they are
taken away while other tests still run.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.images.base_image import base_archive
from tests.images.building import BASE_IMAGE, BuiltImage, BuiltImages, containerize
from tests.images.engine import PACKAGES, Engine, missing
from tests.support.shared import locked, once, run_folder
from tests.support.tools import missing_tool


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """podman and buildah, apart from the machine's own: one for all processes of the run."""
    lacking = missing()
    if lacking:
        words = f"images need {', '.join(lacking)} (Debian: {PACKAGES}; root)"
        missing_tool(words)
    folder = run_folder(tmp_path_factory)
    place, lock = folder / "engine", folder / "engine-users.lock"
    users = folder / "engine-users"

    def make() -> str:
        Engine.sweep()
        return str(Engine().directory)

    def count_users(change: int) -> int:
        count = change + (int(users.read_text()) if users.exists() else 0)
        users.write_text(str(count))
        return count

    with locked(lock):
        made = Engine(Path(once(place, make)))
        count_users(+1)
    try:
        yield made
    finally:
        with locked(lock):
            if not count_users(-1):
                place.unlink()
                made.close()


@pytest.fixture(scope="package")
def base_image(engine: Engine) -> str:
    """The image that the others are made on."""

    def make() -> str:
        engine.import_base(base_archive(), BASE_IMAGE)
        return BASE_IMAGE

    return once(engine.directory / "base-image", make)


@pytest.fixture(scope="package")
def images(engine: Engine, base_image: str) -> BuiltImages:
    """Both images, made side by side, each by a backend that works without a daemon."""

    def build(name: str, backend: str) -> BuiltImage:
        def make() -> str:
            home = engine.directory / "bentoml" / name
            home.mkdir(parents=True)
            return json.dumps(asdict(containerize(engine, home, name, backend=backend)))

        return BuiltImage(**json.loads(once(engine.directory / name, make)))

    with ThreadPoolExecutor(2) as threads:
        logging = threads.submit(build, "logging_service", "buildah")
        inference = threads.submit(build, "inference_service", "podman")
        return BuiltImages(logging=logging.result(), inference=inference.result())
