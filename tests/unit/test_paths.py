"""The services do not know each other: what one asks of the other is written down in both."""

from bentos.inference import evidence
from bentos.inference import state as inference
from bentos.inference.delivery import sender
from bentos.logging import state as logging
from bentos.logging.review.page import heat


def test_a_service_asks_the_other_one_at_its_own_paths() -> None:
    assert sender.LOG_PATH == logging.LOG_PATH
    assert evidence.EVIDENCE_PATH == logging.EVIDENCE_PATH
    assert heat.EXPLAIN_PATH == inference.EXPLAIN_PATH
