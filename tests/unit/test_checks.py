"""Readiness and liveness checks."""

import time
from functools import partial
from pathlib import Path

import pytest

from bentos.health import checks
from bentos.health.checks import Check, Details, judge, required
from bentos.health.state import ServiceState
from bentos.health.values import Counter, Gauge
from tests.support.processes import child


class BakeryState(ServiceState):
    """A state with what the checks ask for."""

    warm = Gauge(across="all")
    baking_since = Gauge()
    errors = Counter()

    def fail(self, times: int) -> None:
        """Count failures of the service."""
        self.row.record(errors=times)


def holds(_: ServiceState) -> Details | None:
    return None


def fails_x(_: ServiceState) -> Details | None:
    return {"x": 1}


def fails_xy(_: ServiceState) -> Details | None:
    return {"x": 3, "y": 2}


def raises(_: ServiceState) -> Details | None:
    raise OSError("no such device")


@pytest.fixture
def state(tmp_path: Path) -> BakeryState:
    return BakeryState(tmp_path)


def pair(directory: Path, worker: int = 1) -> BakeryState:
    return BakeryState(directory, worker=worker, workers=2)


def claim(directory: Path, worker: int) -> None:
    """Run in a worker's process."""
    pair(directory, worker)


def test_no_checks_pass(state: BakeryState) -> None:
    assert judge([], state).passed
    assert judge([], state).reason == ""


def test_the_first_failing_check_leads_and_all_are_named(state: BakeryState) -> None:
    verdict = judge(
        [Check("a", holds), Check("b", fails_x), Check("c", fails_xy), Check("d", holds)], state
    )
    assert not verdict.passed
    assert verdict.reason == "b"
    assert verdict.reasons == ("b", "c")
    assert verdict.details == {"x": 1, "y": 2}


def test_two_checks_may_have_one_reason(state: BakeryState) -> None:
    verdict = judge([Check("a", fails_x), Check("b", holds), Check("a", fails_xy)], state)
    assert verdict.reasons == ("a",)
    assert verdict.details == {"x": 1, "y": 2}


def test_an_exception_in_a_check_is_its_failure(state: BakeryState) -> None:
    verdict = judge([Check("disk", raises), Check("other", holds)], state)
    assert verdict.reasons == ("disk",)
    assert verdict.details == {"error": "OSError: no such device"}


def test_a_required_gauge_has_to_be_1_in_every_worker(tmp_path: Path) -> None:
    check = required("cold", "warm")
    first, second = pair(tmp_path, 1), pair(tmp_path, 2)
    first.warm.set(1)
    assert check.failing(first) == {}
    second.warm.set(1)
    assert check.failing(first) is None


def test_a_gauge_that_is_not_declared_is_a_failure_and_no_crash(state: BakeryState) -> None:
    verdict = judge([required("cold", "warmth")], state)
    assert verdict.reasons == ("cold",)
    assert "warmth" in str(verdict.details["error"])


def test_shutting_down_fails_in_every_worker_from_the_moment_it_begins(tmp_path: Path) -> None:
    first, second = pair(tmp_path, 1), pair(tmp_path, 2)
    check = Check("shutting_down", checks.shutting_down)
    assert check.reason == "shutting_down"
    assert check.failing(first) is None
    second.begin_shutdown()
    assert check.failing(first) == {}


def test_a_high_error_rate_says_the_rate(state: BakeryState) -> None:
    check = Check("high_error_rate", checks.high_error_rate)
    state.record_success(9)
    state.fail(9)
    assert check.failing(state) is None
    state.fail(3)
    assert check.failing(state) == {
        "error_rate": 0.5714,
        "errors_in_window": 12,
        "requests_in_window": 21,
    }


def test_errors_of_a_dead_worker_stay_in_the_window(tmp_path: Path) -> None:
    with child(claim_and_fail, tmp_path, 2) as worker:
        worker.kill()
    assert checks.high_error_rate(pair(tmp_path)) is not None


def claim_and_fail(directory: Path, worker: int) -> None:
    """Run in a worker's process."""
    pair(directory, worker).fail(30)


def test_a_worker_that_never_came_is_not_missing(tmp_path: Path) -> None:
    assert checks.worker_missing(pair(tmp_path)) is None


def test_a_dead_worker_is_missing_until_it_is_replaced(tmp_path: Path) -> None:
    check = Check("worker_missing", checks.worker_missing)
    with child(claim, tmp_path, 2) as dead:
        assert check.failing(pair(tmp_path)) is None
        dead.kill()
    assert check.failing(pair(tmp_path)) == {"workers_alive": 1, "workers": 2}
    with child(claim, tmp_path, 2):
        assert check.failing(pair(tmp_path)) is None


def test_a_dead_worker_fails_liveness_only_after_its_grace(tmp_path: Path) -> None:
    with child(claim, tmp_path, 2) as dead:
        dead.kill()
    state = pair(tmp_path)
    check = Check("worker_dead", partial(checks.worker_dead, 3_600))
    assert check.failing(state) is None
    row = state.pod.workers[1]
    row.set("heartbeat", row.get("heartbeat") - 7_200)
    failure = check.failing(state)
    assert failure is not None
    assert float(str(failure["dead_for_seconds"])) >= 7_200


def test_an_event_loop_that_does_not_beat_has_stalled(state: BakeryState) -> None:
    check = checks.stuck("event_loop_stalled", "heartbeat", stall_seconds=30)
    assert check.failing(state) is None
    state.row.set("heartbeat", time.monotonic() - 40)
    failure = check.failing(state)
    assert failure is not None
    assert 40 <= float(str(failure["stuck_for_seconds"])) < 60


def test_work_is_stuck_after_its_time_and_a_dead_workers_never(tmp_path: Path) -> None:
    check = checks.stuck("oven_stuck", "baking_since", stall_seconds=5)
    with child(claim, tmp_path, 2) as dead:
        state = pair(tmp_path)
        assert check.failing(state) is None
        state.pod.workers[1].set("baking_since", time.monotonic() - 100)
        assert check.failing(state) is not None
        dead.kill()
    assert check.failing(pair(tmp_path)) is None


def probe_process(directory: Path) -> None:
    """Run in the probe process: say that the port has failed for 100 s."""
    pair(directory, worker=0).port_failing_since.set(time.monotonic() - 100)


def test_a_port_that_does_not_answer_fails_after_the_grace(tmp_path: Path) -> None:
    state = pair(tmp_path)
    with child(probe_process, tmp_path):
        assert checks.port_not_answering(3_600, state) is None
        failure = checks.port_not_answering(0, state)
        assert failure is not None
        assert float(str(failure["port_failing_for_seconds"])) >= 100


def test_what_a_dead_probe_process_last_saw_of_the_port_says_nothing(tmp_path: Path) -> None:
    with child(probe_process, tmp_path) as dead:
        dead.kill()
    assert checks.port_not_answering(0, pair(tmp_path)) is None
