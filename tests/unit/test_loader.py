"""The thread that brings the wanted version into the engine."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bentos.inference.channel import LoadChanged
from bentos.inference.model import loader as module
from bentos.inference.model.loader import ModelLoader
from bentos.inference.model.spec import ModelIdentity, ModelSpec, UnusableModel
from bentos.inference.model.warm_up import LoadedModel
from tests.support.servers import wait_until


class Bench:
    """A loader whose versions load or fail as a test says."""

    def __init__(self, *, spread_seconds: float = 0.0) -> None:
        self.installed: list[LoadedModel] = []
        self.changes: list[LoadChanged] = []
        self.broken: dict[str, Exception] = {}
        self.attempts: list[str] = []
        self.loading = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.loader = ModelLoader(
            self.load,
            self.installed.append,
            on_change=self.changes.append,
            spread_seconds=spread_seconds,
        )
        self.loader.start()

    def want(self, number: str, made: str = "") -> None:
        self.loader.want(ModelIdentity("model", "production", number, made))

    def load(self, wanted: ModelIdentity) -> LoadedModel:
        version = wanted.version
        self.attempts.append(version)
        self.loading.set()
        assert self.free.wait(30)
        if version in self.broken:
            raise self.broken[version]
        return LoadedModel(
            wanted,
            ModelSpec((1,), "float32", ("a", "b"), (False, True)),
            forward=lambda inputs: inputs,
            output="logits",
            max_batch=1,
        )

    def served(self) -> str | None:
        return self.installed[-1].identity.version if self.installed else None

    def end(self) -> None:
        """Let the thread load what is wanted, and wait then: only its process ends it."""
        self.broken.clear()
        self.free.set()

    @property
    def outcomes(self) -> list[bool]:
        """How each attempt ended."""
        return [change.succeeded for change in self.changes if change.succeeded is not None]

    def wait(self, condition: Any) -> None:
        wait_until(condition, "the loader", seconds=30, describe=lambda: str(self.loader.status))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    made = Bench()
    yield made
    made.end()


def test_the_wanted_version_is_served_and_said(bench: Bench) -> None:
    assert bench.loader.status == LoadChanged("waiting")
    bench.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    assert bench.served() == "7"
    assert bench.installed[0].identity == ModelIdentity("model", "production", "7")
    assert bench.outcomes == [True]


def test_the_same_version_again_is_not_loaded_again(bench: Bench) -> None:
    for _ in range(10):
        bench.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    bench.want("7")
    bench.want("8")
    bench.wait(lambda: bench.served() == "8")
    assert bench.attempts == ["7", "8"]


def test_a_failed_load_is_tried_again_until_it_succeeds(bench: Bench) -> None:
    bench.broken["7"] = UnusableModel("no tensor signature")
    bench.want("7")
    bench.wait(lambda: len(bench.attempts) >= 4)
    assert bench.loader.status.phase in ("failed", "loading")
    assert bench.loader.status.error == "no tensor signature"
    assert bench.served() is None
    bench.broken.clear()
    bench.wait(lambda: bench.served() == "7")
    bench.wait(lambda: bench.loader.status.error is None)
    assert bench.outcomes.count(False) >= 4


def test_the_pauses_grow_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.04)
    bench = Bench()
    pauses = []
    attempt = bench.loader._attempt

    def noted(version: ModelIdentity, attempts: int, pause: float) -> bool:
        pauses.append(pause)
        return attempt(version, attempts, pause)

    monkeypatch.setattr(bench.loader, "_attempt", noted)
    bench.broken["7"] = RuntimeError("gone")
    bench.want("7")
    bench.wait(lambda: len(pauses) >= 5)
    bench.end()
    assert pauses[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]


def test_a_version_that_fails_leaves_the_last_good_one(bench: Bench) -> None:
    bench.want("7")
    bench.wait(lambda: bench.served() == "7")
    bench.broken["8"] = UnusableModel("wrong names")
    bench.want("8")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    assert bench.loader.status.version == "8"
    assert bench.served() == "7"


def test_a_failure_is_forgotten_once_the_served_version_is_wanted_again(bench: Bench) -> None:
    bench.want("7")
    bench.wait(lambda: bench.served() == "7")
    bench.broken["8"] = UnusableModel("wrong names")
    bench.want("8")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    bench.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    assert bench.loader.status.version == "7"
    assert bench.loader.status.error is None


def test_another_version_does_not_wait_for_the_pause_of_one_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 1_000.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 1_000.0)
    bench = Bench()
    bench.broken["7"] = RuntimeError("gone")
    bench.want("7")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    retry_at = bench.loader.status.retry_at
    assert retry_at is not None
    assert 900 < retry_at - time.monotonic() <= 1_000
    bench.want("8")
    bench.wait(lambda: bench.served() == "8")


def test_a_version_that_changes_while_another_loads_is_served_next(bench: Bench) -> None:
    bench.free.clear()
    bench.want("7")
    assert bench.loading.wait(30)
    bench.want("8")
    bench.free.set()
    bench.wait(lambda: bench.served() == "8")
    assert bench.attempts == ["7", "8"]


def test_an_error_without_words_is_told_by_its_kind(bench: Bench) -> None:
    bench.broken["7"] = MemoryError()
    bench.want("7")
    bench.wait(lambda: bench.loader.status.error == "MemoryError")


@pytest.mark.case(29)
def test_a_version_that_was_made_anew_under_its_number_is_loaded(bench: Bench) -> None:
    """The model is deleted and registered again: its version 1 is another one, and is loaded."""
    bench.want("1", "on Monday")
    bench.wait(lambda: bench.served() == "1")
    bench.want("1", "on Tuesday")
    bench.wait(lambda: bench.attempts == ["1", "1"])


@pytest.mark.case(31)
def test_a_served_model_is_replaced_after_a_wait_of_its_own_and_a_first_one_at_once() -> None:
    """The alias moves: each pod waits at random before it loads, so not all load at once."""
    bench = Bench(spread_seconds=1_000.0)
    bench.loader._spread = lambda: 1_000.0  # type: ignore[method-assign]
    bench.want("7")
    bench.wait(lambda: bench.served() == "7")
    bench.want("8")
    time.sleep(0.05)
    assert bench.attempts == ["7"]
    # Taken back meanwhile, nothing is loaded.
    bench.want("7")
    bench.loader._spread = lambda: 0.0  # type: ignore[method-assign]
    bench.want("9")
    bench.wait(lambda: bench.served() == "9")
    assert bench.attempts == ["7", "9"]


@pytest.mark.case(35)
def test_no_secret_stands_in_why_a_load_failed(bench: Bench) -> None:
    """A load fails with the registry's address in its error: the password is not in it."""
    bench.broken["7"] = RuntimeError("GET http://bob:secretpw@mlflow/artifacts: 500")
    bench.want("7")
    bench.wait(lambda: bench.loader.status.error)
    assert bench.loader.status.error == "GET http://***@mlflow/artifacts: 500"
