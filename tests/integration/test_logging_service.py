"""The logging service as it is deployed: `bentoml serve`, real files, real signals."""

import fcntl
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.logging.state import LoggingState
from local import fetch
from tests.support.disks import immutable
from tests.support.logging_store import locked_by_another_process, opened, stored_ids
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service, wait_until

TARGET = "bentos.logging.service:LoggingService"
TOKEN = "correct horse battery staple"


def start(
    directory: Path, *, port: int | None = None, output: int | None = None, **env: str
) -> Server:
    """Start the service with its database in the directory."""
    path = directory / "data" / "predictions.db"
    settings = {"DATABASE_PATH": str(path)} | env
    return start_service(TARGET, directory, env=settings, port=port, output=output)


def database(directory: Path) -> Path:
    """Return the path of the database of a service started in the directory."""
    return directory / "data" / "predictions.db"


def metrics(server: Server) -> dict[str, float]:
    """Return the samples of a scrape that have no label but the service."""
    text = server.get("/metrics").text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if set(sample.labels) == {"service"}
    }


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(shared_directory: Path) -> Iterator[Server]:
    """A running service for the tests after which it is as it was before."""
    with start(shared_directory, MAX_BODY_BYTES="100000") as server:
        server.wait_until_ready()
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running service of the test's own."""
    with start(tmp_path) as running:
        running.wait_until_ready()
        yield running


