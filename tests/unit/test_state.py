"""What a service knows of itself beside its declared values, and the inference service's state."""

import time
from pathlib import Path

import pytest

from bentos.health.checks import judge
from bentos.health.state import ServiceState
from bentos.health.values import OTHER
from bentos.inference.channel import LoadChanged, RegistryChecked
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import (
    LOAD,
    MODEL,
    REGISTRY,
    InferenceState,
    _model_stuck,
    inference_probes,
)
from tests.support.processes import child


class ShopState(ServiceState):
    """A state with a route."""

    routes = ("/buy",)


@pytest.fixture
def state(tmp_path: Path) -> ShopState:
    return ShopState(tmp_path, service="shop")


def pair(directory: Path, worker: int) -> ShopState:
    return ShopState(directory, worker=worker, workers=2)


def test_a_new_state_has_counted_nothing(state: ShopState) -> None:
    assert state.http_requests.value == 0
    assert state.outcomes.requests == 0
    assert state.error_ratio == 0
    assert not state.shutting_down


def test_the_start_is_a_moment_of_now(state: ShopState) -> None:
    assert 0 <= time.time() - state.started_at < 60
    assert 0 <= state.pod.uptime < 60


def test_the_errors_in_the_window_are_a_share_of_all_outcomes(state: ShopState) -> None:
    state.row.record(errors=1)
    state.record_success(3)
    assert state.error_ratio == 0.25


def test_outcomes_of_all_workers_count_together(tmp_path: Path) -> None:
    first, second = pair(tmp_path, 1), pair(tmp_path, 2)
    first.record_success(3)
    second.row.record(errors=1)
    assert first.outcomes == second.outcomes
    assert first.error_ratio == 0.25


def test_a_shutdown_of_one_worker_is_the_pods(tmp_path: Path) -> None:
    first, second = pair(tmp_path, 1), pair(tmp_path, 2)
    second.begin_shutdown()
    assert first.shutting_down


def test_a_request_counts_by_its_declared_route_and_status(state: ShopState) -> None:
    state.count_request("/buy", "200")
    state.count_request("/ready", "503")
    assert state.http_requests["/buy", "200"].value == 1
    assert state.http_requests["/ready", "503"].value == 1


@pytest.mark.parametrize(("route", "status"), [("/zzz", "200"), ("/buy", "299")])
def test_a_route_or_status_that_is_not_declared_makes_no_series(
    state: ShopState, route: str, status: str
) -> None:
    state.count_request(route, status)
    assert state.http_requests[OTHER, OTHER].value == 1
    assert (route, status) not in state.http_requests


class TestTexts:
    def test_what_a_worker_writes_any_process_reads(self, tmp_path: Path) -> None:
        with child(say, tmp_path, 2):
            assert pair(tmp_path, 1).text("where") == {"port": 8000}
            assert pair(tmp_path, -1).text("where") == {"port": 8000}

    def test_what_a_dead_worker_wrote_is_not_read(self, tmp_path: Path) -> None:
        with child(say, tmp_path, 2) as worker:
            worker.kill()
        assert pair(tmp_path, 1).text("where") is None

    def test_a_worker_that_replaces_a_dead_one_has_said_nothing_yet(self, tmp_path: Path) -> None:
        with child(say, tmp_path, 1) as worker:
            worker.kill()
        assert pair(tmp_path, 1).text("where") is None

    def test_a_section_that_is_too_long_is_replaced_by_its_size(self, state: ShopState) -> None:
        state.write_text("short", {"a": 1})
        state.write_text("long", "x" * 100_000)
        assert state.text("long") == {"text_too_long": 100_002}
        assert state.text("short") == {"a": 1}


def say(directory: Path, worker: int) -> None:
    """Run in a worker's process."""
    pair(directory, worker).write_text("where", {"port": 8000})


def inference_state(directory: Path, worker: int = 1, workers: int = 1) -> InferenceState:
    labels = {"model": "steel", "stage": "production"}
    return InferenceState(directory, labels=labels, worker=worker, workers=workers)


def served(version: str) -> ServedModel:
    spec = ModelSpec((2,), "float32", ("good", "bad"), (False, True))
    return ServedModel(ModelIdentity("m", "production", version), spec)


def test_a_model_is_loaded_only_when_every_worker_has_it(tmp_path: Path) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.model_is(served("7"))
    assert not first.model_loaded.value
    second.model_is(served("8"))
    assert first.model_loaded.value
    assert first.served_versions == [7, 8]
    assert first.lowest_version == 7
    assert first.text(MODEL) == {"name": "m", "stage": "production", "version": "7"}


