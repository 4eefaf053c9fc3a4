"""Declarations of a state's values, and the values as they stand in a pod's memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from bentos.health.pod import Row

if TYPE_CHECKING:
    from bentos.health.state import ServiceState

Across: TypeAlias = Literal["sum", "all", "max", "min"]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
LabelValues: TypeAlias = (
    "Sequence[Sequence[str]] | Callable[[type[ServiceState]], Sequence[Sequence[str]]]"
)
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
BoundT = TypeVar("BoundT", bound="BoundValue")
StateT = TypeVar("StateT", bound="ServiceState")

_COMBINE: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}

# Label value for a path that is no route, a status or a name that has no place: the values
# themselves would make series without bound.
OTHER = "other"
# Sections of a row's text: which names have which places in histograms with `names`, and by
# histogram and upper bound the last observation that belongs to a trace.
NAMES = "names"
EXEMPLARS = "exemplars"


@dataclass(frozen=True)
class Family:
    """A metric as it is exposed: its name, kind, meaning, label names and upper bucket bounds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


class Declaration(Generic[BoundT]):
    """One declared value; `metric` is its family's name, empty for a value that is not exposed.

    A name with `{prefix}` takes the service's prefix and labels, any other the label `service`.
    `labels` are the further labels, `values` every combination of their values.
    """

    kind: Kind
    across: Across = "sum"
    restarts_at_zero = False

    def __init__(
        self,
        metric: str = "",
        help_text: str = "",
        *,
        labels: Sequence[str] = (),
        values: LabelValues = ((),),
    ) -> None:
        self.metric = metric
        self.help = help_text
        self.labels = tuple(labels)
        self._values = values
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: "ServiceState", owner: type) -> BoundT: ...
    def __get__(self, instance: "ServiceState | None", owner: type) -> "Self | BoundT":
        # An instance's own attribute of this name is found first; see ServiceState.__init__.
        return self if instance is None else instance.__dict__[self.name]

    def values(self, owner: "type[ServiceState]") -> list[tuple[str, ...]]:
        """Return every combination of the further labels' values."""
        values = self._values(owner) if callable(self._values) else self._values
        return [tuple(value) for value in values]

    def cells(self, owner: "type[ServiceState]") -> int:
        """Return how many numbers of a row the value takes."""
        return len(self.values(owner)) * self.cells_each()

    def cells_each(self) -> int:
        """Return how many numbers one combination of label values takes."""
        return 1

    def family(self, owner: "type[ServiceState]") -> Family:
        """Return the metric that shows the value."""
        labels = _all_labels(owner, self.metric, self.labels)
        name = self.metric.format(prefix=owner.prefix)
        return Family(name, self.kind, self.help, labels, self.buckets)

    @property
    def buckets(self) -> tuple[float, ...]:
        """Upper bounds of a histogram's buckets, without infinity; empty for others."""
        return ()

    def bind(self, state: "ServiceState") -> BoundT:
        """Return the value as it stands in a state's memory."""
        raise NotImplementedError


class BoundValue:
    """A declared value in a pod's memory."""

    def __init__(self, state: "ServiceState", declaration: Declaration[Any]) -> None:
        self._state = state
        self._declaration = declaration
        self._start = state.row.index(declaration.name)
        self._row = state.row
        self._keys = declaration.values(type(state))
        self._positions = {key: index for index, key in enumerate(self._keys)}

    def _position(self, key: str | tuple[str, ...]) -> int:
        return self._positions[(key,) if isinstance(key, str) else key]

    def _without_labels(self) -> TypeError:
        name = self._declaration.name
        return TypeError(f"{name} has labels; take one of its values first: {name}[...]")

    def _across(self, offset: int) -> float:
        """Return one cell over the pod, as the declaration says."""
        name, pod = self._declaration.name, self._state.pod
        if self._declaration.kind != "gauge":
            return sum(row.values(name)[offset] for row in pod.rows)
        if self._declaration.across == "all":
            # A dead worker is missing, for which there is a reason of its own.
            rows = [row for row in pod.workers if row.alive or not row.claimed]
            return float(bool(rows) and all(row.values(name)[offset] == 1.0 for row in rows))
        live_only = self._declaration.restarts_at_zero
        rows = [row for row in pod.workers if (row.alive if live_only else row.claimed)]
        combine = _COMBINE[self._declaration.across]
        return combine([row.values(name)[offset] for row in rows] or [0.0])

    def samples(self) -> Samples:
        """Return the value of every combination of label values, over the pod."""
        return [(key, self._across(index)) for index, key in enumerate(self._keys)]