class TestRoutes:
    def test_health_names_the_service_and_its_uptime(self, shared: Server) -> None:
        body = shared.get("/health").json()

        assert body["status"] == "healthy"
        assert body["service"] == "logging-service"
        assert body["timestamp"].endswith("+00:00")
        assert body["uptime_seconds"] >= 0

    def test_ready_tells_what_was_logged(self, shared: Server) -> None:
        before = shared.get("/ready").json()
        shared.post("/log", json=batch(prediction(), prediction(defect_detected=False)))
        after = shared.get("/ready").json()

        assert after["status"] == "ready"
        assert after["db_initialized"] is True
        assert after["predictions_logged"] == before["predictions_logged"] + 2
        assert after["defects_detected"] == before["defects_detected"] + 1
        assert after["errors"] == before["errors"]
        assert after["last_prediction"].endswith("+00:00")

    def test_a_stored_batch_is_answered_with_its_counts(self, shared: Server) -> None:
        body = batch(prediction(), prediction())
        first = shared.post("/log", json=body, headers={"X-Request-ID": "line-4"})
        again = shared.post("/log", json=body)

        assert first.status_code == 200
        assert first.headers["x-request-id"] == "line-4"
        answer = first.json()
        assert answer.pop("timestamp").endswith("+00:00")
        assert answer == {
            "status": "success",
            "predictions_stored": 2,
            "duplicates": 0,
            "batch_size": 2,
        }
        assert again.json()["predictions_stored"] == 0
        assert again.json()["duplicates"] == 2

    @pytest.mark.case(14)
    def test_a_batch_whose_own_time_is_senseless_is_stored_and_the_answer_says_so(
        self, shared: Server
    ) -> None:
        """A batch of a host whose clock is wrong says it was sent "yesterday": its rows count."""
        answer = shared.post("/log", json=batch(prediction(timestamp=60.0), timestamp="yesterday"))

        assert answer.json()["predictions_stored"] == 1
        assert answer.json()["warnings"][0].startswith("timestamp: expected Unix seconds")

    def test_a_prediction_comes_back_as_it_was_sent(self, shared: Server) -> None:
        sent = prediction(
            timestamp=1_500_000_000.25,
            edge_device_id="round-trip",
            processing_notes="dim light, 'quoted' \u2603",
            confidence_scores={"scratch": 0.93, "none": 0.07},
            detections=[{"class": "scratch", "confidence": 0.93, "uncertain": True}],
        )
        shared.post("/log", json=batch(sent), headers={"X-Request-ID": "traced"})
        query = {"edge_device_id": "round-trip"}
        (kept,) = shared.get("/predictions", params=query).json()["predictions"]

        sent["detections"][0]["bbox"] = None
        assert {name: kept[name] for name in sent} == sent
        assert kept["request_id"] == "traced"

    def test_log_stands_in_the_openapi_page_and_answers_bentomls_client(
        self, shared: Server
    ) -> None:
        import bentoml

        assert "/log" in shared.get("/docs.json").json()["paths"]
        with bentoml.SyncHTTPClient(shared.url) as client:
            answer = client.log(**batch(prediction()))
        assert answer["predictions_stored"] == 1

    def test_bentomls_own_probes_agree(self, shared: Server) -> None:
        assert shared.get("/livez").status_code == 200
        assert shared.get("/readyz").status_code == 200


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "the body is empty"),
            (b"{", "not valid JSON"),
            (
                batch(prediction(), prediction(image_id=None)),
                "predictions[1].image_id: expected a text of 1 to 512 characters, it is missing",
            ),
            (
                batch(prediction(inference_time_ms=float("nan"))),
                "predictions[0].inference_time_ms: expected a finite number, got NaN",
            ),
        ],
    )
    def test_a_400_names_the_field_and_what_was_expected(
        self, shared: Server, body: Any, says: str
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = shared.post("/log", content=content)

        assert answer.status_code == 400
        assert answer.json()["reason"] == "bad_input"
        assert says in answer.json()["error"]
        assert shared.get("/ready").status_code == 200

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("limit=1001", "limit"),
            ("device=edge-1", "query"),
        ],
    )
    def test_a_parameter_that_makes_no_sense_is_named(
        self, shared: Server, query: str, names: str
    ) -> None:
        answer = shared.get(f"/predictions?{query}")

        assert answer.status_code == 400
        assert answer.json()["reason"] == "bad_input"
        assert answer.json()["error"].startswith(f"{names}: expected")

    def test_a_body_beyond_the_limit_is_a_413(self, shared: Server) -> None:
        answer = shared.post("/log", content=b" " * 100_001)

        assert answer.status_code == 413
        assert answer.json()["reason"] == "too_large"

    def test_any_amount_of_nonsense_leaves_the_service_ready(self, shared: Server) -> None:
        errors = metrics(shared)["logging_errors_total"]
        for _ in range(60):
            assert shared.post("/log", content=b"nonsense").status_code == 400

        assert shared.get("/ready").status_code == 200
        assert metrics(shared)["logging_errors_total"] == errors


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running service that requires a token."""
    with start(tmp_path_factory.mktemp("guarded"), LOGGING_TOKEN=TOKEN) as server:
        server.wait_until_ready()
        yield server


class TestToken:
    @pytest.mark.parametrize("header", [None, "Bearer wrong"])
    def test_log_without_the_right_token_is_a_401(
        self, guarded: Server, header: str | None
    ) -> None:
        headers = {} if header is None else {"Authorization": header}
        answer = guarded.post("/log", json=batch(prediction()), headers=headers)

        assert answer.status_code == 401
        assert answer.json()["reason"] == "unauthorized"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in guarded.log

    def test_log_with_the_token_is_stored(self, guarded: Server) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = guarded.post("/log", json=batch(prediction()), headers=headers)

        assert answer.status_code == 200

    @pytest.mark.case(40)
    def test_reading_needs_the_token_as_well_and_probes_need_none(self, guarded: Server) -> None:
        """A token is set and nothing else: reads without it are a 401, probes are answered."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/stats", "/predictions"):
            assert guarded.get(path).status_code == 401
            assert guarded.get(path, headers=headers).status_code == 200
        for path in ("/health", "/ready", "/metrics"):
            assert guarded.get(path).status_code == 200


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens"


