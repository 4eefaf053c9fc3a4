"""The lock of the workers that write to one database."""

import threading
from pathlib import Path

from bentos.logging.store.sqlite import WriteLock
from tests.support.processes import child
from tests.support.servers import wait_until


def hold(directory: Path) -> bool:
    """Take the lock and keep it until the process ends."""
    lock = WriteLock(directory).held()
    lock.__enter__()
    _held.append(lock)
    return True


_held: list[object] = []


def waiting_on(directory: Path) -> int:
    """Return how many wait for the locks in the directory, as the kernel tells."""
    inodes = {str(path.stat().st_ino) for path in directory.iterdir()}
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and line.split()[6].split(":")[2] in inodes for line in lines)


def test_a_waiting_worker_comes_before_the_writer_comes_again(tmp_path: Path) -> None:
    order: list[str] = []
    first, second = WriteLock(tmp_path), WriteLock(tmp_path)

    def other() -> None:
        with second.held():
            order.append("second")

    thread = threading.Thread(target=other)
    with first.held():
        order.append("first")
        thread.start()
        wait_until(lambda: waiting_on(tmp_path) == 1, "the second waits", seconds=10)
    with first.held():
        order.append("first again")
    thread.join(10)

    assert order == ["first", "second", "first again"]


def test_a_worker_that_dies_with_the_lock_keeps_nobody_out(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path)
    with child(hold, tmp_path) as process:
        taken = threading.Event()

        def take() -> None:
            with lock.held():
                taken.set()

        thread = threading.Thread(target=take)
        thread.start()
        wait_until(lambda: waiting_on(tmp_path) == 1, "it waits", seconds=10)
        assert not taken.is_set()
        process.kill()
        assert taken.wait(10)
        thread.join(10)


def test_the_lock_is_released_by_an_exception_too(tmp_path: Path) -> None:
    first, second = WriteLock(tmp_path), WriteLock(tmp_path)
    try:
        with first.held():
            raise ValueError
    except ValueError:
        pass

    with second.held():
        assert waiting_on(tmp_path) == 0
