"""Predictions are counted by the buckets of the profile, and the window moves on."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bentos.health.values import Samples
from bentos.inference.drift import LEAST_PICTURES, DriftWatch
from bentos.inference.engine import Prediction
from bentos.inference.model.profile import Buckets, Profile
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.state import InferenceState

WINDOW = 600.0
PROFILE: Profile = {
    "class": Buckets((0.5,), (0.5, 0.5), 1_000),
    "brightness": Buckets((0.4, 0.6), (0.3, 0.4, 0.3), 1_000),
}
LABELS = {"model": "steel", "stage": "production"}


def served(profile: Profile | None, version: str = "1") -> ServedModel:
    spec = ModelSpec((1,), "float32", ("good", "bad"), (False, True), profile=profile)
    return ServedModel(ModelIdentity("steel", "production", version), spec)


MODEL = served(PROFILE)


class Line:
    """A pod with a watch, and the pictures that come to it; `now` is its clock."""

    def __init__(self, folder: Path, *, worker: int = 1, workers: int = 1) -> None:
        self.now = 0.0
        self.state = InferenceState(folder, labels=LABELS, worker=worker, workers=workers)
        self.watch = DriftWatch(self.state, window_seconds=WINDOW, clock=lambda: self.now)

    def serve(
        self, number: int, brightness: float | None = None, *, model: ServedModel = MODEL
    ) -> None:
        """Count predictions, half of each class, with pictures or without."""
        measures = () if brightness is None else (brightness, 0.1, 0.1)
        for place in range(number):
            made = Prediction(place % 2, (0.5, 0.5), model, measures=measures)
            self.watch.count(made)

    def serve_like_training(self, number: int) -> None:
        for brightness, share in ((0.3, 0.3), (0.5, 0.4), (0.7, 0.3)):
            self.serve(round(number * share), brightness)

    def drift(self, *, after: float = 10.0, model: ServedModel | None = MODEL) -> dict[str, float]:
        """Return what is exposed some seconds later."""
        self.now += after
        self.watch.beat(model)
        samples = cast("Samples", self.state.drift_psi)
        return {name: value for (name,), value in samples}


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_enough_pictures_like_those_of_training_are_no_drift(line: Line) -> None:
    line.serve_like_training(LEAST_PICTURES)
    assert line.drift() == {"class": 0.0, "brightness": 0.0}


def test_other_pictures_are(line: Line) -> None:
    line.serve(LEAST_PICTURES, 0.2)
    drift = line.drift()
    assert drift["brightness"] > 0.25
    assert drift["class"] == 0.0


def test_too_few_pictures_say_nothing(line: Line) -> None:
    line.serve(LEAST_PICTURES - 1, 0.2)
    assert line.drift() == {}


def test_without_pictures_only_what_is_known_of_answers_is_told(line: Line) -> None:
    line.serve(LEAST_PICTURES)
    assert line.drift() == {"class": 0.0}


def test_a_model_without_a_profile_has_no_series(tmp_path: Path) -> None:
    line, model = Line(tmp_path), served(None)
    line.serve(LEAST_PICTURES, 0.2, model=model)
    assert line.drift(model=model) == {}


def test_what_is_older_than_the_window_counts_no_more(line: Line) -> None:
    line.serve(LEAST_PICTURES, 0.2)
    assert line.drift()["brightness"] > 0.25
    for _ in range(int(1.1 * WINDOW / 10)):
        line.serve_like_training(20)
        drift = line.drift()
    assert drift["brightness"] == 0.0


def test_where_nothing_comes_any_more_nothing_is_told(line: Line) -> None:
    line.serve(LEAST_PICTURES, 0.2)
    assert line.drift()
    for _ in range(int(1.1 * WINDOW / 10)):
        drift = line.drift()
    assert drift == {}


def test_a_new_model_begins_a_new_window_and_one_that_is_loaded_again_does_not(line: Line) -> None:
    line.serve(LEAST_PICTURES, 0.2)
    assert line.drift()
    again = served(dict(PROFILE))
    assert line.drift(model=None)  # its process is being replaced
    assert line.drift(model=again)
    brighter = served({"brightness": Buckets((0.1, 0.3), (0.01, 0.98, 0.01), 1_000)}, "2")
    assert line.drift(model=brighter) == {}
    line.serve(LEAST_PICTURES, 0.2, model=brighter)
    assert 0 <= line.drift(model=brighter)["brightness"] < 0.25


def test_all_workers_of_a_pod_count_together(tmp_path: Path) -> None:
    lines = [Line(tmp_path, worker=worker, workers=2) for worker in (1, 2)]
    for line in lines:
        line.watch.beat(MODEL)  # each has the model before pictures come
    for line in lines:
        line.serve(LEAST_PICTURES // 2, 0.2)
    lines[1].drift()  # each adds what it has counted
    assert lines[0].drift()["brightness"] > 0.25


def test_classes_beyond_the_last_bucket_are_counted_in_it(tmp_path: Path) -> None:
    names = tuple(map(str, range(50)))
    profile = {"class": Buckets((0.5, 1.5), (0.1, 0.1, 0.8), 1_000)}
    spec = replace(MODEL.spec, class_names=names, defects=(False,) * 50, profile=profile)
    model, line = replace(MODEL, spec=spec), Line(tmp_path)
    for index in range(LEAST_PICTURES):
        line.watch.count(Prediction(2 + index % 48, (0.5,) * 50, model))
    assert line.drift(model=model)["class"] > 0.1
