"""Work that runs once for all who ask at the same time."""

import asyncio
import threading

import pytest

from bentos.edge.shared_run import SharedRun


class Work:
    """Counts its runs; each waits until it is let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = threading.Event()

    def __call__(self) -> int:
        self.runs += 1
        number = self.runs
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.go.wait(30)
        self.at_once -= 1
        return number


async def begun(work: Work, runs: int) -> None:
    while work.runs < runs:  # noqa: ASYNC110 - it happens on a thread
        await asyncio.sleep(0.001)


def test_whoever_asks_during_a_run_gets_the_next_one_with_all_the_others() -> None:
    async def scenario() -> tuple[list[int], Work]:
        work = Work()
        shared = SharedRun(work)
        first = [asyncio.create_task(shared.result()) for _ in range(3)]
        await begun(work, 1)
        later = [asyncio.create_task(shared.result()) for _ in range(5)]
        await asyncio.sleep(0.01)
        work.go.set()
        return await asyncio.gather(*first, *later), work

    results, work = asyncio.run(scenario())
    assert results == [1, 1, 1, 2, 2, 2, 2, 2]
    assert (work.runs, work.most_at_once) == (2, 1)


def test_one_that_gives_up_takes_the_result_from_nobody() -> None:
    async def scenario() -> int:
        work = Work()
        shared = SharedRun(work)
        given_up = asyncio.create_task(shared.result())
        other = asyncio.create_task(shared.result())
        await begun(work, 1)
        given_up.cancel()
        await asyncio.sleep(0)
        work.go.set()
        return await other

    assert asyncio.run(scenario()) == 1


def test_a_failed_run_is_told_to_its_own_askers_only() -> None:
    outcomes: list[Exception | int] = [OSError("the disk is gone"), 2]

    def work() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def scenario() -> int:
        shared = SharedRun(work)
        with pytest.raises(OSError, match="the disk is gone"):
            await shared.result()
        return await shared.result()

    assert asyncio.run(scenario()) == 2