def test_mlflow_is_accessible_only_when_every_worker_found_it(tmp_path: Path) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.registry_checked(RegistryChecked(accessible=True, version="7"))
    assert not first.mlflow_accessible.value
    second.registry_checked(RegistryChecked(accessible=True, version="7"))
    assert second.mlflow_accessible.value
    first.registry_checked(RegistryChecked(accessible=False, version=None))
    assert not second.mlflow_accessible.value


def test_the_age_of_the_check_is_that_of_the_worker_that_checked_longest_ago(
    tmp_path: Path,
) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.row.set("mlflow_checked_at", first.row.get("claimed_at") - 500)
    second.registry_checked(RegistryChecked(accessible=True, version=None))
    assert second.mlflow_check_age_seconds >= 500
    first.registry_checked(RegistryChecked(accessible=True, version=None))
    assert second.mlflow_check_age_seconds < 400


def test_a_version_that_is_no_number_counts_as_zero(tmp_path: Path) -> None:
    state = inference_state(tmp_path)
    for version, number in (("seven", 0), ("7", 7), (None, 0)):
        state.registry_checked(RegistryChecked(accessible=True, version=version))
        assert state.registry_version.value == number


@pytest.mark.case(32)
def test_what_the_registry_lacks_is_said_until_it_is_there(tmp_path: Path) -> None:
    """MODEL_STAGE is misspelt: `/ready` says what there is, and nothing once the alias is there."""
    state = inference_state(tmp_path)
    state.registry_checked(RegistryChecked(accessible=True, note="no alias 'prod'; " + "x" * 9_000))
    assert state.text(REGISTRY).startswith("no alias 'prod'")
    assert len(state.text(REGISTRY)) < 1_000
    state.registry_checked(RegistryChecked(accessible=True, version="7"))
    assert state.text(REGISTRY) is None


def test_an_attempt_to_load_is_counted_once_it_ended(tmp_path: Path) -> None:
    state = inference_state(tmp_path)
    state.loading(LoadChanged("loading", "7", 1))
    assert state.loads.value == 0
    state.loading(LoadChanged("failed", "7", 1, "e" * 9_000, 12.5, succeeded=False, seconds=3))
    assert state.loads["failure"].value == 1
    assert state.text(LOAD)["phase"] == "failed"
    assert len(state.text(LOAD)["error"]) < 1_000


@pytest.mark.case(51)
def test_a_model_process_that_falls_silent_is_found_by_readiness(tmp_path: Path) -> None:
    """`kill -STOP` of the model process: it says nothing any more, and readiness names it."""
    state = inference_state(tmp_path)
    assert _model_stuck(30.0, state) is None  # not started yet
    state.model_heard_at.set(time.monotonic())
    assert _model_stuck(30.0, state) is None
    state.model_heard_at.set(time.monotonic() - 60)
    assert _model_stuck(30.0, state) is not None
    state.model_is_gone()
    assert _model_stuck(30.0, state) is None  # which is another reason


@pytest.mark.case(61)
def test_a_worker_that_is_stopped_is_not_taken_for_a_model_that_is_stuck(tmp_path: Path) -> None:
    """`kill -STOP` of the worker: its model is not blamed, the port that does not answer is."""
    state = inference_state(tmp_path)
    state.model_heard_at.set(time.monotonic() - 60)
    state.row.set("heartbeat", time.monotonic() - 59)
    assert _model_stuck(30.0, state) is None


@pytest.mark.case(62)
def test_a_model_that_hangs_is_found_by_readiness_before_liveness(tmp_path: Path) -> None:
    """A model that hangs: unready once requests time out, not live only after STALL_SECONDS."""
    state = inference_state(tmp_path)
    state.model_busy_since.set(time.monotonic() - 11)
    plan = inference_probes(InferenceSettings(), tmp_path)
    assert "model_thread_stuck" in judge(plan.readiness, state).reasons
    assert "model_thread_stuck" not in judge(plan.liveness, state).reasons


def test_a_refusal_whose_reason_is_not_declared_counts_as_other(tmp_path: Path) -> None:
    state = inference_state(tmp_path)
    state.record_refusal("bad_input")
    state.record_refusal("surprise")
    assert state.rejected["bad_input"].value == state.rejected["other"].value == 1
    assert state.outcomes.requests == 0


def test_an_error_counts_by_its_reason_and_in_the_window(tmp_path: Path) -> None:
    state = inference_state(tmp_path)
    state.record_error("model_failure")
    assert state.errors["model_failure"].value == state.outcomes.errors == 1
    with pytest.raises(KeyError):
        state.record_error("surprise")
