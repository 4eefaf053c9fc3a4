"""An orderly end: drain, requests in flight, and the outbox."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bentos.inference.delivery.outbox import outbox_path
from tests.support.inference import metric, predict, start_inference
from tests.support.log_server import LogServer, Reply
from tests.support.models import FINE, MOODY, ModelStore
from tests.support.outboxes import rows_in
from tests.support.servers import Server

DRAIN_SECONDS = 3


def start(directory: Path, store: ModelStore, **env: str) -> Server:
    return start_inference(
        directory,
        store.copy(directory).tracking_uri,
        model=MOODY,
        env={
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
            # Also as long as it tries to hand over what the logging service refuses.
            "SHUTDOWN_SECONDS": "8",
            **env,
        },
    )


@pytest.fixture
def logging() -> Iterator[LogServer]:
    with LogServer() as running:
        yield running


def in_outbox(directory: Path) -> int | None:
    return rows_in(outbox_path(directory / "outbox", 1))


def test_sigterm_drains_answers_what_is_in_flight_and_loses_no_prediction(
    model_store: ModelStore, tmp_path: Path, logging: LogServer
) -> None:
    logging.behaviour = lambda _: Reply(503, {"error": "no", "reason": "shutting_down"})
    with (
        start(tmp_path, model_store, LOGGING_URL=logging.url) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        server.wait_until_ready()
        predicted = [predict(server, FINE).json()["prediction_id"] for _ in range(10)]
        # It is in the model before the signal and comes out after the port has closed.
        slow = pool.submit(
            httpx.post,
            f"{server.url}/predict",
            json={"data": [DRAIN_SECONDS + 2.0, 0.0]},
            timeout=60.0,
            trust_env=False,
        )
        server.wait_until(
            lambda: metric(server, "inference_queue_depth") == 1, "it is in the model"
        )
        workers = server.workers()
        server.terminate()
        server.wait_for_reason("shutting_down")
        assert server.get("/health").status_code == 200
        # Clients that have not heard of it yet are still served.
        waiting = pool.submit(
            httpx.post,
            f"{server.url}/predict",
            json={"data": list(FINE)},
            timeout=60.0,
            trust_env=False,
        )
        answers = [future.result() for future in (slow, waiting)]
        assert [answer.status_code for answer in answers] == [200, 200]
        predicted += [answer.json()["prediction_id"] for answer in answers]
        assert server.wait(seconds=60) == 0
        assert not any(worker.is_running() for worker in workers)
    assert in_outbox(tmp_path) == len(predicted) == 12
    # The next start hands over what this one could not.
    logging.behaviour = lambda _: Reply()
    with start(tmp_path, model_store, LOGGING_URL=logging.url) as server:
        server.wait_until(lambda: len(logging.stored) == 12, "all handed over")
        assert sorted(logging.stored) == sorted(predicted)
        server.wait_until(lambda: in_outbox(tmp_path) == 0, "an empty outbox")
        # A stop that nothing holds up is one too, and ends with success.
        server.wait_until_ready()
        assert server.stop(seconds=60) == 0
