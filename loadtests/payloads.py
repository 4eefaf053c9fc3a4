"""What the clients send: inputs of the model, image files, batches of predictions."""

import io
import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator, Sequence

import numpy as np

from examples.steel_images import NORMAL, SIDE, class_names, draw

_DISTINCT = 24
_DIGITS = 7


def image_files(count: int = _DISTINCT) -> list[bytes]:
    """Return PNG files of the demo's kinds of surface."""
    kinds = itertools.cycle(class_names())
    files = []
    for number, kind in zip(range(count), kinds, strict=False):
        file = io.BytesIO()
        draw(kind, np.random.default_rng(number)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def prediction_bodies(input_size: int, count: int = _DISTINCT) -> list[bytes]:
    """Return JSON bodies for /predict: pictures where the size is the demo's, else noise."""
    kinds = itertools.cycle(class_names())
    bodies = []
    for number, kind in zip(range(count), kinds, strict=False):
        generator = np.random.default_rng(number)
        if input_size == 3 * SIDE * SIDE:
            pixels = np.asarray(draw(kind, generator), dtype=np.float64) / 255.0
            values = pixels.transpose(2, 0, 1).reshape(-1)
        else:
            values = generator.random(input_size)
        rounded = [round(value, _DIGITS) for value in values.tolist()]
        bodies.append(json.dumps({"data": rounded}, separators=(",", ":")).encode())
    return bodies


def log_bodies(batch: int, *, device: str) -> Iterator[bytes]:
    """Yield JSON bodies for /log without end; every prediction in them is a new one."""
    kinds: Sequence[str] = class_names()
    chance = random.Random(device)
    for number in itertools.count():
        predictions = []
        for position in range(batch):
            kind = chance.choice(kinds)
            confidence = round(chance.uniform(0.5, 1.0), 6)
            predictions.append(
                {
                    "prediction_id": uuid.uuid4().hex,
                    "image_id": f"{device}-{number}-{position}",
                    "timestamp": time.time(),
                    "model_name": "load-test",
                    "model_version": "1",
                    "inference_time_ms": round(chance.uniform(0.2, 5.0), 3),
                    "detections": [
                        {"class": kind, "confidence": confidence, "bbox": None, "uncertain": False}
                    ],
                    "defect_detected": kind != NORMAL,
                    "confidence_scores": [confidence],
                }
            )
        yield json.dumps(
            {
                "predictions": predictions,
                "batch_size": batch,
                "timestamp": time.time(),
                "edge_device_id": device,
            }
        ).encode()
