"""Which predictions leave the outbox for which answer, and when they are sent again."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bentos.inference.delivery import sender as module
from bentos.inference.delivery.outbox import Batch, Outbox, Settlement
from bentos.inference.delivery.sender import GATHER_SECONDS, Reply, Sender
from bentos.inference.state import InferenceState

SUCCESS = Reply(200, success=True)


def refused(index: int | None, *, status: int = 400) -> Reply:
    field = "timestamp" if index is None else f"predictions[{index}].timestamp"
    return Reply(status, f"{status} {field}", reason="bad_input", field=field)


class World:
    """A sender on a real outbox, with a logging service that answers as a function says."""

    def __init__(self, directory: Path) -> None:
        self.outbox = Outbox(directory / "outbox-1.db")
        self.state = InferenceState(directory, labels={"model": "m", "stage": "s"})
        self.answer: Callable[[list[str]], Reply] = lambda _: SUCCESS
        self.bodies: list[dict[str, Any]] = []
        self.stored: list[str] = []
        self.writable = True
        self.sender = Sender(
            self, self, self.state, edge_device_id="edge-7", timeout_seconds=5.0, clock=lambda: 7.0
        )

    def put(self, *ids: int | str) -> list[str]:
        names = [str(one) for one in ids]
        self.outbox.add([orjson.dumps({"prediction_id": name}) for name in names])
        return names

    def read(self, *, after: int, rows: int, limit_bytes: int) -> Batch | None:
        return self.outbox.read(after=after, rows=rows, limit_bytes=limit_bytes)

    def settle(self, settlement: Settlement) -> bool:
        if self.writable:
            self.outbox.apply(settlement)
        return self.writable

    def post(self, body: bytes, *, seconds: float) -> Reply:
        self.bodies.append(orjson.loads(body))
        ids = [one["prediction_id"] for one in self.bodies[-1]["predictions"]]
        reply = self.answer(ids)
        if reply.success:
            self.stored += ids
        return reply

    def run(self, *, attempts: int = 1_000) -> list[float]:
        """Send until nothing waits, or so often; return the pauses."""
        pauses = []
        for _ in range(attempts):
            pause = self.sender.step()
            if pause is None:
                break
            pauses.append(pause)
        return pauses

    @property
    def waiting(self) -> int:
        return self.outbox.count().waiting

    @property
    def dead(self) -> dict[str, str]:
        return {
            orjson.loads(one.prediction)["prediction_id"]: one.reason
            for one in self.outbox.dead_letters(rows=10_000)
        }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.outbox.close()


def test_nothing_is_sent_where_nothing_waits(world: World) -> None:
    assert world.sender.step() is None
    assert world.bodies == []


def test_what_waits_is_sent_oldest_first_in_batches(world: World) -> None:
    ids = world.put(*range(1_200))
    assert world.run() == [0.0, 0.0, GATHER_SECONDS]
    assert world.stored == ids
    assert [body["batch_size"] for body in world.bodies] == [500, 500, 200]
    assert world.waiting == 0


@pytest.mark.case(14)
def test_the_envelope_does_not_say_what_the_time_is(world: World) -> None:
    """The inference host's clock stands at 1970: the request names no time that could be wrong."""
    world.put(1)
    world.run()
    (body,) = world.bodies
    assert body.keys() == {"batch_size", "edge_device_id", "predictions"}
    assert body["edge_device_id"] == "edge-7"


def test_a_prediction_that_is_named_is_a_dead_letter_at_once(world: World) -> None:
    ids = world.put(*range(10))
    world.answer = lambda sent: refused(sent.index("3")) if "3" in sent else SUCCESS
    world.run()
    assert world.stored == [one for one in ids if one != "3"]
    assert len(world.bodies) == 2
    assert world.dead == {"3": "400 predictions[3].timestamp"}
    assert world.outbox.dead_letters()[0].refused_at == 7.0


@pytest.mark.case(20)
def test_a_conflict_costs_only_the_prediction_that_has_it(world: World) -> None:
    """An id is stored with another content: that prediction is a dead letter, others are stored."""
    world.put("a", "b", "c")
    conflict = Reply(409, "409", reason="conflict", field="predictions[1].prediction_id")
    world.answer = lambda sent: conflict if "b" in sent else SUCCESS
    world.run()
    assert world.stored == ["a", "c"]
    assert list(world.dead) == ["b"]


@pytest.mark.case(14)
@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_fault_of_the_envelope_is_not_the_predictions(world: World, status: int) -> None:
    """Every request is refused for a field of the envelope: all waits, and nothing is dropped."""
    ids = world.put(*range(40))
    world.answer = lambda _: refused(None, status=status)
    pauses = world.run(attempts=200)
    assert world.waiting == 40
    assert world.dead == {}
    assert max(pauses) > 10
    world.answer = lambda _: SUCCESS
    world.run()
    assert sorted(world.stored) == sorted(ids)


