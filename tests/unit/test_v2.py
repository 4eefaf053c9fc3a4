"""The Open Inference Protocol without a server: requests to inputs, batches, and their failures."""

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.inference.channel import Input, InputKind, Installed
from bentos.inference.engine import Prediction
from bentos.inference.model.numbers import NumberReader
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.v2.messages import DATATYPES
from bentos.inference.v2.tensors import (
    OUTPUTS,
    InferRequest,
    read_request,
)
from tests.support.model_server import FAILS, GIVES_NAN, Bench, Model, on_bench

SPEC = ModelSpec((2, 3), "float32", ("good", "Kratzer ä"), (False, True))
SERVED = ServedModel(ModelIdentity("steel", "production", "7"), SPEC)
LIMIT = 10


def read(
    content: object, raw: bytes | None = None, *, spec: ModelSpec = SPEC, limit: int = LIMIT
) -> InferRequest:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    length = None if raw is None else str(len(text)).encode()
    return read_request(text + (raw or b""), length, spec, limit=limit)


def rows_of(request: InferRequest, spec: ModelSpec = SPEC) -> NDArray[Any]:
    return NumberReader().read(request.given, spec)


def tensor(data: object, shape: Sequence[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data}


def refusal(content: object, raw: bytes | None = None) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        read(content, raw)
    return error.value


def outcome(content: object, raw: bytes | None) -> ServiceError | None:
    try:
        rows_of(read(content, raw))
    except ServiceError as error:
        return error
    return None


NUMBERS = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 6)])
@pytest.mark.parametrize("nested", [False, True])
def test_numbers_come_flat_or_nested_in_the_models_shape_or_flat_for_each_input(
    shape: tuple[int, ...], nested: bool
) -> None:
    data = NUMBERS.tolist() if nested else NUMBERS.reshape(-1).tolist()
    found = read({"inputs": [tensor(data, shape)]})
    assert (found.given.rows, found.id) == (2, None)
    np.testing.assert_array_equal(rows_of(found), NUMBERS)


def test_null_is_as_good_as_absent() -> None:
    one = {**tensor(NUMBERS.tolist(), (2, 6)), "parameters": None}
    found = read({"inputs": [one], "id": None, "outputs": None, "parameters": None})
    assert list(found.outputs) == list(OUTPUTS)
    wanted = [{"name": "class", "parameters": {"binary_data": None}}]
    assert read({"inputs": [one], "outputs": wanted}).outputs == {"class": False}


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_numbers_of_any_type_become_the_models(datatype: str, dtype: str) -> None:
    spec = ModelSpec((2, 3), dtype, ("a", "b"), (False, False))
    raw = NUMBERS.astype(DATATYPES[datatype][0]).tobytes()
    head = {**tensor(None, (2, 6), datatype), "parameters": {"binary_data_size": len(raw)}}
    del head["data"]
    for found in (
        read({"inputs": [head]}, raw, spec=spec),
        read({"inputs": [tensor(NUMBERS.tolist(), (2, 6), datatype)]}, spec=spec),
    ):
        values = rows_of(found, spec)
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, NUMBERS)


def test_doubles_keep_their_digits_for_a_model_of_doubles() -> None:
    spec = ModelSpec((1,), "float64", ("a", "b"), (False, False))
    value = 1 / 3
    for found in (
        read({"inputs": [tensor([value], (1, 1), "FP64")]}, spec=spec),
        read({"inputs": [tensor([value], (1, 1), "FP32")]}, spec=spec),
    ):
        assert rows_of(found, spec)[0, 0] == value


@pytest.mark.parametrize("size", [0, 1, 200_000])
def test_a_body_of_any_size_is_read_or_refused(size: int) -> None:
    assert refusal(b" " * size).status == 400
    assert refusal(b'{"inputs":' + b"[" * size).status == 400
    assert refusal(b"\x00" * size, b"1234").status == 400


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
_FIELDS = ("inputs", "id", "outputs", "parameters")
_TENSOR_FIELDS = ("name", "shape", "datatype", "data", "parameters")


@given(
    st.dictionaries(st.sampled_from(_FIELDS), _ANYTHING),
    st.dictionaries(st.sampled_from(_TENSOR_FIELDS), _ANYTHING),
    st.binary(max_size=30) | st.none(),
)
def test_whatever_stands_in_a_field_is_read_or_refused_clearly(
    fields: dict[str, Any], of_tensor: dict[str, Any], raw: bytes | None
) -> None:
    one = tensor(NUMBERS.tolist(), (2, 6)) | of_tensor
    refused = outcome({"inputs": [one], **fields}, raw)
    assert refused is None or (refused.status in (400, 413) and 0 < len(refused.message) < 1_000)


@given(st.binary(max_size=200), st.binary(max_size=20) | st.none())
def test_any_bytes_with_any_length_are_read_or_refused(body: bytes, length: bytes | None) -> None:
    with pytest.raises(ServiceError) as error:
        read_request(body, length, SPEC, limit=LIMIT)
    assert error.value.status in (400, 413)


def inputs(*rows: Sequence[float]) -> Input:
    values = np.array(rows, "<f4")
    return Input(InputKind.TENSOR, values.tobytes(), rows=len(values))


def classes(predictions: Sequence[Prediction]) -> list[int]:
    return [one.class_index for one in predictions]


@on_bench()
async def test_the_inputs_of_a_request_are_answered_in_their_order(bench: Bench) -> None:
    asked = inputs((3, 1), (0, 2), (5, 0))
    assert classes(await bench.engine.predict(asked)) == [0, 1, 0]
    assert bench.model.batches == [3]
    assert bench.engine.waiting == 0


