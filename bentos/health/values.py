"""The values that a state declares, and what each holds in a pod's memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from bentos.health.pod import Row

if TYPE_CHECKING:
    from bentos.health.state import ServiceState

Across: TypeAlias = Literal["sum", "all", "max", "min"]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Key: TypeAlias = str | tuple[str, ...]
LabelValues: TypeAlias = (
    "Sequence[Sequence[str]] | Callable[[type[ServiceState]], Sequence[Sequence[str]]]"
)
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]
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


class Value:
    """One value, declared as an attribute of a state's class; a state has a copy bound to it.

    `metric` is its family's name, empty for a value that is not exposed. A name with `{prefix}`
    takes the service's prefix and labels, any other the label `service`. `labels` are the further
    labels, `values` every combination of their values: each has a value of its own, `state.x[key]`.
    """

    kind: Kind
    across: Across = "sum"
    restarts_at_zero = False
    buckets: tuple[float, ...] = ()
    # How many numbers of a row one combination of label values takes.
    cells_each = 1

    name: str
    # What a bound value has: `_first` is the first of its cells in a row.
    _state: "ServiceState"
    _row: Row
    _positions: dict[tuple[str, ...], int]
    _first: int
    _children: dict[Key, Self]

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
        self._position: int | None = None if labels else 0

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def values(self, owner: "type[ServiceState]") -> list[tuple[str, ...]]:
        """Return every combination of the further labels' values."""
        values = self._values(owner) if callable(self._values) else self._values
        return [tuple(value) for value in values]

    def cells(self, owner: "type[ServiceState]") -> int:
        """Return how many numbers of a row the value takes."""
        return len(self.values(owner)) * self.cells_each

    def family(self, owner: "type[ServiceState]") -> Family:
        """Return the metric that shows the value."""
        labels = _all_labels(owner, self.metric, self.labels)
        name = self.metric.format(prefix=owner.prefix)
        return Family(name, self.kind, self.help, labels, self.buckets)

    def bind(self, state: "ServiceState") -> Self:
        """Return the value as it stands in a state's memory."""
        bound = copy(self)
        bound._state = state
        bound._row = state.row
        bound._positions = {key: index for index, key in enumerate(self.values(type(state)))}
        bound._first = state.row.index(self.name)
        bound._children = {}
        return bound

    def __getitem__(self, key: Key) -> Self:
        """Return the value of one combination; KeyError for one that is not declared."""
        child = self._children.get(key)
        if child is None:
            child = copy(self)
            child._position = self._place(key)
            child._first += child._position * self.cells_each
            self._children[key] = child  # whole, whichever thread finds it
        return child

    def __contains__(self, key: Key) -> bool:
        return ((key,) if isinstance(key, str) else key) in self._positions

    def samples(self) -> Samples:
        """Return the number of every combination of label values, over the pod."""
        return [(key, self._across(index)) for key, index in self._positions.items()]

    def _place(self, key: Key) -> int:
        return self._positions[(key,) if isinstance(key, str) else key]

    def _add(self, *changes: tuple[int, float]) -> None:
        if self._position is None:
            name = self.name
            raise TypeError(f"{name} has labels; take one of its values first: {name}[...]")
        self._row.add_at(*changes)

    def _across(self, offset: int) -> float:
        """Return one cell over the pod, as the declaration says."""
        pod = self._state.pod
        if self.kind != "gauge":
            return sum(row.values(self.name)[offset] for row in pod.rows)
        if self.across == "all":
            # A dead worker is missing, for which there is a reason of its own.
            rows = [row for row in pod.workers if row.alive or not row.claimed]
            return float(bool(rows) and all(row.get(self.name) == 1.0 for row in rows))
        rows = [row for row in pod.workers if (row.alive if self.restarts_at_zero else row.claimed)]
        return _COMBINE[self.across]([row.get(self.name) for row in rows] or [0.0])


class Counter(Value):
    """A number that only grows and outlives the worker that counted."""

    kind = "counter"

    def add(self, amount: float = 1) -> None:
        """Count, safely from any thread of this process."""
        self._add((self._first, amount))

    @property
    def value(self) -> float:
        """The pod's count since it started; of a labelled counter the sum of all its values."""
        places = self._positions.values() if self._position is None else [self._position]
        return sum(map(self._across, places))


