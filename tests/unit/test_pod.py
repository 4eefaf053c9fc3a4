"""What workers of one pod share, with workers that are real processes."""

import os
from pathlib import Path

import psutil
import pytest

from bentos.health.pod import PodMemory
from tests.support.processes import child

COUNTERS = ("count",)
GAUGES = ("depth",)
# Whether a process lives is asked of the kernel at most twice a second.
_NEXT_LOOK_SECONDS = 1.0


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_next_look(self) -> None:
        """Let what was remembered of the processes go out of date."""
        self.now += _NEXT_LOOK_SECONDS


def pod_of(path: Path, workers: int = 2, clock: Clock | None = None) -> PodMemory:
    return PodMemory(
        path, workers=workers, counters=COUNTERS, gauges=GAUGES, clock=clock or Clock()
    )


def work(path: Path, worker: int, count: int, depth: int, errors: int = 0) -> float:
    """Run in a worker's process: claim the row, count, and tell the pod's total."""
    pod = pod_of(path)
    row = pod.claim(worker)
    row.add("count", count)
    row.set("depth", depth)
    row.record(errors=errors)
    return pod.total("count")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pod.state"


def test_two_processes_see_the_same_totals(path: Path) -> None:
    with child(work, path, 1, 3, 1) as one, child(work, path, 2, 4, 2) as two:
        assert (one.result, two.result) == (3, 7)
        pod = pod_of(path)
        assert pod.total("count") == 7
        assert pod.live_total("depth") == 3
        assert len(pod.live_rows()) == 2


def test_a_dead_worker_keeps_its_counts_and_loses_its_gauges(path: Path) -> None:
    clock = Clock()
    with child(work, path, 1, 3, 1), child(work, path, 2, 4, 2) as two:
        pod = pod_of(path, clock=clock)
        assert pod.live_total("depth") == 3
        two.kill()
        clock.pass_next_look()
        assert pod.total("count") == 7
        assert pod.live_total("depth") == 1
        assert not pod.everywhere("depth")


def test_a_zombie_is_a_dead_worker(path: Path) -> None:
    with child(work, path, 1, 3, 1) as one:
        one.kill(reap=False)
        assert psutil.Process(one.pid).status() == psutil.STATUS_ZOMBIE
        assert pod_of(path).live_rows() == []


def test_a_worker_that_replaces_a_dead_one_goes_on_with_its_counters(path: Path) -> None:
    with child(work, path, 1, 3, 5) as dead:
        dead.kill()
    with child(work, path, 1, 10, 0) as successor:
        assert successor.result == 13
        pod = pod_of(path)
        assert pod.total("count") == 13
        assert pod.live_total("depth") == 0
        assert pod.dead_for() == 0.0


def test_a_successor_starts_with_gauges_at_zero(path: Path) -> None:
    pod = pod_of(path)
    row = pod.claim(1)
    row.set("depth", 5)
    row.set("shutting_down", 1)
    row.add("count", 2)
    again = pod_of(path).claim(1)
    assert (again.get("depth"), again.get("shutting_down"), again.get("count")) == (0, 0, 2)


def test_another_process_with_a_dead_workers_pid_is_not_taken_for_it(path: Path) -> None:
    pod = pod_of(path)
    with child(work, path, 1, 1, 1) as other:
        assert pod.rows[0].alive
        row = pod_of(path).rows[0]
        row.set("process_created", row.get("process_created") - 60)
        assert row.get("pid") == other.pid
        assert not row.alive


def test_a_dead_neighbour_whose_pid_this_process_now_has_is_still_dead(path: Path) -> None:
    pod = pod_of(path)
    pod.claim(1)
    neighbour = pod.claim(2)
    neighbour.set("process_created", neighbour.get("process_created") - 60)
    assert neighbour.get("pid") == os.getpid()
    assert pod.live_rows() == [pod.rows[0]]


def test_a_step_of_the_clock_kills_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge device without a battery-backed clock gets its time from the network after boot."""
    with child(work, path, 1, 1, 1):
        real = psutil.boot_time()
        monkeypatch.setattr("psutil._psplatform.boot_time", lambda: real + 86_400.0)
        assert pod_of(path).rows[0].alive


def test_the_memory_has_no_hole_that_a_full_disk_could_not_fill(path: Path) -> None:
    PodMemory(path, workers=64, counters=[f"c{n}" for n in range(200)], gauges=())
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 100_000


def test_a_row_that_nobody_claimed_is_neither_alive_nor_dead(path: Path) -> None:
    pod = pod_of(path)
    pod.claim(1)
    assert not pod.rows[1].claimed
    assert not pod.rows[1].alive
    assert pod.dead_for() == 0.0


def test_a_flag_holds_everywhere_only_when_every_worker_of_the_pod_set_it(path: Path) -> None:
    pod = pod_of(path)
    pod.claim(1).set("depth", 1)
    assert not pod.everywhere("depth")
    pod.claim(2).set("depth", 1)
    assert pod.everywhere("depth")


def test_how_long_a_worker_has_been_dead_is_told_from_its_last_heartbeat(path: Path) -> None:
    clock = Clock()
    with child(work, path, 1, 1, 1) as one:
        pod = pod_of(path, clock=clock)
        assert pod.dead_for() == 0.0
        one.kill()
        clock.now += 30
        assert pod.dead_for() == 30.0


def test_outcomes_of_other_processes_are_in_the_window(path: Path) -> None:
    with child(work, path, 1, 0, 0, 12), child(work, path, 2, 0, 0, 9):
        outcomes = pod_of(path).outcomes()
        assert outcomes.errors == 21
        assert outcomes.is_high()


def test_outcomes_of_a_dead_worker_stay_in_the_window(path: Path) -> None:
    with child(work, path, 1, 0, 0, 30) as one:
        one.kill()
    assert pod_of(path).outcomes().errors == 30


def test_the_pod_started_when_its_first_worker_came(path: Path) -> None:
    first = pod_of(path).started_at
    with child(work, path, 1, 0, 0):
        assert pod_of(path).started_at == first > 0


def test_threads_lose_no_count(path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    row = pod_of(path).claim(1)

    def count() -> None:
        for _ in range(5_000):
            row.add("count")
            row.record(successes=1)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(count) for _ in range(4)]:
            future.result()
    assert row.get("count") == 20_000
    assert row.window.outcomes().successes == 20_000


def test_a_worker_that_the_pod_does_not_have_is_refused(path: Path) -> None:
    pod = pod_of(path)
    for worker in (0, 3):
        with pytest.raises(ValueError, match="of a pod with 2"):
            pod.claim(worker)


def test_a_cell_named_twice_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="named twice"):
        PodMemory(path, workers=1, counters=("pid",), gauges=())


def test_the_window_may_be_longer_or_shorter(path: Path) -> None:
    clock = Clock()
    pod = PodMemory(path, workers=2, counters=(), gauges=(), window_seconds=3, clock=clock)
    pod.claim(2).record(errors=25)
    assert pod.outcomes().is_high()
    clock.now += 3
    assert pod.outcomes().requests == 0
