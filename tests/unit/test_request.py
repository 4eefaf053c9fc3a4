"""Request bodies to inputs: numbers, image files, forms, and what is none of them."""

import json
import math
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.inference.channel import Input, InputKind
from bentos.inference.model import numbers
from bentos.inference.model.numbers import NumberReader
from bentos.inference.model.spec import Metadata, ModelSpec, picture_of
from bentos.inference.request import (
    TENSOR,
    Upload,
    input_of_image,
    input_of_numbers,
    inputs_of,
    upload_of,
)
from tests.support.images import colour_file, form_of
from tests.support.requests import request

JSON = b"application/json"
SIZE = 4
LIMIT = 8


def spec_of(shape: tuple[int, ...] = (SIZE,), dtype: str = "float32") -> ModelSpec:
    picture = picture_of(shape, dtype, Metadata())
    return ModelSpec(shape, dtype, ("a", "b"), (False, True), picture)


SPEC = spec_of()


def read(body: bytes | object, *, media_type: bytes = JSON, spec: ModelSpec = SPEC) -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    (values,) = NumberReader().read(inputs_of(media_type, sent, spec, limit=LIMIT), spec)
    return values


def refusal(
    body: bytes | object, *, media_type: bytes = JSON, spec: ModelSpec = SPEC, status: int = 400
) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        read(body, media_type=media_type, spec=spec)
    assert refused.value.status == status
    return refused.value


def test_a_flat_list_of_the_models_size_becomes_its_input() -> None:
    inputs = read({"data": [1, 2.5, -3e-2, 0]}, spec=spec_of((2, 2)))
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs, np.array([[1, 2.5], [-0.03, 0]], np.float32))


def test_other_fields_and_white_space_do_no_harm() -> None:
    body = b'\n{ "id" : "a[b" ,\r\n"data"\t: [ 1 , 2,3,4 ]  } '
    np.testing.assert_array_equal(read(body), [1, 2, 3, 4])


def test_raw_little_endian_float32_is_taken_as_it_is() -> None:
    values = np.array([0.1, -2, 3e30, 4], "<f4")
    inputs = read(values.tobytes(), media_type=TENSOR)
    np.testing.assert_array_equal(inputs, values)


@pytest.mark.parametrize("media_type", [b"", b"text/plain", b"application/x-www-form-urlencoded"])
def test_what_says_nothing_of_itself_is_read_as_json(media_type: bytes) -> None:
    np.testing.assert_array_equal(read({"data": [1, 2, 3, 4]}, media_type=media_type), [1, 2, 3, 4])


def test_a_wrong_length_names_the_field_and_what_was_expected() -> None:
    for data in ([], [1, 2, 3], [1, 2, 3, 4, 5]):
        error = refusal({"data": data})
        assert error.details == {"field": "data"}
        assert (
            f"data: expected a flat array of 4 finite numbers (input shape [4]), got {len(data)}"
            in (error.message)
        )
    error = refusal(b"x" * 15, media_type=TENSOR)
    assert error.message == "body: expected 16 bytes, got 15 bytes"


@pytest.mark.parametrize(
    ("data", "field", "got"),
    [
        ("1,2,3,4", "data", "a string"),
        (None, "data", "null"),
        (7, "data", "a number"),
        (True, "data", "a boolean"),
        ({"0": 1}, "data", "an object"),
        ([1, 2, "3", 4], "data[2]", "a string"),
        ([1, None, 3, 4], "data[1]", "null"),
        ([True, 2, 3, 4], "data[0]", "a boolean"),
        ([[1, 2], [3, 4]], "data[0]", "2 numbers"),
        ([1, 2, 3, {}], "data[3]", "an object"),
        ([[[[[[1, 2, 3, 4]]]]]], "data[0]", "one of arrays"),
    ],
)
def test_a_wrong_type_names_the_field_and_the_type(data: object, field: str, got: str) -> None:
    error = refusal({"data": data})
    assert error.reason == "bad_input"
    assert error.details == {"field": field}
    assert error.message.startswith(f"{field}: expected a flat array of 4 ")
    assert error.message.endswith(f"got {got}")


