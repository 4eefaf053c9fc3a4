"""The state object of a service."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bentos.health.state import ServiceState
from bentos.inference.model import ModelIdentity
from bentos.inference.state import InferenceState
from tests.support.processes import child


@pytest.fixture
def state(tmp_path: Path) -> ServiceState:
    return ServiceState(tmp_path, error_reasons=("broken",), refusal_reasons=("bad_input",))


def test_a_new_state_has_counted_nothing(state: ServiceState) -> None:
    assert state.prediction_count == 0
    assert state.error_count == 0
    assert state.last_prediction_time is None
    assert not state.shutting_down


def test_the_start_up_time_is_a_moment_with_its_offset(state: ServiceState) -> None:
    age = datetime.now(UTC) - state.startup_time
    assert 0 <= age.total_seconds() < 60


def test_predictions_count_and_leave_their_moment(state: ServiceState) -> None:
    state.record_predictions(3, 1_700_000_000.5)
    state.record_predictions(2, 1_700_000_001.0)
    assert state.prediction_count == 5
    assert state.last_prediction_time == datetime.fromtimestamp(1_700_000_001.0, UTC)


def test_an_error_counts_by_its_reason_and_in_the_window(state: ServiceState) -> None:
    state.record_error("broken")
    state.record_success(3)
    assert state.error_count == 1
    assert state.counts("errors", {"stage": "s"}) == [({"stage": "s", "reason": "broken"}, 1.0)]
    assert state.outcomes.error_rate == 0.25


def test_a_refusal_is_no_error_and_not_in_the_window(state: ServiceState) -> None:
    for _ in range(100):
        state.record_refusal("bad_input")
    assert state.error_count == 0
    assert state.outcomes.requests == 0
    assert state.counts("refusals", {}) == [({"reason": "bad_input"}, 100.0)]


def test_reasons_that_were_not_declared_are_refused(state: ServiceState) -> None:
    with pytest.raises(KeyError):
        state.record_error("surprise")
    with pytest.raises(KeyError):
        state.record_refusal("surprise")


def test_a_shutdown_is_said_by_every_worker(tmp_path: Path) -> None:
    first = ServiceState(tmp_path, worker=1, workers=2)
    second = ServiceState(tmp_path, worker=2, workers=2)
    second.begin_shutdown()
    assert first.shutting_down


def predict(directory: Path, worker: int, count: int, at: float) -> int:
    """Run in a worker's process."""
    state = ServiceState(directory, worker=worker, workers=2)
    state.record_predictions(count, at)
    return state.prediction_count


def test_every_worker_tells_the_pods_totals(tmp_path: Path) -> None:
    state = ServiceState(tmp_path, worker=1, workers=2)
    state.record_predictions(1, 100.0)
    with child(predict, tmp_path, 2, 4, 200.0) as other:
        assert other.result == state.prediction_count == 5
        assert state.last_prediction_time == datetime.fromtimestamp(200.0, UTC)
        other.kill()
    assert state.prediction_count == 5


def inference_state(directory: Path, worker: int = 1, workers: int = 1) -> InferenceState:
    return InferenceState(directory, worker=worker, workers=workers)


def test_a_model_is_loaded_only_when_every_worker_has_it(tmp_path: Path) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.model_is(ModelIdentity("m", "production", "7"))
    assert not first.model_loaded
    second.model_is(ModelIdentity("m", "production", "8"))
    assert first.model_loaded
    assert first.served_versions == [7, 8]
    assert first.model == ModelIdentity("m", "production", "7")


def test_mlflow_is_accessible_only_when_every_worker_found_it(tmp_path: Path) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.mlflow_checked(accessible=True)
    assert not first.mlflow_accessible
    second.mlflow_checked(accessible=True)
    assert second.mlflow_accessible
    first.mlflow_checked(accessible=False)
    assert not second.mlflow_accessible


def test_the_age_of_the_check_is_that_of_the_worker_that_checked_longest_ago(
    tmp_path: Path,
) -> None:
    first, second = inference_state(tmp_path, 1, 2), inference_state(tmp_path, 2, 2)
    first.row.set("mlflow_checked_at", first.row.get("claimed_at") - 500)
    second.mlflow_checked(accessible=True)
    assert second.mlflow_check_age_seconds >= 500
    first.mlflow_checked(accessible=True)
    assert second.mlflow_check_age_seconds < 400


def test_a_version_that_is_no_number_is_told_as_zero(tmp_path: Path) -> None:
    state = inference_state(tmp_path)
    state.registry_points_to("seven")
    assert state.row.get("registry_version") == 0.0
    state.registry_points_to("7")
    assert state.row.get("registry_version") == 7.0
    state.registry_points_to(None)
    assert state.row.get("registry_version") == 0.0
