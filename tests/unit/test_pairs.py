"""The comparison of two models: pairs, intervals that hold, and what they say."""

import numpy as np
import pytest

from examples.pairs import Pairs

_SEEDS = 200
_PASS_SHARE, _OTHER_SHARE = 0.05, 0.5


def pairs(*, both: int = 0, neither: int = 0, only_first: int = 0, only_second: int = 0) -> Pairs:
    first = [True] * both + [False] * neither + [True] * only_first + [False] * only_second
    second = [True] * both + [False] * neither + [False] * only_first + [True] * only_second
    return Pairs(np.array(first, bool), np.array(second, bool), np.ones(len(first)))


def test_a_challenger_that_is_right_more_often_is_better() -> None:
    found = pairs(both=150, only_first=5, only_second=45)
    assert found.difference().finding == "better"
    assert found.difference().estimate == pytest.approx(0.2)
    assert found.rates == (155 / 200, 195 / 200)


def test_a_challenger_that_is_right_less_often_is_worse() -> None:
    assert pairs(both=150, only_first=45, only_second=5).difference().finding == "worse"


def test_few_pictures_tell_nothing() -> None:
    assert pairs(both=20, only_first=1, only_second=3).difference().finding == "cannot tell"


def test_models_that_agreed_so_far_are_not_known_to_be_equal() -> None:
    found = pairs(both=100).difference()
    assert found.low < -0.005 < 0.005 < found.high
    assert found.finding == "cannot tell"


def test_without_a_picture_nothing_can_be_told() -> None:
    assert pairs().difference().finding == "cannot tell"


@pytest.mark.parametrize(
    ("only_first", "only_second", "chance"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (2, 10, 0.03857), (10, 2, 0.03857)],
)
def test_the_chance_is_that_of_the_binomial_distribution(
    only_first: int, only_second: int, chance: float
) -> None:
    found = pairs(both=50, only_first=only_first, only_second=only_second)
    assert found.chance() == pytest.approx(chance, abs=1e-5)


def test_the_interval_holds_the_true_difference_in_95_of_100_draws() -> None:
    """A challenger that is right where the other is not in 4%, and the other way round in 2%."""
    held = 0
    for seed in range(_SEEDS):
        outcomes = np.random.default_rng(seed).choice(3, 400, p=[0.94, 0.04, 0.02])
        found = Pairs(outcomes != 1, outcomes != 2, np.ones(400)).difference()
        held += found.low <= 0.02 <= found.high
    assert held >= 0.93 * _SEEDS


def _sample(seed: int) -> tuple[Pairs, float]:
    """Return a weighted sample of many parts, and the true difference among them.

    The models differ mostly on parts that are kept often.
    """
    random = np.random.default_rng(seed)
    passed = random.random(20_000) < 0.9
    differ = random.random(20_000) < np.where(passed, 0.01, 0.3)
    second_right = random.random(20_000) < np.where(passed, 0.2, 0.7)
    first, second = ~(differ & second_right), ~(differ & ~second_right)
    share = np.where(passed, _PASS_SHARE, _OTHER_SHARE)
    kept = random.random(20_000) < share
    truth = float(second.mean() - first.mean())
    return Pairs(first[kept], second[kept], 1 / share[kept]), truth


def test_pictures_that_were_kept_for_being_doubtful_count_less() -> None:
    """The interval holds with weights, and a count of the kept pictures alone misses."""
    held = naive = 0
    for seed in range(_SEEDS):
        sample, truth = _sample(seed)
        found = sample.difference()
        held += found.low <= truth <= found.high
        unweighted = Pairs(sample.first, sample.second, np.ones(len(sample))).difference()
        naive += unweighted.low <= truth <= unweighted.high
    assert held >= 0.93 * _SEEDS
    assert naive < 0.5 * _SEEDS
