"""The sliding window from which the error rate is told."""

from collections.abc import MutableSequence

from bentos.health.window import (
    MINIMUM_REQUESTS,
    WINDOW_SECONDS,
    ErrorWindow,
    Outcomes,
    sum_outcomes,
    window_cells,
)


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_window(clock: Clock, seconds: int = WINDOW_SECONDS) -> ErrorWindow:
    cells: MutableSequence[float] = [0.0] * window_cells(seconds)
    return ErrorWindow(cells, seconds=seconds, clock=clock)


def test_an_empty_window_has_no_error_rate() -> None:
    outcomes = make_window(Clock()).outcomes()
    assert outcomes == Outcomes(successes=0, errors=0)
    assert outcomes.error_rate == 0.0
    assert not outcomes.is_high()


def test_exactly_half_is_not_high_and_one_more_is() -> None:
    half = Outcomes(successes=MINIMUM_REQUESTS, errors=MINIMUM_REQUESTS)
    assert half.error_rate == 0.5
    assert not half.is_high()
    assert Outcomes(successes=half.successes, errors=half.errors + 1).is_high()


def test_fewer_than_the_minimum_of_requests_are_never_high() -> None:
    assert MINIMUM_REQUESTS == 20
    assert not Outcomes(successes=0, errors=19).is_high()
    assert Outcomes(successes=0, errors=20).is_high()


def test_outcomes_of_the_last_sixty_seconds_count_and_older_ones_do_not() -> None:
    clock = Clock()
    window = make_window(clock)
    window.record(successes=3, errors=5)
    clock.now += 59
    assert window.outcomes() == Outcomes(successes=3, errors=5)
    clock.now += 1
    assert window.outcomes() == Outcomes(successes=0, errors=0)


def test_a_high_rate_recovers_by_time_alone() -> None:
    clock = Clock()
    window = make_window(clock)
    for _ in range(30):
        window.record(errors=1)
    assert window.outcomes().is_high()
    clock.now += WINDOW_SECONDS
    assert not window.outcomes().is_high()


def test_each_second_leaves_the_window_by_itself() -> None:
    clock = Clock()
    window = make_window(clock, seconds=3)
    for errors in (1, 10, 100):
        window.record(errors=errors)
        clock.now += 1
    assert window.outcomes().errors == 110
    clock.now += 1
    assert window.outcomes().errors == 100
    clock.now += 1
    assert window.outcomes().errors == 0


def test_a_bucket_is_used_again_without_what_it_held_before() -> None:
    clock = Clock()
    window = make_window(clock, seconds=3)
    window.record(errors=9)
    clock.now += 4  # the same bucket, one turn later
    window.record(successes=1)
    assert window.outcomes() == Outcomes(successes=1, errors=0)


def test_a_pause_longer_than_the_window_leaves_nothing_behind() -> None:
    clock = Clock()
    window = make_window(clock)
    window.record(errors=40)
    clock.now += 3_600
    assert window.outcomes() == Outcomes(successes=0, errors=0)


def test_a_machine_that_has_just_booted_has_a_window_too() -> None:
    clock = Clock(now=0.2)
    window = make_window(clock)
    assert window.outcomes() == Outcomes(successes=0, errors=0)
    window.record(errors=2)
    clock.now = 30.0
    assert window.outcomes().errors == 2
    clock.now = 60.5
    assert window.outcomes().errors == 0


def test_windows_of_workers_add_up() -> None:
    clock = Clock()
    first, second = make_window(clock), make_window(clock)
    first.record(successes=10)
    second.record(errors=11)
    together = sum_outcomes([first, second])
    assert together == Outcomes(successes=10, errors=11)
    assert together.is_high()