class Gauge(Value):
    """A number that each worker sets and that is 0 again when the worker is replaced.

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

    def set(self, value: float) -> None:
        """Write this worker's number."""
        self._row.set(self.name, value)

    def get(self) -> float:
        """Return this worker's own number."""
        return self._row.get(self.name)

    @property
    def value(self) -> float:
        """The pod's number."""
        return self._across(0)


class Histogram(Value):
    """Observations counted by upper bounds, `buckets`, as Prometheus does, and their sum.

    `names` is the number of values of a label that only become known while the service runs, as
    the classes of a model do. A new name takes the next free place; the last place, `other`, is
    for all names that find none.
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
        self.buckets = tuple(float(bound) for bound in buckets)
        # A cell for each bound, one for infinity and one for the sum.
        self.cells_each = len(self.buckets) + 2
        self._bounds = [*(str(bound) for bound in self.buckets), "+Inf"]
        self.names = names

    def cells(self, owner: "type[ServiceState]") -> int:
        """Return how many numbers of a row the histogram takes."""
        return self.names * self.cells_each or super().cells(owner)

    def observe(self, amount: float, trace_id: str | None = None) -> None:
        """Count an observation, safely from any thread of this process.

        One of a histogram without labels may belong to a trace, whose id (32 hexadecimal digits)
        is then its bucket's exemplar.
        """
        bucket = bisect_left(self.buckets, amount)
        self._add((self._first + bucket, 1), (self._first + self.cells_each - 1, amount))
        if trace_id is not None:
            self._state.keep_exemplar(self.name, self._bounds[bucket], trace_id, amount)

    def series(self) -> Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]:
        """Yield label values, cumulated buckets and the sum of each combination, over the pod."""
        sums: dict[tuple[str, ...], list[float]] = {}
        for row in self._state.pod.rows:
            cells = row.values(self.name)
            for key, position in self._places_in(row).items():
                own = cells[position * self.cells_each : (position + 1) * self.cells_each]
                known = sums.get(key, [0.0] * self.cells_each)
                sums[key] = [a + b for a, b in zip(known, own, strict=True)]
        for key, cells_of_key in sums.items():
            counts = accumulate(cells_of_key[:-1])
            yield key, list(zip(self._bounds, counts, strict=True)), cells_of_key[-1]

    def _place(self, key: Key) -> int:
        if self.names:
            return self._state.place_of(self.name, str(key), self.names)
        return super()._place(key)

    def _places_in(self, row: Row) -> dict[tuple[str, ...], int]:
        if not self.names:
            return self._positions
        found: Any = row.read_text().get(NAMES) or {}
        places: dict[tuple[str, ...], int] = {}
        for index, name in enumerate(found.get(self.name, ())):
            places[name,] = index
        return {**places, (OTHER,): self.names - 1}


class Computed(Generic[StateT]):
    """A metric whose samples a method of the state returns at each scrape; see `computed`."""

    def __init__(
        self,
        method: Callable[[StateT], float | Samples],
        metric: str,
        kind: Kind,
        labels: tuple[str, ...],
    ) -> None:
        self.method = method
        self._metric = metric
        self._kind = kind
        self._labels = labels

    def family(self, owner: "type[ServiceState]") -> Family:
        """Return the metric that shows the value; its meaning is what the method says of itself."""
        labels = _all_labels(owner, self._metric, self._labels)
        name = self._metric.format(prefix=owner.prefix)
        return Family(name, self._kind, " ".join((self.method.__doc__ or "").split()), labels)

    @overload
    def __get__(self, instance: None, owner: type) -> "Computed[StateT]": ...
    @overload
    def __get__(self, instance: StateT, owner: type) -> float: ...
    def __get__(self, instance: StateT | None, owner: type) -> "Computed[StateT] | float | Samples":
        return self if instance is None else self.method(instance)


def computed(
    metric: str, *, kind: Kind = "gauge", labels: Sequence[str] = ()
) -> Callable[[Callable[[Any], float | Samples]], Computed[Any]]:
    """Make a property of a state also a metric: its number, or (label values, number) pairs.

    The method's docstring is the metric's help.
    """
    return lambda method: Computed(method, metric, kind, tuple(labels))


def _all_labels(
    owner: "type[ServiceState]", metric: str, labels: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a metric's constant labels and its further ones."""
    return (*(owner.label_names if "{prefix}" in metric else ("service",)), *labels)
