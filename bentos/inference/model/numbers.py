"""The numbers of a request, as the model takes them, or a clear 400."""

from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from bentos.edge.http import ServiceError, parse_json
from bentos.inference.channel import Input, InputKind
from bentos.inference.model.spec import ModelSpec

_ITEM_BYTES = 4
_MAX_SHOWN = 60


class NumberReader:
    """Reads numbers, in one thread: its parser's memory is used again."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, given: Input, spec: ModelSpec) -> NDArray[Any]:
        """Return one input of the model's shape and type.

        Raises ServiceError 400 that names the field and what was expected of it.
        """
        if given.kind == InputKind.TENSOR:
            return check_values(_raw(given.content, spec), spec)
        return check_values(self._json(given.content, spec), spec)

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


def check_values(flat: NDArray[Any], spec: ModelSpec) -> NDArray[Any]:
    """Return flat numbers in the model's shape and type.

    Raises ServiceError 400 where they are too many, too few, not finite or not of the type.
    """
    if flat.size != spec.input_size:
        raise _wrong("data", spec, f"{flat.size} numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        values = flat.astype(spec.dtype, copy=False)
    fits = np.isfinite(values) if values.dtype.kind == "f" else values == flat
    if not fits.all():
        at = int(np.flatnonzero(~fits)[0])
        number = float(flat.flat[at])
        got = (
            f"{number:g}, which {spec.dtype} cannot hold" if isfinite(number) else "NaN or infinity"
        )
        raise _wrong(f"data[{at}]", spec, got)
    return values.reshape(spec.input_shape)


def _raw(body: bytes, spec: ModelSpec) -> NDArray[np.float32]:
    if len(body) != _ITEM_BYTES * spec.input_size:
        raise _wrong("body", spec, f"{len(body)} bytes", f"{_ITEM_BYTES * spec.input_size} bytes")
    return np.frombuffer(body, "<f4").astype(np.float32, copy=False)


def _slowly(body: bytes, spec: ModelSpec) -> NDArray[np.float64]:
    """Read a body that may be wrong and say exactly what is."""
    content = parse_json(body)
    if not isinstance(content, dict):
        raise ServiceError(
            400, "bad_input", f'the body is {_kind(content)}; send {{"data": [numbers]}}'
        )
    if "data" not in content:
        found = ", ".join(key[:_MAX_SHOWN] for key in islice(content, 5)) or "nothing"
        raise _wrong("data", spec, f"no such field, but {found}")
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


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _wrong(field: str, spec: ModelSpec, got: str, expected: str = "") -> ServiceError:
    expected = expected or (
        f"a flat array of {spec.input_size} finite numbers (input shape {list(spec.input_shape)})"
    )
    return ServiceError(400, "bad_input", f"{field}: expected {expected}, got {got}", field=field)
