"""The thread that owns the model: micro-batches, failures, limits and its end."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.health.http import ServiceError
from bentos.inference.engine import Engine, Prediction
from bentos.inference.model import LoadedModel, ModelIdentity, ModelSpec

FAILS = 666.0
GIVES_NAN = 13.0
WAIT_SECONDS = 30.0


class Model:
    """A model that tells the batches it got, and that a test may hold back."""

    def __init__(
        self,
        version: str = "1",
        *,
        shape: tuple[int, ...] = (2,),
        max_batch: int = 64,
        dtype: str = "float32",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.batches: list[int] = []
        self.types: list[np.dtype[Any]] = []
        self.called = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.loaded = LoadedModel(
            identity=ModelIdentity("model", "production", version),
            spec=ModelSpec(shape, np.dtype(dtype), ("no", "yes"), (False, True)),
            forward=self.forward,
            output="logits",
            max_batch=max_batch,
            release=release,
        )

    def forward(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        self.called.set()
        assert self.free.wait(WAIT_SECONDS)
        self.batches.append(len(inputs))
        self.types.append(inputs.dtype)
        if len(inputs) > self.loaded.max_batch:
            raise ValueError("more than the model was exported for")
        if (inputs == FAILS).any():
            raise ValueError("the model cannot bear this input")
        flat = inputs.reshape(len(inputs), -1).astype(np.float32)
        flat[flat == GIVES_NAN] = np.nan
        with np.errstate(over="ignore"):
            return np.stack([flat[:, 0], flat[:, 1] ** 2], axis=1)

    def hold(self) -> None:
        """Let the next call not return before `free` is set."""
        self.called.clear()
        self.free.clear()


class Observer:
    """Counts what the engine tells of its work."""

    def __init__(self) -> None:
        self.started = 0
        self.inputs: list[int] = []

    def batch_started(self) -> None:
        self.started += 1

    def batch_ended(self, *, inputs: int, seconds: float) -> None:
        assert seconds >= 0
        self.inputs.append(inputs)


class Bench:
    """An engine with a model, and what is asked of it."""

    def __init__(self, engine: Engine, model: Model, observer: Observer) -> None:
        self.engine = engine
        self.model = model
        self.observer = observer

    def ask(self, *values: float) -> "asyncio.Task[Prediction]":
        return self.ask_prepared(lambda _: np.array(values, np.float32))

    def ask_prepared(
        self, prepare: Callable[[ModelSpec], NDArray[Any]]
    ) -> "asyncio.Task[Prediction]":
        return asyncio.ensure_future(self.engine.predict(prepare))

    async def hold(self) -> "asyncio.Task[Prediction]":
        """Ask for a first prediction that stays in the model until `free` is set."""
        self.model.hold()
        first = self.ask(1.0, 0.0)
        assert await asyncio.to_thread(self.model.called.wait, WAIT_SECONDS)
        return first

    def free(self) -> None:
        self.model.free.set()


def run(
    test: Callable[[Bench], Awaitable[None]], *, queue_size: int = 100, max_batch: int = 64
) -> None:
    async def main() -> None:
        observer = Observer()
        engine = Engine(queue_size=queue_size, max_batch=max_batch, observer=observer)
        model = Model()
        engine.install(model.loaded)
        engine.start()
        try:
            await asyncio.wait_for(test(Bench(engine, model, observer)), WAIT_SECONDS)
        finally:
            model.free.set()
            await engine.stop(WAIT_SECONDS)

    asyncio.run(main())


async def refused(asked: "asyncio.Task[Prediction]") -> ServiceError:
    with pytest.raises(ServiceError) as error:
        await asked
    return error.value


def test_an_input_alone_waits_for_nobody() -> None:
    async def test(bench: Bench) -> None:
        prediction = await bench.ask(3.0, 1.0)
        assert (prediction.class_index, prediction.class_name) == (0, "no")
        assert prediction.confidence == pytest.approx(1 / (1 + np.exp(-2)))
        assert not prediction.defect
        assert prediction.model is bench.model.loaded
        assert bench.model.batches == [1]

    run(test)


def test_what_waits_while_the_model_is_busy_is_one_batch() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        others = [bench.ask(0.0, float(index)) for index in range(10)]
        await asyncio.sleep(0)
        assert bench.engine.waiting == 11
        bench.free()
        answers = await asyncio.gather(first, *others)
        assert bench.model.batches == [1, 10]
        assert bench.observer.inputs == [1, 10]
        # Each got the answer to its own input.
        logits = [prediction.probabilities[1] for prediction in answers[1:]]
        expected = [1 / (1 + np.exp(-(float(index) ** 2))) for index in range(10)]
        np.testing.assert_allclose(logits, expected, rtol=1e-5)
        assert bench.engine.waiting == 0

    run(test)


def test_a_batch_is_no_larger_than_set() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        others = [bench.ask(0.0, 1.0) for _ in range(10)]
        await asyncio.sleep(0)
        bench.free()
        await asyncio.gather(first, *others)
        assert bench.model.batches == [1, 4, 4, 2]

    run(test, max_batch=4)


def test_a_batch_is_no_larger_than_the_model_takes() -> None:
    async def test(bench: Bench) -> None:
        single = Model(max_batch=1)
        bench.engine.install(single.loaded)
        await asyncio.gather(*(bench.ask(0.0, 1.0) for _ in range(3)))
        assert single.batches == [1, 1, 1]

    run(test)


def test_an_input_that_the_model_cannot_bear_fails_alone() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        others = [bench.ask(0.0, 1.0), bench.ask(FAILS, 0.0), bench.ask(0.0, 2.0)]
        await asyncio.sleep(0)
        bench.free()
        await first
        error = await refused(others[1])
        assert (error.status, error.reason) == (500, "model_failure")
        assert isinstance(error.__cause__, ValueError)
        assert "bear" not in error.message
        assert (await others[0]).class_index == 1
        assert (await others[2]).class_index == 1
        assert bench.model.batches == [1, 3, 1, 1, 1]

    run(test)


def test_outputs_that_are_no_numbers_fail_the_input_that_gave_them() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        nan, fine = bench.ask(GIVES_NAN, 1.0), bench.ask(0.0, 1.0)
        await asyncio.sleep(0)
        bench.free()
        await asyncio.gather(first, fine)
        assert (await refused(nan)).reason == "model_failure"

    run(test)


def test_numbers_so_large_that_the_model_overflows_are_the_clients_fault() -> None:
    async def test(bench: Bench) -> None:
        error = await refused(bench.ask(0.0, 3e38))
        assert (error.status, error.reason) == (400, "bad_input")
        assert "data" in error.message
        # The model thread lives on.
        assert (await bench.ask(0.0, 1.0)).class_index == 1

    run(test)


def test_an_input_that_cannot_be_read_fails_alone_and_with_its_own_error() -> None:
    def unreadable(_: ModelSpec) -> NDArray[Any]:
        raise ServiceError(400, "bad_input", "data: no")

    def broken(_: ModelSpec) -> NDArray[Any]:
        raise RuntimeError("a bug")

    async def test(bench: Bench) -> None:
        first = await bench.hold()
        bad, worse, fine = (
            bench.ask_prepared(unreadable),
            bench.ask_prepared(broken),
            bench.ask(0.0, 1.0),
        )
        await asyncio.sleep(0)
        bench.free()
        assert (await refused(bad)).message == "data: no"
        assert (await refused(worse)).status == 500
        await asyncio.gather(first, fine)
        assert bench.model.batches == [1, 1]

    run(test)


def test_beyond_the_queue_a_request_is_told_to_come_again() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        waiting = [bench.ask(0.0, 1.0) for _ in range(2)]
        await asyncio.sleep(0)
        error = await refused(bench.ask(0.0, 1.0))
        assert (error.status, error.reason) == (429, "queue_full")
        assert error.headers == {"Retry-After": "1"}
        bench.free()
        await asyncio.gather(first, *waiting)
        # There is room again.
        assert (await bench.ask(0.0, 1.0)).class_index == 1

    run(test, queue_size=3)


def test_an_input_that_nobody_waits_for_any_more_is_not_computed() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        left, stayed = bench.ask(0.0, 1.0), bench.ask(0.0, 1.0)
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        bench.free()
        await asyncio.gather(first, stayed)
        assert bench.model.batches == [1, 1]
        assert bench.engine.waiting == 0

    run(test)


def test_an_input_that_is_given_up_while_it_is_computed_harms_nobody() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        first.cancel()
        bench.free()
        assert (await bench.ask(0.0, 1.0)).class_index == 1
        assert bench.engine.waiting == 0

    run(test)


def test_a_new_model_answers_from_the_next_batch_on() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        second = bench.ask(0.0, 1.0)
        await asyncio.sleep(0)
        bench.engine.install(Model("2").loaded)
        bench.free()
        assert (await first).model.identity.version == "1"
        assert (await second).model.identity.version == "2"

    run(test)


def test_a_batch_gathered_while_a_larger_model_served_is_cut_for_a_smaller_one() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        waiting = [bench.ask(0.0, 1.0) for _ in range(4)]
        await asyncio.sleep(0)
        single = Model("2", max_batch=1)
        bench.engine.install(single.loaded)
        bench.free()
        answers = await asyncio.gather(first, *waiting)
        assert [answer.model.identity.version for answer in answers] == ["1", "2", "2", "2", "2"]
        assert single.batches == [1, 1, 1, 1]

    run(test)


def test_a_replaced_model_is_released_once_no_batch_uses_it() -> None:
    async def test(bench: Bench) -> None:
        released = threading.Event()
        old = Model("2", release=released.set)
        bench.engine.install(old.loaded)
        old.hold()
        first = bench.ask(0.0, 1.0)
        assert await asyncio.to_thread(old.called.wait, WAIT_SECONDS)
        bench.engine.install(Model("3").loaded)
        assert not released.is_set()
        old.free.set()
        assert (await first).model is old.loaded
        assert (await bench.ask(0.0, 1.0)).model.identity.version == "3"
        assert released.is_set()

    run(test)


def test_an_input_decoded_for_a_model_of_another_shape_is_sent_again() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        old, new = bench.ask(0.0, 1.0), bench.ask(0.0, 1.0, 2.0)
        await asyncio.sleep(0)
        bench.engine.install(Model("2", shape=(3,)).loaded)
        bench.free()
        await first
        error = await refused(old)
        assert (error.status, error.reason) == (503, "model_not_loaded")
        assert error.headers == {"Retry-After": "1"}
        assert (await new).model.identity.version == "2"

    run(test)


def test_an_input_decoded_for_a_model_of_another_type_is_cast() -> None:
    async def test(bench: Bench) -> None:
        model = Model("2", dtype="float64")
        bench.engine.install(model.loaded)
        await bench.ask(0.0, 1.0)
        assert model.types == [np.dtype(np.float64)]

    run(test)


def test_there_is_no_spec_before_there_is_a_model() -> None:
    async def main() -> None:
        engine = Engine(queue_size=1, max_batch=1, observer=Observer())
        assert engine.spec is None
        engine.start()
        with pytest.raises(ServiceError) as failed:
            await engine.predict(lambda _: np.zeros(2))
        assert failed.value.status == 500
        await engine.stop(WAIT_SECONDS)

    asyncio.run(main())


def test_a_stop_answers_what_waits() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        waiting = [bench.ask(0.0, 1.0) for _ in range(5)]
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(bench.engine.stop(WAIT_SECONDS))
        await asyncio.sleep(0)
        bench.free()
        await stopping
        answers = await asyncio.gather(first, *waiting)
        assert len(answers) == 6

    run(test)


def test_a_stuck_model_does_not_hold_up_the_stop() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        await bench.engine.stop(0.05)
        assert not first.done()
        first.cancel()

    run(test)


def test_the_observer_is_told_of_calls_that_fail_too() -> None:
    async def test(bench: Bench) -> None:
        await refused(bench.ask(FAILS, 0.0))
        assert bench.observer.started == 1
        assert bench.observer.inputs == [1]

    run(test)
