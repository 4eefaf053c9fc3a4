"""Requests to inputs, predictions to answers."""

import os
import time
from binascii import hexlify
from math import isfinite
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from bentos.health.http import ServiceError, parse_json
from bentos.inference.engine import Prediction
from bentos.inference.model import ModelSpec

TENSOR = b"application/octet-stream"
_ITEM_BYTES = 4
# No more JSON is parsed on the event loop than a valid body, however it is indented, can have.
_BYTES_A_NUMBER = 64
_BYTES_BESIDE = 65_536
_MAX_SHOWN = 60
_NOT_FINITE = "NaN or infinity"
UNCERTAIN_BELOW = 0.5


class TensorReader:
    """Reads `/predict` bodies, in one thread: its parser's memory is used again."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, media_type: bytes, body: bytes, spec: ModelSpec) -> NDArray[Any]:
        """Return one input of the model's shape and type; what is not raw float32 is JSON.

        Raises ServiceError 400 that names the field and what was expected of it, 413 for more
        than such an input can take, and 415 for an image.
        """
        if media_type == TENSOR:
            flat: NDArray[Any] = _raw(body, spec)
        elif media_type.startswith((b"image/", b"multipart/")):
            raise ServiceError(
                415,
                "bad_input",
                f"Content-Type is {media_type.decode('latin-1')[:_MAX_SHOWN]!r}; send "
                "application/json or application/octet-stream, and images to /predict_image",
            )
        else:
            flat = self._json(body, spec)
        return check_values(flat, spec)

    def _json(self, body: bytes, spec: ModelSpec) -> NDArray[Any]:
        # simdjson writes the numbers of a JSON array straight into a buffer, but flattens
        # nested arrays: a body with a second bracket is read the careful way.
        limit = _BYTES_A_NUMBER * spec.input_size + _BYTES_BESIDE
        if len(body) > limit:
            raise ServiceError(
                413,
                "too_large",
                f"the body has {len(body)} bytes; {spec.input_size} numbers as JSON take "
                f"{limit} at most",
            )
        if body.count(b"[") == 1:
            document: Any = None
            try:
                document = self._parser.parse(body)
                numbers = np.frombuffer(document["data"].as_buffer(of_type="d"), np.float64)
                # A copy: the buffer is the parser's. `check_values` finds what became infinite.
                with np.errstate(over="ignore"):
                    return numbers.astype(np.float32 if spec.dtype == np.float32 else np.float64)
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
        got = f"{number:g}, which {spec.dtype} cannot hold" if isfinite(number) else _NOT_FINITE
        raise _wrong(f"data[{at}]", spec, got)
    return values.reshape(spec.input_shape)


def _raw(body: bytes, spec: ModelSpec) -> NDArray[np.float32]:
    if len(body) != _ITEM_BYTES * spec.input_size:
        raise _wrong("body", spec, f"{len(body)} bytes", f"{_ITEM_BYTES * spec.input_size} bytes")
    # A copy: the answer may come after the body's memory has gone.
    return np.frombuffer(body, "<f4").astype(np.float32)


def _slowly(body: bytes, spec: ModelSpec) -> NDArray[np.float64]:
    """Read a body that may be wrong and say exactly what is."""
    content = parse_json(body)
    if not isinstance(content, dict):
        raise ServiceError(
            400, "bad_input", f'the body is {_kind(content)}; send {{"data": [numbers]}}'
        )
    if "data" not in content:
        found = ", ".join(sorted(str(key)[:_MAX_SHOWN] for key in content)[:5]) or "nothing"
        raise _wrong("data", spec, f"no such field, but {found}")
    data = content["data"]
    if not isinstance(data, list):
        raise _wrong("data", spec, _kind(data))
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


def new_prediction_id() -> str:
    """Return a unique id that sorts by time, so that a database's index grows at one end."""
    return f"{time.time_ns():016x}{hexlify(os.urandom(8)).decode()}"


def answer_of(prediction: Prediction, prediction_id: str, milliseconds: float) -> dict[str, object]:
    """Return the body that answers a prediction."""
    return {
        "class": prediction.class_index,
        "class_name": prediction.class_name,
        "confidence": round(prediction.confidence, 6),
        "defect_detected": prediction.defect,
        "model_version": prediction.model.identity.version,
        "prediction_id": prediction_id,
        "inference_time_ms": round(milliseconds, 3),
    }


def record_of(
    prediction: Prediction,
    prediction_id: str,
    milliseconds: float,
    *,
    image_id: str,
    request_id: str,
) -> dict[str, object]:
    """Return what the logging service is told of a prediction."""
    model = prediction.model
    confidence = round(prediction.confidence, 6)
    return {
        "prediction_id": prediction_id,
        "image_id": image_id,
        "request_id": request_id,
        "timestamp": time.time(),
        "model_name": model.identity.name,
        "model_version": model.identity.version,
        "inference_time_ms": round(milliseconds, 3),
        "detections": [
            {
                "class": prediction.class_name,
                "confidence": confidence,
                "bbox": None,
                "uncertain": confidence < UNCERTAIN_BELOW,
            }
        ],
        "defect_detected": prediction.defect,
        "confidence_scores": [round(score, 6) for score in prediction.probabilities.tolist()],
    }
