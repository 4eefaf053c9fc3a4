"""What is asked of the model process: micro-batches, failures, limits and its end."""

import asyncio
import threading
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.inference.channel import Input, InputKind
from bentos.inference.engine import Engine, Prediction, new_prediction_id
from bentos.inference.images import ImageFile, read_and_measure
from bentos.inference.model import answering
from bentos.inference.model.profile import Buckets
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from tests.support.images import black_png, colour_file
from tests.support.model_server import (
    BREAKS,
    FAILS,
    GIVES_NAN,
    MAX_PIXELS,
    WAIT_SECONDS,
    Bench,
    Model,
    make_state,
    on_bench,
)


async def refused(asked: "asyncio.Task[Prediction]") -> ServiceError:
    with pytest.raises(ServiceError) as error:
        await asked
    return error.value


@on_bench()
async def test_an_input_alone_waits_for_nobody(bench: Bench) -> None:
    prediction = await bench.ask(3.0, 1.0)
    assert (prediction.class_index, prediction.class_name) == (0, "no")
    assert prediction.confidence == pytest.approx(1 / (1 + np.exp(-2)))
    assert not prediction.defect
    assert prediction.model.identity == bench.model.loaded.identity
    assert prediction.model.spec == bench.model.loaded.spec
    assert bench.model.batches == [1]


