"""The last predictions as the page shows them, read from a page of `/predictions`."""

from collections.abc import Sequence

import msgspec

SHOWN = 20


class Detection(msgspec.Struct, frozen=True):
    """What a prediction found."""

    label: str = msgspec.field(name="class")
    confidence: float


class ShownPrediction(msgspec.Struct, frozen=True):
    """What the page shows of a prediction."""

    timestamp: float
    edge_device_id: str
    model_name: str
    model_version: str
    image_id: str
    defect_detected: bool
    detections: list[Detection]
    verdict: str | None = None

    @property
    def best(self) -> Detection | None:
        """The most confident detection."""
        return max(self.detections, key=lambda one: one.confidence, default=None)


class _Page(msgspec.Struct, frozen=True):
    predictions: list[ShownPrediction]


def read_predictions(page: bytes) -> Sequence[ShownPrediction]:
    """Return the predictions of a page of `/predictions`; raises msgspec.DecodeError."""
    return msgspec.json.decode(page, type=_Page).predictions
