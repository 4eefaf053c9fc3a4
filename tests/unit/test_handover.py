"""Predictions on their way to a logging service that fails, hangs, refuses or is gone."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bentos.inference import handover as module
from bentos.inference.handover import Destination, Handover
from bentos.inference.outbox import Outbox, outbox_path
from bentos.inference.state import InferenceState
from tests.support.log_server import REFUSAL, LogServer, Reply
from tests.support.outboxes import rows_in
from tests.support.servers import wait_until

TOKEN = "a-token"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: the pauses of production would only make the tests wait."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[LogServer]:
    with LogServer() as running:
        yield running


class Pod:
    """A worker's hand-over, that may be stopped and started again as a new process would."""

    def __init__(self, directory: Path, server: LogServer) -> None:
        self.directory = directory
        self.server = server
        self.path = outbox_path(directory, 1)
        self.state = InferenceState(directory, worker=1, workers=1)
        self.handover: Handover | None = None
        self.made = 0

    def start(
        self, *, max_rows: int = 10_000, abandoned: tuple[Path, ...] = (), timeout: float = 10.0
    ) -> None:
        destination = Destination(self.server.url, TOKEN, "edge-7", timeout_seconds=timeout)
        self.handover = Handover(
            self.path, destination, self.state, max_rows=max_rows, abandoned=abandoned
        )
        self.handover.start()

    def predict(self, count: int = 1) -> list[str]:
        assert self.handover is not None
        made = [f"p{number:05}" for number in range(self.made, self.made + count)]
        self.made += count
        for one in made:
            self.handover.put({"prediction_id": one})
        return made

    def stop(self, seconds: float = 10.0) -> None:
        if self.handover is not None:
            self.handover.stop(seconds)
            self.handover = None

    def count(self, name: str) -> int:
        return int(self.state.row.get(f"log_{name}"))

    def wait(self, condition: Any, what: str) -> None:
        wait_until(
            condition,
            what,
            seconds=30,
            describe=lambda: f"{len(self.server.stored)} stored, {self.server.attempts} attempts",
        )

    def wait_stored(self, count: int) -> None:
        self.wait(lambda: len(self.server.stored) >= count, f"{count} stored")

    def on_disk(self) -> int | None:
        return rows_in(self.path)


@pytest.fixture
def pod(tmp_path: Path, server: LogServer) -> Iterator[Pod]:
    made = Pod(tmp_path, server)
    yield made
    made.server.unhang()
    made.stop(0.1)


def test_predictions_arrive_in_order_and_leave_the_disk(pod: Pod) -> None:
    pod.start()
    made = pod.predict(1_200)
    pod.wait_stored(1_200)
    assert pod.server.stored == made
    pod.wait(lambda: pod.count("backlog") == 0, "an empty backlog")
    assert pod.on_disk() == 0
    assert pod.count("delivered") == 1_200
    assert pod.count("dropped") == 0


def test_a_batch_says_what_the_contract_asks(pod: Pod) -> None:
    pod.start()
    pod.predict(3)
    pod.wait_stored(3)
    (batch, *_) = pod.server.batches
    assert batch["edge_device_id"] == "edge-7"
    assert batch["batch_size"] == len(batch["predictions"])
    assert isinstance(batch["timestamp"], float)
    headers = pod.server.headers[0]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/json"


def test_nothing_is_lost_while_the_service_is_gone(pod: Pod) -> None:
    pod.server.stop()
    pod.start()
    made = pod.predict(700)
    pod.wait(lambda: pod.count("send_errors") >= 2, "two attempts")
    assert pod.on_disk() == 700
    assert pod.count("backlog") == 700
    pod.server.start()
    pod.wait_stored(700)
    assert pod.server.stored == made
    assert pod.count("dropped") == 0


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 504, 302, 204])
def test_what_is_not_acknowledged_is_sent_again(pod: Pod, status: int) -> None:
    pod.server.behaviour = lambda _: Reply(status, {"error": "no", "reason": "whatever"})
    pod.start()
    made = pod.predict(3)
    pod.wait(lambda: pod.server.attempts >= 3, "three attempts")
    assert pod.server.stored == []
    pod.server.behaviour = lambda _: Reply()
    pod.wait_stored(3)
    assert pod.server.stored == made
    assert pod.count("dropped") == 0


