"""The last predictions as the page shows them, read from a page of `/predictions`."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bentos.logging.page.words import ago, moment, shorten

SHOWN = 20
_MOST_CHARACTERS = 120


class _Detection(msgspec.Struct, frozen=True):
    label: str = msgspec.field(name="class")
    confidence: float


class _Stored(msgspec.Struct, frozen=True):
    timestamp: float
    edge_device_id: str
    model_name: str
    model_version: str
    image_id: str
    defect_detected: bool
    detections: list[_Detection]
    verdict: str | None = None


class _Page(msgspec.Struct, frozen=True):
    predictions: list[_Stored]


@dataclass(frozen=True)
class ShownPrediction:
    """A prediction in words; the class is that of its most confident detection."""

    time: str
    ago: str
    label: str
    more: int
    confidence: float | None
    device: str
    model: str
    image: str
    defect: bool
    review: bool


def shown_predictions(page: bytes, *, now: float) -> Sequence[ShownPrediction]:
    """Return the predictions of a page of `/predictions`, in its order."""
    return [_shown(one, now) for one in msgspec.json.decode(page, type=_Page).predictions]


def _shown(stored: _Stored, now: float) -> ShownPrediction:
    best = max(stored.detections, key=lambda one: one.confidence, default=None)
    return ShownPrediction(
        time=moment(stored.timestamp, now=now),
        ago=ago(stored.timestamp, now=now),
        label=shorten(best.label, _MOST_CHARACTERS) if best else "nothing detected",
        more=max(0, len(stored.detections) - 1),
        confidence=best.confidence if best else None,
        device=stored.edge_device_id,
        model=f"{shorten(stored.model_name, _MOST_CHARACTERS)} {stored.model_version}",
        image=shorten(stored.image_id, _MOST_CHARACTERS),
        defect=stored.defect_detected,
        review=stored.verdict == "review",
    )
