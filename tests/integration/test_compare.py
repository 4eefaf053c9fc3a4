"""`make compare` on what people labelled in a running logging service."""

import base64
from pathlib import Path
from typing import Any

import pytest

from examples.compare import main
from tests.support.images import colour_file
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore, point_alias
from tests.support.servers import Server, start_service

TOKEN = "a-token"
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_EACH = 20


def evidence(number: int, *, sampled: bool) -> dict[str, Any]:
    index = number % 3
    picture = colour_file(_COLOURS[index], size=(16 + number, 16))
    return {
        "prediction_id": f"{'slice' if sampled else 'doubtful'}-{number}",
        "edge_device_id": "line-1",
        "timestamp": 1_790_000_000.0 + number,
        "image_id": f"{number}.png",
        "model_name": COLOURS,
        "model_version": "1",
        "class_name": COLOUR_CLASSES[index],
        "confidence": 0.9,
        "verdict": "pass" if index == 0 else "fail",
        "scores": {COLOUR_CLASSES[index]: 0.9},
        "picture": base64.b64encode(picture).decode(),
        "sampled": sampled,
        "sample_probability": 0.02 if index == 0 else 0.2,
        "keep_probability": 0.02 if index == 0 else 1.0,
    }


def label(one: dict[str, Any], true_class: str | None, **others: object) -> dict[str, Any]:
    return {
        "prediction_id": one["prediction_id"],
        "true_class": true_class,
        "labelled_by": "somebody",
        **others,
    }


def test_labelled_pictures_of_the_random_slice_are_compared(
    model_store: ModelStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = model_store.copy(tmp_path).tracking_uri
    point_alias(uri, COLOURS, "2", alias="challenger")
    monkeypatch.setenv("LOGGING_TOKEN", TOKEN)
    env = {"DATABASE_PATH": str(tmp_path / "predictions.db"), "LOGGING_TOKEN": TOKEN}
    with start_service("bentos.logging.service:LoggingService", tmp_path, env=env) as server:
        server.wait_until_ready()
        server.http.headers["Authorization"] = f"Bearer {TOKEN}"
        kept = [evidence(number, sampled=number < 3 * _EACH) for number in range(3 * _EACH + 6)]
        sent = server.post("/evidence", json={"evidence": kept})
        assert sent.status_code == 200, sent.text
        labels = [label(one, one["class_name"]) for one in kept[:-1]]
        # Corrected twice, taken back, and given because a customer found something.
        labels += [label(kept[0], "stain"), label(kept[0], "good")]
        labels += [label(kept[1], None)]
        labels += [label(kept[2], "good", reported=True)]
        answer = server.post("/labels", json={"labels": labels})
        assert answer.status_code == 200, answer.text
        check(server, uri, capsys)


def check(server: Server, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tracking-uri", uri, "--model", COLOURS, "--logging-url", server.url]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{3 * _EACH - 1} labelled pictures, {2 * _EACH - 1} of them defects" in said
    assert said.splitlines()[-1] == "the challenger is worse"