def test_a_service_that_hangs_is_given_up_and_asked_again(pod: Pod) -> None:
    pod.server.hang()
    pod.start(timeout=0.2)
    made = pod.predict(2)
    pod.wait(lambda: pod.count("send_errors") >= 2, "two time-outs")
    pod.server.unhang()
    # What hung may have been stored after all: it is sent again under the same ids.
    pod.wait(lambda: pod.on_disk() == 0, "an empty outbox")
    assert set(pod.server.stored) == set(made)


def test_what_is_predicted_while_the_service_hangs_is_on_disk(pod: Pod) -> None:
    pod.server.hang()
    pod.start(timeout=30.0)
    pod.predict(1)
    assert pod.server.asked.wait(30)
    pod.predict(50)
    pod.wait(lambda: pod.on_disk() == 51, "51 on disk, none acknowledged")
    assert not pod.server.stored
    pod.server.unhang()
    pod.wait_stored(51)


def test_predictions_are_taken_without_waiting_while_the_service_hangs(pod: Pod) -> None:
    pod.server.hang()
    pod.start()
    pod.predict(1)
    assert pod.server.asked.wait(30)
    pod.predict(5_000)
    assert pod.handover is not None
    pod.server.unhang()
    pod.wait_stored(5_001)
    assert pod.count("dropped") == 0


def test_a_wait_that_the_service_asks_for_is_kept(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 30.0)
    pod.server.behaviour = lambda _: Reply(429, {}, {"Retry-After": "30"})
    pod.start()
    pod.predict(1)
    pod.wait(lambda: pod.count("send_errors") == 1, "one attempt")
    pod.predict(10)
    pod.wait(lambda: pod.on_disk() == 11, "all on disk")
    assert pod.server.attempts == 1


def test_one_refused_prediction_does_not_keep_the_others_back(pod: Pod) -> None:
    bad = {"p00003", "p00700"}

    def behaviour(batch: dict[str, Any]) -> Reply:
        ids = {one["prediction_id"] for one in batch["predictions"]}
        return REFUSAL if ids & bad else Reply()

    pod.server.behaviour = behaviour
    pod.start()
    made = pod.predict(1_000)
    pod.wait_stored(998)
    assert pod.server.stored == [one for one in made if one not in bad]
    pod.wait(lambda: pod.count("dropped") == 2, "two dropped")
    pod.wait(lambda: pod.count("delivered") == 998, "the others delivered")
    pod.wait(lambda: pod.on_disk() == 0, "an empty outbox")


def test_a_service_that_goes_while_a_batch_is_taken_apart_costs_nothing(pod: Pod) -> None:
    calls = []

    def behaviour(batch: dict[str, Any]) -> Reply:
        calls.append(batch)
        if len(calls) == 2:
            return Reply(503, {"error": "later", "reason": "shutting_down"})
        ids = {one["prediction_id"] for one in batch["predictions"]}
        return REFUSAL if "p00001" in ids else Reply()

    pod.server.behaviour = behaviour
    pod.start()
    made = pod.predict(8)
    pod.wait_stored(7)
    assert pod.server.stored == [one for one in made if one != "p00001"]
    pod.wait(lambda: pod.count("dropped") == 1, "one dropped")


def test_a_body_too_large_for_a_proxy_is_sent_in_smaller_ones(pod: Pod) -> None:
    def behaviour(batch: dict[str, Any]) -> Reply:
        too_large = len(batch["predictions"]) > 10
        return Reply(413, "<html>413 Request Entity Too Large</html>") if too_large else Reply()

    pod.server.behaviour = behaviour
    pod.start()
    made = pod.predict(100)
    pod.wait_stored(100)
    assert pod.server.stored == made
    assert pod.count("dropped") == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_that_is_not_the_logging_services_own_drops_nothing(
    pod: Pod, status: int
) -> None:
    """A proxy that is asked in the wrong protocol says 400 to everything."""
    pod.server.behaviour = lambda _: Reply(status, "<html>The plain HTTP request was sent</html>")
    pod.start()
    made = pod.predict(3)
    pod.wait(lambda: pod.count("send_errors") >= 2, "two attempts")
    assert pod.count("dropped") == 0
    pod.server.behaviour = lambda _: Reply()
    pod.wait_stored(3)
    assert pod.server.stored == made


