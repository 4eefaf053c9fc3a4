"""What a worker and its model process say to each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.edge.http import ServiceError
from bentos.inference.model import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.wire import (
    LENGTH,
    Answers,
    Frames,
    Input,
    InputKind,
    InputRefused,
    LoadChanged,
    Message,
    ModelInstalled,
    RegistryChecked,
    frame,
    pack,
    pack_input,
    unpack,
    unpack_input,
)

MODEL = ServedModel(
    ModelIdentity("steel", "production", "7"),
    ModelSpec((3, 4, 5), np.dtype("float16"), ("ok", "scratch é"), (False, True)),
)


def passed(message: Message) -> Message:
    """Return the message as the other side gets it."""
    (content,) = Frames().feed(pack(message))
    return unpack(content)


@pytest.mark.parametrize(
    "message",
    [
        ModelInstalled(3, MODEL),
        LoadChanged("waiting"),
        LoadChanged("failed", "7", 2, "no signature", 12.5, False, 0.25),
        LoadChanged("loaded", "7", 1, succeeded=True, seconds=3.5),
        RegistryChecked(accessible=False),
        RegistryChecked(accessible=True, version="12"),
        Answers(2, 16, 0.125),
    ],
)
def test_what_is_said_is_heard(message: Message) -> None:
    assert passed(message) == message


@pytest.mark.parametrize("count", [1, 2, 64])
def test_each_answer_stays_with_its_input(count: int) -> None:
    rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    ids = [2**40 + number for number in range(count)]
    heard = passed(Answers(1, count, 0.5, ids, [number % 3 for number in range(count)], rows))
    assert isinstance(heard, Answers)
    assert heard.ids == ids
    assert heard.classes == [number % 3 for number in range(count)]
    assert heard.probabilities is not None
    np.testing.assert_array_equal(heard.probabilities, rows)


def test_a_refusal_keeps_all_that_the_client_is_told() -> None:
    error = ServiceError(
        400, "bad_input", "data: no", headers={"Retry-After": "1"}, field="data[3]"
    )
    heard = passed(InputRefused(9, error))
    assert isinstance(heard, InputRefused)
    assert heard.id == 9
    assert heard.error.response().body == error.response().body
    assert heard.error.headers == error.headers
    assert heard.error.__cause__ is None


def test_the_cause_of_a_failure_comes_as_its_traceback() -> None:
    error = ServiceError(500, "model_failure", "the model failed on this input")
    try:
        raise ValueError("shapes cannot be multiplied")
    except ValueError as cause:
        error.__cause__ = cause
    heard = passed(InputRefused(9, error))
    assert isinstance(heard, InputRefused)
    assert "ValueError: shapes cannot be multiplied" in str(heard.error.__cause__)
    assert "test_wire.py" in str(heard.error.__cause__)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", ">f4", "bool"])
@pytest.mark.parametrize("shape", [(4,), (1, 2, 3), (0,)])
def test_an_array_comes_with_its_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, dtype)
    content = pack_input(5, Input.from_array(values))
    number, heard = unpack_input(memoryview(content)[LENGTH.size :])
    assert (number, heard.kind) == (5, InputKind.ARRAY)
    array = heard.array()
    assert (array.dtype, array.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(array, values)


def test_an_array_that_is_a_view_of_another_comes_whole() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    np.testing.assert_array_equal(Input.from_array(values).array(), values)


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 20))
def test_frames_are_the_same_however_the_stream_is_cut(contents: list[bytes], cut: int) -> None:
    stream = b"".join(frame(content) for content in contents)
    frames = Frames()
    heard = [
        content
        for at in range(0, len(stream), cut)
        for content in frames.feed(stream[at : at + cut])
    ]
    assert heard == contents
