"""How often the answers are right: rates of all predictions, from the labels of a random sample.

A queue of doubtful pictures is no sample: among its labels, errors are far too frequent. So only
pictures of the sample count, which were drawn at random with a known probability. Each stands for
1/probability predictions (Horvitz and Thompson 1952, J. Am. Stat. Assoc. 47, 663-685). Pictures
of the sample that nobody labelled are made up for within cells of like pictures: the labelled ones
of a cell stand for all of it (Särndal, Swensson and Wretman 1992, Model Assisted Survey Sampling,
chapter 15). That is right where labelling was random within a cell, which is how the queue
offers the sample.

A rate is a ratio of two such totals. Its interval is found by Monte Carlo. The share of a class in
a stratum is drawn from its fiducial distribution, half Beta(x, n - x + 1) and half
Beta(x + 1, n - x) for x of n labels (Hannig 2009, Statistica Sinica 19, 491-544): where no error
was seen, the interval still has a width. Jeffreys' prior, halfway between the two, gave intervals
that were too short for classes with one or two errors in the sample. The size of a stratum is drawn
from a gamma distribution. Labels and pictures count by Kish's effective size, which allows for
unequal weights (Kish 1965, Survey Sampling, section 11.7).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

MAX_CLASSES = 100
# No class has a NUL in its name.
_OTHER, _OTHER_GOOD = "\0other", "\0good"
_DRAWS = 4_000
# Gamma distributions with a shape of 0 are a limit that NumPy does not draw from.
_TINY = 1e-9
# No interval is known to that many.
_DECIMALS = 6
_QUANTILES = (0.025, 0.975)
# With fewer labels a cell is merged with others: each of its few would get a large weight.
_CELL_LABELS = 10


@dataclass(frozen=True)
class Group:
    """Pictures of the sample that are alike in everything that the figures look at.

    `true_class` is what the last label says, None where there is none. `sample_probability` is
    the probability with which each came into the sample. Labels may be more frequent for some
    devices and days, and for pictures on which a challenger `differs`.
    """

    verdict: str
    class_name: str
    true_class: str | None
    sample_probability: float
    count: int
    edge_device_id: str = ""
    day: int = 0
    differs: bool = False


class Rate(msgspec.Struct, frozen=True):
    """A rate between 0 and 1, and its 95% interval.

    `labels` is how many labelled pictures are in its denominator, such as defects for an escape
    rate.
    """

    estimate: float
    low: float
    high: float
    labels: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of one set of predictions, each None where the labels do not tell.

    The model's name and version are empty where the predictions are not those of one version.
    `precision` and `recall` are by class and disregard the verdict.
    """

    model_name: str = ""
    model_version: str = ""
    edge_device_id: Annotated[str | None, Meta(description="Null for all devices together.")] = None
    good_classes: Annotated[Sequence[str], Meta(description="Classes that the model passes.")]
    pictures: Annotated[int, Meta(description="Pictures in the random sample.")]
    labels: Annotated[int, Meta(description="Those of them that have a label.")]
    unlabelled_verdicts: Annotated[
        Sequence[str],
        Meta(description="Verdicts of which none has a label yet: without, there are no figures."),
    ]
    escape_rate: Annotated[Rate | None, Meta(description="Defects that passed, of all defects.")]
    false_reject_rate: Annotated[
        Rate | None, Meta(description="Good ones that failed, of all good ones.")
    ]
    precision: Mapping[str, Rate | None]
    recall: Mapping[str, Rate | None]


@dataclass(frozen=True)
class _Pictures:
    """Pictures with one verdict and one predicted and true class, None for any true class.

    `weight` is the sum of how many predictions each stands for, `squares` that of its squares.
    """

    verdict: str
    class_name: str
    true_class: str | None
    count: int
    weight: float
    squares: float


Test: TypeAlias = Callable[[_Pictures], bool]
Draws: TypeAlias = NDArray[np.float64]
_CELL_KEYS: tuple[Callable[[Group], Any], ...] = (
    lambda group: group.class_name,
    lambda group: group.differs,
    lambda group: group.edge_device_id,
    lambda group: group.day,
)


