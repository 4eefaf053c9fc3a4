"""What is asked of the model process: micro-batches, failures, limits and its end."""

import asyncio
import threading

import numpy as np
import pytest
from PIL import Image

from bentos.edge.http import ServiceError
from bentos.inference.engine import Engine, Prediction
from bentos.inference.images import open_image
from bentos.inference.wire import Input, InputKind
from tests.support.images import black_png, colour_file
from tests.support.model_server import (
    FAILS,
    GIVES_NAN,
    MAX_PIXELS,
    WAIT_SECONDS,
    Bench,
    Model,
    Observer,
    run,
)


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
        assert prediction.model.identity == bench.model.loaded.identity
        assert prediction.model.spec == bench.model.loaded.spec
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
        assert max(bench.model.batches) == 4
        assert sum(bench.model.batches) == 11

    run(test, max_batch=4)


def test_a_batch_is_no_larger_than_the_model_takes() -> None:
    async def test(bench: Bench) -> None:
        single = Model(max_batch=1)
        await bench.install(single)
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
        # The log has the traceback, the client has not.
        assert "cannot bear" in str(error.__cause__)
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
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        bad = bench.ask_input(Input(InputKind.JSON, b'{"data": [1]}'))
        worse = bench.ask_input(Input(InputKind.ARRAY, b"neither type nor shape"))
        fine = bench.ask(0.0, 1.0)
        await asyncio.sleep(0)
        bench.free()
        error = await refused(bad)
        assert (error.status, error.details) == (400, {"field": "data"})
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


def test_an_input_that_is_given_up_while_it_is_queued_is_not_computed() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        sent, left, stayed = (bench.ask(0.0, 1.0) for _ in range(3))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        assert bench.engine.waiting == 3
        bench.free()
        await asyncio.gather(first, sent, stayed)
        assert bench.model.batches == [1, 1, 1]
        assert bench.engine.waiting == 0

    run(test, max_batch=1)


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
        installing = await bench.install_next(Model("2"))
        bench.free()
        assert (await first).model.identity.version == "1"
        assert (await second).model.identity.version == "2"
        await installing

    run(test)


def test_a_batch_gathered_while_a_larger_model_served_is_cut_for_a_smaller_one() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        waiting = [bench.ask(0.0, 1.0) for _ in range(4)]
        single = Model("2", max_batch=1)
        installing = await bench.install_next(single)
        bench.free()
        answers = await asyncio.gather(first, *waiting)
        assert [answer.model.identity.version for answer in answers] == ["1", "2", "2", "2", "2"]
        assert single.batches == [1, 1, 1, 1]
        await installing

    run(test)


def test_a_replaced_model_is_released_once_no_batch_uses_it() -> None:
    async def test(bench: Bench) -> None:
        released = threading.Event()
        old = Model("2", release=released.set)
        await bench.install(old)
        old.hold()
        first = bench.ask(0.0, 1.0)
        assert await asyncio.to_thread(old.called.wait, WAIT_SECONDS)
        installing = await bench.install_next(Model("3"))
        assert not released.is_set()
        old.free.set()
        assert (await first).model.identity.version == "2"
        await installing
        assert released.is_set()
        assert (await bench.ask(0.0, 1.0)).model.identity.version == "3"

    run(test)


def test_an_input_decoded_for_a_model_of_another_shape_is_sent_again() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        old, new = bench.ask(0.0, 1.0), bench.ask(0.0, 1.0, 2.0)
        installing = await bench.install_next(Model("2", shape=(1, 3)))
        bench.free()
        await first
        error = await refused(old)
        assert (error.status, error.reason) == (503, "model_not_loaded")
        assert error.headers == {"Retry-After": "1"}
        assert (await new).model.identity.version == "2"
        await installing

    run(test)


def test_an_input_decoded_for_a_model_of_another_type_is_cast() -> None:
    async def test(bench: Bench) -> None:
        model = Model("2", dtype="float64")
        await bench.install(model)
        await bench.ask(0.0, 1.0)
        assert model.types == [np.dtype(np.float64)]

    run(test)