@pytest.mark.parametrize("body", [[1, 2, 3, 4], "text", 3, None, True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert '{"data": [numbers]}' in refusal(body).message


def test_a_missing_field_is_named_with_what_was_there_instead() -> None:
    assert "got other fields: inputs, Data" in refusal({"inputs": [1], "Data": [2]}).message
    assert "got an empty object" in refusal({}).message
    long = refusal({"k" * 10_000: 1}).message
    assert len(long) < 300


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_are_none_are_named_in_json(literal: bytes) -> None:
    error = refusal(b'{"data": [1, 2, ' + literal + b", 4]}")
    assert error.details == {"field": "data[2]"}
    assert "got NaN or infinity" in error.message


@pytest.mark.parametrize("literal", [b"1e999", b"-1e999", b'4], "more": "\\ud800", "x": [NAN'])
def test_what_is_no_json_for_another_reason_is_refused(literal: bytes) -> None:
    assert refusal(b'{"data": [1, 2, ' + literal + b", 4]}").reason == "bad_input"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_in_raw_bodies(value: float) -> None:
    body = np.array([1, value, 3, 4], "<f4").tobytes()
    error = refusal(body, media_type=TENSOR)
    assert error.details == {"field": "data[1]"}
    assert "got NaN or infinity" in error.message


@pytest.mark.parametrize("more", ['"note": 1', '"note": "["', '"note": []'])
def test_a_number_beyond_float32_is_refused_however_it_is_parsed(more: str) -> None:
    error = refusal(f'{{"data": [1, 2, 1e39, 4], {more}}}'.encode())
    assert error.details == {"field": "data[2]"}


def test_a_number_beyond_float16_is_refused_for_such_a_model() -> None:
    spec = spec_of(dtype="float16")
    assert refusal({"data": [1, 2, 3, 70_000]}, spec=spec).details == {"field": "data[3]"}
    assert read({"data": [1, 2, 3, 7]}, spec=spec).dtype == np.float16


def test_a_model_of_integers_takes_whole_numbers_of_its_range() -> None:
    spec = spec_of(dtype="int32")
    inputs = read({"data": [1, 2.0, -3, 4]}, spec=spec)
    assert inputs.dtype == np.int32
    np.testing.assert_array_equal(inputs, [1, 2, -3, 4])
    assert refusal({"data": [1, 2.5, 3, 4]}, spec=spec).details == {"field": "data[1]"}
    assert refusal({"data": [1, 2, 3, 1e10]}, spec=spec).details == {"field": "data[3]"}
    fractions = np.array([1, 2, 3.5, 4], "<f4").tobytes()
    error = refusal(fractions, media_type=TENSOR, spec=spec)
    assert error.details == {"field": "data[2]"}


def test_an_integer_that_no_float_holds_is_refused() -> None:
    assert refusal(b'{"data": [1, 2, 3, ' + b"9" * 400 + b"]}").reason == "bad_input"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b'{"data": [1, 2, 3, 4]', b'{"data": [1, 2, 3, 4]} x', b"\x00\xff\xfe"),
        *(b'{"data": [1, 2, 3, 4,]}', b"{'data': [1, 2, 3, 4]}", b'{"data": [01, 2, 3, 4]}'),
        *(b'{"data\xff": [1, 2, 3, 4]}'),
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refusal(body).reason == "bad_input"


@pytest.mark.parametrize("opening", [b"[", b'{"data":', b'{"data":['])
def test_deep_nesting_is_refused_and_breaks_no_stack(opening: bytes) -> None:
    depth = 65_000 // len(opening)
    assert refusal(opening * depth).reason == "bad_input"
    closing = b"]" * opening.count(b"[") + b"}" * opening.count(b"{")
    assert refusal(opening * 1_000 + b"1" + closing * 1_000).reason == "bad_input"


def test_more_bytes_than_such_an_input_takes_are_refused_unparsed() -> None:
    error = refusal(b'{"data": [' + b" " * 100_000 + b"1,2,3,4]}", status=413)
    assert error.reason == "too_large"


@pytest.mark.parametrize("media_type", [b"image/png", b"multipart/form-data"])
def test_an_image_is_sent_on_its_way(media_type: bytes) -> None:
    assert "/predict_image" in refusal(b"...", media_type=media_type, status=415).message


def test_one_reader_reads_many_bodies_whatever_came_before() -> None:
    reader = NumberReader()
    for _ in range(50):
        for bad in (b"{", b'{"data": ["x"]}', b'{"data": [1e39,1,1,1]}', b"", b"[]"):
            with pytest.raises(ServiceError):
                reader.read(inputs_of(JSON, bad, SPEC, limit=LIMIT), SPEC)
        (first,) = reader.read(Input(InputKind.JSON, b'{"data": [1,2,3,4]}'), SPEC)
        (second,) = reader.read(Input(InputKind.JSON, b'{"data": [5,6,7,8]}'), SPEC)
        np.testing.assert_array_equal(first, [1, 2, 3, 4])
        np.testing.assert_array_equal(second, [5, 6, 7, 8])


_NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(min_value=-(2**70), max_value=2**70),
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def outcome(body: bytes, spec: ModelSpec, media_type: bytes = JSON) -> NDArray[Any] | ServiceError:
    try:
        return NumberReader().read(inputs_of(media_type, body, spec, limit=LIMIT), spec)
    except ServiceError as error:
        return error


def is_clear(result: NDArray[Any] | ServiceError, spec: ModelSpec) -> bool:
    if isinstance(result, ServiceError):
        return result.status in (400, 413) and result.reason in ("bad_input", "too_large")
    return result.shape == (1, *spec.input_shape) and result.dtype == spec.dtype


@given(_ANYTHING, st.sampled_from(["float32", "float64", "int64", "uint8"]))
def test_json_of_any_kind_is_an_input_or_a_clear_refusal(content: object, dtype: str) -> None:
    spec = spec_of(dtype=dtype)
    for body in (orjson_or_json(content), orjson_or_json({"data": content})):
        assert is_clear(outcome(body, spec), spec)


@given(st.binary(max_size=200))
@example(b'{"data":[1,2,3,4]}\x00')
@example(b'{"data":[-]}')
def test_bytes_of_any_kind_are_an_input_or_a_clear_refusal(body: bytes) -> None:
    for media_type in (JSON, TENSOR):
        assert is_clear(outcome(body, SPEC, media_type), SPEC)


@given(st.lists(_NUMBERS, max_size=6), st.sampled_from(["float32", "float64", "int32"]))
@example([0.1, 1e39, 2**64, -(2**63)], "float32")
@example([-0.0, 5e-324, 1.7976931348623157e308, 16777217], "float64")
def test_the_fast_way_and_the_careful_way_agree(numbers: list[float], dtype: str) -> None:
    fast = json.dumps({"data": numbers}).encode()
    careful = json.dumps({"data": numbers, "note": []}).encode()
    spec = spec_of(dtype=dtype)
    one, other = outcome(fast, spec), outcome(careful, spec)
    if isinstance(one, ServiceError) or isinstance(other, ServiceError):
        assert isinstance(one, ServiceError)
        assert isinstance(other, ServiceError)
        assert one.details == other.details
    else:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == spec.dtype


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*_: object) -> None:
        raise AssertionError("the careful way was taken")

    monkeypatch.setattr(numbers, "_slowly", slowly)
    np.testing.assert_array_equal(read({"data": [1, 2, 3, 4]}), [1, 2, 3, 4])
    with pytest.raises(AssertionError, match="careful"):
        read({"data": [1, 2, 3, 4], "note": []})


