"""Kept pictures as the inference service sends them."""

from itertools import count
from typing import Any

from bentos.evidence import Evidence

_numbers = count()
_PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63600000000200014898"
    "6e9d0000000049454e44ae426082"
)


def png(*, bytes_more: int = 0) -> bytes:
    """Return a PNG file unlike any other; what follows its end is ignored by those who read it."""
    return bytes.fromhex(_PIXEL) + next(_numbers).to_bytes(8) + bytes(bytes_more)


def evidence(prediction_id: str | None = None, **changes: Any) -> Evidence:
    """Return a kept picture of a prediction of its own, changed as asked."""
    number = next(_numbers)
    fields: dict[str, Any] = {
        "prediction_id": f"prediction-{number}" if prediction_id is None else prediction_id,
        "edge_device_id": "line-4",
        "timestamp": 1_795_600_000.0 + number,
        "image_id": f"{number}.png",
        "model_name": "steel-defects",
        "model_version": "3",
        "class_name": "crack",
        "confidence": 0.4,
        "verdict": "review",
        "scores": {"crack": 0.4, "scratch": 0.35, "good": 0.25},
        "picture": png(),
        "sampled": True,
        "sample_probability": 0.2,
        "keep_probability": 1.0,
        "challenger": None,
    }
    return Evidence(**fields | changes)
