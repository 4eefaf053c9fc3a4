"""The message between the two services: a batch of predictions, its fields and their limits.

The inference service sends it; the logging service parses, stores and shows it. Tables, SQL
statements, pages and the API page are derived from `Prediction`: a field is added here and nowhere
else.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, inspect

# A model with more classes, or with a longer class name, is refused when it is loaded: its
# predictions could not be stored.
MAX_CLASSES = 65_536
MAX_NAME_CHARACTERS = 512
MAX_DETECTIONS = 1_000
MAX_DETECTIONS_BYTES = 1_048_576
# A probability computed in float32 may leave 0 to 1 by a few units in the last place (1.2e-7 at
# 1). What lies within this distance is stored as 0 or 1.
ROUNDING = 1e-6
# A host whose clock was never set says 1970: its predictions are worth keeping, and `received_at`
# says when they came. Milliseconds taken for seconds lie beyond the end.
EARLIEST_TIMESTAMP = 0.0
LATEST_TIMESTAMP = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
SECONDS = f"Unix seconds from 0 (1970-01-01) to {LATEST_TIMESTAMP:.0f} (2100-01-01)"

Identifier: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=128, description="a text of 1 to 128 characters")
]
Name: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        description=f"a text of 1 to {MAX_NAME_CHARACTERS} characters",
    ),
]
Notes: TypeAlias = Annotated[
    str, Meta(max_length=10_000, description="a text of at most 10000 characters, or null")
]
Timestamp: TypeAlias = Annotated[
    float, Meta(ge=EARLIEST_TIMESTAMP, le=LATEST_TIMESTAMP, description=SECONDS)
]
Probability: TypeAlias = Annotated[
    float, Meta(ge=-ROUNDING, le=1 + ROUNDING, description="a number between 0 and 1")
]
Milliseconds: TypeAlias = Annotated[
    float, Meta(ge=0, le=1e9, description="milliseconds between 0 and 1e9")
]
BoundingBox: TypeAlias = Annotated[
    list[float], Meta(min_length=4, max_length=4, description="four finite numbers, or null")
]
Flag: TypeAlias = Annotated[bool, Meta(description="true or false")]
# What is to be done with an inspected part: `review` leaves it to a person.
Verdict: TypeAlias = Annotated[
    Literal["pass", "fail", "review"], Meta(description="pass, fail or review, or null")
]


class Detection(msgspec.Struct, frozen=True, gc=False):
    """One thing seen in an image; a classifier's has no bounding box."""

    label: Name = msgspec.field(name="class")
    confidence: Probability
    bbox: BoundingBox | None = None
    uncertain: Flag = False


_DETECTIONS = f"a list of at most {MAX_DETECTIONS} detections, {MAX_DETECTIONS_BYTES} bytes of JSON"
_SCORES = f"a list, or an object by class, of at most {MAX_CLASSES} numbers between 0 and 1"
Detections: TypeAlias = Annotated[list[Detection], Meta(description=_DETECTIONS)]
Scores: TypeAlias = Annotated[
    list[Probability] | dict[Name, Probability], Meta(description=_SCORES)
]

# Fields that are kept as JSON. What the JSON must be stands in `holds`: it is parsed as that when
# it arrives, separately from the other fields, so that its size is checked first.
DetectionsJson: TypeAlias = Annotated[
    Raw, Meta(description=_DETECTIONS, extra={"holds": Detections})
]
ScoresJson: TypeAlias = Annotated[Raw, Meta(description=_SCORES, extra={"holds": Scores})]


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One prediction; unknown fields of a sender are ignored.

    `edge_device_id` may be left to the batch. A device's `prediction_id` is stored once.
    `traceparent` names the sampled trace in which the prediction was made, none otherwise. A sender
    that gives no verdict has null.
    """

    image_id: Name
    timestamp: Timestamp
    model_version: Identifier
    model_name: Name
    inference_time_ms: Milliseconds
    detections: DetectionsJson
    defect_detected: Flag
    confidence_scores: ScoresJson
    processing_notes: Notes | None = None
    edge_device_id: Identifier | None = None
    prediction_id: Identifier | None = None
    request_id: Identifier | None = None
    traceparent: Identifier | None = None
    verdict: Verdict | None = None


class Batch(msgspec.Struct, frozen=True, gc=False):
    """The body of `POST /log`.

    `timestamp` is when the batch was sent. One that is out of range is ignored, since the rows
    are not to blame for a wrong clock.
    """

    predictions: Annotated[list[Prediction], Meta(description="a list of predictions")]
    batch_size: Annotated[int | None, Meta(description="the number of predictions sent")] = None
    timestamp: Annotated[
        float | str | None, Meta(description=f"{SECONDS}, or the same as an ISO 8601 text")
    ] = None
    edge_device_id: Identifier | None = None


def held_type(node: inspect.Type) -> Any:
    """Return what the JSON of a field must be, None for a field that is not kept as JSON."""
    return (node.extra or {}).get("holds") if isinstance(node, inspect.Metadata) else None