def orjson_or_json(content: object) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(content).encode()


IMAGES = spec_of((3, 16, 16))


@pytest.mark.case(5)
@pytest.mark.parametrize("content", [colour_file((0, 255, 0)), b"no image", b""])
def test_not_a_byte_of_an_image_file_is_read_by_the_worker(content: bytes) -> None:
    """Whatever is sent as a picture goes to the model process as it is: no event loop reads it."""
    given = input_of_image(content, IMAGES)
    assert given == Input(InputKind.FILE, content)


def test_a_picture_for_a_model_that_sees_none_is_refused_whatever_it_holds() -> None:
    with pytest.raises(ServiceError, match="not images"):
        input_of_image(b"no image", SPEC)


def test_numbers_that_were_read_already_are_an_input_too() -> None:
    (read_again,) = NumberReader().read(input_of_numbers([1, 2.5, -3.0, 0]), SPEC)
    np.testing.assert_array_equal(read_again, [1, 2.5, -3, 0])


FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}
PICTURE = colour_file((1, 2, 3))


def test_a_body_that_is_no_form_is_the_file_itself() -> None:
    for media_type in ("image/png", "application/octet-stream", ""):
        sent = request(headers={"Content-Type": media_type})
        assert upload_of(sent, PICTURE) == Upload(PICTURE)


@pytest.mark.parametrize(
    "about",
    [
        'form-data; name="image"; filename="a.png"',
        'form-data; name="anything"; filename="a.png"',
        "form-data; name=file; filename=a.png",
        'form-data; filename="a.png"; name="x"',
    ],
)
def test_a_form_gives_its_one_file_and_its_name(about: str) -> None:
    body = form_of([('form-data; name="note"', b"hello"), (about, PICTURE)])
    assert upload_of(request(headers=FORM), body) == Upload(PICTURE, "a.png")


def test_a_part_called_image_needs_no_file_name() -> None:
    for name in ("image", "file"):
        body = form_of([(f'form-data; name="{name}"', PICTURE)])
        assert upload_of(request(headers=FORM), body) == Upload(PICTURE)


def test_a_file_may_hold_what_looks_like_a_boundary() -> None:
    content = PICTURE + b"\r\n--frontie\r\n--\r\n\r\n" + PICTURE
    body = form_of([('form-data; name="image"; filename="a"', content)])
    assert upload_of(request(headers=FORM), body).content == content