@pytest.mark.parametrize("bad", [{0}, {39}, {7, 8}, {0, 1, 2, 3, 4, 5, 6}])
def test_predictions_that_are_refused_without_being_named_are_found(
    world: World, bad: set[int]
) -> None:
    ids = world.put(*range(40))
    names = {str(one) for one in bad}
    world.answer = lambda sent: refused(None) if names & {*sent} else SUCCESS
    world.run()
    # Only what is accepted beside a refusal proves that the request as such is in order.
    for later in ("later", "still later"):
        ids += world.put(later)
        world.run()
    assert sorted(world.stored) == sorted({*ids} - names)
    assert world.dead.keys() == names
    assert world.waiting == 0


@pytest.mark.parametrize("status", [0, 204, 302, 401, 403, 404, 429, 500, 502, 503, 504])
def test_what_is_no_refusal_is_sent_again(world: World, status: int) -> None:
    ids = world.put(*range(3))
    world.answer = lambda _: Reply(status, str(status), reason="whatever")
    pauses = world.run(attempts=60)
    assert world.waiting == 3
    assert world.dead == {}
    assert max(pauses) <= module.LONGEST_PAUSE_SECONDS
    assert world.state.log_send_errors.value > 2
    world.answer = lambda _: SUCCESS
    world.run()
    assert sorted(world.stored) == sorted(ids)


def test_a_success_that_is_not_the_logging_services_own_is_none(world: World) -> None:
    world.put(1)
    world.answer = lambda _: Reply(200, "<html>Log in to the network</html>")
    world.run(attempts=3)
    assert world.waiting == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_by_something_in_between_drops_nothing(world: World, status: int) -> None:
    world.put(*range(3))
    world.answer = lambda _: Reply(status, "<html>a proxy's</html>")
    world.run(attempts=100)
    assert world.waiting == 3
    assert world.dead == {}


def test_a_body_too_large_for_a_proxy_is_sent_in_smaller_ones(world: World) -> None:
    ids = world.put(*range(100))
    world.answer = lambda sent: Reply(413, "<html>") if len(sent) > 10 else SUCCESS
    world.run()
    assert world.stored == ids
    assert world.dead == {}


@pytest.mark.case(15)
def test_a_prediction_that_is_too_large_alone_is_a_dead_letter(world: World) -> None:
    """One record is larger than the logging service takes: it is kept with the reason."""
    world.put(*range(20))
    world.answer = lambda sent: (
        Reply(413, "413 too large", reason="too_large") if "5" in sent else SUCCESS
    )
    world.run()
    assert world.dead == {"5": "413 too large"}
    assert len(world.stored) == 19


def test_a_prediction_too_large_for_a_proxy_is_a_dead_letter_once_others_pass(
    world: World,
) -> None:
    world.put(*range(20))
    world.answer = lambda sent: Reply(413, "<html>") if "5" in sent else SUCCESS
    world.run()
    assert world.dead == {"5": "413 <html>"} or list(world.dead) == ["5"]
    assert len(world.stored) == 19


def test_a_prediction_on_which_the_service_fails_keeps_no_other_back(world: World) -> None:
    world.put(*range(20))
    world.answer = lambda sent: (
        Reply(500, "500", reason="internal_error") if "5" in sent else SUCCESS
    )
    world.run(attempts=100)
    assert len(world.stored) == 19
    assert world.waiting == 1
    assert world.dead == {}
    world.put("new")
    world.run(attempts=20)
    assert world.stored[-1] == "new"


def test_pauses_grow_and_a_success_ends_them(world: World) -> None:
    world.put(1)
    world.answer = lambda _: Reply(503)
    first = world.run(attempts=6)
    assert all(
        longest / 2 <= pause <= longest
        for pause, longest in zip(first, (0.5, 1, 2, 4, 8, 16), strict=True)
    )
    world.answer = lambda _: SUCCESS
    world.run()
    world.put(2)
    world.answer = lambda _: Reply(503)
    assert world.run(attempts=1)[0] <= 0.5


def test_a_wait_that_the_service_asks_for_is_kept_up_to_a_bound(world: World) -> None:
    world.put(1)
    world.answer = lambda _: Reply(429, reason="queue_full", retry_after=20.0)
    assert world.run(attempts=1) == [20.0]
    world.answer = lambda _: Reply(429, reason="queue_full", retry_after=1e9)
    assert world.run(attempts=1) == [30.0]


def test_what_is_delivered_and_cannot_be_removed_is_sent_again(world: World) -> None:
    world.put(1)
    world.writable = False
    assert world.run(attempts=2)
    assert world.waiting == 1
    assert world.state.log_send_errors.value == 2
    world.writable = True
    world.run()
    assert world.waiting == 0


def test_an_outbox_that_cannot_be_read_is_an_error(world: World) -> None:
    world.outbox.close()
    with pytest.raises(sqlite3.Error):
        world.sender.step()


def test_ids_of_another_file_are_not_mistaken_for_those_passed_over(
    world: World, tmp_path: Path
) -> None:
    world.put(*range(5))
    world.answer = lambda sent: Reply(500, reason="internal_error") if "0" in sent else SUCCESS
    world.run(attempts=20)
    world.outbox.close()
    world.outbox = Outbox(tmp_path / "outbox-2.db")
    world.put("n0", "n1")
    world.run(attempts=20)
    assert {"n0", "n1"} <= {*world.stored}
