"""Which threshold is chosen, what it costs, and how far held-out pictures can be trusted."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.inference.model.spec import ModelSpec
from examples.escapes import Judged, Unreachable, highest_rate, pictures_needed

SPEC = ModelSpec((1,), "float32", ("good", "crack"), (False, True))


def judged(*pictures: tuple[bool, float], spec: ModelSpec = SPEC) -> Judged:
    """Return pictures that are a defect or not, each with the probability of `good`."""
    probabilities = np.array([[good, 1 - good] for _, good in pictures], np.float32)
    return Judged.of(probabilities, np.array([defect for defect, _ in pictures]), spec)


def test_a_threshold_costs_escapes_and_reviews() -> None:
    made = judged((True, 0.9), (True, 0.7), (True, 0.1), (False, 0.95), (False, 0.8), (False, 0.2))
    cost = made.cost(0.85)
    assert (made.defects, made.good) == (3, 3)
    # The defect of 0.7 and the good part of 0.8; a good part called a crack fails.
    assert (cost.escapes, cost.reviewed_defects, cost.reviewed_good) == (1, 1, 1)


def test_what_the_model_leaves_to_a_person_as_a_defect_counts_as_reviewed() -> None:
    strict = ModelSpec((1,), "float32", ("good", "crack"), (False, True), thresholds=(0.5, 0.95))
    made = judged((True, 0.1), (True, 0.01), spec=strict)
    assert made.cost(0.5).reviewed_defects == 1


def test_the_lowest_threshold_is_chosen_that_lets_few_enough_defects_pass() -> None:
    made = judged(*[(True, share) for share in (0.99, 0.9, 0.8, 0.2)], (False, 0.97))
    assert made.choose(0.25).threshold == pytest.approx(0.900001)
    assert made.choose(0.25).escapes == 1
    assert made.choose(0.0).threshold == pytest.approx(0.990001)
    assert made.choose(0.0).escapes == 0
    assert made.choose(0.0).reviewed_good == 1


def test_it_is_never_below_the_one_that_a_class_has_without_any() -> None:
    assert judged((True, 0.1), (False, 0.9)).choose(0.01).threshold == 0.5
    assert judged((True, 0.9), (False, 0.9)).choose(1.0).threshold == 0.5


def test_defects_of_the_same_confidence_are_not_told_apart() -> None:
    assert judged(*[(True, 0.9)] * 4).choose(0.25).escapes == 0


def test_a_model_that_is_certain_of_its_errors_is_refused() -> None:
    with pytest.raises(Unreachable, match="1 of 2 defects good with a confidence of 1"):
        judged((True, 1.0), (True, 0.1)).choose(0.01)


@pytest.mark.parametrize(
    ("count", "number", "bound"),
    # Clopper and Pearson's, as tables have them.
    [(0, 36, 0.0798), (0, 299, 0.00997), (3, 100, 0.0757), (5, 5, 1.0), (0, 0, 1.0)],
)
def test_the_highest_rate_is_the_one_of_clopper_and_pearson(
    count: int, number: int, bound: float
) -> None:
    assert highest_rate(count, number) == pytest.approx(bound, abs=1e-4)


def test_as_many_defects_are_asked_for_as_show_the_rate() -> None:
    for rate in (0.01, 0.05, 0.2):
        assert highest_rate(0, pictures_needed(rate)) <= rate
        assert highest_rate(0, pictures_needed(rate) - 1) > rate


def _escapes_of(random: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Return the model's confidence in `good` for defects: one in ten is called good."""
    called_good = random.random(number) < 0.1
    return np.where(called_good, random.uniform(0.5, 1, number), 0.01)


def test_the_bound_holds_though_the_threshold_was_chosen_by_the_same_pictures() -> None:
    held = 0
    for seed in range(200):
        made = judged(*[(True, one) for one in _escapes_of(np.random.default_rng(seed), 150)])
        chosen = made.choose(0.02)
        true_rate = 0.1 * (1 - chosen.threshold) / 0.5
        held += true_rate <= highest_rate(chosen.escapes, made.defects)
    assert held >= 186  # 95%, less two standard deviations
