"""Declared values and their metrics, as every process of the pod reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.health.metrics import exposition
from bentos.health.state import ServiceState
from bentos.health.values import Counter, Gauge, Histogram, Samples, computed
from tests.support.processes import child


class Factory(ServiceState):
    """A state with a value of every kind."""

    prefix = "factory"
    label_names = ("service", "line")
    routes = ("/make",)

    made = Counter("{prefix}_made_total", "Parts made.")
    scrapped = Counter(
        "{prefix}_scrapped_total",
        "Parts scrapped.",
        labels=("reason", "shift"),
        values=(("burnt", "day"), ("burnt", "night"), ("bent", "day")),
    )
    stopped = Counter(
        "{prefix}_stopped_total", "Stops.", labels=("why",), values=(("jam",), ("power",))
    )
    waiting = Gauge("{prefix}_waiting", "Parts waiting.")
    ready = Gauge("{prefix}_ready_flag", "Whether every worker is ready.", across="all")
    hottest = Gauge("{prefix}_hottest_celsius", "The hottest oven.", across="max")
    coldest = Gauge("{prefix}_coldest_celsius", "The coldest oven.", across="min")
    last_made_at = Gauge("{prefix}_last_made_seconds", "When.", across="max", outlives=True)
    first_made_at = Gauge(across="min", outlives=True)
    hidden = Gauge()
    duration = Histogram("{prefix}_duration_seconds", "Time.", buckets=(0.1, 1, 10))
    weight = Histogram(
        "{prefix}_weight_grams",
        "Weight.",
        buckets=(1, 2),
        labels=("side",),
        values=(("left",), ("right",)),
    )
    size = Histogram("{prefix}_size_metres", "Size.", buckets=(1,), labels=("kind",), names=4)
    shared = Counter("shared_total", "Without a prefix.")

    @computed("{prefix}_double")
    def double(self) -> float:
        """Twice what waits."""
        return 2 * self.waiting.value

    @computed("{prefix}_version_info", labels=("version",))
    def versions(self) -> Samples:
        """A sample for each version."""
        return [(("1",), 1.0), (('a"b\\c\nd',), 1.0)]

    @computed("shared_doubles_total", kind="counter")
    def doubles(self) -> float:
        """A counter that is computed."""
        return 2 * self.made.value


LABELS = {"service": "plant", "line": "7"}


def factory(directory: Path, worker: int = 1, workers: int = 2) -> Factory:
    return Factory(directory, service="plant", labels={"line": "7"}, worker=worker, workers=workers)


def read(state: ServiceState) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample as Prometheus's own parser reads it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition(state)[0].decode())
        for sample in family.samples
    }


def value(state: ServiceState, name: str, **labels: str) -> float:
    return read(state)[name, frozenset({**LABELS, **labels}.items())]


def labels_of(state: ServiceState, name: str, label: str) -> set[str]:
    return {dict(labels)[label] for found, labels in read(state) if found == name}


@pytest.fixture
def state(tmp_path: Path) -> Factory:
    return factory(tmp_path)


class TestCounter:
    def test_it_stands_at_zero_from_the_start(self, state: Factory) -> None:
        assert value(state, "factory_made_total") == 0
        assert value(state, "factory_scrapped_total", reason="bent", shift="day") == 0

    def test_what_is_added_is_its_value_and_its_metric(self, state: Factory) -> None:
        state.made.add()
        state.made.add(2)
        assert state.made.value == value(state, "factory_made_total") == 3

    def test_each_combination_of_labels_counts_by_itself_and_all_together(
        self, state: Factory
    ) -> None:
        state.scrapped["burnt", "night"].add(4)
        state.scrapped["bent", "day"].add()
        assert state.scrapped["burnt", "night"].value == 4
        assert state.scrapped["burnt", "day"].value == 0
        assert state.scrapped.value == 5
        assert value(state, "factory_scrapped_total", reason="burnt", shift="night") == 4

    def test_one_label_needs_no_tuple(self, state: Factory) -> None:
        state.stopped["jam"].add()
        assert state.stopped["jam",].value == 1
        assert "jam" in state.stopped
        assert "flood" not in state.stopped

    def test_a_combination_that_is_not_declared_is_refused(self, state: Factory) -> None:
        with pytest.raises(KeyError):
            state.scrapped["bent", "night"].add()

    def test_adding_without_a_label_is_refused(self, state: Factory) -> None:
        with pytest.raises(TypeError, match="scrapped has labels"):
            state.scrapped.add()
        assert state.scrapped.value == 0

    def test_a_name_without_the_prefix_has_the_label_service_only(self, state: Factory) -> None:
        state.made.add(2)
        only = frozenset({("service", "plant")})
        assert read(state)["shared_total", only] == 0
        assert read(state)["shared_doubles_total", only] == 4


class TestGauge:
    def test_the_pods_value_is_the_sum_of_the_workers(self, tmp_path: Path) -> None:
        first, second = factory(tmp_path, 1), factory(tmp_path, 2)
        first.waiting.set(3)
        second.waiting.set(4)
        assert (first.waiting.get(), second.waiting.get()) == (3, 4)
        assert first.waiting.value == second.waiting.value == 7
        assert value(first, "factory_waiting") == 7

    def test_all_is_1_only_when_every_worker_that_the_pod_should_have_says_1(
        self, tmp_path: Path
    ) -> None:
        first = factory(tmp_path, 1)
        first.ready.set(1)
        assert first.ready.value == 0
        factory(tmp_path, 2).ready.set(1)
        assert first.ready.value == 1

    def test_the_largest_and_the_smallest_are_those_of_the_workers(self, tmp_path: Path) -> None:
        first, second = factory(tmp_path, 1), factory(tmp_path, 2)
        # The probe process has ovens of its own as little as a worker that never came.
        probes = factory(tmp_path, 0)
        for one, celsius in ((first, -20), (second, -10)):
            one.hottest.set(celsius)
            one.coldest.set(celsius)
        assert (probes.hottest.value, probes.coldest.value) == (-10, -20)

    def test_a_worker_that_never_came_has_no_part_in_it(self, tmp_path: Path) -> None:
        only = factory(tmp_path, 1)
        only.coldest.set(5)
        only.first_made_at.set(100)
        assert (only.coldest.value, only.first_made_at.value) == (5, 100)

    def test_one_without_a_metric_is_not_exposed(self, state: Factory) -> None:
        state.hidden.set(1)
        assert "hidden" not in exposition(state)[0].decode()


class TestHistogram:
    def test_observations_are_counted_up_to_their_bounds_and_summed(self, state: Factory) -> None:
        for seconds in (0.05, 0.1, 0.5, 100):
            state.duration.observe(seconds)
        bounds = {"0.1": 2, "1.0": 3, "10.0": 3, "+Inf": 4}
        for bound, count in bounds.items():
            assert value(state, "factory_duration_seconds_bucket", le=bound) == count
        assert value(state, "factory_duration_seconds_count") == 4
        assert value(state, "factory_duration_seconds_sum") == pytest.approx(100.65)

    def test_each_label_has_one_of_its_own(self, state: Factory) -> None:
        state.weight["left"].observe(1.5)
        assert value(state, "factory_weight_grams_count", side="left") == 1
        assert value(state, "factory_weight_grams_count", side="right") == 0

    def test_observing_without_a_label_is_refused(self, state: Factory) -> None:
        with pytest.raises(TypeError, match="weight has labels"):
            state.weight.observe(1)
        with pytest.raises(TypeError, match="size has labels"):
            state.size.observe(1)

    def test_names_take_places_as_they_come_and_late_ones_share_the_last(
        self, state: Factory
    ) -> None:
        for name in ("nut", "bolt", "gear", "cog", "nut", "cam", "other"):
            state.size[name].observe(0.5)
        counts = {
            name: value(state, "factory_size_metres_count", kind=name)
            for name in labels_of(state, "factory_size_metres_count", "kind")
        }
        assert counts == {"nut": 2, "bolt": 1, "gear": 1, "other": 3}

    def test_a_name_that_is_looked_up_stands_at_zero(self, state: Factory) -> None:
        state.size["nut"]
        assert value(state, "factory_size_metres_count", kind="nut") == 0

    @pytest.mark.case(15)
    @pytest.mark.parametrize("letter", ["x", "語", "😀", '"', "\x01", "\udc80"])
    def test_names_however_long_and_odd_break_neither_the_memory_nor_the_exposition(
        self, tmp_path: Path, letter: str
    ) -> None:
        """99 class names of 600 characters of any kind: `/metrics` holds them, cut, or `other`."""

        class Wide(ServiceState):
            size = Histogram("{prefix}_size", "Size.", buckets=(1,), labels=("kind",), names=100)

        state = Wide(tmp_path)
        state.write_text("model", {"name": "steel"})
        for number in range(150):
            state.size[f"{number}-{letter * 600}"].observe(1)
        kinds = labels_of(state, "service_size_count", "kind")
        assert "other" in kinds
        assert 15 < len(kinds) <= 100
        assert sum(v for (n, _), v in read(state).items() if n == "service_size_count") == 150
        assert state.text("model") == {"name": "steel"}


class TestComputed:
    def test_it_is_a_property_and_a_metric(self, state: Factory) -> None:
        state.waiting.set(2)
        assert state.double == value(state, "factory_double") == 4
        assert Factory.double.family(Factory).help == "Twice what waits."

    def test_it_may_have_a_sample_for_each_label_value(self, state: Factory) -> None:
        assert labels_of(state, "factory_version_info", "version") == {"1", 'a"b\\c\nd'}


def make(directory: Path, worker: int, parts: int) -> dict[Any, float]:
    """Run in a worker's process: work, and return what this process says of the pod."""
    state = factory(directory, worker)
    state.made.add(parts)
    state.scrapped["burnt", "day"].add(parts)
    state.waiting.set(parts)
    state.ready.set(1)
    state.last_made_at.set(100 * parts)
    state.duration.observe(parts)
    # The two workers meet the names in a different order.
    for name in ("nut", "bolt")[:: 1 if worker == 1 else -1]:
        state.size[name].observe(parts)
    return read(state)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Path]:
    with child(make, tmp_path, 1, 3), child(make, tmp_path, 2, 4):
        yield tmp_path


