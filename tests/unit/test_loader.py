"""The thread that brings the wanted version into the engine."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bentos.inference.model import LoadedModel, ModelIdentity, ModelSpec, UnusableModel
from bentos.inference.model_process import loader as module
from bentos.inference.model_process.loader import ModelLoader
from bentos.inference.wire import LoadChanged
from tests.support.servers import wait_until


class Bench:
    """A loader whose versions load or fail as a test says."""

    def __init__(self) -> None:
        self.installed: list[LoadedModel] = []
        self.changes: list[LoadChanged] = []
        self.broken: dict[str, Exception] = {}
        self.attempts: list[str] = []
        self.loading = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.loader = ModelLoader(self.load, self.installed.append, on_change=self.changes.append)
        self.loader.start()

    def load(self, version: str) -> LoadedModel:
        self.attempts.append(version)
        self.loading.set()
        assert self.free.wait(30)
        if version in self.broken:
            raise self.broken[version]
        return LoadedModel(
            ModelIdentity("model", "production", version),
            ModelSpec((1,), np.dtype(np.float32), ("a", "b"), (False, True)),
            forward=lambda inputs: inputs,
            output="logits",
            max_batch=1,
        )

    def served(self) -> str | None:
        return self.installed[-1].identity.version if self.installed else None

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
    made.free.set()
    made.loader.stop()


def test_it_waits_until_a_version_is_wanted(bench: Bench) -> None:
    assert bench.loader.status.phase == "waiting"
    assert not bench.changes


def test_the_wanted_version_is_served_and_said(bench: Bench) -> None:
    bench.loader.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    assert bench.served() == "7"
    assert bench.installed[0].identity == ModelIdentity("model", "production", "7")
    assert bench.outcomes == [True]


def test_the_same_version_again_is_not_loaded_again(bench: Bench) -> None:
    for _ in range(10):
        bench.loader.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    bench.loader.want("7")
    bench.loader.want("8")
    bench.wait(lambda: bench.served() == "8")
    assert bench.attempts == ["7", "8"]


def test_a_failed_load_is_tried_again_until_it_succeeds(bench: Bench) -> None:
    bench.broken["7"] = UnusableModel("no tensor signature")
    bench.loader.want("7")
    bench.wait(lambda: len(bench.attempts) >= 4)
    assert bench.loader.status.phase in ("failed", "loading")
    assert bench.loader.status.error == "no tensor signature"
    assert bench.served() is None
    bench.broken.clear()
    bench.wait(lambda: bench.served() == "7")
    bench.wait(lambda: bench.loader.status.error is None)
    assert bench.outcomes.count(False) >= 4


def test_the_pauses_grow_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.04)
    pauses = []
    attempt = bench.loader._attempt

    def noted(version: str, attempts: int, pause: float) -> bool:
        pauses.append(pause)
        return attempt(version, attempts, pause)

    monkeypatch.setattr(bench.loader, "_attempt", noted)
    bench.broken["7"] = RuntimeError("gone")
    bench.loader.want("7")
    bench.wait(lambda: len(pauses) >= 5)
    assert pauses[:5] == [0.01, 0.02, 0.04, 0.04, 0.04]


def test_a_version_that_fails_leaves_the_last_good_one(bench: Bench) -> None:
    bench.loader.want("7")
    bench.wait(lambda: bench.served() == "7")
    bench.broken["8"] = UnusableModel("wrong names")
    bench.loader.want("8")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    assert bench.loader.status.version == "8"
    assert bench.served() == "7"


def test_a_failure_is_forgotten_once_the_served_version_is_wanted_again(bench: Bench) -> None:
    bench.loader.want("7")
    bench.wait(lambda: bench.served() == "7")
    bench.broken["8"] = UnusableModel("wrong names")
    bench.loader.want("8")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    bench.loader.want("7")
    bench.wait(lambda: bench.loader.status.phase == "loaded")
    assert bench.loader.status.version == "7"
    assert bench.loader.status.error is None


def test_another_version_does_not_wait_for_the_pause_of_one_that_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 1_000.0)
    bench.broken["7"] = RuntimeError("gone")
    bench.loader.want("7")
    bench.wait(lambda: bench.loader.status.phase == "failed")
    retry_at = bench.loader.status.retry_at
    assert retry_at is not None
    assert 900 < retry_at - time.monotonic() <= 1_000
    bench.loader.want("8")
    bench.wait(lambda: bench.served() == "8")


def test_a_version_that_changes_while_another_loads_is_served_next(bench: Bench) -> None:
    bench.free.clear()
    bench.loader.want("7")
    assert bench.loading.wait(30)
    bench.loader.want("8")
    bench.free.set()
    bench.wait(lambda: bench.served() == "8")
    assert bench.attempts == ["7", "8"]


def test_an_error_without_words_is_told_by_its_kind(bench: Bench) -> None:
    bench.broken["7"] = MemoryError()
    bench.loader.want("7")
    bench.wait(lambda: bench.loader.status.error == "MemoryError")
