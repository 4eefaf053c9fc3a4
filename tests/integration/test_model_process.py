"""The model's process dies, or hangs, or loses its worker: what the service says of itself."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support.inference import channel, metric, predict, ready, start_inference
from tests.support.models import MOODY, ModelStore
from tests.support.servers import Server, wait_until

FINE = (0.0, 0.0)
STALL_SECONDS = 2
_MODULE = "bentos.inference.model_process"


def model_processes(server: Server) -> list[psutil.Process]:
    """Return the model processes that run below a service."""
    return [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and _MODULE in process.cmdline()
    ]


def model_process(server: Server) -> psutil.Process:
    (process,) = model_processes(server)
    return process


def sleeps(seconds: float) -> tuple[float, float]:
    return (seconds, 0.0)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    wait_until(
        lambda: (
            not any(
                process.is_running() and process.status() != psutil.STATUS_ZOMBIE
                for process in processes
            )
        ),
        "the end of the model process",
    )


@pytest.fixture(scope="module")
def shared(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("model-process")
    with start_inference(
        directory,
        model_store.copy(directory).tracking_uri,
        model=MOODY,
        env={
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
            "STALL_SECONDS": str(STALL_SECONDS),
        },
    ) as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    """The service after whatever happened before is over."""
    shared.wait_until_ready()
    shared.wait_for_status("/health", 200)
    return shared


def test_a_model_process_that_is_killed_comes_back_without_a_restart_of_the_worker(
    server: Server,
) -> None:
    (worker,) = server.workers()
    loads = metric(server, "inference_model_loads_total", outcome="success")
    killed = model_process(server)
    killed.send_signal(signal.SIGKILL)
    server.wait_for_reason("model_not_loaded")
    content = ready(server)
    assert content["model_loaded"] is False
    assert content["model"]["version"] is None
    assert content["load"]["error"] == "the model process was ended by SIGKILL"
    refused = predict(server, FINE)
    assert (refused.status_code, refused.json()["reason"]) == (503, "model_not_loaded")
    assert server.get("/health").status_code == 200
    server.wait_until_ready()
    assert predict(server, FINE).status_code == 200
    assert model_process(server).pid != killed.pid
    assert [process.pid for process in server.workers()] == [worker.pid]
    assert metric(server, "inference_model_loads_total", outcome="success") == loads + 1
    assert ready(server)["load"]["error"] is None


def test_a_request_that_the_dead_process_owed_is_a_500_in_the_one_shape(server: Server) -> None:
    errors = metric(server, "inference_errors_total", reason="model_failure")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(predict, server, sleeps(30.0))
        server.wait_until(
            lambda: metric(server, "inference_queue_depth") == 1, "the request is under way"
        )
        model_process(server).send_signal(signal.SIGKILL)
        response = asked.result()
    assert response.status_code == 500
    assert response.json() == {
        "error": "the model's process died meanwhile",
        "reason": "model_failure",
    }
    assert metric(server, "inference_errors_total", reason="model_failure") == errors + 1


def test_a_model_process_that_hangs_is_told_and_keeps_no_probe_waiting(server: Server) -> None:
    process = model_process(server)
    process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(predict, server, FINE)
            server.wait_for_status("/health", 500)
            content = server.get("/health").json()
            assert content["reason"] == "model_thread_stuck"
            assert server.get("/ready").status_code == 200
            assert server.get("/metrics").status_code == 200
            process.send_signal(signal.SIGCONT)
            assert asked.result().status_code == 200
    finally:
        process.send_signal(signal.SIGCONT)
    server.wait_for_status("/health", 200)


def test_a_worker_that_is_killed_takes_its_model_process_with_it(server: Server) -> None:
    left = model_processes(server)
    left[0].send_signal(signal.SIGSTOP)
    (worker,) = server.workers()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until_gone(left)


def test_the_end_of_the_service_leaves_no_model_process_behind(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("ending")
    with start_inference(
        directory, model_store.copy(directory).tracking_uri, env={"WORKERS": "2"}
    ) as server:
        server.wait_until_ready()
        assert predict(server, channel(0)).status_code == 200
        left = model_processes(server)
        assert len(left) == 2
        assert server.stop() == 0
        wait_until_gone(left)