def test_every_process_of_the_pod_says_the_same(tmp_path: Path) -> None:
    with child(make, tmp_path, 1, 3), child(make, tmp_path, 2, 4) as second:
        reader = factory(tmp_path, -1)
        assert read(reader) == second.result
        assert value(reader, "factory_made_total") == 7
        assert value(reader, "factory_waiting") == 7
        assert value(reader, "factory_duration_seconds_sum") == 7
        assert value(reader, "factory_size_metres_sum", kind="nut") == 7
        assert value(reader, "factory_workers_alive") == 2
        assert reader.ready.value == 1


def test_a_worker_that_died_keeps_its_counts_and_loses_its_gauges(tmp_path: Path) -> None:
    with child(make, tmp_path, 1, 3), child(make, tmp_path, 2, 4) as second:
        second.kill()
        reader = factory(tmp_path, -1)
        assert reader.made.value == 7
        assert reader.waiting.value == 3
        assert reader.last_made_at.value == 400
        assert value(reader, "factory_duration_seconds_count") == 2
        assert reader.ready.value == 1  # that a worker is missing has a reason of its own
        assert reader.workers_alive == 1


def test_a_worker_that_is_replaced_goes_on_with_its_counts_and_names(tmp_path: Path) -> None:
    with child(make, tmp_path, 2, 4) as dead:
        dead.kill()
    with child(make, tmp_path, 2, 5):
        reader = factory(tmp_path, -1)
        assert reader.made.value == 9
        assert reader.scrapped["burnt", "day"].value == 9
        assert reader.waiting.value == 5
        assert value(reader, "factory_size_metres_sum", kind="bolt") == 9
        assert value(reader, "factory_duration_seconds_count") == 2


def test_a_gauge_that_outlives_its_worker_is_replaced_only_by_the_next_value(
    tmp_path: Path,
) -> None:
    with child(make, tmp_path, 2, 4) as dead:
        dead.kill()
    successor = factory(tmp_path, 2)
    assert successor.last_made_at.value == 400
    successor.last_made_at.set(300)
    assert successor.last_made_at.value == 300


def test_a_declaration_is_found_on_the_class_with_its_family(two: Path) -> None:
    assert Factory.made.family(Factory).name == "factory_made_total"
    assert Factory.made.family(Factory).labels == ("service", "line")
    assert Factory.duration.buckets == (0.1, 1.0, 10.0)
    names = [family.name for family in Factory.families()]
    assert len(names) == len(set(names))
    exposed = {name for name, _ in read(factory(two, -1))} | {"factory_ready", "factory_unready"}
    assert all(any(name in sample for sample in exposed) for name in names)
