"""Draws docs/images/status-page.png: run `python -m docs.status_picture`, which takes 5 minutes.

It starts both services with the demo model, sends pictures to one and batches of three devices to
the other, at a rate that rises and falls, and photographs the page in Chromium.
"""

import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import httpx
from PIL import Image

from examples.demo_model import demo_images, ensure_model
from examples.stack import Stack
from local.browser import Browser
from local.process import ROOT, free_ports

PICTURE = ROOT / "docs" / "images" / "status-page.png"
MINUTES = 4
WIDTH, HEIGHT = 1200, 1080
DEVICES = ("line-1", "line-2", "press-7")


def main() -> int:
    """Drive the services, draw the picture, return 0."""
    with tempfile.TemporaryDirectory() as folder:
        choose_places(Path(folder))
        ensure_model(_say)
        with Stack(log_folder=Path(folder)) as stack:
            stack.start()
            stack.wait_until_ready(_say)
            _say(f"driving both services for {MINUTES} minutes")
            drive(stack.inference.url, stack.logging.url, seconds=60.0 * MINUTES)
            with (
                Browser(Path(folder)) as browser,
                browser.page(width=WIDTH, height=HEIGHT) as page,
            ):
                page.open(stack.logging.url)
                page.screenshot(PICTURE, whole=False)
    # A third of the bytes, and nobody sees the difference.
    with Image.open(PICTURE) as picture:
        picture.convert("RGB").quantize(128).save(PICTURE, optimize=True)
    _say(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


def drive(inference: str, logging: str, *, seconds: float) -> None:
    """Send pictures and batches, between one and ten of each every few seconds."""
    chosen = random.Random(7)  # noqa: S311 - a picture's content
    images = demo_images()
    began = time.monotonic()
    with httpx.Client(trust_env=False, timeout=30.0) as client:
        while (elapsed := time.monotonic() - began) < seconds:
            size = round(5 + 4 * math.sin(elapsed / 40))
            device = chosen.choice(DEVICES)
            batch = {
                "predictions": [_prediction(chosen, images) for _ in range(size)],
                "edge_device_id": device,
            }
            client.post(f"{logging}/log", json=batch).raise_for_status()
            for path in chosen.sample(images, size):
                files = {"image": (f"{path.parent.name}/{path.name}", path.read_bytes())}
                client.post(f"{inference}/predict_image", files=files).raise_for_status()
                time.sleep(chosen.uniform(0.05, 0.4))
        # The last are handed over.
        time.sleep(3.0)


def _prediction(chosen: random.Random, images: list[Path]) -> dict[str, object]:
    """Return what a device that has a model of its own would send."""
    path = chosen.choice(images)
    kind, confidence = path.parent.name, round(chosen.betavariate(12, 1), 4)
    return {
        "prediction_id": uuid4().hex,
        "image_id": f"{kind}/{path.name}",
        "timestamp": time.time() - chosen.uniform(0, 2),
        "model_name": "steel-defects-edge",
        "model_version": "12",
        "inference_time_ms": round(chosen.uniform(4, 9), 2),
        "detections": [{"class": kind, "confidence": confidence}],
        "defect_detected": True,
        "confidence_scores": [confidence, round(1 - confidence, 4)],
    }


def choose_places(folder: Path) -> None:
    """Keep away from what runs on this machine and from what it has stored."""
    inference, logging = free_ports(2)
    os.environ |= {
        "INFERENCE_PORT": str(inference),
        "LOGGING_PORT": str(logging),
        "PROBE_PORT": "0",
        "DATABASE_PATH": str(folder / "predictions.db"),
        "OUTBOX_PATH": str(folder / "outbox"),
        "EDGE_DEVICE_ID": "line-3",
        "GRAFANA_URL": "http://localhost:3000",
    }


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