def test_a_boundary_may_be_quoted_and_text_may_stand_before_and_after_the_parts() -> None:
    headers = {"Content-Type": 'Multipart/Form-Data; charset=x; boundary="fron tier"'}
    body = form_of([('form-data; name="image"', PICTURE)], boundary=b"fron tier")
    assert upload_of(request(headers=headers), body + b"epilogue").content == PICTURE


def test_a_name_is_cut_and_kept_harmless() -> None:
    long = "x" * 1_000
    body = form_of([(f'form-data; name="image"; filename="{long}"', PICTURE)])
    assert len(upload_of(request(headers=FORM), body).filename) == 200
    raw = form_of([('form-data; name=image; filename="WRONG"', PICTURE)])
    upload = upload_of(request(headers=FORM), raw.replace(b"WRONG", b"a\xff\x00\x1b[31m\tb"))
    assert upload.filename.isprintable()


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ([], 0),
        ([('form-data; name="note"', b"hello")], 0),
        ([("attachment", PICTURE)], 0),
        ([('form-data; name="image"; filename="a"', PICTURE)] * 2, 2),
        ([('form-data; name="image"', PICTURE), ('form-data; name="x"; filename=""', b"")], 2),
    ],
)
def test_a_form_without_a_file_or_with_several_is_refused(
    parts: list[tuple[str, bytes]], count: int
) -> None:
    with pytest.raises(ServiceError) as refused:
        upload_of(request(headers=FORM), form_of(parts))
    assert refused.value.status == 400
    if parts:
        assert f"expected one file in the form, got {count}" in refused.value.message


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, form_of([("form-data; name=image", PICTURE)])),
        ({"Content-Type": "multipart/form-data; boundary="}, b""),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 3_000}"}, b"--x"),
        ({"Content-Type": "multipart/form-data; boundary=\xff\xfe"}, b"--\xff\xfe\r\n"),
        (FORM, b""),
        (FORM, b"no form at all"),
        (FORM, PICTURE),
        (FORM, form_of([("form-data; name=image", PICTURE)], boundary=b"another")),
        (FORM, form_of([("form-data; name=image", PICTURE)], end=False)),
        (FORM, form_of([("form-data; name=image", PICTURE)])[:-30]),
        (FORM, b"--frontier\r\n" + b"x" * 100_000),
        (FORM, b"--frontier\r\n" + b"a: b\r\n" * 1_000),
        (FORM, b"--frontier\r\nbad header\r\n\r\n\r\n--frontier--\r\n"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        upload_of(request(headers=headers), body)
    assert (refused.value.status, refused.value.reason) == (400, "bad_input")


@pytest.mark.case(5)
@pytest.mark.parametrize(
    "body",
    [
        b"--frontier\r\n" + b"a" * 10_000_000,
        b"--frontier\r\na: " + b"b" * 10_000_000 + b"\r\n\r\n",
        b"--frontier\r\n" + b"a: b\r\n" * 1_600_000 + b"\r\n",
        form_of([("form-data; name=image", b"\r\n--frontie" * 800_000)], end=False),
        form_of([("form-data; name=image", b"\r" * 10_000_000)], end=False),
    ],
)
def test_a_hostile_form_costs_no_more_than_a_look_at_its_bytes(body: bytes) -> None:
    """10 MB of one header, of headers, or of what nearly is a boundary: 400 in linear time."""
    started = time.process_time()
    with pytest.raises(ServiceError, match="the form cannot be read"):
        upload_of(request(headers=FORM), body)
    assert time.process_time() - started < 1.0


def test_a_form_of_very_many_parts_is_refused_before_they_are_kept() -> None:
    """A million of them fit a body and took the event loop six seconds."""
    many = form_of([("form-data; name=n", b"")] * 1_000)
    with pytest.raises(ServiceError, match="parts") as refused:
        upload_of(request(headers=FORM), many)
    assert refused.value.status == 400


@pytest.mark.case(66)
@pytest.mark.parametrize("parameters", [b";" * 60_000, b"; a=b" * 12_000])
def test_a_header_of_thousands_of_parameters_is_refused_unread(parameters: bytes) -> None:
    """A Content-Type of 60 kB of semicolons: 400, where it held the event loop for 0.2 s."""
    headers = {"Content-Type": (b"multipart/form-data; boundary=b" + parameters).decode()}
    part = b"Content-Disposition: form-data; name=image" + parameters[:16_000]
    in_a_part = b"--b\r\n" + part + b"\r\n\r\nx\r\n--b--"
    short = {"Content-Type": "multipart/form-data; boundary=b"}
    for sent, body in ((request(headers=headers), b"--b--"), (request(headers=short), in_a_part)):
        with pytest.raises(ServiceError, match="more than 2048 bytes") as refused:
            upload_of(sent, body)
        assert refused.value.status == 400
