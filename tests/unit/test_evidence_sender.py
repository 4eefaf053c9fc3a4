"""Kept pictures on their way to a logging service that fails, refuses, hangs or is gone."""

import asyncio
import base64
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

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


class Keeper:
    """A sender that keeps every picture, unless it is told otherwise, and where it sends them."""

    def __init__(self, server: LogServer, state: InferenceState, **options: Any) -> None:
        shares = {"pass_share": 1.0, "sample_share": 1.0, "max_bytes": 1 << 20}
        self.server = server
        self.state = state
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

    def arrived(self) -> list[dict[str, Any]]:
        return [one for batch in self.server.batches for one in batch["evidence"]]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.arrived()) >= count, f"{count} pictures")
        return self.arrived()

    def dropped(self, reason: str) -> float:
        return self.state.evidence_dropped[reason].value


MakeKeeper: TypeAlias = Callable[..., Keeper]


@pytest.fixture
def make(server: LogServer, tmp_path: Path) -> Iterator[MakeKeeper]:
    """Make a keeper that does not send yet, with options of its own."""
    made: list[Keeper] = []

    def make(**options: Any) -> Keeper:
        made.append(Keeper(server, make_state(tmp_path), **options))
        return made[-1]

    yield make
    server.unhang()
    for keeper in made:
        keeper.stop()


@pytest.fixture
def keeper(make: MakeKeeper) -> Keeper:
    """A keeper that sends."""
    keeper = make()
    keeper.sender.start()
    return keeper


def test_a_picture_is_sent_with_what_was_said_of_it(keeper: Keeper) -> None:
    picture = png()
    made = keeper.offer(REVIEW, picture)
    (sent,) = keeper.wait_for(1)
    assert sent["prediction_id"] == made
    assert sent["edge_device_id"] == "line-4"
    assert (sent["image_id"], sent["model_version"]) == ("17.png", "3")
    assert (sent["class_name"], sent["verdict"]) == ("class-2", "review")
    assert sent["confidence"] == pytest.approx(0.3)
    assert len(sent["scores"]) == 20
    assert next(iter(sent["scores"])) == "class-2"
    assert base64.b64decode(sent["picture"]) == picture
    assert sent["challenger"] is None
    assert keeper.server.headers[0]["authorization"] == "Bearer a-token"
    wait_until(lambda: keeper.state.evidence_sent.value == 1, "the picture is counted")


def test_an_image_without_a_name_is_called_by_its_prediction(keeper: Keeper) -> None:
    made = keeper.offer(image_id="")
    assert keeper.wait_for(1)[0]["image_id"] == made


def test_what_passed_and_is_not_drawn_is_not_kept(make: MakeKeeper) -> None:
    keeper = make(pass_share=1e-9)
    for _ in range(100):
        keeper.offer(PASS)
    keeper.sender.start()
    failed = keeper.offer(FAIL)
    assert [one["prediction_id"] for one in keeper.wait_for(1)] == [failed]


def test_what_a_challenger_sees_otherwise_is_kept(make: MakeKeeper) -> None:
    keeper = make(pass_share=1e-9)
    keeper.sender.start()
    keeper.offer(PASS, challenger=ChallengerAnswer("4", "class-0", 0.9))
    (sent,) = keeper.wait_for(1)
    assert sent["challenger"] == {"version": "4", "class_name": "class-0", "confidence": 0.9}
    assert sent["sampled"] is False
    assert sent["sample_probability"] == sent["keep_probability"] == 1e-9


def test_pictures_wait_for_a_logging_service_that_is_away(keeper: Keeper) -> None:
    keeper.server.stop()
    made = [keeper.offer() for _ in range(5)]
    keeper.server.start()
    assert [one["prediction_id"] for one in keeper.wait_for(5)] == made
    assert keeper.dropped("queue_full") == 0


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_pictures_wait_where_the_answer_is_not_about_them(keeper: Keeper, status: int) -> None:
    answers = iter([Reply(status, {"error": "not now", "reason": "not_now"})] * 3)
    keeper.server.behaviour = lambda _: next(answers, Reply())
    made = keeper.offer()
    assert [one["prediction_id"] for one in keeper.wait_for(1)] == [made]
    assert keeper.server.attempts == 4
    assert keeper.dropped("refused") == 0


