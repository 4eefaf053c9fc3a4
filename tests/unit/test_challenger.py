"""When the challenger is asked, and what becomes of what it says."""

import asyncio
from collections.abc import Sequence

import numpy as np

from bentos.edge.http import ServiceError
from bentos.inference.challenger import Challenger
from bentos.inference.channel import Input, InputKind
from bentos.inference.engine import Prediction
from bentos.inference.model.spec import ServedModel
from bentos.inference.side import SideModel
from tests.support.model_server import WAIT_SECONDS, Bench, on_bench

GIVEN = Input(InputKind.TENSOR, np.array([[1.0, 0.0]], np.float32).tobytes())


class Side(SideModel):
    """A process that says what a test wants, and keeps what it was asked."""

    def __init__(self, says: Sequence[Prediction], error: ServiceError | None = None) -> None:
        self.says = says
        self.fails = error
        self.asked: list[Input] = []

    @property
    def model(self) -> ServedModel | None:
        return self.says[0].model

    async def predict(self, given: Input, *, seconds: float) -> list[Prediction]:
        self.asked.append(given)
        if self.fails is not None:
            raise self.fails
        return list(self.says)


class Asked:
    """A challenger, and what it handed on."""

    def __init__(self, bench: Bench, side: Side, *, share: float = 1.0) -> None:
        self.challenger = Challenger(
            side, bench.engine, bench.state, share=share, seconds=WAIT_SECONDS
        )
        self.told: list[Sequence[Prediction] | None] = []
        self.bench = bench

    def offer(self, said: Sequence[Prediction]) -> None:
        self.challenger.offer(GIVEN, said, self.told.append)

    async def outcome(self) -> str:
        """Wait for the one outcome of what was offered."""
        while not self.told:  # noqa: ASYNC110 - what was offered runs in between
            await asyncio.sleep(0)
        counts = {key: count for (key,), count in self.bench.state.shadow.samples() if count}
        ((outcome, count),) = counts.items()
        assert count == 1
        return outcome


async def served(bench: Bench) -> list[Prediction]:
    return [await bench.ask(1.0, 0.0)]


@on_bench()
async def test_it_is_asked_the_same_after_the_answer(bench: Bench) -> None:
    said = await served(bench)
    side = Side(said)
    asked = Asked(bench, side)
    asked.offer(said)
    assert side.asked == []
    assert await asked.outcome() == "agreed"
    assert [(one.kind, one.content) for one in side.asked] == [(GIVEN.kind, GIVEN.content)]
    assert asked.told == [said]


@on_bench()
async def test_another_class_is_a_difference(bench: Bench) -> None:
    said, other = await served(bench), [await bench.ask(0.0, 2.0)]
    asked = Asked(bench, Side(other))
    asked.offer(said)
    assert await asked.outcome() == "differed"
    assert asked.told == [other]


@on_bench()
async def test_it_is_left_out_while_an_input_waits_for_the_served_model(bench: Bench) -> None:
    said = await served(bench)
    side = Side(said)
    asked = Asked(bench, side)
    first = await bench.hold()
    asked.offer(said)
    assert await asked.outcome() == "skipped"
    assert (side.asked, asked.told) == ([], [None])
    bench.free()
    await first


@on_bench()
async def test_of_two_that_are_answered_at_once_one_is_left_out(bench: Bench) -> None:
    said = await served(bench)
    side = Side(said)
    asked = Asked(bench, side)
    asked.offer(said)
    asked.offer(said)
    while len(asked.told) < 2:  # noqa: ASYNC110 - what was offered runs in between
        await asyncio.sleep(0)
    assert len(side.asked) == 1
    shadow = bench.state.shadow
    assert (shadow["agreed"].value, shadow["skipped"].value) == (1, 1)


@on_bench()
async def test_what_is_not_in_the_sample_is_handed_on_at_once_and_not_counted(bench: Bench) -> None:
    said = await served(bench)
    asked = Asked(bench, Side(said), share=1e-12)
    asked.offer(said)
    assert asked.told == [None]
    assert bench.state.shadow.value == 0


@on_bench()
async def test_a_failure_is_counted_and_nothing_else(bench: Bench) -> None:
    said = await served(bench)
    asked = Asked(bench, Side(said, ServiceError(504, "timeout", "no answer")))
    asked.offer(said)
    assert await asked.outcome() == "failed"
    assert asked.told == [None]
    assert bench.state.errors.value == 0
