"""Bodies for `/log` as edge devices send them."""

import time
from itertools import count
from typing import Any
from uuid import uuid4

_numbers = count()


def prediction(**changes: Any) -> dict[str, Any]:
    """Return a valid prediction with an id of its own, changed; None leaves a field out."""
    standard = {
        "image_id": f"image-{next(_numbers)}.png",
        "timestamp": time.time(),
        "model_version": "3",
        "model_name": "steel-defects",
        "inference_time_ms": 2.5,
        "detections": [
            {"class": "scratch", "confidence": 0.93, "bbox": [4, 8, 15, 16], "uncertain": False}
        ],
        "defect_detected": True,
        "confidence_scores": [0.93, 0.07],
        "prediction_id": str(uuid4()),
    }
    return {name: value for name, value in (standard | changes).items() if value is not None}


def batch(*predictions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the body of a batch of these predictions, changed as asked."""
    standard = {
        "predictions": list(predictions),
        "batch_size": len(predictions),
        "timestamp": time.time(),
        "edge_device_id": "edge-1",
    }
    return {name: value for name, value in (standard | changes).items() if value is not None}
