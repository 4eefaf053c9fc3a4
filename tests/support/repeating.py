"""Work that threads do again and again while a test goes on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event


@contextmanager
def repeating(*works: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Do each work again and again, in a thread of its own, until the block ends.

    Before each time it waits for `pause` seconds. What a work raises ends it, and is raised at the
    end of the block.
    """
    ended = Event()

    def repeat(work: Callable[[], object]) -> None:
        while not ended.wait(pause):
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        threads = [pool.submit(repeat, work) for work in works]
        try:
            yield
        finally:
            ended.set()
        for thread in threads:
            thread.result()
