"""The model's process dies, or hangs, or loses its worker: what the service says of itself."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support.inference import channel, metric, predict, ready, start_inference
from tests.support.models import FAILS, FINE, MOODY, ModelStore, sleeps
from tests.support.servers import Server, wait_until

STALL_SECONDS = 2
_MODULE = "bentos.inference.model"


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
            "REQUEST_TIMEOUT_SECONDS": "120",
        },
    ) as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    """The service after whatever happened before is over."""
    shared.wait_until_ready()
    shared.wait_for_status("/health", 200)
    return shared


@pytest.mark.case(50)
def test_a_model_process_that_is_killed_comes_back_without_a_restart_of_the_worker(
    server: Server,
) -> None:
    """`kill -9` of the model process: requests that arrive meanwhile wait for the next one."""
    (worker,) = server.workers()
    loads = metric(server, "inference_model_loads_total", outcome="success")
    killed = model_process(server)
    killed.send_signal(signal.SIGKILL)
    server.wait_for_reason("model_not_loaded")
    content = ready(server)
    assert content["model_loaded"] is False
    assert content["model"]["version"] is None
    assert content["load"]["error"] == "the model process was ended by SIGKILL"
    assert server.get("/health").status_code == 200
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: predict(server, FINE, timeout=120), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    server.wait_until_ready()
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


@pytest.mark.case(33)
def test_a_model_that_answers_nothing_any_more_gets_a_new_process(server: Server) -> None:
    """A GPU's context that died: after three failures of the warm-up input a new process comes."""
    broken = model_process(server)
    loads = metric(server, "inference_model_loads_total", outcome="success")
    statuses = [predict(server, FAILS).status_code for _ in range(3)]
    assert statuses == [500, 500, 500]
    wait_until_gone([broken])
    server.wait_until(
        lambda: metric(server, "inference_model_loads_total", outcome="success") == loads + 1,
        "another load",
    )
    assert predict(server, FINE).status_code == 200
    assert model_process(server).pid != broken.pid


@pytest.mark.case(51)
def test_a_model_process_that_hangs_is_named_first_and_keeps_no_probe_waiting(
    server: Server,
) -> None:
    """`kill -STOP` of the model process: `model_thread_stuck` comes first, then what follows."""
    process = model_process(server)
    process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(predict, server, FINE)
            server.wait_for_status("/health", 500)
            content = server.get("/health").json()
            assert content["reason"] == "model_thread_stuck"
            assert ready(server)["reason"] == "model_thread_stuck"
            assert server.get("/metrics").status_code == 200
            process.send_signal(signal.SIGCONT)
            assert asked.result().status_code == 200
    finally:
        process.send_signal(signal.SIGCONT)
    server.wait_for_status("/health", 200)


@pytest.mark.case(51)
def test_a_model_process_that_hangs_is_noticed_without_a_request(server: Server) -> None:
    """`kill -STOP` of an idle model process: `/ready` says so before it blames MLflow."""
    process = model_process(server)
    process.send_signal(signal.SIGSTOP)
    try:
        server.wait_until(lambda: server.get("/ready").status_code == 503, "it is noticed")
        content = ready(server)
        assert content["reason"] == "model_thread_stuck"
        assert content["reasons"][0] == "model_thread_stuck"
    finally:
        process.send_signal(signal.SIGCONT)
    server.wait_until_ready()


def test_a_worker_that_is_killed_takes_its_model_process_with_it(server: Server) -> None:
    left = model_processes(server)
    left[0].send_signal(signal.SIGSTOP)
    (worker,) = server.workers()
    os.kill(worker.pid, signal.SIGKILL)
    wait_until_gone(left)


@pytest.mark.case(56)
def test_the_end_of_the_service_leaves_no_model_process_behind_and_each_line_it_logged_is_json(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The inference service from its start to its end: every line it logs is one JSON object."""
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
        assert server.lines_that_are_no_json() == []
