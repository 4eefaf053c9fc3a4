"""Requests to inputs, predictions to answers."""

import os
import time
from binascii import hexlify

from bentos.edge.http import ServiceError
from bentos.inference.engine import Prediction
from bentos.inference.images import check_sees_images, decode, open_image
from bentos.inference.model import ModelSpec
from bentos.inference.wire import Input, InputKind

TENSOR = b"application/octet-stream"
# No more JSON is parsed than a valid body, however it is indented, can have.
_BYTES_A_NUMBER = 64
_BYTES_BESIDE = 65_536
# Decoding so few pixels takes less than a place among the large ones.
_SMALL_PIXELS = 128 * 128
_MAX_SHOWN = 60
UNCERTAIN_BELOW = 0.5


def input_of(media_type: bytes, body: bytes, spec: ModelSpec) -> Input:
    """Return what the model process is to read of a `/predict` body; all but raw float32 is JSON.

    Raises ServiceError 413 for more than an input can take, and 415 for an image.
    """
    if media_type == TENSOR:
        return Input(InputKind.TENSOR, body)
    if media_type.startswith((b"image/", b"multipart/")):
        raise ServiceError(
            415,
            "bad_input",
            f"Content-Type is {media_type.decode('latin-1')[:_MAX_SHOWN]!r}; send "
            "application/json or application/octet-stream, and images to /predict_image",
        )
    limit = _BYTES_A_NUMBER * spec.input_size + _BYTES_BESIDE
    if len(body) > limit:
        raise ServiceError(
            413,
            "too_large",
            f"the body has {len(body)} bytes; {spec.input_size} numbers as JSON take "
            f"{limit} at most",
        )
    return Input(InputKind.JSON, body)


def input_of_image(content: bytes, spec: ModelSpec, *, max_pixels: int) -> Input:
    """Return the input of an image file: a small picture's pixels, a large one's file.

    Raises ServiceError 400 for what is no image, and not whole where it is small, and 413 for
    too many pixels.
    """
    check_sees_images(spec)
    image = open_image(content, max_pixels=max_pixels)
    pixels = image.width * image.height
    if pixels <= _SMALL_PIXELS:
        return Input.from_array(decode(image, spec))
    return Input(InputKind.FILE, content, pixels)


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
