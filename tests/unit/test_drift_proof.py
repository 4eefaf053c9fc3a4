"""The demo's network and pictures: changed ones exceed the alert's limit, a normal day does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from bentos.health.values import Samples
from bentos.inference.drift import LEAST_PICTURES, DriftWatch
from bentos.inference.engine import Prediction
from bentos.inference.images import measure
from bentos.inference.model.profile import read_profile
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.state import InferenceState
from examples import steel_images
from examples.dataset import read_folder, split
from examples.profile import profile_of
from examples.training import fit

# The alert's; monitoring/prometheus/source/inference.py.
LIMIT = 0.25
NORMAL_BEFORE = 1_000
# The network knows it not.
NEW_CLASS = "stain"
CLASSES = tuple(name for name in steel_images.class_names() if name != NEW_CLASS)
POOL = 400

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    """A model, and predictions of pictures of each kind that it was not trained on."""

    model: ServedModel
    predictions: Mapping[str, list[Prediction]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("images")
    steel_images.write_images(folder, per_class=60, seed=5)
    for path in (folder / NEW_CLASS).iterdir():
        path.unlink()
    (folder / NEW_CLASS).rmdir()
    parts = split(read_folder(folder), seed=0)
    network = fit(parts.train, epochs=8, seed=0)
    defects = tuple(name != steel_images.NORMAL for name in CLASSES)
    spec = ModelSpec(
        (3, 32, 32), "float32", CLASSES, defects, profile=read_profile(profile_of(network, parts))
    )
    model = ServedModel(ModelIdentity("steel", "production", "1"), spec)

    def predictions(pictures: list[Image.Image]) -> list[Prediction]:
        pixels = np.stack([np.asarray(one) for one in pictures])
        with torch.inference_mode():
            inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            rows = network(inputs).softmax(dim=1)
        return [
            Prediction(int(row.argmax()), row.tolist(), model, measures=measure(one))
            for row, one in zip(rows, pixels, strict=True)
        ]

    random = np.random.default_rng(7)
    normal = [steel_images.draw(CLASSES[place % len(CLASSES)], random) for place in range(POOL)]
    return World(
        model,
        {
            "normal": predictions(normal),
            "dark": predictions([one.point(lambda level: level * 0.7) for one in normal]),
            "blurred": predictions([one.filter(ImageFilter.GaussianBlur(1)) for one in normal]),
            "new class": predictions([steel_images.draw(NEW_CLASS, random) for _ in normal]),
        },
    )


class Line:
    """Pictures of one kind after the other, a beat of the watch after each few of them."""

    def __init__(self, folder: Path, world: World, *, seed: int = 0, pause: float = 3.6) -> None:
        self.now = 0.0
        self._pause = pause
        self._world = world
        self._random = np.random.default_rng(seed)
        labels = {"model": "steel", "stage": "production"}
        self._state = InferenceState(folder, labels=labels)
        self._watch = DriftWatch(self._state, window_seconds=3_600, clock=lambda: self.now)
        self._watch.beat(world.model)

    def serve(self, kind: str, number: int, *, until: Callable[[float], bool]) -> int | None:
        """Serve pictures; return after how many a drift ends it, None where none does."""
        pool = self._world.predictions[kind]
        for place, index in enumerate(self._random.integers(len(pool), size=number), start=1):
            self._watch.count(pool[index])
            self.now += self._pause
            if place % 20 == 0:
                self._watch.beat(self._world.model)
                samples = cast("Samples", self._state.drift_psi)
                if until(max((value for _, value in samples), default=0.0)):
                    return place
        return None


def exceeds(drift: float) -> bool:
    return drift > LIMIT


@pytest.mark.parametrize("kind", ["dark", "blurred", "new class"])
def test_changed_pictures_exceed_the_alerts_limit_within_the_first_ones_of_a_new_pod(
    world: World, kind: str, tmp_path: Path
) -> None:
    found = Line(tmp_path, world).serve(kind, LEAST_PICTURES, until=exceeds)
    assert found == LEAST_PICTURES


@pytest.mark.parametrize("kind", ["dark", "blurred", "new class"])
def test_changed_pictures_exceed_the_alerts_limit_within_as_many_as_were_normal(
    world: World, kind: str, tmp_path: Path
) -> None:
    line = Line(tmp_path, world)
    # A window of normal pictures, one in 3.6 s.
    assert line.serve("normal", NORMAL_BEFORE, until=exceeds) is None
    found = line.serve(kind, NORMAL_BEFORE, until=exceeds)
    assert found is not None
    print(f"{kind}: after {found} pictures")


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_normal_traffic_raises_nothing(world: World, seed: int, tmp_path: Path) -> None:
    line = Line(tmp_path, world, seed=seed)
    day = 24 * 3_600
    assert line.serve("normal", round(day / 3.6), until=exceeds) is None
    assert line.now == pytest.approx(day)