class CounterValue(BoundValue):
    """A counter, or with labels one for each combination: `state.errors["timeout"].add()`."""

    def __init__(
        self, state: "ServiceState", declaration: Declaration[Any], position: int | None = None
    ) -> None:
        super().__init__(state, declaration)
        self._offset = position or 0
        self._labelled = bool(declaration.labels) and position is None
        self._children: dict[str | tuple[str, ...], CounterValue] = {}

    def __getitem__(self, key: str | tuple[str, ...]) -> "CounterValue":
        """Return the counter of one combination; KeyError for one that is not declared."""
        child = self._children.get(key)
        if child is None:
            child = CounterValue(self._state, self._declaration, self._position(key))
            self._children[key] = child
        return child

    def __contains__(self, key: str | tuple[str, ...]) -> bool:
        return ((key,) if isinstance(key, str) else key) in self._positions

    def add(self, amount: float = 1) -> None:
        """Count, safely from any thread of this process."""
        if self._labelled:
            raise self._without_labels()
        self._row.add_at((self._start + self._offset, amount))

    @property
    def value(self) -> float:
        """The pod's count since it started; of a labelled counter the sum of all its values."""
        offsets = range(len(self._keys)) if self._labelled else [self._offset]
        return sum(self._across(offset) for offset in offsets)


class Counter(Declaration[CounterValue]):
    """A number that only grows and outlives the worker that counted."""

    kind = "counter"

    def bind(self, state: "ServiceState") -> CounterValue:
        """Return the counter in a state's memory."""
        return CounterValue(state, self)


class GaugeValue(BoundValue):
    """A number that each worker sets; the pod's value is made of the live workers'."""

    def set(self, value: float) -> None:
        """Write this worker's number."""
        self._row.set(self._declaration.name, value)

    def get(self) -> float:
        """Return this worker's own number."""
        return self._row.get(self._declaration.name)

    @property
    def value(self) -> float:
        """The pod's number: the workers' sum, largest, smallest, or whether it is 1 in all."""
        return self._across(0)


class Gauge(Declaration[GaugeValue]):
    """A number that goes up and down and is 0 again when its worker is replaced.

    `across` says what the pod's number is: the sum of the workers', the largest, the smallest, or
    1 where it is 1 in every worker that the pod should have. One that `outlives` its worker
    counts until a replacement sets it anew.
    """

    kind = "gauge"

    def __init__(
        self,
        metric: str = "",
        help_text: str = "",
        *,
        across: Across = "sum",
        outlives: bool = False,
    ) -> None:
        super().__init__(metric, help_text)
        self.across = across
        self.restarts_at_zero = not outlives

    def bind(self, state: "ServiceState") -> GaugeValue:
        """Return the gauge in a state's memory."""
        return GaugeValue(state, self)


class HistogramValue(BoundValue):
    """A histogram, or with labels one for each combination of their values."""

    def __init__(
        self, state: "ServiceState", declaration: "Histogram", position: int | None = None
    ) -> None:
        super().__init__(state, declaration)
        self._labelled = bool(declaration.labels) and position is None
        self._buckets = declaration.buckets
        self._bounds = [*(str(bound) for bound in self._buckets), "+Inf"]
        self._width = declaration.cells_each()
        self._first = self._start + (position or 0) * self._width
        self._children: dict[str | tuple[str, ...], HistogramValue] = {}
        self._histogram = declaration

    def __getitem__(self, key: str | tuple[str, ...]) -> "HistogramValue":
        """Return the histogram of one combination; KeyError for one that is not declared.

        Of a histogram with `names`, a new name takes the next free place, and `other` is where
        those go that find none.
        """
        child = self._children.get(key)
        if child is None:
            if self._histogram.names:
                position = self._state.place_of(
                    self._declaration.name, str(key), self._histogram.names
                )
            else:
                position = self._position(key)
            child = HistogramValue(self._state, self._histogram, position)
            self._children[key] = child
        return child

    def observe(self, amount: float, trace_id: str | None = None) -> None:
        """Count an observation, safely from any thread of this process.

        One of a histogram without labels may belong to a trace, whose id (32 hexadecimal digits)
        is then its bucket's exemplar.
        """
        if self._labelled:
            raise self._without_labels()
        bucket = bisect_left(self._buckets, amount)
        self._row.add_at((self._first + bucket, 1), (self._first + self._width - 1, amount))
        if trace_id is not None:
            self._state.keep_exemplar(
                self._declaration.name, self._bounds[bucket], trace_id, amount
            )

    def series(self) -> Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]:
        """Yield label values, cumulated buckets and the sum of each combination, over the pod."""
        sums: dict[tuple[str, ...], list[float]] = {}
        for row in self._state.pod.rows:
            cells = row.values(self._declaration.name)
            for position, key in self._keys_of(row):
                own = cells[position * self._width : (position + 1) * self._width]
                known = sums.get(key)
                sums[key] = (
                    [*own] if known is None else [a + b for a, b in zip(known, own, strict=True)]
                )
        for key, cells_of_key in sums.items():
            counts = accumulate(cells_of_key[:-1])
            yield key, list(zip(self._bounds, counts, strict=True)), cells_of_key[-1]

    def _keys_of(self, row: Row) -> Iterable[tuple[int, tuple[str, ...]]]:
        if not self._histogram.names:
            return enumerate(self._keys)
        names = names_in(row, self._declaration.name)
        other = self._histogram.names - 1
        return [*((index, (name,)) for index, name in enumerate(names)), (other, (OTHER,))]