@pytest.fixture(scope="module")
def set_up(tokens_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running service with settings that are off by default."""
    tokens_file.write_text("old\n")
    with start(
        tmp_path_factory.mktemp("set-up"),
        LOGGING_TOKENS_FILE=str(tokens_file),
        PROTECT_READS="false",
        RETENTION_DAYS="0.00002",  # two seconds
    ) as server:
        server.wait_until_ready()
        yield server


class TestSettings:
    @pytest.mark.case(16)
    def test_a_token_is_rotated_while_clients_log(self, set_up: Server, tokens_file: Path) -> None:
        """A token is added to the file, the old one removed: both are valid in between."""

        def log(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return set_up.post("/log", json=batch(prediction()), headers=headers).status_code

        assert (log("old"), log("new")) == (200, 401)
        tokens_file.write_text("old\nnew\n")
        wait_until(lambda: log("new") == 200, "the new token is valid")
        assert log("old") == 200
        tokens_file.write_text("new\n")
        wait_until(lambda: log("old") == 401, "the old token has ended")
        assert log("new") == 200

    @pytest.mark.case(40)
    def test_reading_needs_none_where_the_operator_says_so(self, set_up: Server) -> None:
        """A token and PROTECT_READS=false: reads need no token, `/log` does."""
        assert set_up.get("/stats").status_code == 200
        assert set_up.post("/log", json=batch(prediction())).status_code == 401

    def test_predictions_past_their_retention_are_deleted(
        self, set_up: Server, tokens_file: Path
    ) -> None:
        headers = {"Authorization": f"Bearer {tokens_file.read_text().split()[-1]}"}
        answer = set_up.post("/log", json=batch(prediction()), headers=headers)
        assert answer.json()["predictions_stored"] == 1
        set_up.wait_until(
            lambda: set_up.get("/stats").json()["total_predictions"] == 0, "all are deleted"
        )
        found = metrics(set_up)
        assert found["logging_database_pruned_total"] == found["logging_predictions_total"] > 0


class TestMetrics:
    def test_every_family_stands_from_the_start_moves_with_requests_and_agrees_with_ready(
        self, server: Server
    ) -> None:
        text = server.get("/metrics").text
        present = {family.name for family in text_string_to_metric_families(text)}
        assert {family.name.removesuffix("_total") for family in LoggingState.families()} <= present
        assert metrics(server)["logging_predictions_total"] == 0
        assert metrics(server)["logging_errors_total"] == 0
        assert server.get("/stats").json()["average_inference_time_ms"] == 0

        body = batch(prediction(), prediction(defect_detected=False))
        server.post("/log", json=body)
        server.post("/log", json=body)
        server.post("/log", content=b"nonsense")
        samples = metrics(server)

        assert samples["logging_predictions_total"] == 2
        assert samples["logging_defects_total"] == 1
        assert samples["logging_duplicates_total"] == 2
        assert samples["logging_batches_total"] == 2
        assert samples["logging_commit_duration_seconds_count"] == 2
        assert samples["logging_db_initialized"] == 1
        assert samples["logging_ready"] == 1
        assert 'logging_rejected_total{reason="bad_input",service="logging-service"} 1.0' in (
            server.get("/metrics").text
        )
        assert server.get("/ready").json()["predictions_logged"] == 2


class TestReads:
    @pytest.mark.case(9)
    def test_reads_that_take_too_long_leave_the_service_ready(self, tmp_path: Path) -> None:
        """`/stats` that takes longer than a query may, 40 times: 504, and the pod stays ready."""
        with opened(database(tmp_path)):
            pass
        connection = sqlite3.connect(database(tmp_path))
        connection.execute(
            "WITH RECURSIVE numbers(n) AS"
            " (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)"
            " INSERT INTO model_totals SELECT 'model', n, 1, 0, 1.0, 1.75e9, 1.75e9 FROM numbers"
        )
        connection.commit()
        connection.close()
        with start(tmp_path, QUERY_TIMEOUT_SECONDS="0.001") as server:
            server.wait_until_ready()
            statuses = [server.get("/stats").status_code for _ in range(40)]
            assert statuses == [504] * 40
            ready = server.get("/ready")
            assert ready.status_code == 200
            assert server.post("/log", json=batch(prediction())).status_code == 200
            assert metrics(server)["logging_error_ratio"] == 0


class TestDatabaseFailures:
    def test_a_locked_database_makes_the_service_unready_until_it_is_free(
        self, shared: Server, shared_directory: Path
    ) -> None:
        path = database(shared_directory)
        with locked_by_another_process(path):
            shared.wait_for_reason("database_not_accessible")
            answer = shared.post("/log", json=batch(prediction(prediction_id="refused")))
            assert answer.status_code == 503
            assert answer.json()["reason"] == "database_not_accessible"
            assert answer.headers["retry-after"]
            assert shared.get("/ready").json()["database_failure"] == "busy"
            assert shared.get("/health").status_code == 200
            assert shared.get("/stats").status_code == 200
        shared.wait_until_ready(seconds=10)

        assert shared.post("/log", json=batch(prediction(prediction_id="freed"))).is_success
        assert "freed" in stored_ids(path)
        assert "refused" not in stored_ids(path)

    def test_a_read_only_database_makes_the_service_unready_until_it_is_writable(
        self, shared: Server, shared_directory: Path
    ) -> None:
        path = database(shared_directory)
        with immutable(path, path.with_name("predictions.db-wal")):
            shared.wait_for_reason("database_not_accessible")
            assert shared.get("/ready").json()["database_failure"] == "read_only"
            assert shared.post("/log", json=batch(prediction())).status_code == 503
        shared.wait_until_ready(seconds=10)

        assert shared.post("/log", json=batch(prediction())).status_code == 200

    def test_a_database_that_fails_at_start_leaves_the_port_answering(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("no directory")
        with start(tmp_path) as server:
            server.wait_for_reason("database_not_initialized")
            assert server.get("/health").status_code == 200
            assert server.get("/ready").json()["db_initialized"] is False
            answer = server.post("/log", json=batch(prediction()))
            assert (answer.status_code, answer.json()["reason"]) == (
                503,
                "database_not_initialized",
            )
            assert server.get("/stats").status_code == 503
            assert metrics(server)["logging_db_initialized"] == 0
            (tmp_path / "data").unlink()
            server.wait_until_ready(seconds=10)
            assert metrics(server)["logging_db_initialized"] == 1

    def test_failures_beyond_half_make_it_unready_until_the_window_has_passed(
        self, tmp_path: Path
    ) -> None:
        # Whoever waits for the lock when the wait for it ends has failed: many shall wait by then.
        with start(
            tmp_path,
            BUSY_TIMEOUT_SECONDS="5",
            REQUEST_TIMEOUT_SECONDS="60",
            ERROR_WINDOW_SECONDS="10",
        ) as server:
            server.wait_until_ready()
            locked = threading.Barrier(41)

            def send(_: int) -> int:
                with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
                    client.get("/health")
                    locked.wait(60)
                    return client.post("/log", json=batch(prediction())).status_code

            with ThreadPoolExecutor(40) as pool:
                statuses = [pool.submit(send, number) for number in range(40)]
                with locked_by_another_process(database(tmp_path)):
                    locked.wait(60)
                    assert {one.result(60) for one in statuses} == {503}
            server.wait_for_reason("high_error_rate")
            body = server.get("/ready").json()
            assert body["error_rate"] > 0.5
            assert body["errors"] >= 20
            assert metrics(server)["logging_errors_total"] == body["errors"]
            assert server.get("/health").status_code == 200
            server.wait_until_ready(seconds=30)


class Load:
    """Clients that log single predictions and note which were acknowledged."""

    def __init__(self, server: Server, *, clients: int) -> None:
        self._url = server.url
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.statuses: set[int] = set()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
            while not self._stop.is_set():
                sent = [prediction() for _ in range(5)]
                try:
                    answer = client.post("/log", json=batch(*sent))
                except httpx.TransportError:
                    return
                with self._lock:
                    self.statuses.add(answer.status_code)
                    if answer.status_code == 200:
                        self.acknowledged |= {one["prediction_id"]: one for one in sent}

    def wait_for(self, count: int) -> None:
        """Return as soon as so many predictions were acknowledged."""
        wait_until(lambda: len(self.acknowledged) >= count, f"{count} acknowledged", seconds=30)

    def stop(self) -> None:
        """End the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def lost(load: Load, path: Path) -> Sequence[str]:
    """Return the acknowledged predictions that are not in the database."""
    return sorted(load.acknowledged.keys() - stored_ids(path))


class TestEnds:
    def test_sigterm_under_load_loses_nothing_that_was_acknowledged(
        self, server: Server, tmp_path: Path
    ) -> None:
        load = Load(server, clients=8)
        load.wait_for(500)
        server.terminate()
        code = server.wait()
        load.stop()

        assert code == 0
        assert load.statuses <= {200, 503}
        assert not database(tmp_path).with_name("predictions.db-wal").exists()
        assert lost(load, database(tmp_path)) == []

    def test_a_kill_under_load_loses_nothing_that_was_acknowledged(
        self, server: Server, tmp_path: Path
    ) -> None:
        load = Load(server, clients=8)
        load.wait_for(500)
        server.kill()
        load.stop()
        with start(tmp_path, port=server.port) as again:
            again.wait_until_ready()
            assert lost(load, database(tmp_path)) == []
            known = load.acknowledged[min(load.acknowledged)]
            answer = again.post("/log", json=batch(known))
            assert answer.json()["duplicates"] == 1

    def test_ready_says_shutting_down_before_the_port_closes(self, ended: "Ended") -> None:
        assert ended.logged_while_draining == 200
        assert ended.code == 0

    @pytest.mark.case(56)
    def test_every_line_of_the_log_from_start_to_end_is_one_json_object(
        self, ended: "Ended"
    ) -> None:
        """The logging service from its start to its end: every line it logs is one JSON object."""
        assert ended.server.events("request") != []
        assert ended.server.lines_that_are_no_json() == []


@dataclass(frozen=True)
class Ended:
    """A service that has run from its start to its end, and what it answered as it ended."""

    server: Server
    logged_while_draining: int
    code: int


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    with start(tmp_path_factory.mktemp("ended"), DRAIN_SECONDS="3") as server:
        server.wait_until_ready()
        assert server.post("/log", content=b"nonsense").status_code == 400
        server.terminate()
        server.wait_for_reason("shutting_down", seconds=3)
        logged = server.post("/log", json=batch(prediction()))
        return Ended(server, logged.status_code, server.wait())


class TestLog:
    def test_a_log_that_nobody_reads_keeps_no_probe_and_no_batch_waiting(
        self, tmp_path: Path
    ) -> None:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4_096)
        try:
            with start(tmp_path, output=writer) as server:
                os.close(writer)
                server.wait_until_ready()
                for _ in range(100):  # each is a line of 250 bytes
                    assert server.post("/log", json=batch(prediction())).status_code == 200
                assert server.get("/health").status_code == 200
                assert server.get("/ready").status_code == 200
                assert server.stop() == 0
        finally:
            os.close(reader)


