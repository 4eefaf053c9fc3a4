"""What the processes of one pod share, with workers that are real processes."""

import itertools
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bentos.health.pod import TEXT_BYTES, Layout, PodMemory, Row
from tests.support.processes import child

LAYOUT = Layout({"count": 1, "depth": 1, "buckets": 3}, frozenset({"depth"}), window_seconds=60)
# Whether a process runs is asked of the kernel at most four times a second.
_NEXT_LOOK_SECONDS = 1.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_next_look(self) -> None:
        """Let what was remembered of the processes go out of date."""
        self.now += _NEXT_LOOK_SECONDS


def pod_of(path: Path, workers: int = 2, clock: Clock | None = None) -> PodMemory:
    return PodMemory(path, LAYOUT, workers=workers, clock=clock or Clock())


def add(row: Row, name: str, amount: float = 1) -> None:
    row.add_at((row.index(name), amount))


def total(pod: PodMemory) -> float:
    return sum(row.get("count") for row in pod.rows)


def work(path: Path, worker: int, count: int, depth: int, errors: int = 0) -> float:
    """Run in a worker's process: claim the row, count, and return the pod's total."""
    pod = pod_of(path)
    row = pod.claim(worker)
    add(row, "count", count)
    row.set("depth", depth)
    row.record(errors=errors)
    return total(pod)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pod.state"


def look_without_descriptors(path: Path) -> tuple[bool, bool]:
    """Run in a process of its own: is a worker alive before and after it can open no file?"""
    clock = Clock()
    row = pod_of(path, clock=clock).workers[0]
    before = row.alive
    clock.pass_next_look()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return before, row.alive


@pytest.mark.case(63)
def test_a_process_that_can_open_no_file_goes_on_with_what_it_knew(path: Path) -> None:
    """No file descriptor is left: the heartbeat goes on, where it had ended for good."""
    with child(work, path, 1, 3, 1):
        with child(look_without_descriptors, path) as looking:
            assert looking.result == (True, True)


def test_a_zombie_is_a_dead_worker(path: Path) -> None:
    if (dead := os.fork()) == 0:
        pod_of(path).claim(1)
        os._exit(0)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # as under a supervisor that sleeps
    assert psutil.Process(dead).status() == psutil.STATUS_ZOMBIE
    assert pod_of(path).workers[0].claimed
    assert pod_of(path).live_workers() == []
    os.waitpid(dead, 0)


def test_a_successor_starts_with_gauges_at_zero_and_the_last_text(path: Path) -> None:
    row = pod_of(path).claim(1)
    row.set("depth", 5)
    row.set("shutting_down", 1)
    add(row, "count", 2)
    row.write_text({"names": ["a"]})
    again = pod_of(path).claim(1)
    assert (again.get("depth"), again.get("shutting_down"), again.get("count")) == (0, 0, 2)
    assert again.read_text() == {"names": ["a"]}


def test_the_probe_process_has_a_row_and_is_no_worker(path: Path) -> None:
    pod = pod_of(path)
    row = pod.claim(0)
    assert pod.probe_process is row
    assert row.alive
    assert pod.live_workers() == []


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
    assert pod.live_workers() == [pod.rows[0]]


