"""The logging service as it is deployed: `bentoml serve`, real files, real signals."""

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.logging.state import LoggingState
from local import fetch
from tests.support.disks import immutable, small_disk
from tests.support.logging_store import locked_by_another_process, stored_ids
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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running service for the tests that break nothing."""
    directory = tmp_path_factory.mktemp("shared")
    with start(directory, MAX_BODY_BYTES="100000", MAX_BATCH_PREDICTIONS="20") as server:
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
        assert after["errors"] == 0
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

    @pytest.mark.case(20)
    def test_a_known_id_with_other_content_is_a_409_that_names_the_item(
        self, shared: Server
    ) -> None:
        """A device sends an id again with other content: 409, nothing of the batch is stored."""
        known = prediction(edge_device_id="conflicting")
        shared.post("/log", json=batch(known))
        before = metrics(shared)
        answer = shared.post("/log", json=batch(prediction(), {**known, "model_version": "4"}))

        assert answer.status_code == 409
        assert answer.json()["reason"] == "conflict"
        assert answer.json()["field"] == "predictions[1].prediction_id"
        after = metrics(shared)
        assert after["logging_conflicts_total"] == before["logging_conflicts_total"] + 1
        assert after["logging_predictions_total"] == before["logging_predictions_total"]
        assert after["logging_errors_total"] == before["logging_errors_total"]
        assert shared.get("/ready").status_code == 200

    @pytest.mark.case(14)
    def test_predictions_of_a_host_whose_clock_is_wrong_are_stored(self, shared: Server) -> None:
        """A host whose clock stands at 1970 sends 15 good rows and 5 of 1970: all are stored.

        So are rows in a batch whose own time is senseless, which the answer says.
        """
        early = [prediction(timestamp=60.0 + n, edge_device_id="of-1970") for n in range(5)]
        rows = [*(prediction(edge_device_id="of-1970") for _ in range(15)), *early]
        first = shared.post("/log", json=batch(*rows, timestamp=65.0))
        second = shared.post(
            "/log", json=batch(prediction(edge_device_id="of-1970"), timestamp="yesterday")
        )

        assert first.json()["predictions_stored"] == 20
        assert "warnings" not in first.json()
        assert second.json()["predictions_stored"] == 1
        assert second.json()["warnings"][0].startswith("timestamp: expected Unix seconds")
        query = {"edge_device_id": "of-1970", "limit": "21"}
        kept = shared.get("/predictions", params=query).json()["predictions"]
        assert [one["timestamp"] for one in kept[-5:]] == [64.0, 63.0, 62.0, 61.0, 60.0]
        assert {one["sent_at"] for one in kept} == {65.0, None}

    def test_the_batchs_device_counts_where_a_prediction_names_none(self, shared: Server) -> None:
        shared.post(
            "/log",
            json=batch(
                prediction(), prediction(edge_device_id="of-item"), edge_device_id="of-batch"
            ),
        )
        by_device = shared.get("/stats").json()["by_edge_device"]

        assert by_device["of-batch"] == 1
        assert by_device["of-item"] == 1

    def test_stats_add_up(self, shared: Server) -> None:
        before = shared.get("/stats").json()
        shared.post(
            "/log",
            json=batch(
                prediction(inference_time_ms=1, edge_device_id="stats-a", model_name="stats"),
                prediction(
                    inference_time_ms=2,
                    edge_device_id="stats-b",
                    model_name="stats",
                    defect_detected=False,
                ),
                prediction(inference_time_ms=6, edge_device_id="stats-b", model_name="stats"),
            ),
        )
        after = shared.get("/stats").json()

        assert after["total_predictions"] == before["total_predictions"] + 3
        assert after["defects_detected"] == before["defects_detected"] + 2
        assert after["normal_detections"] == before["normal_detections"] + 1
        assert after["by_edge_device"]["stats-a"] == 1
        assert after["by_edge_device"]["stats-b"] == 2
        assert after["by_model"]["stats"] == 3
        (model,) = [one for one in after["models"] if one["model_name"] == "stats"]
        assert (model["predictions"], model["defects"]) == (3, 2)
        assert model["average_inference_time_ms"] == 3
        assert after["total_predictions"] == sum(after["by_edge_device"].values())

    def test_pages_follow_each_other_newest_first_and_lose_nothing(self, shared: Server) -> None:
        # Several of one moment: a cursor of time alone would skip or repeat them.
        sent = [
            prediction(timestamp=1_600_000_000 + number // 3, edge_device_id="paged")
            for number in range(10)
        ]
        shared.post("/log", json=batch(*sent))
        found: list[dict[str, Any]] = []
        query = {"limit": "4", "edge_device_id": "paged"}
        while True:
            page = shared.get("/predictions", params=query).json()
            found += page["predictions"]
            if page["next"] is None:
                break
            query["before"] = page["next"]

        assert [len(found), len({one["prediction_id"] for one in found})] == [10, 10]
        times = [one["timestamp"] for one in found]
        assert times == sorted(times, reverse=True)

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

    def test_defect_only_leaves_out_the_normal_ones(self, shared: Server) -> None:
        shared.post(
            "/log",
            json=batch(prediction(), prediction(defect_detected=False), edge_device_id="mixed"),
        )
        query = {"edge_device_id": "mixed", "defect_only": "true"}
        found = shared.get("/predictions", params=query).json()["predictions"]

        assert [one["defect_detected"] for one in found] == [True]

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


NESTED = b'{"predictions": [{"image_id": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}"


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "the body is empty"),
            (b"{", "not valid JSON"),
            (b"[1, 2]", "body: expected a JSON object, got [1, 2]"),
            (NESTED[:99_000], ""),
            (batch(), "predictions: expected at least one prediction"),
            ({"edge_device_id": "e"}, "predictions: expected a list of predictions, it is missing"),
            (
                batch(prediction(), batch_size=7),
                "batch_size: expected 1, the number of predictions sent, got 7",
            ),
            (
                batch(prediction(), prediction(image_id=None)),
                "predictions[1].image_id: expected a text of 1 to 512 characters, it is missing",
            ),
            (
                batch(prediction(timestamp=1.75e12)),
                "predictions[0].timestamp: expected Unix seconds",
            ),
            (
                batch(prediction(inference_time_ms=-1)),
                "predictions[0].inference_time_ms: expected milliseconds between 0 and 1e9, got -1",
            ),
            (
                batch(
                    *[prediction()] * 3, prediction(detections=[{"class": "x", "confidence": 1.7}])
                ),
                "detections[0].confidence: expected a number between 0 and 1, got 1.7",
            ),
            (
                batch(prediction(), edge_device_id=None),
                "predictions[0].edge_device_id: expected a text of 1 to 128 characters",
            ),
            (
                batch(prediction(inference_time_ms=float("nan"))),
                "predictions[0].inference_time_ms: expected a finite number, got NaN",
            ),
            (
                batch(prediction(confidence_scores=[0.5, float("inf")])),
                "predictions[0].confidence_scores[1]: expected a finite number, got Infinity",
            ),
            (
                batch(prediction(image_id="a\0b")),
                "predictions[0].image_id: expected a text without NUL characters",
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
            ("limit=-1", "limit"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=ten", "limit"),
            ("limit=", "limit"),
            ("limit=5&limit=6", "limit"),
            ("defect_only=maybe", "defect_only"),
            ("before=yesterday", "before"),
            ("before=nan", "before"),
            ("before=1700000000_x", "before"),
            ("edge_device_id=", "edge_device_id"),
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

    def test_an_unknown_device_is_a_404_that_names_the_field(self, shared: Server) -> None:
        answer = shared.get("/predictions", params={"edge_device_id": "nobody"})

        assert answer.status_code == 404
        assert answer.json()["reason"] == "unknown_edge_device"
        assert answer.json()["error"].startswith("edge_device_id: expected")

    def test_a_body_beyond_the_limit_is_a_413(self, shared: Server) -> None:
        answer = shared.post("/log", content=b" " * 100_001)

        assert answer.status_code == 413
        assert answer.json()["reason"] == "too_large"

    def test_too_many_predictions_are_a_413(self, shared: Server) -> None:
        answer = shared.post("/log", json=batch(*[prediction() for _ in range(21)]))

        assert answer.status_code == 413
        assert "MAX_BATCH_PREDICTIONS" in answer.json()["error"]

    def test_another_method_is_a_405(self, shared: Server) -> None:
        answer = shared.get("/log")

        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert answer.json()["reason"] == "method_not_allowed"

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
    @pytest.mark.parametrize(
        "header", [None, "", TOKEN, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"]
    )
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

    @pytest.mark.case(16)
    def test_a_token_is_rotated_while_clients_log(self, tmp_path: Path) -> None:
        """A token is added to the file, the old one removed: both are valid in between."""
        file = tmp_path / "tokens"
        file.write_text("old\n")
        with start(tmp_path, LOGGING_TOKENS_FILE=str(file)) as server:
            server.wait_until_ready()

            def log(token: str) -> int:
                headers = {"Authorization": f"Bearer {token}"}
                return server.post("/log", json=batch(prediction()), headers=headers).status_code

            assert (log("old"), log("new")) == (200, 401)
            file.write_text("old\nnew\n")
            wait_until(lambda: log("new") == 200, "the new token is valid")
            assert log("old") == 200
            file.write_text("new\n")
            wait_until(lambda: log("old") == 401, "the old token has ended")
            assert log("new") == 200

    @pytest.mark.case(40)
    def test_reading_needs_none_where_the_operator_says_so(self, tmp_path: Path) -> None:
        """A token and PROTECT_READS=false: reads need no token, `/log` does."""
        with start(tmp_path, LOGGING_TOKEN=TOKEN, PROTECT_READS="false") as server:
            server.wait_until_ready()
            assert server.get("/stats").status_code == 200
            assert server.post("/log", json=batch(prediction())).status_code == 401


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
        with start(tmp_path) as server:
            server.wait_until_ready()
            server.stop()
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

    def test_predictions_past_their_retention_are_deleted(self, tmp_path: Path) -> None:
        with start(tmp_path, RETENTION_DAYS="0.00002") as server:  # two seconds
            server.wait_until_ready()
            server.post("/log", json=batch(prediction(), prediction()))
            server.wait_until(
                lambda: metrics(server)["logging_database_pruned_total"] == 2, "they are deleted"
            )
            assert server.get("/predictions").json()["count"] == 0
            assert server.get("/stats").json()["total_predictions"] == 0
            assert metrics(server)["logging_predictions_total"] == 2


class TestDatabaseFailures:
    def test_a_locked_database_makes_the_service_unready_until_it_is_free(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.post("/log", json=batch(prediction(prediction_id="before")))
        with locked_by_another_process(database(tmp_path)):
            server.wait_for_reason("database_not_accessible")
            answer = server.post("/log", json=batch(prediction(prediction_id="refused")))
            assert answer.status_code == 503
            assert answer.json()["reason"] == "database_not_accessible"
            assert answer.headers["retry-after"]
            assert server.get("/ready").json()["database_failure"] == "busy"
            assert server.get("/health").status_code == 200
            assert server.get("/stats").json()["total_predictions"] == 1
        server.wait_until_ready(seconds=10)

        assert server.post("/log", json=batch(prediction(prediction_id="after"))).is_success
        assert stored_ids(database(tmp_path)) == {"before", "after"}

    def test_a_deleted_database_is_made_anew_and_said_so(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.post("/log", json=batch(prediction()))
        for path in database(tmp_path).parent.iterdir():
            path.unlink()
        server.wait_for_reason("database_not_accessible")
        server.wait_until_ready(seconds=10)
        server.post("/log", json=batch(prediction(prediction_id="after")))

        assert stored_ids(database(tmp_path)) == {"after"}
        (said,) = server.events(
            "the database was deleted while in use; an empty one takes its place"
        )
        assert said["level"] == "error"

    def test_a_corrupt_database_is_kept_and_used_again_once_it_is_repaired(
        self, server: Server, tmp_path: Path
    ) -> None:
        path = database(tmp_path)
        server.post("/log", json=batch(prediction(prediction_id="saved")))
        backup = sqlite3.connect(tmp_path / "backup.db")
        with sqlite3.connect(path) as source:
            source.backup(backup)
        source.close()
        backup.close()
        with path.open("r+b") as file:
            file.write(b"overwritten by mistake ")
        damaged = path.read_bytes()
        server.wait_for_reason("database_not_accessible")

        assert server.get("/ready").json()["database_failure"] == "corrupt"
        assert server.post("/log", json=batch(prediction())).status_code == 503
        assert server.get("/predictions").status_code == 503
        assert server.get("/health").status_code == 200
        assert path.read_bytes() == damaged
        shutil.copyfile(tmp_path / "backup.db", path)
        server.wait_until_ready(seconds=10)
        assert server.post("/log", json=batch(prediction(prediction_id="after"))).is_success
        assert stored_ids(path) == {"saved", "after"}

    def test_a_read_only_database_makes_the_service_unready_until_it_is_writable(
        self, server: Server, tmp_path: Path
    ) -> None:
        path = database(tmp_path)
        with immutable(path, path.with_name("predictions.db-wal")):
            server.wait_for_reason("database_not_accessible")
            assert server.get("/ready").json()["database_failure"] == "read_only"
            assert server.post("/log", json=batch(prediction())).status_code == 503
        server.wait_until_ready(seconds=10)

        assert server.post("/log", json=batch(prediction())).status_code == 200

    def test_a_full_disk_loses_nothing_that_was_acknowledged(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "data", size="12m") as disk:
            with start(tmp_path) as server:
                server.wait_until_ready()
                (disk / "ballast").write_bytes(b"x" * (8 << 20))
                acknowledged: set[str] = set()
                while True:
                    sent = [prediction() for _ in range(100)]
                    if server.post("/log", json=batch(*sent)).status_code != 200:
                        break
                    acknowledged |= {one["prediction_id"] for one in sent}
                server.wait_for_reason("database_not_accessible")
                assert server.get("/ready").json()["database_failure"] == "full"
                (disk / "ballast").unlink()
                server.wait_until_ready(seconds=10)
                assert server.post("/log", json=batch(prediction(prediction_id="after"))).is_success
                assert stored_ids(database(tmp_path)) == acknowledged | {"after"}

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

    def test_ready_says_shutting_down_before_the_port_closes(self, tmp_path: Path) -> None:
        with start(tmp_path, DRAIN_SECONDS="3") as server:
            server.wait_until_ready()
            server.terminate()
            server.wait_for_reason("shutting_down", seconds=3)
            assert server.post("/log", json=batch(prediction())).status_code == 200
            assert server.wait() == 0


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


@pytest.mark.case(56)
def test_every_line_of_the_log_from_start_to_end_is_one_json_object(tmp_path: Path) -> None:
    """The logging service from its start to its end: every line it logs is one JSON object."""
    with start(tmp_path) as server:
        server.wait_until_ready()
        assert server.post("/log", json=batch(prediction())).is_success
        assert server.post("/log", content=b"nonsense").status_code == 400
        assert server.stop() == 0
        assert server.events("request") != []
        assert server.lines_that_are_no_json() == []


class TestTwoWorkers:
    def test_both_tell_the_same_totals_and_none_is_lost(self, tmp_path: Path) -> None:
        with start(tmp_path, WORKERS="2") as server:
            server.wait_until_ready()
            load = Load(server, clients=12)
            load.wait_for(1_000)
            load.stop()
            assert {line["worker"] for line in server.events("request")} == {1, 2}
            totals = {
                fetch.get(f"{server.url}/ready").json()["predictions_logged"] for _ in range(40)
            }
            assert totals == {len(load.acknowledged)}
            assert metrics(server)["logging_predictions_total"] == len(load.acknowledged)
            assert server.get("/stats").json()["total_predictions"] == len(load.acknowledged)
            assert load.statuses == {200}
            assert lost(load, database(tmp_path)) == []

    def test_a_killed_worker_is_replaced_and_no_count_is_lost(self, tmp_path: Path) -> None:
        with start(tmp_path, WORKERS="2") as server:
            server.wait_until_ready()
            for _ in range(20):
                fetch.post(f"{server.url}/log", json=batch(prediction()))
            victim = server.workers()[0]
            os.kill(victim.pid, signal.SIGKILL)
            server.wait_for_reason("worker_missing")
            server.wait_until_ready(seconds=30)
            server.wait_until(
                lambda: len(server.workers()) == 2 and victim not in server.workers(), "replaced"
            )
            assert {
                fetch.get(f"{server.url}/ready").json()["predictions_logged"] for _ in range(20)
            } == {20}

    def test_a_deleted_database_is_made_anew_by_one_and_used_by_both(self, tmp_path: Path) -> None:
        with start(tmp_path, WORKERS="2") as server:
            server.wait_until_ready()
            server.post("/log", json=batch(prediction()))
            for path in database(tmp_path).parent.iterdir():
                path.unlink()
            server.wait_for_reason("database_not_accessible")
            server.wait_until_ready(seconds=15)
            load = Load(server, clients=12)
            load.wait_for(500)
            load.stop()
            assert load.statuses == {200}
            assert lost(load, database(tmp_path)) == []
            assert server.get("/stats").json()["total_predictions"] == len(load.acknowledged)


def test_a_wrong_setting_is_refused_at_start_with_its_name(tmp_path: Path) -> None:
    with start(tmp_path, WRITE_QUEUE_ROWS="none") as server:
        assert server.wait() != 0
        assert "WRITE_QUEUE_ROWS" in server.log
