"""Compares two models by pictures that both were shown: the difference, and how sure it is.

The difference is that of pairs, since a picture is easy or hard for both models. Its interval is a
Bayesian bootstrap (Rubin, The Bayesian Bootstrap, Annals of Statistics 9, 1981) of the pictures,
with a third of a picture more for each outcome: two models that agreed so far are not known to be
equal, and without it their interval would be zero wide.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Finding: TypeAlias = Literal["better", "worse", "cannot tell"]

_DRAWS: Final = 20_000
_PRIOR: Final = 1 / 3
_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Difference:
    """By how much the second model's rate is above the first one's, and its 95% interval."""

    estimate: float
    low: float
    high: float

    @property
    def finding(self) -> Finding:
        """What it says of the second model, if a higher rate is better."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "cannot tell"


@dataclass(frozen=True)
class Pairs:
    """What two models made of the same pictures, [n] each.

    `first` and `second` say whether a model did well on a picture. A picture that was drawn with a
    probability has one over it as its weight, and stands for so many (Horvitz and Thompson, 1952).
    """

    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def rates(self) -> tuple[float, float]:
        """The share of pictures on which each did well; NaN without a picture."""
        if not len(self):
            return math.nan, math.nan
        first, second = (
            float(np.average(one, weights=self.weights)) for one in (self.first, self.second)
        )
        return first, second

    @property
    def only_first(self) -> int:
        """Pictures on which the first did well and the second did not."""
        return int((self.first & ~self.second).sum())

    @property
    def only_second(self) -> int:
        """Pictures on which the second did well and the first did not."""
        return int((self.second & ~self.first).sum())

    def difference(self, *, seed: int = 0) -> Difference:
        """Return the second rate less the first one, with its interval."""
        outcomes = self.second.astype(int) - self.first.astype(int)
        random = np.random.default_rng(seed)
        # Pictures of one weight and one outcome are alike: their shares together are gamma numbers.
        total, change = np.zeros(_DRAWS), np.zeros(_DRAWS)
        for weight in np.unique(self.weights) if len(self) else [1.0]:
            alike = outcomes[self.weights == weight]
            for outcome in (-1, 0, 1):
                count = np.count_nonzero(alike == outcome)
                shares = weight * random.standard_gamma(count + _PRIOR, _DRAWS)
                total += shares
                change += outcome * shares
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile(change / total, [tail, 1 - tail])
        first, second = self.rates
        return Difference(second - first, float(low), float(high))

    def chance(self) -> float:
        """Return the probability of so uneven pairs, or more, if both models were equally good.

        Two-sided and exact (McNemar, Psychometrika 12, 1947): each picture counts once.
        """
        fewer, pairs = min(self.only_first, self.only_second), self.only_first + self.only_second
        tail = sum(math.comb(pairs, count) for count in range(fewer + 1))
        return float(min(1.0, 2 * tail / 2**pairs))
