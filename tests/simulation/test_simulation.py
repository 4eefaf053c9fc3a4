"""The promises in virtual time, under faults in any order; at length: `make simulation`."""

from collections.abc import Sequence
from typing import Any

import pytest

from bentos.inference.delivery.outbox import Batch, Settlement
from bentos.inference.delivery.sender import Reply, Sender
from bentos.inference.delivery.writer import OutboxWriter
from tests.simulation.schedules import run

pytestmark = pytest.mark.slow
SCHEDULES = 150


def test_promises_are_kept_whatever_happens_in_whatever_order() -> None:
    result = run(range(1, SCHEDULES + 1))
    assert result.broken == {}
    for what in ("inference killed", "logging killed", "answer lost", "duplicated"):
        assert result.counts[what] > 10
    assert result.counts["duplicates ignored"] > 100
    assert result.counts["dead letters"] > 10
    assert result.counts["outbox damaged"] > 0


def test_a_seed_always_gives_the_same_schedule() -> None:
    assert run([7]).counts == run([7]).counts


def test_a_writer_that_answers_before_it_has_written_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = OutboxWriter._store

    def hasty(self: OutboxWriter, puts: Sequence[Any]) -> None:
        self._answer(puts, "")
        real(self, puts)

    monkeypatch.setattr(OutboxWriter, "_store", hasty)
    assert "answered and lost" in str(run(range(1, SCHEDULES), stop_at_first=True).broken)


def test_a_sender_that_gives_up_what_is_refused_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def give_up(self: Sender, batch: Batch, _reply: Reply) -> float:
        self._outbox.settle(Settlement(delivered=batch.ids, file=batch.file))
        return 0.0

    monkeypatch.setattr(Sender, "_look_closer", give_up)
    assert "answered and lost" in str(run(range(1, SCHEDULES), stop_at_first=True).broken)


def test_a_sender_that_drops_what_a_wrong_envelope_was_refused_with_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bury_all(self: Sender, batch: Batch, reply: Reply) -> float:
        return self._bury(batch, batch.ids[0], reply)

    monkeypatch.setattr(Sender, "_look_closer", bury_all)
    assert "refused without a reason" in str(run(range(1, SCHEDULES), stop_at_first=True).broken)