def test_beyond_its_bound_predictions_are_dropped_and_counted(pod: Pod) -> None:
    pod.server.stop()
    pod.start(max_rows=50)
    made = pod.predict(80)
    pod.wait(lambda: pod.count("dropped") == 30, "thirty dropped")
    assert pod.on_disk() == 50
    pod.server.start()
    pod.wait_stored(50)
    assert pod.server.stored == made[:50]


def test_a_stop_hands_over_what_is_left(pod: Pod) -> None:
    pod.start()
    made = pod.predict(2_000)
    pod.stop()
    assert pod.server.stored == made
    assert pod.on_disk() == 0
    assert pod.count("backlog") == 0


def test_a_stop_without_the_service_keeps_all_on_disk_for_the_next_start(pod: Pod) -> None:
    pod.server.stop()
    pod.start()
    made = pod.predict(1_500)
    pod.stop()
    assert pod.on_disk() == 1_500
    pod.server.start()
    pod.start()
    pod.wait_stored(1_500)
    assert pod.server.stored == made


def test_a_stop_does_not_wait_for_a_pause_to_pass(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 1_000.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 1_000.0)
    pod.server.behaviour = lambda _: Reply(503, {})
    pod.start()
    pod.predict(1)
    pod.wait(lambda: pod.count("send_errors") == 1, "one attempt")
    pod.server.behaviour = lambda _: Reply()
    pod.stop()
    assert len(pod.server.stored) == 1


def test_a_disk_that_fails_does_not_hold_up_the_stop(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("bentos").propagate = True
    pod.path.mkdir()
    pod.start()
    pod.predict(3)
    pod.wait(lambda: pod.count("backlog") == 3, "three in memory")
    caplog.clear()
    pod.stop(30.0)
    assert 0 < len(caplog.records) < 10


def test_a_disk_that_comes_back_gets_what_waited_in_memory(pod: Pod) -> None:
    pod.path.mkdir()
    pod.start()
    made = pod.predict(5)
    pod.wait(lambda: pod.count("backlog") == 5, "five in memory")
    pod.path.rmdir()
    pod.wait_stored(5)
    assert pod.server.stored == made


def test_a_damaged_outbox_is_set_aside_and_a_new_one_begun(pod: Pod) -> None:
    pod.path.write_bytes(b"this is no database, and was one before the power went" * 100)
    pod.start()
    made = pod.predict(4)
    pod.wait_stored(4)
    assert pod.server.stored == made
    (aside,) = pod.directory.glob("outbox-1.db.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")


def test_an_outbox_damaged_while_it_is_used_is_set_aside_too(pod: Pod) -> None:
    pod.server.stop()
    pod.start()
    pod.predict(2_000)
    pod.wait(lambda: pod.on_disk() == 2_000, "all on disk")
    pod.stop(0.1)
    content = bytearray(pod.path.read_bytes())
    content[4_096:] = b"\xff" * (len(content) - 4_096)
    pod.path.write_bytes(content)
    pod.server.start()
    pod.start()
    made = pod.predict(3)
    pod.wait(lambda: set(made) <= set(pod.server.stored), "the new ones stored")
    assert list(pod.directory.glob("outbox-1.db.damaged-*")) != []


def test_what_a_worker_that_is_no_more_left_is_handed_over(pod: Pod) -> None:
    left = outbox_path(pod.directory, 2)
    other = Outbox(left, max_rows=10)
    other.put({"prediction_id": "left"})
    other.write()
    other.close()
    pod.start(abandoned=(left,))
    made = pod.predict(1)
    pod.wait_stored(2)
    assert set(pod.server.stored) == {"left", *made}
    assert not left.exists()


def test_a_damaged_file_of_such_a_worker_costs_only_that(pod: Pod) -> None:
    pod.server.stop()
    pod.start()
    made = pod.predict(3)
    pod.stop(0.1)
    left = outbox_path(pod.directory, 2)
    left.write_bytes(b"no database" * 1_000)
    pod.server.start()
    pod.start(abandoned=(left,))
    pod.wait_stored(3)
    assert pod.server.stored == made
    assert list(pod.directory.glob("outbox-1.db.damaged-*")) == []
    assert len(list(pod.directory.glob("outbox-2.db.damaged-*"))) == 1
