"""What a threshold costs: defects that pass, and parts that a person has to look at."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bentos.inference.model.spec import DEFAULT_THRESHOLD, ModelSpec
from examples.command import CommandError

# Of a confidence as it is answered, stored and compared.
_DECIMALS = 6
_SMALLEST_STEP = 1e-6
_HALVINGS = 60


class Unreachable(CommandError):  # noqa: N818 - says what the rate is
    """No threshold keeps so few defects from passing; the message says why."""


@dataclass(frozen=True)
class Judged:
    """What a model makes of labelled pictures, a number for each of them.

    `confidence`, float64 [N], is that of the predicted class; `called_good`, bool [N], says that
    this class is no defect, `fails`, bool [N], that the verdict is `fail`, and `is_defect`,
    bool [N], what the picture really shows.
    """

    confidence: NDArray[np.float64]
    called_good: NDArray[np.bool_]
    fails: NDArray[np.bool_]
    is_defect: NDArray[np.bool_]

    @classmethod
    def of(
        cls, probabilities: NDArray[np.float32], is_defect: NDArray[np.bool_], spec: ModelSpec
    ) -> "Judged":
        """Return it for probabilities [N, classes], with the model's thresholds of its defects."""
        predicted = probabilities.argmax(axis=1)
        confidence = np.round(probabilities.max(axis=1).astype(np.float64), _DECIMALS)
        verdicts = [
            spec.verdict(int(index), float(sure))
            for index, sure in zip(predicted, confidence, strict=True)
        ]
        called_good = ~np.asarray(spec.defects)[predicted]
        return cls(confidence, called_good, np.asarray(verdicts) == "fail", is_defect)

    @property
    def defects(self) -> int:
        """The number of pictures of defects."""
        return int(self.is_defect.sum())

    @property
    def good(self) -> int:
        """The number of pictures of good parts."""
        return len(self.is_defect) - self.defects

    def cost(self, threshold: float) -> "Cost":
        """Return what a threshold of the good classes costs."""
        passes = self.called_good & (self.confidence >= threshold)
        review = ~passes & ~self.fails
        return Cost(
            threshold,
            escapes=int((passes & self.is_defect).sum()),
            reviewed_defects=int((review & self.is_defect).sum()),
            reviewed_good=int((review & ~self.is_defect).sum()),
        )

    def choose(self, max_escape: float) -> "Cost":
        """Return the lowest threshold of the good classes, from 0.5, that lets few defects pass.

        `max_escape` is the share of defects that may. Raises Unreachable where the model is as
        sure of too many of them as it can be.
        """
        allowed = math.floor(max_escape * self.defects + 1e-9)
        escaping = np.sort(self.confidence[self.called_good & self.is_defect])[::-1]
        if len(escaping) <= allowed:
            return self.cost(DEFAULT_THRESHOLD)
        threshold = round(float(escaping[allowed]) + _SMALLEST_STEP, _DECIMALS)
        if threshold > 1:
            surest = int((escaping == 1).sum())
            raise Unreachable(
                f"the model calls {surest} of {self.defects} defects good with a confidence of 1: "
                "no threshold sends them to review; train it on more pictures like them"
            )
        return self.cost(max(DEFAULT_THRESHOLD, threshold))


@dataclass(frozen=True)
class Cost:
    """What a threshold costs, in numbers of pictures; `escapes` are defects that pass."""

    threshold: float
    escapes: int
    reviewed_defects: int
    reviewed_good: int


def highest_rate(count: int, number: int, *, confidence: float = 0.95) -> float:
    """Return the highest rate at which `count` of `number` or fewer are still to be expected.

    One-sided: the upper bound of Clopper & Pearson, Biometrika 26, 1934. It holds as well where the
    threshold was chosen by these pictures, since it then is a tolerance limit: the share beyond
    the (count + 1)th largest of `number` values has the distribution Beta(count + 1, number -
    count) (Wilks, Annals of Mathematical Statistics 12, 1941), of which this is a quantile.
    """
    if count >= number:
        return 1.0
    low, high = count / number, 1.0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        if _at_most(count, number, rate) > 1 - confidence:
            low = rate
        else:
            high = rate
    return high


def pictures_needed(rate: float, *, confidence: float = 0.95) -> int:
    """Return how many defects without an escape show that the rate is not higher."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate)) if 0 < rate < 1 else 1


def _at_most(count: int, number: int, rate: float) -> float:
    """Return the probability of `count` or fewer of `number`, each with the probability `rate`."""
    if not 0 < rate < 1:
        return float(rate <= 0)
    terms = (
        math.lgamma(number + 1)
        - math.lgamma(one + 1)
        - math.lgamma(number - one + 1)
        + one * math.log(rate)
        + (number - one) * math.log1p(-rate)
        for one in range(count + 1)
    )
    return math.fsum(map(math.exp, terms))
