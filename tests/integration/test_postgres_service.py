"""The logging service on PostgreSQL, as it is deployed: two replicas, one database."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.metrics import samples
from tests.support.postgres import PASSWORD, PostgresServer, query
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service, wait_until

TARGET = "bentos.logging.service:LoggingService"


@pytest.fixture(scope="module")
def replicas(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Server]]:
    """Two running replicas of the service on one database."""
    url = postgres.url(postgres.make_database())
    settings = {"DATABASE_URL": url, "LOG_LEVEL": "DEBUG"}
    with (
        start_service(TARGET, tmp_path_factory.mktemp("one"), env=settings) as one,
        start_service(TARGET, tmp_path_factory.mktemp("other"), env=settings) as other,
    ):
        one.wait_until_ready()
        other.wait_until_ready()
        yield [one, other]


def values(server: Server, name: str) -> dict[str, float]:
    """Return the values of a metric on the probe port, by their labels but the service."""
    return {
        ",".join(value for key, value in sample.labels.items() if key != "service"): sample.value
        for sample in samples(server.probe("/metrics").text, name)
    }


def test_counters_of_replicas_can_be_summed_and_stats_are_of_all(replicas: list[Server]) -> None:
    one, other = replicas
    shared = [prediction(), prediction(defect_detected=False)]
    assert one.post("/log", json=batch(*shared, prediction())).json()["predictions_stored"] == 3
    again = other.post("/log", json=batch(*shared, prediction())).json()
    assert (again["predictions_stored"], again["duplicates"]) == (1, 2)
    stats = [server.get("/stats").json() for server in replicas]
    stored = [values(server, "logging_predictions_total")[""] for server in replicas]

    assert stats[0] == stats[1]
    assert stats[0]["total_predictions"] == sum(stored) == 4
    assert [server.get("/ready").json()["predictions_logged"] for server in replicas] == [3, 1]


def test_no_secret_is_in_logs_answers_or_process_lists(replicas: list[Server]) -> None:
    server = replicas[0]
    processes = [psutil.Process(server.process.pid)]
    processes += processes[0].children(recursive=True)
    shown = [server.log, *(" ".join(one.cmdline()) for one in processes)]
    shown += [server.get(path).text for path in ("/health", "/ready", "/metrics", "/stats")]

    assert '"database":"postgresql://127.0.0.1:' in server.log.replace('": "', '":"')
    assert len(shown) > 6
    for text in shown:
        assert PASSWORD not in text
        assert "5ecret" not in text


def test_a_database_that_dies_makes_replicas_unready_until_it_is_back(
    replicas: list[Server], postgres: PostgresServer
) -> None:
    one, other = replicas
    postgres.kill()
    for server in replicas:
        server.wait_for_reason("database_not_accessible", seconds=15)
        refused = server.post("/log", json=batch(prediction()))
        assert (refused.status_code, refused.json()["reason"]) == (503, "database_not_accessible")
        assert server.get("/stats").status_code == 503
        assert server.get("/health").status_code == 200
        assert PASSWORD not in server.log
    assert one.get("/ready").json()["database_failure"] == "unreachable"
    postgres.start()
    for server in replicas:
        server.wait_until_ready(seconds=30)
    assert other.post("/log", json=batch(prediction())).status_code == 200
    # The pool of the readers connects again by itself.
    wait_until(lambda: one.get("/stats").status_code == 200, "/stats answers", seconds=30)


def test_a_database_that_hangs_makes_a_replica_unready_and_not_dead(
    replicas: list[Server], postgres: PostgresServer
) -> None:
    server = replicas[0]
    processes = psutil.Process(postgres.pid).children(recursive=True)
    processes.append(psutil.Process(postgres.pid))
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        server.wait_for_reason("database_not_accessible", seconds=30)
        assert server.probe("/ready").json()["reason"] == "database_not_accessible"
        assert server.probe("/health").status_code == 200
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
    server.wait_until_ready(seconds=30)
    assert server.post("/log", json=batch(prediction())).status_code == 200


def test_a_replica_that_starts_before_its_database_becomes_ready_when_it_is_there(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    name = "late"
    settings = {"DATABASE_URL": postgres.url(name)}
    with start_service(TARGET, tmp_path, env=settings) as server:
        server.wait_for_reason("database_not_initialized")
        query(postgres.url(), f"CREATE DATABASE {name}")
        server.wait_until_ready(seconds=30)
        assert server.post("/log", json=batch(prediction())).status_code == 200
        assert server.stop() == 0
        assert PASSWORD not in server.log
    assert query(postgres.url(name), "SELECT count(*) FROM predictions") == [(1,)]