@on_bench(max_batch=4)
async def test_requests_share_batches_which_are_no_larger_than_set(bench: Bench) -> None:
    first = await bench.hold()
    rows = [[(0.0, 1.0) if row % 2 else (1.0, 0.0) for row in range(n)] for n in (3, 6, 1)]
    asked = [asyncio.ensure_future(bench.engine.predict(inputs(*one))) for one in rows]
    await asyncio.sleep(0)
    assert bench.engine.waiting == 11
    bench.free()
    await first
    for one, found in zip(rows, await asyncio.gather(*asked), strict=True):
        assert classes(found) == [row % 2 for row in range(len(one))]
    assert max(bench.model.batches) <= 4
    assert sum(bench.model.batches) == 11


@on_bench()
async def test_a_model_that_takes_one_input_at_a_time_answers_several(bench: Bench) -> None:
    single = Model(max_batch=1)
    await bench.install(single)
    assert classes(await bench.engine.predict(inputs((0, 1), (1, 0)))) == [1, 0]
    assert single.batches == [1, 1]


@pytest.mark.parametrize("bad", [FAILS, GIVES_NAN])
@on_bench()
async def test_one_bad_row_refuses_its_request_and_no_other(bench: Bench, bad: float) -> None:
    first = await bench.hold()
    asked = [
        asyncio.ensure_future(bench.engine.predict(one))
        for one in (
            inputs((0, 1), (1, 0)),
            inputs((0, 1), (bad, 0), (0, 1), (bad, 0)),
            inputs((1, 0)),
        )
    ]
    await asyncio.sleep(0)
    bench.free()
    await first
    with pytest.raises(ServiceError) as error:
        await asked[1]
    assert (error.value.status, error.value.reason) == (422, "model_rejected_input")
    assert error.value.details["field"] == "data[1]"
    assert classes(await asked[0]) == [1, 0]
    assert classes(await asked[2]) == [0]
    # The rows behind the bad one are not tried any more.
    held, good, until_bad, warm_up, alone = 1, 2, 2, 1, 1
    assert bench.model.batches.count(1) == held + good + until_bad + warm_up + alone
    assert bench.engine.waiting == 0


@on_bench(queue_size=10)
async def test_every_input_counts_in_the_queue(bench: Bench) -> None:
    first = await bench.hold()
    six = asyncio.ensure_future(bench.engine.predict(inputs(*[(0, 1)] * 6)))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as error:
        await bench.engine.predict(inputs(*[(0, 1)] * 4))
    assert (error.value.status, error.value.reason) == (429, "queue_full")
    three = asyncio.ensure_future(bench.engine.predict(inputs(*[(0, 1)] * 3)))
    await asyncio.sleep(0)
    assert bench.engine.waiting == 10
    bench.free()
    await asyncio.gather(first, six, three)
    assert bench.engine.waiting == 0


@on_bench(queue_size=10)
async def test_a_request_holds_as_many_inputs_as_may_wait_and_no_more_than_a_million_probabilities(
    bench: Bench,
) -> None:
    assert bench.engine.request_limit == 10
    names = tuple(map(str, range(300_000)))
    spec = ModelSpec((1,), "float32", names, (False,) * len(names))
    many = ServedModel(ModelIdentity("model", "production", "2"), spec)
    bench.engine.install(Installed(2, many))
    assert bench.engine.request_limit == 3


@on_bench(queue_size=10)
async def test_a_client_that_leaves_gives_its_places_in_the_queue_back(bench: Bench) -> None:
    first = await bench.hold()
    left = asyncio.ensure_future(bench.engine.predict(inputs(*[(0, 1)] * 9)))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    assert bench.engine.waiting == 1
    stays = asyncio.ensure_future(bench.engine.predict(inputs(*[(0, 1)] * 9)))
    await asyncio.sleep(0)
    bench.free()
    await first
    assert classes(await stays) == [1] * 9
    await bench.engine.drained(1)


class HeldLater(Model):
    """A model whose second call, and all later ones, wait for the test."""

    def __init__(self) -> None:
        super().__init__("2", max_batch=1)
        self.go_on = threading.Event()

    def forward(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        assert not self.batches or self.go_on.wait(30)
        return super().forward(inputs)


@on_bench()
async def test_a_long_request_does_not_look_like_a_stuck_model(bench: Bench) -> None:
    model = HeldLater()
    await bench.install(model)
    asked = asyncio.ensure_future(bench.engine.predict(inputs((0, 1), (1, 0), (0, 1))))
    await asyncio.sleep(0)
    since = bench.busy_since
    # The first call is answered while the second one runs.
    while bench.calls[0] == 0:  # noqa: ASYNC110 - counted by the engine
        await asyncio.sleep(0.001)
    assert not asked.done()
    assert bench.busy_since > since
    model.go_on.set()
    assert classes(await asked) == [1, 0, 1]


@on_bench(max_batch=2)
async def test_all_inputs_of_a_request_have_the_same_model(bench: Bench) -> None:
    first = await bench.hold()
    asked = asyncio.ensure_future(bench.engine.predict(inputs(*[(0, 1)] * 9)))
    await asyncio.sleep(0)
    installing = await bench.install_next(Model("2"))
    bench.free()
    await first
    versions = {one.model.identity.version for one in await asked}
    assert len(versions) == 1
    await installing
