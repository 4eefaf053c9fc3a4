"""What the two services say to each other of pictures: the fields and their limits.

The inference service sends kept pictures, which the logging service stores, and answers it with
heat maps; `bentos.messages` is the message of predictions. A picture is kept by one draw, which is
a function of the prediction's id: whoever decides later whether to keep it (a challenger answers
after the client) decides by the same draw.
"""

from hashlib import blake2b
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from bentos.messages import Flag, Identifier, Name, Probability, Timestamp, Verdict

# Of a request. The sender sends as many as fit into about a megabyte.
MAX_PICTURES = 100
# Of the scores, the highest are sent; a person looks at the first few.
MAX_SCORES = 20

# A picture stands for 1 / probability predictions; much smaller ones leave figures no digits.
MIN_SHARE = 1e-6

Share: TypeAlias = Annotated[
    float, Meta(ge=MIN_SHARE, le=1, description=f"a probability from {MIN_SHARE:f} to 1")
]
TopScores: TypeAlias = Annotated[
    dict[Name, Probability],
    Meta(
        max_length=MAX_SCORES,
        description=f"an object by class of at most {MAX_SCORES} numbers between 0 and 1",
    ),
]
Side: TypeAlias = Annotated[int, Meta(ge=1, le=64)]
Picture: TypeAlias = Annotated[bytes, Meta(description="an image file in base64")]

# The first bytes of the image files that the inference service reads.
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"BM": "image/bmp",
}


class ChallengerAnswer(msgspec.Struct, frozen=True, gc=False):
    """What the challenger said of a picture, where it differs from the model that answered."""

    version: Identifier
    class_name: Name
    confidence: Probability


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One kept picture and what was said of it.

    `sampled` says whether it belongs to the random sample, and `sample_probability` with which
    probability a picture with this verdict does; `keep_probability` is that with which it is kept.
    """

    prediction_id: Identifier
    edge_device_id: Identifier
    timestamp: Timestamp
    image_id: Name
    model_name: Name
    model_version: Identifier
    class_name: Name
    confidence: Probability
    verdict: Verdict
    scores: TopScores
    picture: Picture
    sampled: Flag
    sample_probability: Share
    keep_probability: Share
    challenger: Annotated[
        ChallengerAnswer | None, Meta(description="an object with version, class and confidence")
    ] = None


class EvidenceBatch(msgspec.Struct, frozen=True, gc=False):
    """The body of `POST /evidence`."""

    evidence: Annotated[
        list[Evidence],
        Meta(
            min_length=1,
            max_length=MAX_PICTURES,
            description=f"a list of 1 to {MAX_PICTURES} kept pictures",
        ),
    ]


class HeatMap(msgspec.Struct, frozen=True, gc=False):
    """How much each part of a picture counts for the class that the model says.

    Odds and not probabilities: of a class that is certain, those hardly move.
    """

    class_name: Name
    confidence: Probability
    model_version: Identifier
    rows: Side
    columns: Side
    drops: Annotated[
        list[list[float]],
        Meta(
            description="By how much the log odds of the class fall, in natural logarithms, when "
            "the model does not see this part: rows from the top, columns from the left."
        ),
    ]


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Whether a picture is kept and belongs to the sample, and with which probabilities."""

    kept: bool
    sampled: bool
    sample_probability: float
    keep_probability: float


def decide(
    prediction_id: str, verdict: str, *, pass_share: float, sample_share: float, differs: bool
) -> Kept:
    """Return what becomes of the picture of a prediction.

    One draw a prediction: in the sample where it is below the verdict's share, which is
    `pass_share` for `pass` and `sample_share` otherwise; kept where it is in the sample, where the
    verdict is not `pass`, or where the challenger `differs`. The last changes neither the sample
    nor the probabilities, which are those without a challenger.
    """
    passed = verdict == "pass"
    share = pass_share if passed else sample_share
    sampled = _draw(prediction_id) < share
    return Kept(
        kept=sampled or not passed or differs,
        sampled=sampled,
        sample_probability=share,
        keep_probability=share if passed else 1.0,
    )


def media_type_of(picture: bytes) -> str | None:
    """Return the media type of a PNG, JPEG or BMP file by its first bytes, None for any other."""
    for signature, media_type in _SIGNATURES.items():
        if picture.startswith(signature):
            return media_type
    return None


def _draw(prediction_id: str) -> float:
    """Return a number of 0 to below 1, uniform over ids that differ."""
    digest = blake2b(prediction_id.encode(), digest_size=8, person=b"keep").digest()
    # Of 64 bits a float keeps 53, and could round up to 1.
    return (int.from_bytes(digest) >> 11) / (1 << 53)
