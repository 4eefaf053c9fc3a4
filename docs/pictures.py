"""Draws the pictures of the pages: `python -m docs.pictures status` (5 minutes) or `review` (one).

It starts both services with the demo model, drives them, and photographs a page in Chromium: the
status page after pictures to one service and batches of three devices to the other, at a rate that
rises and falls; the page for review with the heat map over the next picture, some being labelled.
"""

import argparse
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from PIL import Image

from examples.demo_model import demo_images, ensure_model
from examples.stack import Stack
from local.browser import Browser, Page
from local.process import ROOT, free_ports, wait_until

_IMAGES = ROOT / "docs" / "images"
_WIDTH = 1200
_MINUTES = 4
_DEVICES = ("line-1", "line-2", "press-7")
_PICTURES, _LABELLED = 48, 12
_KEEP = {"KEEP_IMAGES": "true", "KEEP_PASS_SHARE": "1", "EXPLAIN": "true"}


def main() -> int:
    """Drive the services, draw the picture, return 0."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures")
    parser.add_argument("page", choices=_PAGES)
    name = parser.parse_args().page
    show, height, settings = _PAGES[name]
    picture = _IMAGES / f"{name}-page.png"
    with tempfile.TemporaryDirectory() as folder:
        _choose_places(Path(folder))
        os.environ |= settings
        ensure_model(_say)
        with Stack(log_folder=Path(folder)) as stack:
            stack.start()
            stack.wait_until_ready(_say)
            with (
                Browser(Path(folder)) as browser,
                browser.page(width=_WIDTH, height=height) as page,
            ):
                show(page, stack)
                page.screenshot(picture, whole=False)
    # A third of the bytes, and nobody sees the difference.
    with Image.open(picture) as drawn:
        drawn.convert("RGB").quantize(256).save(picture, optimize=True)
    _say(f"wrote {picture.relative_to(ROOT)}")
    return 0


def _show_status(page: Page, stack: Stack) -> None:
    _say(f"driving both services for {_MINUTES} minutes")
    _drive(stack.inference.url, stack.logging.url, seconds=60.0 * _MINUTES)
    page.open(stack.logging.url)


def _show_review(page: Page, stack: Stack) -> None:
    """Open the page of the next picture, the heat map over it."""
    _label(stack.inference.url, stack.logging.url)
    page.open(f"{stack.logging.url}/review")
    page.write("[data-who]", "Kim")
    page.press("Escape")
    page.press("h")
    seen = "document.querySelector('[data-map]').naturalWidth > 0"
    wait_until(
        lambda: bool(page.evaluate(seen)),
        "the heat map is there",
        seconds=60.0,
        describe=lambda: page.text,
    )


_PAGES: Mapping[str, tuple[Callable[[Page, Stack], None], int, Mapping[str, str]]] = {
    "status": (_show_status, 1080, {}),
    "review": (_show_review, 900, _KEEP),
}


def _drive(inference: str, logging: str, *, seconds: float) -> None:
    """Send pictures and batches, between one and ten of each every few seconds."""
    chosen = random.Random(7)  # noqa: S311 - a picture's content
    images = demo_images()
    began = time.monotonic()
    with httpx.Client(trust_env=False, timeout=30.0) as client:
        while (elapsed := time.monotonic() - began) < seconds:
            size = round(5 + 4 * math.sin(elapsed / 40))
            device = chosen.choice(_DEVICES)
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


def _label(inference: str, logging: str) -> None:
    """Send pictures, wait until they are kept, and label the first."""
    chosen = random.Random(3)  # noqa: S311 - a picture's content
    with httpx.Client(trust_env=False, timeout=30.0) as client:
        for path in chosen.sample(demo_images(), _PICTURES):
            files = {"image": (f"{path.parent.name}/{path.name}", path.read_bytes())}
            client.post(f"{inference}/predict_image", files=files).raise_for_status()
            time.sleep(0.05)

        def queue() -> dict[str, Any]:
            answer = client.get(f"{logging}/review", params={"limit": _LABELLED})
            return dict(answer.raise_for_status().json())

        wait_until(lambda: queue()["waiting"] == _PICTURES, "all are kept", seconds=60.0)
        for one in queue()["pictures"]:
            label = {
                "prediction_id": one["prediction_id"],
                "true_class": one["image_id"].partition("/")[0],
                "labelled_by": "Kim",
            }
            client.post(f"{logging}/labels", json=label).raise_for_status()


def _choose_places(folder: Path) -> None:
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