def test_without_a_model_an_input_is_refused() -> None:
    async def main() -> None:
        engine = Engine(queue_size=1, max_batch=1, max_pixels=1, observer=Observer())
        assert engine.spec is None
        with pytest.raises(ServiceError) as failed:
            await engine.predict(Input(InputKind.JSON, b"{}"))
        assert (failed.value.status, failed.value.reason) == (503, "model_not_loaded")
        assert engine.waiting == 0

    asyncio.run(main())


def test_what_the_process_owes_fails_when_it_dies() -> None:
    async def test(bench: Bench) -> None:
        sent = [await bench.hold(), bench.ask(0.0, 1.0)]
        queued = bench.ask(0.0, 1.0)
        await asyncio.sleep(0)
        bench.engine.disconnected()
        for one in sent:
            error = await refused(one)
            assert (error.status, error.reason) == (500, "model_failure")
        error = await refused(queued)
        assert (error.status, error.reason) == (503, "model_not_loaded")
        assert bench.engine.waiting == 0
        assert bench.engine.spec is None
        assert bench.observer.busy[-1] is None

    run(test, max_batch=1)


def test_answers_that_come_after_all_are_heard_by_nobody() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        bench.engine.disconnected()
        await refused(first)
        bench.free()
        await bench.install(Model("2"))
        assert bench.observer.inputs == [1]
        assert bench.engine.waiting == 0

    run(test)


def test_all_of_a_large_batch_are_answered_a_few_at_a_time() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        others = [bench.ask(0.0, 1.0) for _ in range(64)]
        await asyncio.sleep(0)
        bench.free()
        await first
        seen = set()
        while not all(other.done() for other in others):
            await asyncio.sleep(0)
            seen.add(sum(other.done() for other in others))
        assert len(seen) > 10

    run(test)


def test_the_model_is_told_to_be_busy_only_while_it_owes_an_answer() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        assert bench.observer.busy[-1] is not None
        bench.free()
        await first
        assert bench.observer.busy[-1] is None

    run(test)


def test_every_answer_starts_the_models_time_anew() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        since = bench.observer.busy[-1]
        slow = bench.ask(0.0, 1.0)
        await asyncio.sleep(0.01)
        bench.free()
        await first
        await slow
        moments = [moment for moment in bench.observer.busy if moment is not None]
        assert since is not None
        assert moments[-1] > since

    run(test, max_batch=1)


def test_a_stop_waits_for_what_was_taken() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        waiting = [bench.ask(0.0, 1.0) for _ in range(5)]
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(bench.engine.drained(WAIT_SECONDS))
        await asyncio.sleep(0)
        bench.free()
        await draining
        answers = await asyncio.gather(first, *waiting)
        assert len(answers) == 6

    run(test)


def test_a_stuck_model_does_not_hold_up_the_stop() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.hold()
        await bench.engine.drained(0.05)
        assert not first.done()
        first.cancel()

    run(test)


def test_the_observer_is_told_of_calls_that_fail_too() -> None:
    async def test(bench: Bench) -> None:
        await refused(bench.ask(FAILS, 0.0))
        assert bench.observer.inputs == [1]

    run(test)


COLOUR = (3, 16, 16)


