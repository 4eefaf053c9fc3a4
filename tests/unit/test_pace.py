"""A few at a time: how those who wait go on."""

import asyncio

from bentos.edge.pace import Pace


async def turns_of(names: int, pace: Pace, *, giving_up: int = 0) -> list[list[int]]:
    """Return who went on in each turn of the event loop."""
    turns: list[list[int]] = []
    current: list[int] = []

    async def one(name: int) -> None:
        await pace.step()
        current.append(name)

    tasks = [asyncio.create_task(one(name)) for name in range(names)]
    await asyncio.sleep(0)
    for task in tasks[:giving_up]:
        task.cancel()
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turns.append(current.copy())
        current.clear()
    return [turn for turn in turns if turn]


def test_a_few_go_on_in_each_turn_in_the_order_they_came() -> None:
    assert asyncio.run(turns_of(7, Pace(3))) == [[0, 1, 2], [3, 4, 5], [6]]


def test_one_alone_waits_for_nobody() -> None:
    assert asyncio.run(turns_of(1, Pace(3))) == [[0]]


def test_those_who_gave_up_take_no_turn() -> None:
    assert asyncio.run(turns_of(7, Pace(3), giving_up=3)) == [[3, 4, 5], [6]]


def test_a_pace_that_ran_empty_goes_on_with_the_next() -> None:
    async def twice() -> list[list[list[int]]]:
        pace = Pace(2)
        return [await turns_of(3, pace), await turns_of(3, pace)]

    assert asyncio.run(twice()) == [[[0, 1], [2]], [[0, 1], [2]]]
