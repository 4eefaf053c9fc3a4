"""`make compare` on what people labelled in a running logging service."""

from pathlib import Path

import msgspec
import pytest

from bentos.evidence import Evidence, EvidenceBatch
from examples.compare import main
from tests.support.evidence import evidence
from tests.support.images import colour_file
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore, point_alias
from tests.support.servers import Server, start_service

TOKEN = "a-token"
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_EACH = 20


def kept(number: int, *, sampled: bool) -> Evidence:
    index = number % 3
    return evidence(
        f"{'slice' if sampled else 'doubtful'}-{number}",
        class_name=COLOUR_CLASSES[index],
        verdict="pass" if index == 0 else "fail",
        picture=colour_file(_COLOURS[index], size=(16 + number, 16)),
        sampled=sampled,
        sample_probability=0.02 if index == 0 else 0.2,
        keep_probability=0.02 if index == 0 else 1.0,
    )


def label(one: Evidence, true_class: str | None, **others: object) -> dict[str, object]:
    given = {"prediction_id": one.prediction_id, "true_class": true_class, "labelled_by": "Kim"}
    return {**given, **others}


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
        pictures = [kept(number, sampled=number < 3 * _EACH) for number in range(3 * _EACH + 6)]
        body = msgspec.json.encode(EvidenceBatch(pictures))
        sent = server.post("/evidence", content=body)
        assert sent.status_code == 200, sent.text
        labels = [label(one, one.class_name) for one in pictures[:-1]]
        # Corrected twice, taken back, and given because a customer found something.
        labels += [label(pictures[0], "stain"), label(pictures[0], "good")]
        labels += [label(pictures[1], None)]
        labels += [label(pictures[2], "good", reported=True)]
        answer = server.post("/labels", json={"labels": labels})
        assert answer.status_code == 200, answer.text
        check(server, uri, capsys)


def check(server: Server, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tracking-uri", uri, "--model", COLOURS, "--logging-url", server.url]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{3 * _EACH - 1} labelled pictures, {2 * _EACH - 1} of them defects" in said
    assert said.splitlines()[-1] == "the challenger is worse"
