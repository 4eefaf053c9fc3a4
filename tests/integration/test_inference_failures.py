"""What the inference service says when its model fails, is slow, or hangs."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local import fetch
from tests.support.inference import metric, predict, ready, start_inference
from tests.support.models import FAILS, FINE, MOODY, REJECTED, ModelStore, sleeps
from tests.support.servers import Server

STALL_SECONDS = 2
QUEUE_SIZE = 4


@pytest.fixture(scope="module")
def shared(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("failures")
    with start_inference(
        directory,
        model_store.copy(directory).tracking_uri,
        model=MOODY,
        env={
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
            "READINESS_REQUIRES_MLFLOW": "startup",
            "MAX_BATCH_SIZE": "1",
            "QUEUE_SIZE": str(QUEUE_SIZE),
            "REQUEST_TIMEOUT_SECONDS": "1.5",
            "STALL_SECONDS": str(STALL_SECONDS),
            "ERROR_WINDOW_SECONDS": "8",
        },
    ) as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    """The service after whatever happened before is over."""
    shared.wait_until_ready()
    shared.wait_for_status("/health", 200)
    shared.wait_until(lambda: predict(shared, FINE).status_code == 200, "the model is free")
    return shared


@pytest.fixture
def calm(server: Server) -> Server:
    """The service once the errors of earlier tests have left the window."""
    server.wait_until(
        lambda: metric(server, "inference_error_ratio") == 0, "earlier errors left the window"
    )
    return server


def test_a_model_that_fails_is_a_500_in_the_one_shape(server: Server) -> None:
    before = metric(server, "inference_errors_total", reason="model_failure")
    errors = ready(server)["errors"]
    response = predict(server, FAILS, headers={"X-Request-ID": "the-failed-one"})
    assert response.status_code == 500
    assert response.json() == {
        "error": "the model failed on this input",
        "reason": "model_failure",
    }
    assert metric(server, "inference_errors_total", reason="model_failure") == before + 1
    assert ready(server)["errors"] == errors + 1
    server.wait_until(lambda: "in no mood" in server.log, "the cause is in the log")
    (line,) = [e for e in server.events("request") if e["request_id"] == "the-failed-one"]
    assert line["level"] == "error"
    assert "ValueError: the model is in no mood for this" in line["exception"]


@pytest.mark.case(8)
def test_an_input_that_the_model_cannot_bear_is_a_422_and_never_makes_a_pod_unready(
    server: Server,
) -> None:
    """25 inputs that the model raises on, while it answers others: 422, not counted as failures."""
    errors = ready(server)["errors"]
    rejected = metric(server, "inference_rejected_total", reason="model_rejected_input")
    for _ in range(25):
        response = predict(server, REJECTED)
        assert response.status_code == 422
        assert response.json()["reason"] == "model_rejected_input"
    assert predict(server, FINE).status_code == 200
    content = ready(server)
    assert content["status"] == "ready"
    assert content["errors"] == errors
    assert (
        metric(server, "inference_rejected_total", reason="model_rejected_input") == rejected + 25
    )


def test_a_model_that_takes_too_long_is_a_504(server: Server) -> None:
    response = predict(server, sleeps(1.8))
    assert response.status_code == 504
    assert response.json() == {"error": "no answer within 1.5 seconds", "reason": "timeout"}


def test_a_model_thread_that_hangs_turns_health_to_500_until_it_is_free(server: Server) -> None:
    assert predict(server, sleeps(STALL_SECONDS + 4)).status_code == 504
    server.wait_for_status("/health", 500)
    content = server.get("/health").json()
    assert content["status"] == "unhealthy"
    assert content["reason"] == "model_thread_stuck"
    assert content["stuck_for_seconds"] >= STALL_SECONDS
    # The probes answer all the while; what they answer is the only thing that changes.
    assert server.get("/metrics").status_code == 200
    server.wait_for_status("/health", 200)


def test_beyond_the_queue_requests_are_told_to_come_again(server: Server) -> None:
    def ask(_: int) -> httpx.Response:
        return predict(server, sleeps(1.0))

    with ThreadPoolExecutor(3 * QUEUE_SIZE) as pool:
        responses = list(pool.map(ask, range(3 * QUEUE_SIZE)))
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) >= QUEUE_SIZE
    for response in refused:
        assert response.json()["reason"] == "queue_full"
        assert response.headers["Retry-After"] == "1"
    assert metric(server, "inference_rejected_total", reason="queue_full") >= len(refused)


def test_more_than_half_of_failures_makes_the_service_unready_and_it_recovers_by_itself(
    server: Server,
) -> None:
    for _ in range(15):
        statuses = [predict(server, data).status_code for data in (FAILS, FAILS, FINE)]
        assert statuses == [500, 500, 200]
    content = ready(server)
    assert content["reason"] == "high_error_rate"
    assert content["error_rate"] > 0.5
    assert content["requests_in_window"] >= 20
    assert content["model_loaded"] is True
    assert server.get("/readyz").status_code == 503
    assert server.get("/health").status_code == 200
    # It is served all the same: a pod that nobody asks any more has to recover too.
    assert metric(server, "inference_unready", reason="high_error_rate") == 1
    server.wait_until_ready()
    assert metric(server, "inference_unready", reason="high_error_rate") == 0


def test_slow_clients_are_refused_and_never_make_the_service_unready(calm: Server) -> None:
    errors = ready(calm)["errors"]

    def dawdle(_: int) -> bytes:
        with socket.create_connection(("127.0.0.1", calm.port), timeout=30) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = b""
            while part := connection.recv(4_096):  # until the service closes the connection
                answer += part
            return answer

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(dawdle, range(25)))
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}
    assert all(b'"reason":"body_timeout"' in answer for answer in answers)
    assert calm.get("/ready").status_code == 200
    assert ready(calm)["errors"] == errors


def test_probes_answer_while_the_model_is_busy(calm: Server) -> None:
    answers = 0
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(predict, calm, sleeps(1.2))
        while not busy.done():
            assert fetch.get(f"{calm.url}/ready").status_code == 200
            assert fetch.get(f"{calm.url}/health").status_code == 200
            answers += 1
    assert answers > 1