class Histogram(Declaration[HistogramValue]):
    """Observations counted by upper bounds, `buckets`, as Prometheus does, and their sum.

    `names` is the number of values of a label that only become known while the service runs, as
    the classes of a model do; the last of them stands for all that come later.
    """

    kind = "histogram"

    def __init__(
        self,
        metric: str,
        help_text: str,
        *,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
        values: LabelValues = ((),),
        names: int = 0,
    ) -> None:
        super().__init__(metric, help_text, labels=labels, values=values)
        self._buckets = tuple(float(bound) for bound in buckets)
        self.names = names

    @property
    def buckets(self) -> tuple[float, ...]:
        """Upper bounds, without infinity."""
        return self._buckets

    def cells_each(self) -> int:
        """Return a cell for each bound, one for infinity and one for the sum."""
        return len(self._buckets) + 2

    def cells(self, owner: "type[ServiceState]") -> int:
        """Return how many numbers of a row the histogram takes."""
        return (self.names or len(self.values(owner))) * self.cells_each()

    def bind(self, state: "ServiceState") -> HistogramValue:
        """Return the histogram in a state's memory."""
        return HistogramValue(state, self)


class Computed(Generic[StateT]):
    """A metric whose samples a method of the state returns at each scrape; see `computed`."""

    def __init__(
        self,
        method: Callable[[StateT], float | Samples],
        *,
        metric: str,
        help_text: str,
        kind: Kind,
        labels: Sequence[str],
    ) -> None:
        self.method = method
        self.metric = metric
        self.help = help_text
        self.kind = kind
        self.labels = tuple(labels)

    def family(self, owner: "type[ServiceState]") -> Family:
        """Return the metric that shows what the method returns."""
        labels = _all_labels(owner, self.metric, self.labels)
        return Family(self.metric.format(prefix=owner.prefix), self.kind, self.help, labels)

    @overload
    def __get__(self, instance: None, owner: type) -> "Computed[StateT]": ...
    @overload
    def __get__(self, instance: StateT, owner: type) -> float: ...
    def __get__(self, instance: StateT | None, owner: type) -> "Computed[StateT] | float | Samples":
        return self if instance is None else self.method(instance)


def computed(
    metric: str, help_text: str, *, kind: Kind = "gauge", labels: Sequence[str] = ()
) -> Callable[[Callable[[Any], float | Samples]], Computed[Any]]:
    """Make a property of a state also a metric: its number, or (label values, number) pairs."""
    return lambda method: Computed(
        method, metric=metric, help_text=help_text, kind=kind, labels=labels
    )


def _all_labels(
    owner: "type[ServiceState]", metric: str, labels: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a metric's constant labels and its further ones."""
    return (*(owner.label_names if "{prefix}" in metric else ("service",)), *labels)


def names_in(row: Row, histogram: str) -> list[str]:
    """Return the names that have a place in a row's histogram, in their order."""
    names: Any = row.read_text().get(NAMES)
    return list(names.get(histogram, ())) if names else []
