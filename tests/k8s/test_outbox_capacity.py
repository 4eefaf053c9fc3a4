"""The outbox's volume holds as many predictions as the outbox may keep, measured on real rows."""

from decimal import Decimal
from pathlib import Path

import pytest

from bentos.inference.outbox import Outbox, outbox_path
from bentos.inference.settings import InferenceSettings
from tests.k8s.manifests import INFERENCE, OVERLAYS, environment, quantity, rendered, workload
from tests.k8s.test_settings_of_manifests import settings_from

ROWS = 10_000
CLASSES = 10


def record(number: int) -> dict[str, object]:
    """Return a prediction's record as `record_of` makes it, of a model with ten classes."""
    return {
        "prediction_id": f"{number:032x}",
        "image_id": f"line-7/camera-2/{number:010}.png",
        "request_id": f"{number:032x}",
        "timestamp": 1_760_000_000.123456 + number,
        "model_name": "steel-defects",
        "model_version": "17",
        "inference_time_ms": 12.345,
        "detections": [
            {"class": "crack", "confidence": 0.987654, "bbox": None, "uncertain": False}
        ],
        "defect_detected": True,
        "confidence_scores": [0.123456] * CLASSES,
    }


@pytest.fixture(scope="module")
def bytes_per_row(tmp_path_factory: pytest.TempPathFactory) -> Decimal:
    """Write many records and return what one takes on disk, the write-ahead log included."""
    path: Path = outbox_path(tmp_path_factory.mktemp("outbox"), 1)
    outbox = Outbox(path, max_rows=ROWS)
    for number in range(ROWS):
        assert outbox.put(record(number))
    while outbox.backlog > 0 and outbox.write():
        pass
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    outbox.close()
    return Decimal(size) / ROWS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_full_outbox_fits_on_its_volume(overlay: str, bytes_per_row: Decimal) -> None:
    """A volume over its limit has the pod evicted, and the outbox with it."""
    objects = rendered(overlay)
    item = workload(INFERENCE, objects)
    settings = settings_from(environment(item.container, objects), InferenceSettings)
    (volume,) = [entry for entry in item.pod["volumes"] if entry["name"] == "outbox"]
    limit = quantity(volume["emptyDir"]["sizeLimit"])
    assert bytes_per_row > 300
    assert settings.outbox_max_rows * bytes_per_row < limit * Decimal("0.8")
