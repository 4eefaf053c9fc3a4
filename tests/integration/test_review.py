"""Kept pictures, their labels, the queue and the figures of a running logging service."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bentos.evidence import Evidence, EvidenceBatch
from tests.support.evidence import evidence, png
from tests.support.metrics import total
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service

pytestmark = pytest.mark.slow

TARGET = "bentos.logging.service:LoggingService"
TOKEN = "a-token-for-pictures"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
READS = ("/labels", "/review", "/quality")


def start(directory: Path, **env: str) -> Server:
    return start_service(
        TARGET, directory, env={"DATABASE_PATH": str(directory / "data" / "predictions.db")} | env
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("review")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A service with a token, for the tests that break nothing."""
    with start(folder, LOGGING_TOKEN=TOKEN, MAX_ESCAPE_RATE="0.02") as running:
        running.wait_until_ready()
        yield running


def send(server: Server, *pictures: Evidence, **options: Any) -> httpx.Response:
    body = msgspec.json.encode(EvidenceBatch(list(pictures)))
    return server.post("/evidence", content=body, **({"headers": HEADERS} | options))


def stored(folder: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(folder / "data" / "review" / "review.db") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM evidence ORDER BY id")]


def metric(server: Server, name: str, **labels: str) -> float:
    """Return what the probe process exposes of a metric, 0 where there is no such series."""
    return total(server.probe("/metrics").text, name, **labels)


def test_pictures_are_stored_once_and_counted(server: Server, folder: Path) -> None:
    before = metric(server, "logging_review_stored_total")
    pictures = [evidence(), evidence()]
    first, again = send(server, *pictures), send(server, *pictures)

    assert first.status_code == 200
    assert first.json() == {"status": "success", "stored": 2, "duplicates": 0}
    assert again.json() == {"status": "success", "stored": 0, "duplicates": 2}
    ids = [row["prediction_id"] for row in stored(folder)]
    assert [ids.count(one.prediction_id) for one in pictures] == [1, 1]
    assert metric(server, "logging_review_stored_total") == before + 2
    assert metric(server, "logging_review_capacity_bytes") == 512 << 20
    server.wait_until(lambda: metric(server, "logging_review_pictures") >= 2, "the gauge follows")


def test_pictures_need_the_token_that_predictions_need(server: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = send(server, evidence(), headers=headers)
        assert answer.status_code == 401
        assert answer.json()["reason"] == "unauthorized"


@pytest.mark.case(1)
@pytest.mark.parametrize("path", ["/evidence%0A", "/evidence/", "/EVIDENCE"])
def test_no_other_spelling_of_the_route_is_let_in(server: Server, path: str) -> None:
    """POST to another spelling of the route without the token: 404."""
    assert server.post(path, content=b"{}").status_code == 404


@pytest.mark.case(7)
def test_ten_megabytes_are_taken_or_refused_at_once(server: Server) -> None:
    """Pictures of 7 MB in base64 are stored; more than MAX_BODY_BYTES is a 413."""
    large = evidence(picture=png(bytes_more=7_000_000))
    assert send(server, large).json()["stored"] == 1
    answer = send(server, evidence(picture=png(bytes_more=8_000_000)))
    assert answer.status_code == 413
    assert "MAX_BODY_BYTES" in answer.json()["error"]


@pytest.mark.case(7)
def test_json_nested_ten_million_levels_is_a_400(server: Server) -> None:
    """A body of ten million brackets: 400 within the time-out, and probes answered."""
    answer = server.post("/evidence", content=b'{"x":' + b"[" * 10_000_000, headers=HEADERS)
    assert answer.status_code == 400
    assert server.probe("/health").status_code == 200


def test_an_id_that_is_a_path_is_only_a_text(server: Server, folder: Path) -> None:
    """Ids and names that are paths: stored as they are, no file is made of them."""
    hostile = evidence("../../../escaped", edge_device_id="/etc/passwd", image_id="../../x.png")
    assert send(server, hostile).json()["stored"] == 1
    assert {file.name for file in (folder / "data" / "review").iterdir()} <= {
        "review.db",
        "review.db-wal",
        "review.db-shm",
    }
    assert not list(folder.rglob("*escaped*"))


def test_pictures_that_wait_for_a_locked_store_are_few_and_predictions_go_on(
    server: Server, folder: Path
) -> None:
    assert send(server, evidence()).status_code == 200
    path = folder / "data" / "review" / "review.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        ThreadPoolExecutor(8) as clients,
    ):
        other.execute("BEGIN IMMEDIATE")
        asked = [clients.submit(_send_alone, server) for _ in range(8)]
        # Those for which there is no room are told at once.
        server.wait_until(
            lambda: [one.result() for one in asked if one.done()].count(429) == 4,
            "four are refused",
        )
        answer = server.post("/log", json=batch(prediction()), headers=HEADERS)
        assert answer.status_code == 200
        assert server.probe("/ready").status_code == 200
        other.execute("ROLLBACK")
        # A lock of more than five seconds is a 503.
        assert {one.result() for one in asked} <= {200, 429, 503}


def _send_alone(server: Server) -> int:
    body = msgspec.json.encode(EvidenceBatch([evidence()]))
    return httpx.post(
        f"{server.url}/evidence", content=body, headers=HEADERS, timeout=30, trust_env=False
    ).status_code


def label(server: Server, **label_: Any) -> httpx.Response:
    """Send one label."""
    return server.post("/labels", json={"labelled_by": "ada", **label_}, headers=HEADERS)


def get(server: Server, path: str) -> Any:
    """Return the JSON of a 200."""
    answer = server.get(path, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def inspect(server: Server, version: str) -> None:
    """Keep 60 pictures of a version and label them all: of 20 defects, 8 passed."""
    now = time.time()
    good = [
        evidence(
            f"{version}-g{number}",
            timestamp=now,
            model_version=version,
            class_name="good",
            verdict="pass",
            sample_probability=0.5,
        )
        for number in range(48)
    ]
    failed = [
        evidence(
            f"{version}-f{number}",
            timestamp=now,
            model_version=version,
            verdict="fail",
            sample_probability=0.5,
        )
        for number in range(12)
    ]
    send(server, *good, *failed)
    rows = [
        f"{one.prediction_id},{'good' if n >= 8 else 'crack'},ada" for n, one in enumerate(good)
    ]
    rows += [f"{one.prediction_id},crack,ada" for one in failed]
    answer = server.post(
        "/labels",
        content="\n".join(["prediction_id,true_class,labelled_by", *rows]),
        headers={**HEADERS, "Content-Type": "text/csv; charset=utf-8"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["labels"] == 60


def test_a_labelled_picture_leaves_the_queue_and_its_label_is_read_back(server: Server) -> None:
    one = evidence(model_version="queue")
    send(server, one)
    queue = get(server, "/review?model_version=queue")
    assert queue["waiting"] == 1
    assert queue["pictures"][0]["prediction_id"] == one.prediction_id

    answer = label(server, prediction_id=one.prediction_id, true_class="scratch", note="faint")
    assert answer.status_code == 200
    assert answer.json() == {"status": "success", "labels": 1, "unknown": 0, "new_classes": []}
    assert get(server, "/review?model_version=queue") == {
        "waiting": 0,
        "pictures": [],
        "next": None,
    }
    labels = get(server, "/labels?limit=1000")["labels"]
    (read,) = [found for found in labels if found["prediction_id"] == one.prediction_id]
    assert (read["true_class"], read["class_name"], read["note"]) == ("scratch", "crack", "faint")


def test_figures_come_with_their_intervals_as_json_and_as_metrics(server: Server) -> None:
    inspect(server, "figures")
    (version,) = get(server, "/quality?model_version=figures")["versions"]
    rate = version["escape_rate"]
    assert rate["estimate"] == pytest.approx(0.4)
    assert 0.2 < rate["low"] < rate["estimate"] < rate["high"] < 0.65
    assert rate["labels"] == 20
    assert (version["pictures"], version["labels"]) == (60, 60)
    assert version["false_reject_rate"]["estimate"] == 0.0

    def shown(bound: str) -> float:
        key = {"model_name": "steel-defects", "model_version": "figures", "bound": bound}
        return metric(server, "logging_quality_escape_rate", **key)

    server.wait_until(lambda: shown("high") > 0, "the metric is there", seconds=60)
    assert shown("estimate") == pytest.approx(0.4)
    assert shown("low") == pytest.approx(rate["low"], abs=1e-3)
    assert shown("high") == pytest.approx(rate["high"], abs=1e-3)
    crack = {"model_version": "figures", "class_name": "crack", "bound": "estimate"}
    recall = metric(server, "logging_quality_recall", **crack)
    assert recall == pytest.approx(0.6)
    assert metric(server, "logging_quality_escape_rate_limit") == 0.02
    assert metric(server, "logging_labels_total") >= 60


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/labels?limit=0", "limit"),
        ("/labels?after=-1", "after"),
        ("/labels?after=99999999999999999999", "after"),
        ("/review?verdict=maybe", "verdict"),
        ("/review?differ=2", "differ"),
        ("/review?skip=x", "skip"),
        ("/review?size=3", "query"),
        ("/quality?days=0", "days"),
        ("/quality?days=nan", "days"),
        ("/quality?edge_device_id=", "edge_device_id"),
    ],
)
def test_a_wrong_parameter_is_named(server: Server, path: str, field: str) -> None:
    answer = server.get(path, headers=HEADERS)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_labels_need_a_token_and_so_do_reads_where_there_is_one(server: Server) -> None:
    body = {"prediction_id": "a", "true_class": "b", "labelled_by": "c"}
    assert server.post("/labels", json=body).status_code == 401
    for path in READS:
        assert server.get(path).status_code == 401


def test_a_form_of_another_site_has_no_type_that_labels_have(server: Server) -> None:
    form = {"Content-Type": "text/plain"}
    assert server.post("/labels", content=b"{}", headers=HEADERS | form).status_code == 415


@pytest.mark.case(21)
def test_one_wrong_label_refuses_the_request_and_stores_nothing(server: Server) -> None:
    """Of three labels in one request the last lacks its class: a 400 names it; none is stored."""
    labels: list[dict[str, Any]] = [
        {"prediction_id": f"half-{number}", "true_class": "crack", "labelled_by": "ada"}
        for number in range(3)
    ]
    del labels[2]["true_class"]
    answer = server.post("/labels", json={"labels": labels}, headers=HEADERS)
    assert (answer.status_code, answer.json()["field"]) == (400, "labels[2].true_class")
    stored = get(server, "/labels?limit=1000")["labels"]
    assert not [one for one in stored if one["prediction_id"].startswith("half-")]


def test_other_methods_are_refused_with_those_that_there_are(server: Server) -> None:
    answer = httpx.put(f"{server.url}/labels", headers=HEADERS)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, GET")


def test_a_store_that_fails_leaves_predictions_and_readiness_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    review = tmp_path / "data" / "review"
    review.write_text("a file where the directory should be")
    with start(tmp_path) as server:
        server.wait_until_ready()
        answer = send(server, evidence(), headers={})
        assert answer.status_code == 503
        assert answer.json()["reason"] == "review_not_accessible"
        assert answer.headers["retry-after"] == "5"
        assert server.post("/log", json=batch(prediction())).status_code == 200
        assert server.probe("/ready").status_code == 200
        assert metric(server, "logging_errors_total") == 0
        assert metric(server, "logging_review_errors_total", reason="other") > 0
        review.unlink()
        assert send(server, evidence(), headers={}).json()["stored"] == 1


def test_without_review_there_is_no_route_no_file_and_no_series_that_moves(tmp_path: Path) -> None:
    more = ("/review/picture?id=1", "/review/heat?id=1", "/review/page.js")
    with start(tmp_path, REVIEW="off") as server:
        server.wait_until_ready()
        assert send(server, evidence(), headers={}).status_code == 404
        assert {server.get(path).status_code for path in (*READS, *more)} == {404}
        assert "/evidence" not in server.get("/docs.json").text
        assert 'href="review"' not in server.get("/").text
        assert metric(server, "logging_review_capacity_bytes") == 0
        assert metric(server, "logging_quality_escape_rate_limit") == 0
        assert "logging_quality_escape_rate{" not in server.probe("/metrics").text
    assert not (tmp_path / "data" / "review").exists()
