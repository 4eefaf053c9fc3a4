"""Several worker processes that tell of one pod, and what happens when one of them dies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from local import fetch
from tests.support.inference import channel, predict, ready, start_inference
from tests.support.models import COLOURS, ModelStore
from tests.support.servers import Server

WORKERS = 2
GRACE_SECONDS = 1


def start(directory: Path, store: ModelStore, **env: str) -> Server:
    return start_inference(
        directory,
        store.copy(directory).tracking_uri,
        env={
            "WORKERS": str(WORKERS),
            "LOG_LEVEL": "DEBUG",
            "WORKER_GRACE_SECONDS": str(GRACE_SECONDS),
            **env,
        },
    )


@pytest.fixture(scope="module")
def respawning(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("respawning"), model_store) as running:
        yield running


@pytest.fixture(scope="module")
def containerized(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """As in an image, where BentoML starts no dead worker anew."""
    directory = tmp_path_factory.mktemp("containerized")
    with start(directory, model_store, BENTOML_CONTAINERIZED="true") as running:
        yield running


def ask_anew(server: Server, path: str) -> httpx.Response:
    """Ask on a connection of its own, which either worker may take."""
    return fetch.get(server.url + path, timeout=30.0)


def totals(server: Server) -> tuple[int, int, int]:
    """Return the predictions told by `/ready` and by two kinds of metrics, one answer each."""
    counts = {
        sample.name: sample.value
        for family in text_string_to_metric_families(ask_anew(server, "/metrics").text)
        for sample in family.samples
        if sample.labels.get("model") == COLOURS and "class_name" not in sample.labels
    }
    return (
        int(ask_anew(server, "/ready").json()["predictions_served"]),
        int(counts["inference_predictions_total"]),
        int(counts["inference_prediction_duration_seconds_count"]),
    )


def workers_that_answered(server: Server, path: str) -> set[int]:
    return {line["worker"] for line in server.events("request") if line["path"] == path}


def predict_anew(server: Server, count: int) -> None:
    for _ in range(count):
        response = fetch.post(f"{server.url}/predict", json={"data": channel(1)}, timeout=30.0)
        assert response.status_code == 200


def test_all_workers_tell_the_same_totals(respawning: Server) -> None:
    server = respawning
    server.wait_until_ready()

    def both_answered() -> bool:
        ask_anew(server, "/ready")
        return len(workers_that_answered(server, "/ready")) == WORKERS

    predict_anew(server, 30)
    server.wait_until(both_answered, "both workers answer probes")
    assert {totals(server) for _ in range(20)} == {(30, 30, 30)}
    predict_anew(server, 10)
    assert {totals(server) for _ in range(20)} == {(40, 40, 40)}


def test_a_worker_that_is_killed_is_missed_and_its_counts_stay(respawning: Server) -> None:
    server = respawning
    server.wait_until_ready()
    before = totals(server)
    workers = server.workers()
    assert len(workers) == WORKERS
    os.kill(workers[0].pid, signal.SIGKILL)
    server.wait_for_reason("worker_missing")
    assert ready(server)["workers"] == WORKERS
    server.wait_until_ready()
    assert {process.pid for process in server.workers()} != {process.pid for process in workers}
    assert {totals(server) for _ in range(20)} == {before}
    predict_anew(server, 5)
    assert {totals(server) for _ in range(20)} == {(before[0] + 5, before[1] + 5, before[2] + 5)}
    assert server.get("/health").status_code == 200


def test_gauges_of_a_killed_worker_leave_no_series_behind(respawning: Server) -> None:
    server = respawning
    server.wait_until_ready()
    text = server.get("/metrics").text
    assert 'pid="' not in text
    for name in ("inference_model_loaded", "inference_log_backlog", "inference_workers_alive"):
        assert sum(line.startswith(f"{name}{{") for line in text.splitlines()) == 1


def test_where_no_worker_is_replaced_the_pod_is_unready_and_then_not_live(
    containerized: Server,
) -> None:
    server = containerized
    server.wait_until_ready()
    assert predict(server, channel(0)).status_code == 200
    os.kill(server.workers()[0].pid, signal.SIGKILL)
    server.wait_for_reason("worker_missing")
    server.wait_for_status("/health", 500)
    content = server.get("/health").json()
    assert content["reason"] == "worker_dead"
    assert content["dead_for_seconds"] >= GRACE_SECONDS
    # What is left of the pod serves until the kubelet restarts it.
    assert predict(server, channel(0)).status_code == 200