@on_bench()
async def test_what_waits_while_the_model_is_busy_is_one_batch(bench: Bench) -> None:
    first = await bench.hold()
    others = [bench.ask(0.0, float(index)) for index in range(10)]
    await bench.settle()
    assert bench.engine.waiting == 11
    bench.free()
    answers = await asyncio.gather(first, *others)
    assert bench.model.batches == [1, 10]
    assert bench.calls == (2, 11)
    # Each got the answer to its own input.
    logits = [prediction.probabilities[1] for prediction in answers[1:]]
    expected = [1 / (1 + np.exp(-(float(index) ** 2))) for index in range(10)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert bench.engine.waiting == 0


@on_bench(max_batch=4)
async def test_a_batch_is_no_larger_than_set(bench: Bench) -> None:
    first = await bench.hold()
    others = [bench.ask(0.0, 1.0) for _ in range(10)]
    await bench.settle()
    bench.free()
    await asyncio.gather(first, *others)
    assert max(bench.model.batches) == 4
    assert sum(bench.model.batches) == 11


@on_bench()
async def test_a_batch_is_no_larger_than_the_model_takes(bench: Bench) -> None:
    single = Model(max_batch=1)
    await bench.install(single)
    await asyncio.gather(*(bench.ask(0.0, 1.0) for _ in range(3)))
    assert single.batches == [1, 1, 1]


@on_bench()
async def test_an_input_that_the_model_cannot_bear_fails_alone(bench: Bench) -> None:
    first = await bench.hold()
    others = [bench.ask(0.0, 1.0), bench.ask(FAILS, 0.0), bench.ask(0.0, 2.0)]
    await bench.settle()
    bench.free()
    await first
    error = await refused(others[1])
    assert (error.status, error.reason) == (422, "model_rejected_input")
    # The log has the traceback, the client has not.
    assert "cannot bear" in str(error.__cause__)
    assert "bear" not in error.message
    assert (await others[0]).class_index == 1
    assert (await others[2]).class_index == 1
    # The warm-up input was asked beside the one that failed.
    assert bench.model.batches == [1, 3, 1, 1, 1, 1]


@on_bench()
async def test_outputs_that_are_no_numbers_fail_the_input_that_gave_them(bench: Bench) -> None:
    first = await bench.hold()
    nan, fine = bench.ask(GIVES_NAN, 1.0), bench.ask(0.0, 1.0)
    await bench.settle()
    bench.free()
    await asyncio.gather(first, fine)
    assert (await refused(nan)).reason == "model_rejected_input"


@pytest.mark.case(8)
@pytest.mark.parametrize("number", [FAILS, GIVES_NAN, 3e38])
@on_bench()
async def test_an_input_that_the_model_cannot_bear_is_its_own_fault(
    bench: Bench, number: float
) -> None:
    """A model fails, gives NaN or overflows on one input and answers others: 422, not counted."""
    for _ in range(2 * answering.BROKEN_AFTER):
        error = await refused(bench.ask(0.0, number))
        assert (error.status, error.reason) == (422, "model_rejected_input")
    assert (await bench.ask(0.0, 1.0)).class_index == 1
    assert not bench.broken.is_set()


@pytest.mark.case(8)
@on_bench()
async def test_a_model_that_fails_on_its_warm_up_input_too_is_the_services_fault(
    bench: Bench,
) -> None:
    """A model answers nothing any more, not its warm-up input either: 500 `model_failure`."""
    error = await refused(bench.ask(BREAKS, 0.0))
    assert (error.status, error.reason) == (500, "model_failure")


@pytest.mark.case(33)
@on_bench()
async def test_a_model_that_keeps_failing_on_its_warm_up_input_ends_the_process(
    bench: Bench,
) -> None:
    """A GPU's context dies of one input: the model process ends itself and is started again."""
    await refused(bench.ask(BREAKS, 0.0))
    assert not bench.broken.is_set()
    for _ in range(answering.BROKEN_AFTER - 1):
        await refused(bench.ask(0.0, 1.0))
    assert await asyncio.to_thread(bench.broken.wait, WAIT_SECONDS)


@on_bench()
async def test_an_input_that_cannot_be_read_fails_alone_and_with_its_own_error(
    bench: Bench,
) -> None:
    first = await bench.hold()
    bad = bench.ask_input(Input(InputKind.JSON, b'{"data": [1]}'))
    fine = bench.ask(0.0, 1.0)
    await bench.settle()
    bench.free()
    error = await refused(bad)
    assert (error.status, error.details) == (400, {"field": "data"})
    await asyncio.gather(first, fine)
    assert bench.model.batches == [1, 1]


@on_bench(queue_size=3)
async def test_beyond_the_queue_a_request_is_told_to_come_again(bench: Bench) -> None:
    first = await bench.hold()
    waiting = [bench.ask(0.0, 1.0) for _ in range(2)]
    await bench.settle()
    error = await refused(bench.ask(0.0, 1.0))
    assert (error.status, error.reason) == (429, "queue_full")
    assert error.headers == {"Retry-After": "1"}
    bench.free()
    await asyncio.gather(first, *waiting)
    # There is room again.
    assert (await bench.ask(0.0, 1.0)).class_index == 1


@on_bench(max_batch=1)
async def test_an_input_that_is_given_up_while_it_is_queued_is_not_computed(bench: Bench) -> None:
    first = await bench.hold()
    sent, left, stayed = (bench.ask(0.0, 1.0) for _ in range(3))
    await bench.settle()
    left.cancel()
    await bench.settle()
    assert bench.engine.waiting == 3
    bench.free()
    await asyncio.gather(first, sent, stayed)
    assert bench.model.batches == [1, 1, 1]
    assert bench.engine.waiting == 0


@on_bench()
async def test_an_input_that_is_given_up_while_it_is_computed_harms_nobody(bench: Bench) -> None:
    first = await bench.hold()
    first.cancel()
    bench.free()
    assert (await bench.ask(0.0, 1.0)).class_index == 1
    assert bench.engine.waiting == 0


@on_bench()
async def test_a_new_model_answers_from_the_next_batch_on(bench: Bench) -> None:
    first = await bench.hold()
    second = bench.ask(0.0, 1.0)
    installing = await bench.install_next(Model("2"))
    bench.free()
    assert (await first).model.identity.version == "1"
    assert (await second).model.identity.version == "2"
    await installing


@on_bench()
async def test_a_batch_gathered_while_a_larger_model_served_is_cut_for_a_smaller_one(
    bench: Bench,
) -> None:
    first = await bench.hold()
    waiting = [bench.ask(0.0, 1.0) for _ in range(4)]
    single = Model("2", max_batch=1)
    installing = await bench.install_next(single)
    bench.free()
    answers = await asyncio.gather(first, *waiting)
    assert [answer.model.identity.version for answer in answers] == ["1", "2", "2", "2", "2"]
    assert single.batches == [1, 1, 1, 1]
    await installing


@on_bench()
async def test_a_replaced_model_is_released_once_no_batch_uses_it(bench: Bench) -> None:
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


@on_bench()
async def test_an_input_sent_for_a_model_of_another_shape_is_told_what_this_one_takes(
    bench: Bench,
) -> None:
    first = await bench.hold()
    old, new = bench.ask(0.0, 1.0), bench.ask(0.0, 1.0, 2.0)
    installing = await bench.install_next(Model("2", shape=(1, 3)))
    bench.free()
    await first
    error = await refused(old)
    assert (error.status, error.reason) == (400, "bad_input")
    assert (await new).model.identity.version == "2"
    await installing


@on_bench()
async def test_an_input_is_given_in_the_models_own_type(bench: Bench) -> None:
    model = Model("2", dtype="float64")
    await bench.install(model)
    await bench.ask(0.0, 1.0)
    assert model.types == [np.dtype(np.float64)]


def test_without_a_model_an_input_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        engine = Engine(make_state(tmp_path), queue_size=1, max_batch=1, wait_seconds=1)
        with pytest.raises(ServiceError) as failed:
            await engine.predict(Input(InputKind.JSON, b"{}"))
        assert (failed.value.status, failed.value.reason) == (503, "model_not_loaded")
        with pytest.raises(ServiceError, match="no model yet"):
            _ = engine.spec
        assert engine.waiting == 0

    asyncio.run(main())


@on_bench(max_batch=1)
async def test_what_the_process_owes_fails_when_it_dies(bench: Bench) -> None:
    sent = [await bench.hold(), bench.ask(0.0, 1.0)]
    queued = bench.ask(0.0, 1.0)
    await bench.settle()
    bench.engine.disconnected(taken=99, comes_back=False)
    for one in sent:
        error = await refused(one)
        assert (error.status, error.reason) == (500, "model_failure")
    error = await refused(queued)
    assert (error.status, error.reason) == (503, "model_not_loaded")
    assert bench.engine.waiting == 0
    assert bench.engine.model is None
    assert bench.busy_since == 0


@pytest.mark.case(50)
@on_bench(max_batch=1)
async def test_what_comes_while_the_process_is_replaced_waits_for_the_new_one(bench: Bench) -> None:
    """The model process is killed: requests that arrive meanwhile wait for the next and get 200."""
    sent = [await bench.hold(), bench.ask(0.0, 1.0)]
    queued = bench.ask(0.0, 1.0)
    await bench.settle()
    writer = bench.engine._writer
    assert writer is not None
    bench.engine.disconnected(taken=99, comes_back=True)
    assert [(await refused(one)).status for one in sent] == [500, 500]
    later = bench.ask(0.0, 2.0)
    await bench.settle()
    assert bench.engine.spec == bench.model.loaded.spec
    bench.free()
    bench.engine.connected(writer)
    await bench.install(Model("2"))
    assert (await later).model.identity.version == "2"
    assert (await queued).model.identity.version == "2"


@pytest.mark.case(50)
@on_bench()
async def test_an_input_that_the_dead_process_never_saw_waits_for_the_new_one(bench: Bench) -> None:
    """`kill -9` of the model process with inputs on their way to it: only those it took fail."""
    taken, unseen = await bench.hold(), bench.ask(0.0, 1.0)
    await bench.settle()
    writer = bench.engine._writer
    assert writer is not None
    bench.engine.disconnected(taken=0, comes_back=True)
    assert (await refused(taken)).status == 500
    bench.free()
    bench.engine.connected(writer)
    await bench.install(Model("2"))
    assert (await unseen).model.identity.version == "2"


@pytest.mark.case(50)
@on_bench(queue_size=3)
async def test_what_waits_for_a_new_process_is_bounded_in_number_and_in_time(bench: Bench) -> None:
    """The model process stays away: the queue's bound is a 429, a wait that is too long a 503."""
    bench.engine._wait_seconds = 0.05
    bench.engine.disconnected(taken=99, comes_back=True)
    waiting = [bench.ask(0.0, 1.0) for _ in range(3)]
    await bench.settle()
    assert (await refused(bench.ask(0.0, 1.0))).status == 429
    for one in waiting:
        assert (await refused(one)).reason == "model_not_loaded"
    assert bench.engine.waiting == 0


@pytest.mark.case(50)
@on_bench()
async def test_a_new_process_that_finds_no_model_refuses_what_waits_for_it(bench: Bench) -> None:
    """The registry is gone when the process comes back: those that wait get 503 at once."""
    bench.engine.disconnected(taken=99, comes_back=True)
    waiting = bench.ask(0.0, 1.0)
    await bench.settle()
    bench.engine.expect_no_model()
    assert (await refused(waiting)).reason == "model_not_loaded"
    assert (await refused(bench.ask(0.0, 1.0))).reason == "model_not_loaded"


@on_bench()
async def test_answers_that_come_after_all_are_passed_over(bench: Bench) -> None:
    first = await bench.hold()
    bench.engine.disconnected(taken=99, comes_back=False)
    await refused(first)
    bench.free()
    await bench.install(Model("2"))
    assert bench.calls == (1, 1)
    assert bench.engine.waiting == 0


@on_bench()
async def test_all_of_a_large_batch_are_answered_a_few_at_a_time(bench: Bench) -> None:
    first = await bench.hold()
    others = [bench.ask(0.0, 1.0) for _ in range(64)]
    await bench.settle()
    bench.free()
    await first
    seen = set()
    while not all(other.done() for other in others):
        await asyncio.sleep(0)
        seen.add(sum(other.done() for other in others))
    assert len(seen) > 5


@on_bench()
async def test_the_model_is_busy_only_while_it_owes_an_answer(bench: Bench) -> None:
    first = await bench.hold()
    assert bench.busy_since > 0
    bench.free()
    await first
    assert bench.busy_since == 0


@on_bench(max_batch=1)
async def test_every_answer_starts_the_models_time_anew(bench: Bench) -> None:
    first = await bench.hold()
    since = bench.busy_since
    slow = bench.ask(0.0, 1.0)
    moments = []
    first.add_done_callback(lambda _: moments.append(bench.busy_since))
    await asyncio.sleep(0.01)
    bench.free()
    await asyncio.gather(first, slow)
    assert moments == [0.0] or moments[0] > since > 0


@on_bench()
async def test_a_stop_waits_for_what_was_taken(bench: Bench) -> None:
    first = await bench.hold()
    waiting = [bench.ask(0.0, 1.0) for _ in range(5)]
    await bench.settle()
    draining = asyncio.ensure_future(bench.engine.drained(WAIT_SECONDS))
    await bench.settle()
    bench.free()
    await draining
    answers = await asyncio.gather(first, *waiting)
    assert len(answers) == 6


@on_bench()
async def test_a_stuck_model_does_not_hold_up_the_stop(bench: Bench) -> None:
    first = await bench.hold()
    await bench.engine.drained(0.05)
    assert not first.done()
    first.cancel()


@on_bench()
async def test_calls_that_fail_are_observed_too(bench: Bench) -> None:
    await refused(bench.ask(FAILS, 0.0))
    assert bench.calls == (1, 1)


COLOUR = (3, 16, 16)


class Decoding:
    """Holds the reading of pictures until it may go on, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.files = 0
        monkeypatch.setattr(answering, "read_and_measure", self._held)

    def _held(self, file: ImageFile, spec: ModelSpec) -> tuple[NDArray[Any], list[float]]:
        self.files += 1
        self.begun.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return read_and_measure(file, spec)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    return Decoding(monkeypatch)


def picture(colour: int = 0, *, side: int = 300) -> Input:
    return Input(InputKind.FILE, colour_file((colour, 0, 0), size=(side, side)))


async def until(condition: "object") -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - of a thread
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("side", [16, 300])
@on_bench()
async def test_a_picture_is_measured_where_the_model_has_a_profile_and_numbers_are_not(
    bench: Bench, side: int
) -> None:
    model = Model("2", shape=COLOUR)
    profile = {"brightness": Buckets((0.5,), (0.5, 0.5), 100)}
    spec = replace(model.loaded.spec, profile=profile)
    await bench.install(Model("1", shape=COLOUR))
    assert (await bench.ask_input(picture(255, side=side))).measures == ()
    model.loaded = replace(model.loaded, spec=spec)
    await bench.install(model)
    seen, numbers = await asyncio.gather(
        bench.ask_input(picture(255, side=side)), bench.ask(*[0.5] * 768)
    )
    assert seen.measures == pytest.approx([1 / 3, 0, 0], abs=1e-6)
    assert list(numbers.measures) == []
    assert seen.model.spec.profile == profile


@pytest.mark.parametrize("side", [16, 300])
@on_bench()
async def test_a_picture_is_read_for_the_model_that_answers(bench: Bench, side: int) -> None:
    model = Model("2", shape=COLOUR)
    await bench.install(model)
    black, red = await asyncio.gather(
        bench.ask_input(picture(0, side=side)), bench.ask_input(picture(255, side=side))
    )
    assert set(black.probabilities) == {0.5}
    assert red.probabilities[1] == pytest.approx(0.5)
    assert red.model.identity.version == "2"
    assert set(model.types) == {np.dtype(np.float32)}
    assert bench.engine.waiting == 0


@on_bench(max_batch=2)
async def test_a_large_picture_keeps_no_other_input_waiting(
    bench: Bench, decoding: Decoding
) -> None:
    await bench.install(Model("2", shape=COLOUR))
    pictures = [bench.ask_input(picture()) for _ in range(10)]
    assert await asyncio.to_thread(decoding.begun.wait, WAIT_SECONDS)
    numbers = b"[" + b",".join([b"0"] * 768) + b"]"
    for _ in range(5):
        await bench.ask_input(Input(InputKind.JSON, b'{"data": ' + numbers + b"}"))
    assert not any(picture.done() for picture in pictures)
    decoding.go_on.set()
    await asyncio.gather(*pictures)


@on_bench()
async def test_beyond_a_few_large_pictures_a_request_is_told_to_come_again(
    bench: Bench, decoding: Decoding
) -> None:
    await bench.install(Model("2", shape=COLOUR))
    waiting = [bench.ask_input(picture(side=200)) for _ in range(32)]
    error = await refused(bench.ask_input(picture(side=200)))
    assert (error.status, error.reason) == (429, "queue_full")
    assert error.headers == {"Retry-After": "1"}
    assert "32 large images" in error.message
    decoding.go_on.set()
    await asyncio.gather(*waiting)
    await bench.ask_input(picture())


@on_bench()
async def test_of_the_largest_pictures_only_as_many_wait_as_are_decoded_in_time(
    bench: Bench, decoding: Decoding
) -> None:
    await bench.install(Model("2", shape=COLOUR))
    content = black_png(1_000, 1_000)
    waiting = [bench.ask_input(Input(InputKind.FILE, content)) for _ in range(4)]
    error = await refused(bench.ask_input(picture()))
    assert (error.status, error.reason) == (429, "queue_full")
    assert f"4 large images of {4 * MAX_PIXELS} pixels" in error.message
    # What is given up makes room.
    await until(lambda: bench.deferred == 4)
    waiting.pop().cancel()
    await bench.settle()
    waiting.append(bench.ask_input(picture()))
    decoding.go_on.set()
    await asyncio.gather(*waiting)


@on_bench()
async def test_a_large_picture_that_is_given_up_while_it_waits_is_not_decoded(
    bench: Bench, decoding: Decoding
) -> None:
    await bench.install(Model("2", shape=COLOUR))
    waiting = [bench.ask_input(picture()) for _ in range(10)]
    await until(lambda: bench.deferred == 10)
    for left in waiting[2:]:
        left.cancel()
    await bench.settle()
    assert bench.engine.waiting == 2
    await bench.ask_input(Input(InputKind.JSON, b'{"data": [' + b"0," * 767 + b"0]}"))
    decoding.go_on.set()
    await asyncio.gather(*waiting[:2])
    await bench.ask_input(picture())
    assert decoding.files == 3


@on_bench()
async def test_a_large_picture_that_is_not_whole_fails_alone(bench: Bench) -> None:
    await bench.install(Model("2", shape=COLOUR))
    whole = black_png(500, 500)
    cut = bench.ask_input(Input(InputKind.FILE, whole[: len(whole) // 2]))
    fine = bench.ask_input(Input(InputKind.FILE, whole))
    error = await refused(cut)
    assert (error.status, error.reason) == (400, "bad_input")
    assert "cut short" in error.message
    await fine
    assert bench.engine.waiting == 0


@on_bench()
async def test_a_picture_for_a_model_that_sees_none_is_refused(bench: Bench) -> None:
    error = await refused(bench.ask_input(picture()))
    assert (error.status, error.reason) == (400, "bad_input")
    assert "not images" in error.message


@on_bench()
async def test_large_pictures_that_the_process_owes_fail_when_it_dies(
    bench: Bench, decoding: Decoding
) -> None:
    await bench.install(Model("2", shape=COLOUR))
    pictures = [bench.ask_input(picture()) for _ in range(4)]
    assert await asyncio.to_thread(decoding.begun.wait, WAIT_SECONDS)
    bench.engine.disconnected(taken=99, comes_back=False)
    assert [(await refused(picture)).status for picture in pictures] == [500] * 4
    assert bench.engine.waiting == 0
    decoding.go_on.set()


def prediction(
    probabilities: list[float], index: int, thresholds: tuple[float, ...] = ()
) -> Prediction:
    names = tuple(f"class-{place}" for place in range(len(probabilities)))
    defects = tuple(place > 0 for place in range(len(probabilities)))
    spec = ModelSpec((4,), "float32", names, defects, thresholds=thresholds)
    model = ServedModel(ModelIdentity("steel", "production", "7"), spec)
    return Prediction(index, array("f", probabilities), model, id="id-1")


def test_an_answer_holds_what_the_contract_promises() -> None:
    assert prediction([0.25, 0.75], 1).answer(1.23456) == {
        "class": 1,
        "class_name": "class-1",
        "confidence": 0.75,
        "defect_detected": True,
        "verdict": "fail",
        "model_version": "7",
        "prediction_id": "id-1",
        "inference_time_ms": 1.235,
    }
    assert prediction([1.0, 0.0], 0).answer(1.0)["defect_detected"] is False


def test_a_record_holds_what_the_logging_service_takes() -> None:
    made = prediction([0.7, 0.1, 0.2], 0)
    record = made.record(2.0, image_id="a.png", request_id="r-1")
    assert isinstance(record.pop("timestamp"), float)
    assert record == {
        "prediction_id": "id-1",
        "image_id": "a.png",
        "request_id": "r-1",
        "model_name": "steel",
        "model_version": "7",
        "inference_time_ms": 2.0,
        "detections": [{"class": "class-0", "confidence": 0.7, "bbox": None, "uncertain": False}],
        "defect_detected": False,
        "verdict": "pass",
        "confidence_scores": [0.7, 0.1, 0.2],
    }


def test_a_prediction_that_is_hardly_one_is_uncertain() -> None:
    record = prediction([0.4, 0.3, 0.3], 0).record(2.0, image_id="a", request_id="r")
    detections = record["detections"]
    assert isinstance(detections, list)
    assert detections[0]["uncertain"] is True
    assert record["verdict"] == "review"


@pytest.mark.parametrize(
    ("probabilities", "index", "thresholds", "verdict"),
    [
        ([0.5, 0.5], 0, (), "pass"),
        ([0.4, 0.6], 1, (), "fail"),
        ([0.49, 0.51], 1, (0.0, 0.52), "review"),
        ([0.51, 0.49], 0, (0.0, 0.52), "pass"),
        # A float32 is a little under 0.9; the answer says 0.9, and so does the verdict.
        ([0.9, 0.1], 0, (0.9, 0.0), "pass"),
        ([1.0, 0.0], 0, (1.0, 1.0), "pass"),
        ([0.2, 0.2], 1, (0.0, 0.0), "fail"),
    ],
)
def test_a_verdict_is_review_below_the_classs_threshold_else_by_the_class(
    probabilities: list[float], index: int, thresholds: tuple[float, ...], verdict: str
) -> None:
    made = prediction(probabilities, index, thresholds)
    assert made.verdict == verdict
    assert made.answer(1.0)["verdict"] == verdict


def test_prediction_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_prediction_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert [i[:16] for i in ids] == sorted(i[:16] for i in ids)
