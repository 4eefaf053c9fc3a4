"""What the pictures of training were like, and how far those that come now are from it.

The measure is the population stability index, the symmetric Kullback-Leibler divergence of two
histograms (Jeffreys, 1946). It is not 0 for two samples of one population: times NM / (N + M) it
then has a chi-squared distribution with B - 1 degrees of freedom, for N and M values in B buckets
(Yurdakul & Naranjo, Journal of Risk Model Validation 14, 2020).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from bentos.inference.state import MOST_BUCKETS, QUANTITIES
from bentos.process.logs import event, get_logger

# A bucket that nothing fell into is no proof that nothing ever will.
_SMOOTHING = 0.5
_ROUNDING = 1e-3
# Of a normal distribution: one in a thousand is beyond.
_BEYOND_CHANCE = 3.0902

_logger = get_logger("profile")


class Buckets(msgspec.Struct, frozen=True):
    """A histogram of training: `shares` below, between and from the `edges` on.

    `pictures` is of how many pictures it is.
    """

    edges: Annotated[tuple[float, ...], Meta(min_length=1, max_length=MOST_BUCKETS - 1)]
    shares: tuple[Annotated[float, Meta(ge=0, le=1)], ...]
    pictures: Annotated[int, Meta(ge=1)]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError("there is one share more than edges")
        if abs(sum(self.shares) - 1) > _ROUNDING:
            raise ValueError("the shares are 1 in all")
        if not all(map(math.isfinite, self.edges)) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges are numbers that rise")

    def drift(self, counts: Sequence[float]) -> float:
        """Return the population stability index of the counts of each bucket, beyond chance.

        What one in a thousand samples without any drift exceeds is taken off, so that few pictures
        show no drift. 0 where nothing is left, or nothing was counted.
        """
        number = sum(counts)
        if not number:
            return 0.0
        index = 0.0
        size = len(self.shares)
        for share, count in zip(self.shares, counts, strict=True):
            expected = _smoothed(share * self.pictures, self.pictures, size)
            found = _smoothed(count, number, size)
            index += (found - expected) * math.log(found / expected)
        chance = _chi_squared(size - 1) * (1 / number + 1 / self.pictures)
        return max(0.0, index - chance)


Profile: TypeAlias = Mapping[str, Buckets]


def read_profile(content: Any) -> Profile | None:
    """Return the profile in a model's metadata, None where there is none.

    One that cannot be read is told in the log and left out: no answer depends on it.
    """
    if content is None:
        return None
    try:
        read = msgspec.convert(content, dict[str, Buckets])
    except msgspec.ValidationError as error:
        event(_logger, logging.WARNING, f"drift is not watched: the model's profile: {error}")
        return None
    return {name: read[name] for name in QUANTITIES if name in read} or None


def _smoothed(count: float, number: float, size: int) -> float:
    return (count + _SMOOTHING) / (number + _SMOOTHING * size)


def _chi_squared(degrees: int) -> float:
    """Return what one in a thousand exceeds (Wilson & Hilferty, PNAS 17, 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + _BEYOND_CHANCE * math.sqrt(part)) ** 3)
