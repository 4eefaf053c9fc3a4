"""The figures, proved on drawn predictions whose truth is known."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.evidence import MIN_SHARE
from bentos.logging.review.figures import Figures, Group, Rate, estimate

SEEDS = 100
# A 95% interval holds the truth in at least so many of 100 seeds.
ENOUGH = 93
CLASSES = ("good", "crack", "pit", "dent")
VERDICTS = ("pass", "fail", "review")
PASS, FAIL, REVIEW = range(3)
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """How predictions are made, kept and labelled.

    `missed` is the share of defects whose class is wrong. `kept` is the share of each verdict that
    is drawn into the sample, `arriving` what of it is not dropped, `labelled` the share of the
    sample that has labels, by device. `harder` is how much more often the last device is wrong.
    """

    predictions: int = 20_000
    missed: float = 0.1
    kept: tuple[float, float, float] = (0.02, 0.2, 0.2)
    arriving: float = 1.0
    labelled: tuple[float, ...] = (1.0, 1.0, 1.0)
    harder: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """Predictions with their truth; all are numbers by prediction, flags 0 or 1."""

    true: Numbers
    predicted: Numbers
    verdict: Numbers
    device: Numbers
    sampled: Numbers
    labelled: Numbers
    probability: NDArray[np.float64]
    confidence: NDArray[np.float64]


def draw(world: World, seed: int) -> Drawn:
    """Draw a tenth of defects of three classes, answers to them, verdicts and labels."""
    random = np.random.default_rng(seed)
    size = world.predictions
    devices = len(world.labelled)
    device = random.integers(0, devices, size)
    true = np.where(random.random(size) < 0.9, 0, random.integers(1, 4, size))
    wrong = np.where(true == 0, 0.02, world.missed)
    wrong = np.where(device == devices - 1, wrong * world.harder, wrong)
    instead = np.where(random.random(size) < 0.6, 0, random.integers(1, 4, size))
    instead = np.where(true == 0, random.integers(1, 4, size), instead)
    predicted = np.where(random.random(size) < wrong, instead, true)
    sure, unsure = 1 - random.beta(1, 12, size), 1 - random.beta(2, 4, size)
    confidence = np.where(predicted == true, sure, unsure)
    verdict = np.where(confidence < 0.6, REVIEW, np.where(predicted == 0, PASS, FAIL))
    probability = np.choose(verdict, world.kept)
    sampled = (random.random(size) < probability) & (random.random(size) < world.arriving)
    labelled = sampled & (random.random(size) < np.choose(device, world.labelled))
    return Drawn(
        *(true, predicted, verdict, device),
        *(sampled.astype(np.int64), labelled.astype(np.int64), probability, confidence),
    )


def groups_of(drawn: Drawn) -> list[Group]:
    """Return the sample as the figures take it."""
    at = drawn.sampled == 1
    known = np.where(drawn.labelled == 1, drawn.true, -1)
    columns = (drawn.verdict, drawn.predicted, known, drawn.probability, drawn.device)
    counts = Counter(zip(*(column[at].tolist() for column in columns), strict=True))
    return [
        Group(
            verdict=VERDICTS[verdict],
            class_name=CLASSES[predicted],
            true_class=None if true < 0 else CLASSES[true],
            sample_probability=probability,
            count=count,
            edge_device_id=f"line-{device}",
        )
        for (verdict, predicted, true, probability, device), count in counts.items()
    ]


def truth_of(drawn: Drawn) -> dict[str, float]:
    """Return the rates of all predictions."""
    defects, good = drawn.true > 0, drawn.true == 0
    cracks, found = drawn.true == 1, drawn.predicted == 1
    return {
        "escape_rate": float((defects & (drawn.verdict == PASS)).sum() / defects.sum()),
        "false_reject_rate": float((good & (drawn.verdict == FAIL)).sum() / good.sum()),
        "precision": float((cracks & found).sum() / found.sum()),
        "recall": float((cracks & found).sum() / cracks.sum()),
    }


def rates_of(figures: Figures) -> dict[str, Rate | None]:
    """Return the rates that `truth_of` knows."""
    return {
        "escape_rate": figures.escape_rate,
        "false_reject_rate": figures.false_reject_rate,
        "precision": figures.precision["crack"],
        "recall": figures.recall["crack"],
    }


def holds(world: World, seeds: Sequence[int] = range(SEEDS)) -> Counter[str]:
    """Return for each rate in how many seeds the true value lies within the interval."""
    found: Counter[str] = Counter()
    for seed in seeds:
        drawn = draw(world, seed)
        truth = truth_of(drawn)
        for name, rate in rates_of(estimate(groups_of(drawn), {"good"})).items():
            found[name] += rate is not None and rate.low <= truth[name] <= rate.high
    return found


WORLDS: Mapping[str, World] = {
    "every picture of the sample labelled": World(),
    "a third of it dropped, and a third of the rest labelled": World(
        arriving=0.67, labelled=(0.33, 0.33, 0.33)
    ),
    "one line labelled far more than the others, on which errors are twice as frequent": World(
        labelled=(0.8, 0.3, 0.15), harder=2.0
    ),
    "next to no escapes": World(missed=0.01),
    "pictures kept with the same probability": World(kept=(0.1, 0.1, 0.1)),
    "every picture kept that did not pass": World(kept=(0.02, 1.0, 1.0)),
    "few pictures": World(predictions=5_000),
    "thirty devices": World(labelled=(0.5,) * 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_the_true_rates_lie_within_the_intervals(name: str) -> None:
    found = holds(WORLDS[name])
    assert all(found[rate] >= ENOUGH for rate in truth_of(draw(World(), 0))), found


@pytest.mark.slow
def test_the_unweighted_share_of_all_labels_fails_the_same_test() -> None:
    """Of a queue of the least confident pictures beside the sample, as of the sample alone."""
    queue: Counter[str] = Counter()
    unweighted: Counter[str] = Counter()
    for seed in range(SEEDS):
        drawn = draw(World(), seed)
        truth = truth_of(drawn)
        kept = (drawn.sampled == 1) | (drawn.verdict != PASS)
        doubtful = np.argsort(np.where(kept, drawn.confidence, 2.0))[:400]
        shown = drawn.sampled.copy()
        shown[doubtful] = 1
        for counts, labelled in ((queue, shown), (unweighted, drawn.sampled)):
            equal = replace(
                drawn, sampled=labelled, labelled=labelled, probability=np.ones(len(labelled))
            )
            for name, rate in rates_of(estimate(groups_of(equal), {"good"})).items():
                counts[name] += rate is not None and rate.low <= truth[name] <= rate.high
    for counts in (queue, unweighted):
        assert counts["escape_rate"] < ENOUGH, counts
        assert counts["false_reject_rate"] < ENOUGH, counts
        assert counts["recall"] < ENOUGH, counts


def group(
    verdict: str, class_name: str, true_class: str | None, count: int, probability: float = 1.0
) -> Group:
    """Return pictures of one device."""
    return Group(verdict, class_name, true_class, probability, count)


def test_a_label_counts_as_many_predictions_as_its_picture_was_drawn_from() -> None:
    figures = estimate(
        [
            group("pass", "good", "crack", 1, 0.01),
            group("pass", "good", "good", 99, 0.01),
            group("fail", "crack", "crack", 90, 0.1),
            group("fail", "crack", "good", 10, 0.1),
        ],
        {"good"},
    )
    # 100 defects passed, 900 did not; 9,900 good ones passed, 100 did not.
    assert figures.escape_rate is not None
    assert figures.escape_rate.estimate == pytest.approx(0.1)
    assert figures.escape_rate.labels == 91
    assert figures.false_reject_rate is not None
    assert figures.false_reject_rate.estimate == pytest.approx(0.01)
    assert figures.precision["crack"] is not None
    assert figures.precision["crack"].estimate == pytest.approx(0.9)


def test_labels_stand_for_the_unlabelled_pictures_of_their_own_verdict_only() -> None:
    every = [group("pass", "good", "good", 100, 0.02), group("fail", "crack", "crack", 100, 0.2)]
    some = [
        *(group("pass", "good", "good", 10, 0.02), group("pass", "good", None, 90, 0.02)),
        *(group("fail", "crack", "crack", 50, 0.2), group("fail", "crack", None, 50, 0.2)),
    ]
    whole, part = estimate(every, {"good"}), estimate(some, {"good"})
    assert whole.recall["crack"] is not None
    assert part.recall["crack"] is not None
    assert part.recall["crack"].estimate == whole.recall["crack"].estimate == 1.0
    assert part.recall["crack"].low < whole.recall["crack"].low
    assert (part.pictures, part.labels) == (200, 60)


def test_no_observed_escape_is_no_proof_that_there_are_none() -> None:
    figures = estimate(
        [group("pass", "good", "good", 100, 0.02), group("fail", "crack", "crack", 50, 0.2)],
        {"good"},
    )
    assert figures.escape_rate is not None
    assert (figures.escape_rate.estimate, figures.escape_rate.low) == (0.0, 0.0)
    assert figures.escape_rate.high > 0.2


def test_that_no_picture_of_a_kind_was_drawn_is_no_proof_that_there_are_none() -> None:
    some = [group("pass", "good", "good", 50, 0.02), group("review", "good", "crack", 20, 0.2)]
    figures = estimate(some, {"good"})
    for rate in (figures.false_reject_rate, figures.escape_rate, figures.recall["crack"]):
        assert rate is not None
        assert (rate.estimate, rate.low) == (0.0, 0.0)
        assert 0.01 < rate.high < 0.9


def test_more_labels_give_a_shorter_interval() -> None:
    widths = []
    for size in (1, 4, 16):
        rate = estimate(
            [
                group("pass", "good", "crack", size, 0.02),
                group("pass", "good", "good", 100 * size, 0.02),
                group("fail", "crack", "crack", 50 * size, 0.2),
            ],
            {"good"},
        ).escape_rate
        assert rate is not None
        widths.append(rate.high - rate.low)
    assert widths == sorted(widths, reverse=True)


def test_nothing_is_said_while_a_verdict_has_no_label() -> None:
    figures = estimate(
        [
            group("pass", "good", None, 100, 0.02),
            group("fail", "crack", "crack", 100, 0.2),
            group("review", "crack", None, 3, 0.2),
        ],
        {"good"},
    )
    assert figures.escape_rate is figures.false_reject_rate is None
    assert set(figures.recall.values()) == set(figures.precision.values()) == {None}
    assert figures.unlabelled_verdicts == ["pass", "review"]


def test_nothing_is_said_of_a_class_that_no_label_names() -> None:
    figures = estimate(
        [group("pass", "good", "good", 10, 0.02), group("fail", "crack", "pit", 10, 0.2)], {"good"}
    )
    assert figures.recall["crack"] is None
    assert figures.precision["crack"] is not None
    assert figures.precision["crack"].estimate == 0.0
    assert figures.precision["pit"] is None
    assert figures.recall["pit"] is not None


def test_no_picture_gives_no_figure() -> None:
    figures = estimate([], {"good"})
    assert (figures.pictures, figures.labels) == (0, 0)
    assert figures.escape_rate is figures.false_reject_rate is None


def test_the_rarest_pictures_that_may_be_sent_have_figures() -> None:
    figures = estimate(
        [
            group("pass", "good", "crack", 50, MIN_SHARE),
            group("pass", "good", "good", 100_000, 1.0),
            group("fail", "crack", "crack", 50, 1.0),
        ],
        {"good"},
    )
    assert figures.escape_rate is not None
    assert 0.99 < figures.escape_rate.low <= figures.escape_rate.estimate < 1.0


def test_a_class_that_only_a_line_with_many_labels_has_gets_an_interval() -> None:
    """Of one line every picture is labelled and of the other one in 2,000: weights that unlike."""
    figures = estimate(
        [
            *(Group("pass", "good", "good", 0.02, 20, "line-1"),),
            *(Group("pass", "good", None, 0.02, 40_000, "line-1"),),
            *(Group("pass", "good", "good", 0.02, 20, "line-2"),),
            *(Group("pass", "good", "pit", 0.02, 1, "line-2"),),
            *(Group("fail", "pit", "good", 0.2, 20, "line-1"),),
            *(Group("fail", "pit", None, 0.2, 40_000, "line-1"),),
            *(Group("fail", "pit", "pit", 0.2, 1, "line-2"),),
            *(Group("fail", "pit", "good", 0.2, 20, "line-2"),),
        ],
        {"good"},
    )
    for rate in (figures.escape_rate, figures.recall["pit"]):
        assert rate is not None
        assert 0 <= rate.low < rate.estimate < rate.high <= 1


@pytest.mark.slow
def test_figures_of_100_000_classes_come_to_an_end() -> None:
    """A device that names every class anew, as with a number in it."""
    started = time.monotonic()
    some = [group("fail", f"crack {n}", f"crack {n}", 1, 0.2) for n in range(100_000)]
    figures = estimate([*some, group("pass", "good", "good", 500, 0.1)], {"good"})
    assert time.monotonic() - started < 40
    assert len(figures.recall) == 100
    assert figures.escape_rate is not None
    assert figures.escape_rate.labels == 100_000


def test_the_same_labels_give_the_same_figures_in_any_order() -> None:
    some = groups_of(draw(World(), 1))
    assert estimate(some, {"good"}) == estimate(some[::-1], {"good"})
