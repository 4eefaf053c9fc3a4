"""Histograms of training, and how far counts are from them beyond chance."""

import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bentos.inference.images import measure
from bentos.inference.model.profile import Buckets, read_profile
from bentos.inference.state import MOST_BUCKETS, QUANTITIES
from examples.dataset import ImageDataset, Split
from examples.network import SurfaceNetwork
from examples.profile import profile_of

TENTHS = Buckets(tuple(place / 10 for place in range(1, 10)), (0.1,) * 10, 500)
ALERTS_ABOVE = 0.25


def counts(buckets: Buckets, values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    places = np.searchsorted(buckets.edges, values, side="right")
    return [float(count) for count in np.bincount(places, minlength=len(buckets.shares))]


def test_the_index_is_the_sum_over_buckets_of_difference_times_log_ratio() -> None:
    # 0.5 ln(3) for 25% instead of 75%, as both parts are large enough for chance not to count.
    buckets = Buckets((0.5,), (0.75, 0.25), 10_000_000)
    assert buckets.drift([2_500_000, 7_500_000]) == pytest.approx(np.log(3), abs=1e-4)
    assert buckets.drift([7_500_000, 2_500_000]) == 0.0


@pytest.mark.parametrize(("pictures", "number"), [(36, 200), (500, 200), (500, 5_000)])
def test_samples_of_the_same_population_show_no_drift(pictures: int, number: int) -> None:
    shown = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        of_training = random.random(pictures)
        edges = np.quantile(of_training, np.arange(1, 10) / 10)
        shares = np.histogram(of_training, [0, *edges, 1])[0] / pictures
        buckets = Buckets(tuple(edges), tuple(shares), pictures)
        drift = buckets.drift(counts(buckets, random.random(number)))
        shown += drift > 0
        assert drift < ALERTS_ABOVE / 2
    assert shown <= 3


def test_another_population_does_and_the_more_of_it_the_more() -> None:
    random = np.random.default_rng(1)
    shifted = [np.clip(random.random(2_000) + shift, 0, 1) for shift in (0.1, 0.2, 0.4)]
    drifts = [TENTHS.drift(counts(TENTHS, values)) for values in shifted]
    assert drifts[0] > ALERTS_ABOVE
    assert drifts == sorted(drifts)


def test_nothing_counted_is_no_drift() -> None:
    assert TENTHS.drift([0.0] * 10) == 0.0


def test_a_profile_is_read_from_metadata() -> None:
    content = {"class": {"edges": [0.5], "shares": [0.9, 0.1], "pictures": 20}, "own": TENTHS}
    content["own"] = msgspec.to_builtins(TENTHS)
    assert read_profile(content) == {"class": Buckets((0.5,), (0.9, 0.1), 20)}
    assert read_profile(None) is None
    assert read_profile({}) is None


@pytest.mark.parametrize(
    "content",
    [
        "fast",
        {"class": [1, 2]},
        {"class": {"edges": [], "shares": [1], "pictures": 9}},
        {"class": {"edges": [0.5], "shares": [1], "pictures": 9}},
        {"class": {"edges": [0.5, 0.5], "shares": [0.5, 0.2, 0.3], "pictures": 9}},
        {"class": {"edges": [float("nan")], "shares": [0.5, 0.5], "pictures": 9}},
        {"class": {"edges": [0.5], "shares": [0.5, 1.5], "pictures": 9}},
        {"class": {"edges": [0.5], "shares": [0.5, 0.4], "pictures": 9}},
        {"class": {"edges": [0.5], "shares": [0.5, 0.5], "pictures": 0}},
        {"class": {"edges": [*range(MOST_BUCKETS)], "shares": [0.05] * 20 + [0], "pictures": 9}},
    ],
)
def test_what_is_no_profile_keeps_no_model_from_being_served(
    content: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_profile(content) is None


def test_pictures_are_measured_from_0_to_1() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert measure(black) == [0.0, 0.0, 0.0]
    assert measure(white) == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    stripes = np.zeros((8, 8, 1), np.uint8)
    stripes[:, ::2] = 255
    # Every neighbour across differs by 1, none below.
    assert measure(stripes) == pytest.approx([0.5, 0.5, 1.0], abs=1e-6)
    assert measure(np.zeros((1, 1, 1), np.uint8)) == [0.0, 0.0, 0.0]


def _images(labels: list[int]) -> ImageDataset:
    """Return pictures of 8 x 8, as bright as their class's index says."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.rand(len(labels), 1, 8, 8, generator=random) * 0.2
    pixels += torch.tensor(labels)[:, None, None, None] * 0.7
    names = ("dark", "bright")
    return ImageDataset(pixels, torch.tensor(labels), names, (Path("x.png"),) * len(labels))


def _network() -> SurfaceNetwork:
    torch.manual_seed(0)
    network = SurfaceNetwork(channels=1, height=8, width=8, classes=2, mean=[0.5], deviation=[0.5])
    network.eval()
    return network


def test_training_makes_a_profile_that_serving_reads() -> None:
    content = profile_of(_network(), Split(_images([0, 1] * 40), _images([0, 1] * 10)))
    profile = read_profile(msgspec.json.decode(msgspec.json.encode(content)))
    assert profile is not None
    assert list(profile) == list(QUANTITIES)
    assert (profile["class"].pictures, profile["brightness"].pictures) == (20, 100)
    assert profile["class"].edges == (0.5,)
    for buckets in profile.values():
        assert sum(buckets.shares) == pytest.approx(1, abs=1e-4)
    assert len(profile["brightness"].shares) == 10
    assert profile["brightness"].shares == pytest.approx([0.1] * 10, abs=0.03)


def test_a_class_mix_makes_pictures_count_as_they_are_to_be_expected() -> None:
    parts = Split(_images([0, 1] * 40), _images([0, 1] * 10))
    profile = read_profile(profile_of(_network(), parts, {"dark": 0.9}))
    assert profile is not None
    brightness = profile["brightness"]
    middle = np.searchsorted(brightness.edges, 0.5)
    assert sum(brightness.shares[:middle]) == pytest.approx(0.9, abs=0.11)
    # Of 50 and 50 pictures with the weights 1.8 and 0.2.
    assert brightness.pictures == 60