def estimate(groups: Iterable[Group], good: Collection[str]) -> Figures:
    """Return the figures of all predictions from which the groups were drawn.

    `good` are the classes that are no defect. The same groups give the same figures. Of more than
    MAX_CLASSES classes, those with the most pictures have precision and recall.
    """
    ordered = sorted(groups, key=_order)
    pictures: Counter[str] = Counter()
    for group in ordered:
        pictures[group.class_name] += group.count
        if group.true_class is not None:
            pictures[group.true_class] += group.count
    names = sorted(name for name, _ in pictures.most_common(MAX_CLASSES))
    if len(pictures) > len(names):
        ordered = [_without_names(group, {*names}, good) for group in ordered]
        good = {*good, _OTHER_GOOD}
    sample = _Sample(ordered)
    predicted = {name: _predicted(name) for name in names}
    true = {name: _true(name) for name in names}
    return Figures(
        good_classes=sorted({*good} - {_OTHER_GOOD}),
        pictures=sum(group.count for group in ordered),
        labels=_labels(ordered),
        unlabelled_verdicts=sample.unlabelled,
        escape_rate=sample.part(
            lambda some: some.true_class not in good, lambda some: some.verdict == "pass"
        ),
        false_reject_rate=sample.part(
            lambda some: some.true_class in good, lambda some: some.verdict == "fail"
        ),
        precision={name: sample.share(predicted[name], true[name]) for name in names},
        recall={name: sample.part(true[name], predicted[name]) for name in names},
    )


def _without_names(group: Group, names: Collection[str], good: Collection[str]) -> Group:
    """Return a group whose classes have one name where they have no rates of their own.

    Otherwise a device that names each class anew would keep a processor busy for minutes.
    """
    true = group.true_class
    if true is not None and true not in names:
        true = _OTHER_GOOD if true in good else _OTHER
    class_name = group.class_name if group.class_name in names else _OTHER
    return replace(group, class_name=class_name, true_class=true)


def _order(group: Group) -> tuple[Any, ...]:
    return (
        *(group.verdict, group.class_name, group.true_class or "", group.edge_device_id),
        *(group.day, group.differs, group.sample_probability, group.count),
    )


def _predicted(name: str) -> Test:
    return lambda some: some.class_name == name


def _true(name: str) -> Test:
    return lambda some: some.true_class == name


@dataclass(frozen=True)
class _Stratum:
    """The predictions of one part of the sample.

    `size` is how many they are, known from as many pictures as `effective_pictures`. `share` is
    the share of them that has what is asked for, known from as many labels as `effective_labels`.
    `having` labels say so, of `labels`.
    """

    size: float
    effective_pictures: float
    share: float
    effective_labels: float
    labels: int
    having: int

    def draw(self, random: np.random.Generator) -> tuple[Draws, Draws]:
        """Return how many have it and how many have not, as often as it is drawn, as logarithms.

        A share may be drawn that no float is small enough for; the ratio of two is still known.
        """
        size = np.log(
            random.gamma(self.effective_pictures, self.size / self.effective_pictures, _DRAWS)
        )
        having = self.share * self.effective_labels
        upper = random.integers(0, 2, _DRAWS)
        with_it = _log_gamma(random, having + upper)
        without = _log_gamma(random, self.effective_labels - having + 1 - upper)
        both = np.logaddexp(with_it, without)
        return size + with_it - both, size + without - both


def _log_gamma(random: np.random.Generator, shape: NDArray[np.floating[Any]]) -> Draws:
    """Return logarithms of gamma-distributed numbers, which may be too small for a float.

    A number for a + 1, times U^(1/a), is one for a (Marsaglia and Tsang 2000, ACM Transactions on
    Mathematical Software 26, section 6).
    """
    shape = np.maximum(shape, _TINY)
    return np.log(random.standard_gamma(shape + 1)) - random.standard_exponential(_DRAWS) / shape


class _Sample:
    """The sample, with a weight for each label."""

    def __init__(self, groups: Sequence[Group]) -> None:
        cells = _split(groups, lambda group: group.verdict)
        self.unlabelled = [cell[0].verdict for cell in cells if not _labels(cell)]
        self._least_probability = min((one.sample_probability for one in groups), default=1.0)
        self._pictures = _sum(((one, 1 / one.sample_probability) for one in groups), labels=False)
        self._labelled = _sum(
            (one for cell in cells if _labels(cell) for one in _weighted(cell, _CELL_KEYS)),
            labels=True,
        )

    def share(self, of: Test, having: Test) -> Rate | None:
        """Return the share of those `of` that is `having`; only the latter depends on labels."""
        strata = self._strata(of, having)
        if not strata:
            return None
        random = np.random.default_rng(0)
        draws = [one.draw(random) for one in strata]
        return _rate(
            sum(one.size * one.share for one in strata),
            sum(one.size * (1 - one.share) for one in strata),
            np.logaddexp.reduce([having for having, _ in draws]),
            np.logaddexp.reduce([lacking for _, lacking in draws]),
            labels=sum(one.labels for one in strata),
        )

    def part(self, of: Test, inside: Test) -> Rate | None:
        """Return the share of those `of` that is `inside`; only the former depends on labels."""
        inner = self._strata(inside, of)
        outer = self._strata(lambda group: not inside(group), of)
        if inner is None or outer is None:
            return None
        random = np.random.default_rng(0)
        return _rate(
            sum(one.size * one.share for one in inner),
            sum(one.size * one.share for one in outer),
            np.logaddexp.reduce([one.draw(random)[0] for one in inner] or [self._unseen(random)]),
            np.logaddexp.reduce([one.draw(random)[0] for one in outer] or [self._unseen(random)]),
            labels=sum(one.having for one in (*inner, *outer)),
        )

    def _unseen(self, random: np.random.Generator) -> Draws:
        """Return how many there may be of a kind of which no picture is in the sample, as above.

        Half of the fiducial distribution of a count of 0 is 0, and half of that of a share of
        which there is no label.
        """
        count = random.standard_exponential(_DRAWS) / self._least_probability
        with np.errstate(divide="ignore"):
            return np.log(np.where(random.integers(0, 4, _DRAWS) == 0, count, 0.0))

    def _strata(self, side: Test, having: Test) -> list[_Stratum] | None:
        """Return what passed and what did not of one side; None where labels are missing.

        They are two strata since a picture that passed stands for many more predictions, and one
        where one of them has no label.
        """
        if self.unlabelled:
            return None
        pictures = [one for one in self._pictures if side(one)]
        labelled = [one for one in self._labelled if side(one)]
        if pictures and not labelled:
            return None
        strata = [
            (
                [one for one in pictures if (one.verdict == "pass") == passed],
                [one for one in labelled if (one.verdict == "pass") == passed],
            )
            for passed in (True, False)
        ]
        if any(some and not known for some, known in strata):
            strata = [(pictures, labelled)]
        return [_stratum(some, known, having) for some, known in strata if some]


