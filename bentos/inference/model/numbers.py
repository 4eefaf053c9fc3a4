"""The numbers of a request, as the model takes them, or a clear 400."""

import json
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from bentos.edge.http import ServiceError, parse_json
from bentos.inference.channel import Input, InputKind
from bentos.inference.model.spec import ModelSpec

_MAX_SHOWN = 60


class NumberReader:
    """Reads numbers, in one thread: its parser's memory is used again."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, given: Input, spec: ModelSpec) -> NDArray[Any]:
        """Return the inputs of a request, [rows, *input_shape], in the model's type.

        Raises ServiceError 400 that names the field and what was expected of it.
        """
        if given.kind == InputKind.TENSOR:
            return check_values(_raw(given, spec), spec, rows=given.rows, nested=given.rows > 1)
        if given.kind == InputKind.JSON:
            return check_values(self._json(given.content, spec), spec)
        nested = given.rows > 1 or given.kind == InputKind.ROWS
        return check_values(_array(given, spec), spec, rows=given.rows, nested=nested)

    def _json(self, body: bytes, spec: ModelSpec) -> NDArray[Any]:
        # simdjson writes the numbers of a JSON array straight into a buffer, but flattens
        # nested arrays: a body with a second bracket is read the careful way.
        if body.count(b"[") == 1:
            document: Any = None
            try:
                document = self._parser.parse(body)
                numbers = np.frombuffer(document["data"].as_buffer(of_type="d"), np.float64)
                # A copy: the buffer is the parser's. `check_values` finds what became infinite.
                with np.errstate(over="ignore"):
                    return numbers.astype(np.float32 if spec.dtype == "float32" else np.float64)
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
                pass
            finally:
                del document  # the parser takes no new document while one is in use
        return _slowly(body, spec)


def check_values(
    flat: NDArray[Any], spec: ModelSpec, *, rows: int = 1, nested: bool = False
) -> NDArray[Any]:
    """Return the numbers of some inputs, [rows, *input_shape], in the model's type.

    `nested` tells that the client sees them as rows. Raises ServiceError 400 where they are too
    many, too few, not finite or not of the type.
    """
    if flat.size != rows * spec.input_size:
        several = f"{rows} inputs of {spec.input_size} numbers" if rows > 1 else ""
        raise _wrong("data", spec, f"{flat.size} numbers", several)
    with np.errstate(over="ignore", invalid="ignore"):
        values = flat.astype(spec.dtype, copy=False)
    fits = np.isfinite(values) if values.dtype.kind == "f" else values == flat
    if not fits.all():
        at = int(np.flatnonzero(~fits)[0])
        number = float(flat.flat[at])
        got = (
            f"{number:g}, which {spec.dtype} cannot hold" if isfinite(number) else "NaN or infinity"
        )
        raise _wrong(_place(at, spec, nested=nested), spec, got)
    return values.reshape(rows, *spec.input_shape)


def _place(at: int, spec: ModelSpec, *, nested: bool) -> str:
    """Return what a number is called, counted through all inputs."""
    row, column = divmod(at, spec.input_size)
    return f"data[{row}][{column}]" if nested else f"data[{column}]"


def _raw(given: Input, spec: ModelSpec) -> NDArray[Any]:
    dtype = np.dtype(given.dtype)
    size = given.rows * dtype.itemsize * spec.input_size
    if len(given.content) != size:
        raise _wrong("body", spec, f"{len(given.content)} bytes", f"{size} bytes")
    return np.frombuffer(given.content, dtype)


def _array(given: Input, spec: ModelSpec) -> NDArray[np.float64]:
    """Return the numbers of a JSON array, which may be those of several inputs."""
    # A parser of its own: it keeps the memory of the largest document, which may be megabytes.
    array: Any = None
    try:
        array = simdjson.Parser().parse(given.content)
        if given.kind == InputKind.ROWS:
            _check_rows(array, given.rows, spec)
        numbers = np.frombuffer(array.as_buffer(of_type="d"), np.float64).copy()
    except (ValueError, TypeError, AttributeError, RuntimeError):
        expected = f"an array of {given.rows * spec.input_size} numbers, of 64 bits at most"
        raise _wrong("data", spec, "something else", expected) from None
    wanted = np.dtype(given.dtype)
    if wanted.kind in "iu" and numbers.size == given.rows * spec.input_size:
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(numbers.astype(wanted) != numbers)
        if wrong.size:
            at = int(wrong[0])
            place = _place(at, spec, nested=given.rows > 1)
            raise _wrong(place, spec, f"{numbers[at]:g}", f"a number of type {wanted.name}")
    return numbers


def _check_rows(array: Any, rows: int, spec: ModelSpec) -> None:
    """Raise ServiceError 400 unless it holds a flat array of the right size for each input."""
    for index, row in enumerate(array):
        if not isinstance(row, simdjson.Array):
            raise _wrong(f"data[{index}]", spec, "something else")
        size = len(row)
        if size != spec.input_size:
            raise _wrong(f"data[{index}]", spec, f"{size} numbers")
    if len(array) != rows:
        raise _wrong("data", spec, "arrays within them", f"{len(array)} flat arrays of numbers")


def _slowly(body: bytes, spec: ModelSpec) -> NDArray[np.float64]:
    """Read a body that may be wrong and say exactly what is."""
    content = _parse(body)
    if not isinstance(content, dict):
        raise ServiceError(
            400, "bad_input", f'the body is {_kind(content)}; send {{"data": [numbers]}}'
        )
    if "data" not in content:
        fields = ", ".join(key[:_MAX_SHOWN] for key in islice(content, 5))
        raise _wrong("data", spec, f"other fields: {fields}" if fields else "an empty object")
    data = content["data"]
    if not isinstance(data, list):
        raise _wrong("data", spec, _kind(data))
    if len(data) != spec.input_size and not any(isinstance(one, list) for one in data[:1]):
        raise _wrong("data", spec, f"{len(data)} numbers")
    for index, number in enumerate(data):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong(f"data[{index}]", spec, _kind(number))
    try:
        return np.array(data, dtype=np.float64)
    except OverflowError:
        raise _wrong("data", spec, "an integer beyond the range of float64") from None


def _parse(body: bytes) -> Any:
    """Return the JSON of a body, with the NaN and infinities that JSON has not: they have a place.

    Raises ServiceError 400 for what is no JSON for another reason.
    """
    try:
        return parse_json(body)
    except ServiceError as refused:
        found: list[float] = []

        def note(constant: str) -> float:
            found.append(float(constant))
            return found[-1]

        try:
            content = json.loads(body, parse_constant=note)
        except (ValueError, RecursionError):
            raise refused from None
        if not found:
            raise
        return content


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _wrong(field: str, spec: ModelSpec, got: str, expected: str = "") -> ServiceError:
    expected = expected or (
        f"a flat array of {spec.input_size} finite numbers (input shape {list(spec.input_shape)})"
    )
    return ServiceError(400, "bad_input", f"{field}: expected {expected}, got {got}", field=field)
