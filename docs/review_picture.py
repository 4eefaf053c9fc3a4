"""Draws docs/images/review-page.png: run `python -m docs.review_picture`, which takes a minute.

It starts both services with the demo model, sends pictures, labels some as a person would, and
photographs the page in Chromium with the heat map over the next picture.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from docs.status_picture import choose_places
from examples.demo_model import demo_images, ensure_model
from examples.stack import Stack
from local.browser import Browser, Page
from local.process import ROOT, wait_until

PICTURE = ROOT / "docs" / "images" / "review-page.png"
WIDTH, HEIGHT = 1200, 900
PICTURES, LABELLED = 48, 12


def main() -> int:
    """Drive the services, draw the picture, return 0."""
    with tempfile.TemporaryDirectory() as folder:
        choose_places(Path(folder))
        os.environ |= {"KEEP_IMAGES": "true", "KEEP_PASS_SHARE": "1", "EXPLAIN": "true"}
        ensure_model(_say)
        with Stack(log_folder=Path(folder)) as stack:
            stack.start()
            stack.wait_until_ready(_say)
            drive(stack.inference.url, stack.logging.url)
            with (
                Browser(Path(folder)) as browser,
                browser.page(width=WIDTH, height=HEIGHT) as page,
            ):
                draw(page, stack.logging.url)
    with Image.open(PICTURE) as picture:
        picture.convert("RGB").quantize(256).save(PICTURE, optimize=True)
    _say(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


def drive(inference: str, logging: str) -> None:
    """Send pictures, wait until they are kept, and label the first."""
    chosen = random.Random(3)  # noqa: S311 - a picture's content
    with httpx.Client(trust_env=False, timeout=30.0) as client:
        for path in chosen.sample(demo_images(), PICTURES):
            files = {"image": (f"{path.parent.name}/{path.name}", path.read_bytes())}
            client.post(f"{inference}/predict_image", files=files).raise_for_status()
            time.sleep(0.05)

        def queue() -> dict[str, Any]:
            answer = client.get(f"{logging}/review", params={"limit": LABELLED})
            return dict(answer.raise_for_status().json())

        wait_until(lambda: queue()["waiting"] == PICTURES, "all are kept", seconds=60.0)
        for one in queue()["pictures"]:
            label = {
                "prediction_id": one["prediction_id"],
                "true_class": one["image_id"].partition("/")[0],
                "labelled_by": "Kim",
            }
            client.post(f"{logging}/labels", json=label).raise_for_status()


def draw(page: Page, logging: str) -> None:
    """Photograph the page of the next picture, the heat map over it."""
    page.open(f"{logging}/review")
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
    page.screenshot(PICTURE, whole=False)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