def _stratum(
    pictures: Sequence[_Pictures], labelled: Sequence[_Pictures], having: Test
) -> _Stratum:
    size, weight = sum(one.weight for one in pictures), sum(one.weight for one in labelled)
    found = [one for one in labelled if having(one)]
    return _Stratum(
        size=size,
        effective_pictures=size**2 / sum(one.squares for one in pictures),
        share=sum(one.weight for one in found) / weight,
        effective_labels=weight**2 / sum(one.squares for one in labelled),
        labels=sum(one.count for one in labelled),
        having=sum(one.count for one in found),
    )


def _rate(
    having: float, lacking: float, drawn_having: Draws, drawn_lacking: Draws, *, labels: int
) -> Rate | None:
    """Return having / (having + lacking) with its interval; None where both are 0.

    What is drawn of them are logarithms.
    """
    if having + lacking == 0:
        return None
    value = having / (having + lacking)
    low, high = np.quantile(np.exp(-np.logaddexp(0, drawn_lacking - drawn_having)), _QUANTILES)
    return Rate(
        estimate=round(value, _DECIMALS),
        low=round(min(float(low), value), _DECIMALS) if having else 0.0,
        high=round(max(float(high), value), _DECIMALS) if lacking else 1.0,
        labels=labels,
    )


def _weighted(
    groups: Sequence[Group], keys: Sequence[Callable[[Group], Any]]
) -> Iterator[tuple[Group, float]]:
    """Yield the labelled groups and how many predictions each picture of them stands for.

    Together they stand for all of the groups, and so they do in each cell of like ones.
    """
    if keys:
        for cell in _cells(_split(groups, keys[0])):
            yield from _weighted(cell, keys[1:])
        return
    labelled = [one for one in groups if one.true_class is not None]
    every = sum(one.count / one.sample_probability for one in groups)
    factor = every / sum(one.count / one.sample_probability for one in labelled)
    for one in labelled:
        yield one, factor / one.sample_probability


def _cells(cells: list[list[Group]]) -> list[list[Group]]:
    """Return cells, those with the fewest labels merged until each has enough."""
    enough: list[list[Group]] = []
    rest: list[Group] = []
    for cell in sorted(cells, key=_labels):
        rest = [*rest, *cell]
        if _labels(rest) >= _CELL_LABELS:
            enough.append(rest)
            rest = []
    if rest:
        enough[-1:] = [[*rest, *(enough[-1] if enough else ())]]
    return enough


def _sum(weighted: Iterable[tuple[Group, float]], *, labels: bool) -> list[_Pictures]:
    """Return pictures summed up by verdict and predicted class and, with `labels`, true class."""
    sums: dict[tuple[str, str, str | None], tuple[int, float, float]] = {}
    for group, weight in weighted:
        key = (group.verdict, group.class_name, group.true_class if labels else None)
        count, total, squares = sums.get(key, (0, 0.0, 0.0))
        sums[key] = (
            count + group.count,
            total + group.count * weight,
            squares + group.count * weight**2,
        )
    return [_Pictures(*key, *numbers) for key, numbers in sums.items()]


def _split(groups: Iterable[Group], key: Callable[[Group], Any]) -> list[list[Group]]:
    return [list(some) for _, some in groupby(sorted(groups, key=key), key=key)]


def _labels(groups: Iterable[Group]) -> int:
    return sum(group.count for group in groups if group.true_class is not None)
