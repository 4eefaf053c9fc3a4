"""Kept pictures on their way to a logging service that fails, refuses, hangs or is gone."""

import asyncio
import base64
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bentos.evidence import ChallengerAnswer
from bentos.inference import evidence as module
from bentos.inference.delivery.sender import Destination
from bentos.inference.engine import Prediction
from bentos.inference.evidence import EvidenceSender
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.state import InferenceState
from tests.support.evidence import png
from tests.support.log_server import LogServer, Reply
from tests.support.model_server import make_state
from tests.support.servers import wait_until

CLASSES = 30
FAIL, PASS, REVIEW = 0, 1, 2
MODEL = ServedModel(
    ModelIdentity("steel-defects", "production", "3"),
    ModelSpec(
        (1, 8, 8),
        "float32",
        tuple(f"class-{index}" for index in range(CLASSES)),
        tuple(index == FAIL for index in range(CLASSES)),
    ),
)


def prediction(index: int) -> Prediction:
    """Return a prediction with the verdict that FAIL, PASS or REVIEW says."""
    confidence = 0.3 if index == REVIEW else 0.8
    scores = [(1 - confidence) / (CLASSES - 1)] * CLASSES
    scores[index] = confidence
    return Prediction(index, memoryview(array("f", scores)), MODEL)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and take as much of the processor as there is."""
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SHARE", 1.0)


@pytest.fixture
def server() -> Iterator[LogServer]:
    with LogServer() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> InferenceState:
    return make_state(tmp_path)


class Keeper:
    """A sender that keeps every picture, unless it is told otherwise."""

    def __init__(self, server: LogServer, state: InferenceState, **options: Any) -> None:
        shares = {"pass_share": 1.0, "sample_share": 1.0, "max_bytes": 1 << 20}
        self.sender = EvidenceSender(
            Destination(server.url, "line-4", token="a-token"), state, **(shares | options)
        )

    def offer(self, index: int = FAIL, picture: bytes = b"", **options: Any) -> str:
        made = prediction(index)
        options = {"image_id": "17.png"} | options
        self.sender.offer(made, picture or png(), **options)
        return made.id

    def stop(self, seconds: float = 5.0) -> None:
        asyncio.run(self.sender.stop(seconds))


@pytest.fixture
def keeper(server: LogServer, state: InferenceState) -> Iterator[Keeper]:
    made = Keeper(server, state)
    made.sender.start()
    yield made
    server.unhang()
    made.stop()


def arrived(server: LogServer) -> list[dict[str, Any]]:
    return [one for batch in server.batches for one in batch["evidence"]]


def wait_for(server: LogServer, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(arrived(server)) >= count, f"{count} pictures")
    return arrived(server)


def dropped(state: InferenceState, reason: str) -> float:
    return state.evidence_dropped[reason].value


def test_a_picture_is_sent_with_what_was_said_of_it(
    keeper: Keeper, server: LogServer, state: InferenceState
) -> None:
    picture = png()
    made = keeper.offer(REVIEW, picture)
    (sent,) = wait_for(server, 1)
    assert sent["prediction_id"] == made
    assert sent["edge_device_id"] == "line-4"
    assert (sent["image_id"], sent["model_version"]) == ("17.png", "3")
    assert (sent["class_name"], sent["verdict"]) == ("class-2", "review")
    assert sent["confidence"] == pytest.approx(0.3)
    assert len(sent["scores"]) == 20
    assert next(iter(sent["scores"])) == "class-2"
    assert base64.b64decode(sent["picture"]) == picture
    assert sent["challenger"] is None
    assert server.headers[0]["authorization"] == "Bearer a-token"
    wait_until(lambda: state.evidence_sent.value == 1, "the picture is counted")


def test_an_image_without_a_name_is_called_by_its_prediction(
    keeper: Keeper, server: LogServer
) -> None:
    made = keeper.offer(image_id="")
    assert wait_for(server, 1)[0]["image_id"] == made


def test_what_passed_and_is_not_drawn_is_not_kept(server: LogServer, state: InferenceState) -> None:
    keeper = Keeper(server, state, pass_share=1e-9)
    for _ in range(100):
        keeper.offer(PASS)
    keeper.sender.start()
    failed = keeper.offer(FAIL)
    assert [one["prediction_id"] for one in wait_for(server, 1)] == [failed]
    keeper.stop()


def test_what_a_challenger_sees_otherwise_is_kept(server: LogServer, state: InferenceState) -> None:
    keeper = Keeper(server, state, pass_share=1e-9)
    keeper.sender.start()
    keeper.offer(PASS, challenger=ChallengerAnswer("4", "class-0", 0.9))
    (sent,) = wait_for(server, 1)
    assert sent["challenger"] == {"version": "4", "class_name": "class-0", "confidence": 0.9}
    assert sent["sampled"] is False
    assert sent["sample_probability"] == sent["keep_probability"] == 1e-9
    keeper.stop()


def test_pictures_wait_for_a_logging_service_that_is_away(
    keeper: Keeper, server: LogServer, state: InferenceState
) -> None:
    server.stop()
    made = [keeper.offer() for _ in range(5)]
    server.start()
    assert [one["prediction_id"] for one in wait_for(server, 5)] == made
    assert dropped(state, "queue_full") == 0


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_pictures_wait_where_the_answer_is_not_about_them(
    keeper: Keeper, server: LogServer, state: InferenceState, status: int
) -> None:
    answers = iter([Reply(status, {"error": "not now", "reason": "not_now"})] * 3)
    server.behaviour = lambda _: next(answers, Reply())
    made = keeper.offer()
    assert [one["prediction_id"] for one in wait_for(server, 1)] == [made]
    assert server.attempts == 4
    assert dropped(state, "refused") == 0


def test_the_one_picture_that_is_refused_is_dropped_and_the_others_arrive(
    server: LogServer, state: InferenceState
) -> None:
    keeper = Keeper(server, state)
    made = [keeper.offer() for _ in range(9)]
    refused = made[5]

    def behaviour(body: dict[str, Any]) -> Reply:
        ids = [one["prediction_id"] for one in body["evidence"]]
        return Reply(400, {"error": "no", "reason": "bad_input"}) if refused in ids else Reply()

    server.behaviour = behaviour
    keeper.sender.start()
    sent = [one["prediction_id"] for one in wait_for(server, 8)]
    assert sent == [one for one in made if one != refused]
    wait_until(lambda: dropped(state, "refused") == 1, "the refused one is counted")
    keeper.stop()


def test_beyond_its_size_pictures_are_dropped_and_counted(
    server: LogServer, state: InferenceState
) -> None:
    keeper = Keeper(server, state, max_bytes=200_000)
    for _ in range(30):
        keeper.offer(picture=png(bytes_more=10_000))
    assert 0 < dropped(state, "queue_full") < 30
    waiting = 30 - int(dropped(state, "queue_full"))
    keeper.sender.start()
    wait_for(server, waiting)
    # There is room again.
    wait_until(lambda: state.evidence_sent.value == waiting, "the pictures are settled")
    keeper.offer(picture=png(bytes_more=10_000))
    wait_for(server, waiting + 1)
    keeper.stop()


def test_half_of_the_room_is_for_the_slice(server: LogServer, state: InferenceState) -> None:
    keeper = Keeper(server, state, sample_share=1e-9, max_bytes=200_000)
    for _ in range(30):
        keeper.offer(FAIL, png(bytes_more=10_000))
    without = dropped(state, "queue_full")
    keeper.offer(PASS, png(bytes_more=10_000))
    assert dropped(state, "queue_full") == without
    keeper.offer(FAIL, png(bytes_more=10_000))
    assert dropped(state, "queue_full") == without + 1


def test_what_cannot_be_sent_before_the_end_is_counted(
    server: LogServer, state: InferenceState
) -> None:
    keeper = Keeper(server, state)
    server.hang()
    keeper.sender.start()
    for _ in range(3):
        keeper.offer()
    assert server.asked.wait(10)
    keeper.stop(0.2)
    assert dropped(state, "shutdown") == 3
    server.unhang()


def test_a_stop_sends_what_waits(server: LogServer, state: InferenceState) -> None:
    keeper = Keeper(server, state)
    keeper.sender.start()
    made = [keeper.offer() for _ in range(50)]
    keeper.stop()
    assert [one["prediction_id"] for one in arrived(server)] == made
    assert dropped(state, "shutdown") == 0


def test_a_request_has_a_few_pictures(server: LogServer, state: InferenceState) -> None:
    keeper = Keeper(server, state, max_bytes=32 << 20)
    for _ in range(20):
        keeper.offer(picture=png(bytes_more=400_000))
    keeper.offer(picture=png(bytes_more=2_000_000))
    keeper.sender.start()
    wait_for(server, 21)
    assert max(len(batch["evidence"]) for batch in server.batches) == 2
    assert len(server.batches[-1]["evidence"]) == 1
    keeper.stop()


def test_sending_takes_no_more_than_its_share_of_the_processor(
    server: LogServer, state: InferenceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARE", 1e-9)
    keeper = Keeper(server, state, max_bytes=32 << 20)
    for _ in range(10):
        keeper.offer(picture=png(bytes_more=600_000))
    keeper.sender.start()
    wait_for(server, 1)
    # The pause after the first request would last for weeks; a stop does not wait for it.
    keeper.stop()
    assert len(arrived(server)) == 10
    assert len(server.batches) == 10
