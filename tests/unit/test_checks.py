"""Readiness and liveness checks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bentos.health import checks
from bentos.health.checks import Check, Details, judge
from bentos.health.state import ServiceState
from tests.support.processes import child


def holds() -> Details | None:
    return None


def fails(**details: object) -> Callable[[], Details | None]:
    return lambda: details


@pytest.fixture
def state(tmp_path: Path) -> ServiceState:
    return ServiceState(tmp_path, error_reasons=("broken",), gauges=("since",))


def test_no_checks_pass() -> None:
    assert judge([]).passed
    assert judge([]).reason == ""


def test_the_first_failing_check_leads_and_all_are_told() -> None:
    verdict = judge(
        [Check("a", holds), Check("b", fails(x=1)), Check("c", fails(y=2)), Check("d", holds)]
    )
    assert not verdict.passed
    assert verdict.reason == "b"
    assert verdict.reasons == ("b", "c")
    assert verdict.details == {"x": 1, "y": 2}


def test_an_exception_in_a_check_is_its_failure() -> None:
    def raises() -> Details | None:
        raise OSError("no such device")

    verdict = judge([Check("disk", raises), Check("other", holds)])
    assert verdict.reasons == ("disk",)
    assert verdict.details == {"error": "OSError: no such device"}


def test_a_check_without_details_fails_too() -> None:
    assert judge([Check("a", fails())]).reasons == ("a",)


def test_unless_tells_why_only_where_the_condition_does_not_hold() -> None:
    held = checks.unless("a", lambda: True, why=lambda: {"x": 1})
    broken = checks.unless("a", lambda: False, why=lambda: {"x": 1})
    assert held.failing() is None
    assert broken.failing() == {"x": 1}
    assert checks.unless("a", lambda: False).failing() == {}


def test_shutting_down_fails_from_the_moment_it_begins(state: ServiceState) -> None:
    check = checks.shutting_down(state)
    assert check.failing() is None
    state.begin_shutdown()
    assert check.failing() is not None
    assert check.reason == "shutting_down"


def test_a_high_error_rate_tells_the_rate(state: ServiceState) -> None:
    check = checks.high_error_rate(state)
    state.record_success(9)
    for _ in range(9):
        state.record_error("broken")
    assert check.failing() is None
    for _ in range(3):
        state.record_error("broken")
    assert check.failing() == {
        "error_rate": 0.5714,
        "errors_in_window": 12,
        "requests_in_window": 21,
    }


def claim(directory: Path, worker: int) -> None:
    """Run in a worker's process."""
    ServiceState(directory, worker=worker, workers=2, gauges=("since",))


def pair(directory: Path) -> ServiceState:
    return ServiceState(directory, worker=1, workers=2, gauges=("since",))


def test_a_worker_that_never_came_is_not_missed(tmp_path: Path) -> None:
    assert checks.worker_missing(pair(tmp_path)).failing() is None


def test_a_dead_worker_is_missed_and_no_more_once_it_is_replaced(tmp_path: Path) -> None:
    with child(claim, tmp_path, 2) as dead:
        assert checks.worker_missing(pair(tmp_path)).failing() is None
        dead.kill()
    assert checks.worker_missing(pair(tmp_path)).failing() == {"workers_alive": 1, "workers": 2}
    with child(claim, tmp_path, 2):
        assert checks.worker_missing(pair(tmp_path)).failing() is None


def test_a_dead_worker_fails_liveness_only_after_its_grace(tmp_path: Path) -> None:
    with child(claim, tmp_path, 2) as dead:
        dead.kill()
    state = pair(tmp_path)
    assert checks.worker_dead(state, grace_seconds=3_600).failing() is None
    state.pod.rows[1].set("heartbeat", state.pod.rows[1].get("heartbeat") - 7_200)
    failure = checks.worker_dead(state, grace_seconds=3_600).failing()
    assert failure is not None
    assert float(str(failure["dead_for_seconds"])) >= 7_200


def test_a_worker_whose_event_loop_stalls_is_told_on(state: ServiceState) -> None:
    state.row.set("heartbeat", 100.0)
    at = {"now": 129.0}
    check = checks.event_loop_stalled(state, stall_seconds=30, clock=lambda: at["now"])
    assert check.failing() is None
    at["now"] = 130.5
    assert check.failing() == {"stuck_for_seconds": 30.5}


def test_a_dead_workers_work_is_not_stuck(tmp_path: Path) -> None:
    with child(claim, tmp_path, 2) as dead:
        state = pair(tmp_path)
        state.pod.rows[1].set("since", 1.0)
        check = checks.stuck(state, "slow", "since", stall_seconds=5, clock=lambda: 100.0)
        assert check.failing() == {"stuck_for_seconds": 99.0}
        dead.kill()
    state = pair(tmp_path)
    check = checks.stuck(state, "slow", "since", stall_seconds=5, clock=lambda: 100.0)
    assert check.failing() is None


def test_no_work_is_never_stuck(state: ServiceState) -> None:
    check = checks.stuck(state, "slow", "since", stall_seconds=5, clock=lambda: 1e9)
    assert check.failing() is None