def test_a_step_of_the_clock_kills_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge device without a battery-backed clock gets its time from the network after boot."""
    with child(work, path, 1, 1, 1):
        real = psutil.boot_time()
        monkeypatch.setattr("psutil._psplatform.boot_time", lambda: real + 86_400.0)
        assert pod_of(path).rows[0].alive


def test_a_step_of_the_clock_changes_no_uptime(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    pod = pod_of(path, clock=clock)
    clock.now += 5
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 1e9)
    assert pod.uptime == pod_of(path, clock=clock).uptime == 5


def test_the_memory_has_no_hole_that_a_full_disk_could_not_fill(path: Path) -> None:
    PodMemory(path, Layout({"many": 2_000}, frozenset(), 60), workers=64)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 1_000_000


def test_a_row_that_nobody_claimed_is_neither_alive_nor_dead(path: Path) -> None:
    pod = pod_of(path)
    pod.claim(1)
    assert not pod.rows[1].claimed
    assert not pod.rows[1].alive
    assert pod.dead_for() == 0.0


def test_how_long_a_worker_has_been_dead_counts_from_its_last_heartbeat(path: Path) -> None:
    clock = Clock()
    with child(work, path, 1, 1, 1) as one:
        pod = pod_of(path, clock=clock)
        assert pod.dead_for() == 0.0
        one.kill()
        clock.now += 30
        assert pod.dead_for() == 30.0


def test_the_oldest_moment_is_that_of_a_live_worker_and_zero_is_none(path: Path) -> None:
    clock = Clock()
    pod = pod_of(path, clock=clock)
    first, second = pod.claim(1), pod.claim(2)
    assert pod.longest_since("depth") == 0.0
    first.set("depth", 900.0)
    second.set("depth", 990.0)
    assert pod.longest_since("depth") == 100.0
    first.set("process_created", -1.0)
    clock.pass_next_look()
    assert pod.longest_since("depth") == 11.0
    assert pod.longest_since("depth", [first]) == 101.0


def test_the_pod_started_when_its_first_process_came(path: Path) -> None:
    first = pod_of(path).started_at
    with child(work, path, 1, 0, 0):
        assert pod_of(path).started_at == first > 0


def test_threads_lose_no_count(path: Path) -> None:
    row = pod_of(path).claim(1)

    def count() -> None:
        for _ in range(5_000):
            row.add_at((row.index("count"), 1), (row.index("buckets") + 2, 0.5))
            row.record(successes=1)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(count) for _ in range(4)]:
            future.result()
    assert row.get("count") == 20_000
    assert list(row.values("buckets")) == [0, 0, 10_000]
    assert row.window.outcomes().successes == 20_000


@pytest.mark.parametrize("worker", [-1, 3])
def test_a_worker_that_the_pod_does_not_have_is_refused(path: Path, worker: int) -> None:
    with pytest.raises(ValueError, match="of a pod with 2"):
        pod_of(path).claim(worker)


def test_a_name_that_every_row_has_is_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        Layout({"heartbeat": 1}, frozenset(), 60)


class TestText:
    def test_a_text_is_read_by_any_process(self, path: Path) -> None:
        with child(say, path, {"a": [1, "ü"]}):
            assert pod_of(path).workers[0].read_text() == {"a": [1, "ü"]}

    def test_there_is_none_before_it_is_written(self, path: Path) -> None:
        assert pod_of(path).claim(1).read_text() == {}

    @pytest.mark.parametrize("odd", ["\udc80", "\x00\x1f", "😀" * 100, float("nan")])
    def test_whatever_a_message_holds_comes_back(self, path: Path, odd: object) -> None:
        row = pod_of(path).claim(1)
        row.write_text({"odd": odd})
        assert repr(row.read_text()["odd"]) == repr(odd)

    def test_one_that_is_too_long_is_refused_and_the_last_one_stays(self, path: Path) -> None:
        row = pod_of(path).claim(1)
        row.write_text({"a": 1})
        with pytest.raises(ValueError, match="may have 65536"):
            row.write_text({"a": "x" * TEXT_BYTES})
        assert row.read_text() == {"a": 1}

    def test_a_reader_never_sees_half_of_one(self, path: Path) -> None:
        reader = pod_of(path).workers[0]
        pod_of(path).workers[0].write_text({"a": "-"})
        seen = 0
        with child(start_saying, path) as writer:
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                text = reader.read_text()
                assert len(set(str(text["a"]))) == 1
                seen += 1
            # However it ends, the last text is whole.
            writer.kill()
        assert len(set(str(reader.read_text()["a"]))) == 1
        assert seen > 0


def say(path: Path, text: dict[str, object]) -> None:
    """Run in a worker's process."""
    pod_of(path).claim(1).write_text(text)


def start_saying(path: Path) -> None:
    """Run in a worker's process: write texts, each of one letter, until the process is killed."""
    row = pod_of(path).claim(1)

    def keep_saying() -> None:
        for number in itertools.count():
            row.write_text({"a": "abcdefg"[number % 7] * (1 + 2_000 * (number % 11))})

    threading.Thread(target=keep_saying, daemon=True).start()