@pytest.fixture(scope="module")
def two_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(two_directory: Path) -> Iterator[Server]:
    """A running service with two workers."""
    with start(two_directory, WORKERS="2") as server:
        server.wait_until_ready()
        yield server


def logged(server: Server) -> set[int]:
    """Return what `/ready` says in many answers, some of each worker."""
    return {fetch.get(f"{server.url}/ready").json()["predictions_logged"] for _ in range(40)}


class TestTwoWorkers:
    def test_both_tell_the_same_totals_and_none_is_lost(
        self, two: Server, two_directory: Path
    ) -> None:
        (before,) = logged(two)
        load = Load(two, clients=12)
        load.wait_for(1_000)
        load.stop()
        total = before + len(load.acknowledged)
        assert {line["worker"] for line in two.events("request")} == {1, 2}
        assert logged(two) == {total}
        assert metrics(two)["logging_predictions_total"] == total
        assert two.get("/stats").json()["total_predictions"] == total
        assert load.statuses == {200}
        assert lost(load, database(two_directory)) == []

    def test_a_killed_worker_is_replaced_and_no_count_is_lost(self, two: Server) -> None:
        fetch.post(f"{two.url}/log", json=batch(prediction()))
        before = logged(two)
        victim = two.workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        two.wait_for_reason("worker_missing")
        two.wait_until_ready(seconds=30)
        two.wait_until(lambda: len(two.workers()) == 2 and victim not in two.workers(), "replaced")
        assert logged(two) == before

    def test_a_deleted_database_is_made_anew_by_one_and_used_by_both(
        self, two: Server, two_directory: Path
    ) -> None:
        two.post("/log", json=batch(prediction()))
        for path in database(two_directory).parent.glob("predictions.db*"):
            path.unlink()
        two.wait_for_reason("database_not_accessible")
        two.wait_until_ready(seconds=15)
        load = Load(two, clients=12)
        load.wait_for(500)
        load.stop()
        assert load.statuses == {200}
        assert lost(load, database(two_directory)) == []
        assert two.get("/stats").json()["total_predictions"] == len(load.acknowledged)
        said = two.events("the database was deleted while in use; an empty one takes its place")
        assert {line["level"] for line in said} == {"error"}


def test_a_wrong_setting_is_refused_at_start_with_its_name(tmp_path: Path) -> None:
    with start(tmp_path, WRITE_QUEUE_ROWS="none") as server:
        assert server.wait() != 0
        assert "WRITE_QUEUE_ROWS" in server.log
