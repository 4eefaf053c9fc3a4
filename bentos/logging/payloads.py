"""Bodies of `/log`: bytes in, rows out, or an error that names the item and the field."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from bentos.edge.http import ServiceError
from bentos.logging.explain import bad_field, explain, explain_syntax, refuse_nul
from bentos.logging.schema import PredictionRow

EARLIEST_TIMESTAMP = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
LATEST_TIMESTAMP = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
MAX_DETECTIONS = 1_000
MAX_SCORES = 10_000
_SECONDS = (
    f"Unix seconds from {EARLIEST_TIMESTAMP:.0f} (2000-01-01) to {LATEST_TIMESTAMP:.0f}"
    " (2100-01-01)"
)

# Predictions that are parsed between two looks at the event loop: about a millisecond's worth,
# so that a batch of ten thousand keeps no probe waiting.
_SLICE = 200

Identifier: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=128, description="a text of 1 to 128 characters")
]
Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=512, description="a text of 1 to 512 characters")
]
Notes: TypeAlias = Annotated[
    str, Meta(max_length=10_000, description="a text of at most 10000 characters, or null")
]
Timestamp: TypeAlias = Annotated[
    float, Meta(ge=EARLIEST_TIMESTAMP, le=LATEST_TIMESTAMP, description=_SECONDS)
]
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1, description="a number between 0 and 1")]
Milliseconds: TypeAlias = Annotated[
    float, Meta(ge=0, le=1e9, description="milliseconds between 0 and 1e9")
]
BoundingBox: TypeAlias = Annotated[
    list[float], Meta(min_length=4, max_length=4, description="four finite numbers, or null")
]
Flag: TypeAlias = Annotated[bool, Meta(description="true or false")]


class Detection(msgspec.Struct, frozen=True, gc=False):
    """One thing seen in an image; a classifier's has no bounding box."""

    label: Name = msgspec.field(name="class")
    confidence: Probability
    bbox: BoundingBox | None = None
    uncertain: Flag = False


Detections: TypeAlias = Annotated[
    list[Detection],
    Meta(max_length=MAX_DETECTIONS, description=f"a list of at most {MAX_DETECTIONS} detections"),
]
Scores: TypeAlias = Annotated[
    list[Probability] | dict[Name, Probability],
    Meta(description=f"a list, or an object by class, of at most {MAX_SCORES} numbers from 0 to 1"),
]


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One prediction as `/log` takes it; fields it does not know are passed over."""

    image_id: Name
    timestamp: Timestamp
    model_version: Identifier
    model_name: Name
    inference_time_ms: Milliseconds
    detections: Detections
    defect_detected: Flag
    confidence_scores: Scores
    processing_notes: Notes | None = None
    edge_device_id: Identifier | None = None
    prediction_id: Identifier | None = None
    request_id: Identifier | None = None


BatchTimestamp: TypeAlias = Annotated[
    float | str | None, Meta(description=f"{_SECONDS}, or the same as an ISO 8601 text")
]


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The body of `/log`, its predictions still to be parsed."""

    predictions: Annotated[list[msgspec.Raw], Meta(description="a list of predictions")]
    batch_size: Annotated[int | None, Meta(description="the number of predictions sent")] = None
    timestamp: BatchTimestamp = None
    edge_device_id: Identifier | None = None


@dataclass(frozen=True)
class Batch:
    """The rows of one request."""

    rows: tuple[PredictionRow, ...]


_envelopes = msgspec.json.Decoder(Envelope)
_predictions = msgspec.json.Decoder(Prediction)
_encode = msgspec.json.Encoder().encode


async def parse_batch(body: bytes, *, max_predictions: int, request_id: str) -> Batch:
    """Return the rows of a request's body; `request_id` is of those that bring none.

    Raises ServiceError 400 for the first fault found, and 413 for more predictions than
    `max_predictions`.
    """
    envelope = _parse_envelope(body, max_predictions)
    refuse_nul(body)
    sent_at = _sent_at(envelope.timestamp)
    received_at = time.time()
    rows: list[PredictionRow] = []
    for index, raw in enumerate(envelope.predictions):
        if index and index % _SLICE == 0:
            await asyncio.sleep(0)
        try:
            prediction = _predictions.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise explain(error, bytes(raw), Prediction, prefix=f"predictions[{index}]") from None
        if len(prediction.confidence_scores) > MAX_SCORES:
            raise bad_field(
                f"predictions[{index}].confidence_scores",
                f"at most {MAX_SCORES} numbers",
                len(prediction.confidence_scores),
            )
        device = prediction.edge_device_id or envelope.edge_device_id
        if device is None:
            raise bad_field(
                f"predictions[{index}].edge_device_id",
                "a text of 1 to 128 characters, here or as the batch's edge_device_id",
            )
        rows.append(
            PredictionRow(
                prediction_id=prediction.prediction_id,
                image_id=prediction.image_id,
                timestamp=prediction.timestamp,
                received_at=received_at,
                sent_at=sent_at,
                edge_device_id=device,
                model_name=prediction.model_name,
                model_version=prediction.model_version,
                inference_time_ms=prediction.inference_time_ms,
                defect_detected=prediction.defect_detected,
                detections=_encode(prediction.detections).decode(),
                confidence_scores=_encode(prediction.confidence_scores).decode(),
                processing_notes=prediction.processing_notes,
                request_id=prediction.request_id or request_id,
            )
        )
    return Batch(rows=tuple(rows))


def _parse_envelope(body: bytes, max_predictions: int) -> Envelope:
    if not body:
        raise ServiceError(
            400, "bad_input", 'the body is empty; send a JSON object {"predictions": [...]}'
        )
    try:
        envelope = _envelopes.decode(body)
    except msgspec.ValidationError as error:
        raise explain(error, body, Envelope) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise explain_syntax(error, body) from None
    count = len(envelope.predictions)
    if count == 0:
        raise bad_field("predictions", "at least one prediction", [])
    if count > max_predictions:
        raise ServiceError(
            413,
            "too_large",
            f"predictions: expected at most {max_predictions} (MAX_BATCH_PREDICTIONS), got {count};"
            " send several batches",
        )
    if envelope.batch_size is not None and envelope.batch_size != count:
        raise bad_field(
            "batch_size", f"{count}, the number of predictions sent", envelope.batch_size
        )
    return envelope


def _sent_at(timestamp: float | str | None) -> float | None:
    if isinstance(timestamp, str):
        try:
            moment = datetime.fromisoformat(timestamp)
        except ValueError:
            raise bad_field("timestamp", f"{_SECONDS}, or ISO 8601", timestamp) from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    elif timestamp is None:
        return None
    else:
        seconds = timestamp
    if not EARLIEST_TIMESTAMP <= seconds <= LATEST_TIMESTAMP:
        raise bad_field("timestamp", f"{_SECONDS}, or ISO 8601", timestamp)
    return seconds
