"""The outbox of a running service: full, refused, damaged, and what its probes say of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.inference.delivery.outbox import outbox_path
from tests.support.inference import channel, metric, predict, start_inference
from tests.support.log_server import LogServer, Reply, refusal
from tests.support.models import ModelStore
from tests.support.outboxes import ids_in, rows_in
from tests.support.servers import ROOT, Server

ROWS = 5
TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def logging() -> Iterator[LogServer]:
    with LogServer() as running:
        running.authorized = lambda bearer: bearer == TOKEN
        yield running


@pytest.fixture(scope="module")
def outboxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outboxes")


@pytest.fixture(scope="module")
def running(
    model_store: ModelStore,
    tmp_path_factory: pytest.TempPathFactory,
    outboxes: Path,
    logging: LogServer,
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("service")
    env = {
        "LOGGING_URL": logging.url,
        "LOGGING_TOKEN": f" {TOKEN}\r\n",
        "OUTBOX_PATH": str(outboxes),
        "OUTBOX_MAX_ROWS": str(ROWS),
        "SHUTDOWN_SECONDS": "2",
    }
    tracking_uri = model_store.copy(directory).tracking_uri
    with start_inference(directory, tracking_uri, env=env) as server:
        yield server


@pytest.fixture
def server(running: Server, logging: LogServer, outboxes: Path) -> Server:
    logging.behaviour = lambda _: Reply()
    running.wait_until_ready()
    running.wait_until(lambda: rows_in(outbox_path(outboxes, 1)) == 0, "an empty outbox")
    return running


@pytest.mark.case(36)
def test_a_token_with_a_line_end_is_sent_without_it_and_logged_nowhere(
    server: Server, logging: LogServer
) -> None:
    """LOGGING_TOKEN ends in a line end: predictions are delivered, the token is in no log line."""
    (made,) = [predict(server, channel(0)).json()["prediction_id"]]
    server.wait_until(lambda: made in logging.stored, "it to be stored")
    assert logging.headers[-1]["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in server.log


@pytest.mark.case(17)
def test_a_full_outbox_is_told_by_answers_and_probes_until_it_is_not(
    server: Server, logging: LogServer
) -> None:
    """OUTBOX_MAX_ROWS wait: 503 `outbox_full`, on both ports, until the logging service is back."""
    logging.behaviour = lambda _: Reply(503, {"error": "later", "reason": "shutting_down"})
    made = [predict(server, channel(0)).json()["prediction_id"] for _ in range(ROWS)]
    refused = predict(server, channel(0))
    assert (refused.status_code, refused.json()["reason"]) == (503, "outbox_full")
    assert refused.headers["Retry-After"] == "1"
    server.wait_for_reason("outbox_full")
    server.wait_until(lambda: server.probe("/ready").status_code == 503, "the probe port's 503")
    probed = server.probe("/ready").json()
    assert probed["reason"] == "outbox_full"
    assert probed["log_backlog"] == ROWS
    assert server.get("/health").status_code == 200
    logging.behaviour = lambda _: Reply()
    server.wait_until_ready()
    server.wait_until(lambda: set(made) <= set(logging.stored), "all to be stored")
    assert metric(server, "inference_log_dropped_total") == 0
    assert metric(server, "inference_rejected_total", reason="outbox_full") >= 1


@pytest.mark.case(14)
def test_what_is_refused_for_good_is_kept_counted_and_can_be_sent_again(
    server: Server, logging: LogServer, outboxes: Path
) -> None:
    """A prediction is refused for good: a dead letter with the reason, sent again by command."""
    logging.behaviour = lambda batch: refusal(len(batch["predictions"]) - 1)
    (made,) = [predict(server, channel(0)).json()["prediction_id"]]
    server.wait_until(lambda: metric(server, "inference_log_dead_letters") == 1, "a dead letter")
    assert metric(server, "inference_log_refused_total") >= 1
    assert ids_in(outbox_path(outboxes, 1), "dead_letters") == [made]
    assert "confidence: no" in command("list", outboxes)
    logging.behaviour = lambda _: Reply()
    command("resend", outboxes, "--all")
    server.wait_until(lambda: made in logging.stored, "it to be stored")
    server.wait_until(lambda: metric(server, "inference_log_dead_letters") == 0, "no dead letter")


def command(name: str, outboxes: Path, *arguments: str) -> str:
    """Run the operator's command, and return what it printed."""
    module = "bentos.inference.delivery"
    done = subprocess.run(
        [sys.executable, "-m", module, name, "--path", str(outboxes), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