class Decoding:
    """Holds the decoding of files until it is told to go on, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.files = 0
        monkeypatch.setattr("bentos.inference.model_process.files.open_image", self._held)

    def _held(self, content: bytes, *, max_pixels: int) -> Image.Image:
        self.files += 1
        self.begun.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return open_image(content, max_pixels=max_pixels)


def large_file(value: int = 0) -> Input:
    return Input(InputKind.FILE, colour_file((value, 0, 0), size=(300, 300)), pixels=90_000)


def test_a_large_picture_is_decoded_for_the_model_that_answers() -> None:
    async def test(bench: Bench) -> None:
        model = Model("2", shape=COLOUR)
        await bench.install(model)
        black, red = await asyncio.gather(
            bench.ask_input(large_file(0)), bench.ask_input(large_file(255))
        )
        assert (black.probabilities == 0.5).all()
        assert red.probabilities[1] == pytest.approx(0.5)
        assert red.model.identity.version == "2"
        assert model.types == [np.dtype(np.float32)] * 2
        assert bench.engine.waiting == 0

    run(test)


def test_a_large_picture_keeps_no_other_input_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = Decoding(monkeypatch)

    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        pictures = [bench.ask_input(large_file()) for _ in range(10)]
        assert await asyncio.to_thread(decoding.begun.wait, WAIT_SECONDS)
        numbers = b"[" + b",".join([b"0"] * 768) + b"]"
        for _ in range(5):
            await bench.ask_input(Input(InputKind.JSON, b'{"data": ' + numbers + b"}"))
        assert not any(picture.done() for picture in pictures)
        decoding.go_on.set()
        await asyncio.gather(*pictures)

    run(test, max_batch=2)


def test_beyond_a_few_large_pictures_a_request_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = Decoding(monkeypatch)

    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        waiting = [bench.ask_input(large_file()) for _ in range(32)]
        await asyncio.sleep(0)
        error = await refused(bench.ask_input(large_file()))
        assert (error.status, error.reason) == (429, "queue_full")
        assert error.headers == {"Retry-After": "1"}
        assert "32 large images" in error.message
        decoding.go_on.set()
        await asyncio.gather(*waiting)
        await bench.ask_input(large_file())

    run(test)


def test_of_the_largest_pictures_only_as_many_wait_as_are_decoded_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = Decoding(monkeypatch)

    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        largest = Input(InputKind.FILE, black_png(1_000, 1_000), pixels=MAX_PIXELS)
        waiting = [bench.ask_input(largest) for _ in range(4)]
        await asyncio.sleep(0)
        error = await refused(bench.ask_input(large_file()))
        assert (error.status, error.reason) == (429, "queue_full")
        assert "4 large images of 4000000 pixels" in error.message
        # What is given up makes room.
        waiting.pop().cancel()
        await asyncio.sleep(0)
        waiting.append(bench.ask_input(large_file()))
        decoding.go_on.set()
        await asyncio.gather(*waiting)

    run(test)


def test_a_large_picture_that_is_given_up_while_it_is_queued_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = Decoding(monkeypatch)

    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        waiting = [bench.ask_input(large_file()) for _ in range(10)]
        assert await asyncio.to_thread(decoding.begun.wait, WAIT_SECONDS)
        for left in waiting[2:]:
            left.cancel()
        await asyncio.sleep(0)
        assert bench.engine.waiting == 2
        decoding.go_on.set()
        await asyncio.gather(*waiting[:2])
        await bench.ask_input(large_file())
        assert decoding.files == 3

    run(test)


def test_a_large_picture_that_is_not_whole_fails_alone() -> None:
    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        whole = black_png(500, 500)
        cut = bench.ask_input(Input(InputKind.FILE, whole[: len(whole) // 2]))
        fine = bench.ask_input(Input(InputKind.FILE, whole))
        error = await refused(cut)
        assert (error.status, error.reason) == (400, "bad_input")
        assert "damaged or cut short" in error.message
        await fine
        assert bench.engine.waiting == 0

    run(test)


def test_a_large_picture_for_a_model_that_sees_none_is_refused() -> None:
    async def test(bench: Bench) -> None:
        error = await refused(bench.ask_input(large_file()))
        assert (error.status, error.reason) == (400, "bad_input")
        assert "not images" in error.message

    run(test)


def test_large_pictures_that_the_process_owes_fail_when_it_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = Decoding(monkeypatch)

    async def test(bench: Bench) -> None:
        await bench.install(Model("2", shape=COLOUR))
        pictures = [bench.ask_input(large_file()) for _ in range(4)]
        assert await asyncio.to_thread(decoding.begun.wait, WAIT_SECONDS)
        bench.engine.disconnected()
        statuses = [(await refused(picture)).status for picture in pictures]
        assert statuses == [500, 500, 503, 503]
        assert bench.engine.waiting == 0
        decoding.go_on.set()

    run(test)
