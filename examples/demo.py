"""The whole way of a prediction, shown once: what `make demo` runs."""

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bentos.inference.state import PREDICT_IMAGE_PATH
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import load_settings
from examples.demo_model import demo_images, ensure_model
from examples.stack import DATA, Stack
from local import fetch
from local.process import StepError

SHOWN = 12
LOGGED_SECONDS = 30.0


def main() -> int:
    """Run the demo; return 0 where every prediction stands in the database."""
    started = time.monotonic()
    try:
        ensure_model(_say)
        with Stack(log_folder=DATA / "logs") as stack:
            _say("starting both services")
            stack.start()
            stack.wait_until_ready(_say)
            files = random.Random(0).sample(demo_images(), SHOWN)
            show_predictions(stack.inference.url, stack.logging.url, files)
            urls = (stack.inference.url, stack.logging.url)
    except (StepError, httpx.HTTPError) as error:
        _say(f"error: {error}")
        return 1
    seconds = time.monotonic() - started
    _say(f"done in {seconds:.0f} s, everything is stopped; `make serve` serves at")
    _say(f"  {urls[0]}  (API page, /predict, /predict_image, /health, /ready, /metrics)")
    _say(f"  {urls[1]}  (status page, /log, /stats, /predictions, /health, /ready, /metrics)")
    return 0


def show_predictions(inference: str, logging: str, files: Sequence[Path]) -> None:
    """Classify image files and print what became of each; both services are named by their URL.

    Raises StepError where one was not classified, or did not arrive in the database.
    """
    answers = [_predict(inference, path) for path in files]
    _say(f"{len(answers)} images classified; waiting for them in the database")
    logged = _wait_until_logged(logging, answers)
    _print_table(files, answers, logged)
    missing = len(answers) - len(logged)
    if missing:
        raise StepError(f"{missing} predictions did not arrive in the database")


def _predict(url: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as image:
        answer = fetch.post(
            url + PREDICT_IMAGE_PATH,
            files={"image": (f"{path.parent.name}/{path.name}", image)},
            timeout=30.0,
        )
    if answer.status_code != 200:
        raise StepError(f"{path} was answered {answer.status_code}: {answer.text}")
    return dict(answer.json())


def _wait_until_logged(url: str, answers: Sequence[dict[str, Any]]) -> set[str]:
    """Return the ids of those predictions that stand in the logging service's database."""
    wanted = {answer["prediction_id"] for answer in answers}
    token = load_settings(LoggingSettings).logging_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    deadline = time.monotonic() + LOGGED_SECONDS
    while True:
        page = fetch.get(f"{url}/predictions", params={"limit": 1000}, headers=headers)
        page.raise_for_status()
        found = {row["prediction_id"] for row in page.json()["predictions"]} & wanted
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _print_table(
    files: Sequence[Path], answers: Sequence[dict[str, Any]], logged: set[str]
) -> None:
    header = ("file", "class", "confidence", "defect", "version", "logged")
    rows = [
        (
            f"{path.parent.name}/{path.name}",
            str(answer["class_name"]),
            f"{answer['confidence']:.1%}",
            "yes" if answer["defect_detected"] else "no",
            str(answer["model_version"]),
            "yes" if answer["prediction_id"] in logged else "NO",
        )
        for path, answer in zip(files, answers, strict=True)
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, tuple("-" * width for width in widths), *rows):
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