def test_the_one_picture_that_is_refused_is_dropped_and_the_others_arrive(make: MakeKeeper) -> None:
    keeper = make()
    made = [keeper.offer() for _ in range(9)]
    refused = made[5]

    def behaviour(body: dict[str, Any]) -> Reply:
        ids = [one["prediction_id"] for one in body["evidence"]]
        return Reply(400, {"error": "no", "reason": "bad_input"}) if refused in ids else Reply()

    keeper.server.behaviour = behaviour
    keeper.sender.start()
    sent = [one["prediction_id"] for one in keeper.wait_for(8)]
    assert sent == [one for one in made if one != refused]
    wait_until(lambda: keeper.dropped("refused") == 1, "the refused one is counted")


def test_beyond_its_size_pictures_are_dropped_and_counted(make: MakeKeeper) -> None:
    keeper = make(max_bytes=200_000)
    for _ in range(30):
        keeper.offer(picture=png(bytes_more=10_000))
    assert 0 < keeper.dropped("queue_full") < 30
    waiting = 30 - int(keeper.dropped("queue_full"))
    keeper.sender.start()
    keeper.wait_for(waiting)
    # There is room again.
    wait_until(lambda: keeper.state.evidence_sent.value == waiting, "the pictures are settled")
    keeper.offer(picture=png(bytes_more=10_000))
    keeper.wait_for(waiting + 1)


def test_half_of_the_room_is_for_the_slice(make: MakeKeeper) -> None:
    keeper = make(sample_share=1e-9, max_bytes=200_000)
    for _ in range(30):
        keeper.offer(FAIL, png(bytes_more=10_000))
    without = keeper.dropped("queue_full")
    keeper.offer(PASS, png(bytes_more=10_000))
    assert keeper.dropped("queue_full") == without
    keeper.offer(FAIL, png(bytes_more=10_000))
    assert keeper.dropped("queue_full") == without + 1


def test_what_cannot_be_sent_before_the_end_is_counted(make: MakeKeeper) -> None:
    keeper = make()
    keeper.server.hang()
    keeper.sender.start()
    for _ in range(3):
        keeper.offer()
    assert keeper.server.asked.wait(10)
    keeper.stop(0.2)
    assert keeper.dropped("shutdown") == 3
    keeper.server.unhang()


def test_a_stop_sends_what_waits(make: MakeKeeper) -> None:
    keeper = make()
    keeper.sender.start()
    made = [keeper.offer() for _ in range(50)]
    keeper.stop()
    assert [one["prediction_id"] for one in keeper.arrived()] == made
    assert keeper.dropped("shutdown") == 0


def test_a_request_has_a_few_pictures(make: MakeKeeper) -> None:
    keeper = make(max_bytes=32 << 20)
    for _ in range(20):
        keeper.offer(picture=png(bytes_more=400_000))
    keeper.offer(picture=png(bytes_more=2_000_000))
    keeper.sender.start()
    keeper.wait_for(21)
    assert max(len(batch["evidence"]) for batch in keeper.server.batches) == 2
    assert len(keeper.server.batches[-1]["evidence"]) == 1


def test_sending_takes_no_more_than_its_share_of_the_processor(
    make: MakeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARE", 1e-9)
    keeper = make(max_bytes=32 << 20)
    for _ in range(10):
        keeper.offer(picture=png(bytes_more=600_000))
    keeper.sender.start()
    keeper.wait_for(1)
    # The pause after the first request would last for weeks; a stop does not wait for it.
    keeper.stop()
    assert len(keeper.arrived()) == 10
    assert len(keeper.server.batches) == 10
