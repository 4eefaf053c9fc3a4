"""Labels, the queue and the figures of a running logging service."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.evidence import Evidence, EvidenceBatch
from tests.support.evidence import evidence
from tests.support.servers import Server, start_service

pytestmark = pytest.mark.slow

TARGET = "bentos.logging.service:LoggingService"
TOKEN = "a-token-for-labels"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ROUTES = ("/labels", "/review", "/quality")


def start(directory: Path, **env: str) -> Server:
    return start_service(
        TARGET, directory, env={"DATABASE_PATH": str(directory / "data" / "predictions.db")} | env
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a token."""
    env = {"LOGGING_TOKEN": TOKEN, "MAX_ESCAPE_RATE": "0.02"}
    with start(tmp_path_factory.mktemp("labels"), **env) as running:
        running.wait_until_ready()
        yield running


def keep(server: Server, *pictures: Evidence) -> None:
    """Send pictures, a hundred at a time."""
    for first in range(0, len(pictures), 100):
        body = msgspec.json.encode(EvidenceBatch(list(pictures[first : first + 100])))
        assert server.post("/evidence", content=body, headers=HEADERS).status_code == 200


def label(server: Server, **label_: Any) -> httpx.Response:
    """Send one label."""
    return server.post("/labels", json={"labelled_by": "ada", **label_}, headers=HEADERS)


def get(server: Server, path: str) -> Any:
    """Return the JSON of a 200."""
    answer = server.get(path, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def metric(server: Server, name: str, **labels: str) -> float | None:
    """Return a sample of a scrape of the probe process, None where there is none."""
    return next(
        (
            sample.value
            for family in text_string_to_metric_families(server.probe("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ),
        None,
    )


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
    keep(server, *good, *failed)
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
    keep(server, one)
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

    def shown(bound: str) -> float | None:
        key = {"model_name": "steel-defects", "model_version": "figures", "bound": bound}
        return metric(server, "logging_quality_escape_rate", **key)

    server.wait_until(lambda: shown("high") is not None, "the metric is there", seconds=60)
    assert shown("estimate") == pytest.approx(0.4)
    assert shown("low") == pytest.approx(rate["low"], abs=1e-3)
    assert shown("high") == pytest.approx(rate["high"], abs=1e-3)
    recall = metric(server, "logging_quality_recall", class_name="crack", bound="estimate")
    assert recall == pytest.approx(0.6)
    assert metric(server, "logging_quality_escape_rate_limit") == 0.02
    labels = metric(server, "logging_labels_total")
    assert labels is not None
    assert labels >= 60


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
    for path in ROUTES:
        assert server.get(path).status_code == 401


def test_a_page_of_another_site_cannot_label(server: Server) -> None:
    """A form of another site, sent by a browser that has the password, is refused."""
    form = {"Content-Type": "text/plain"}
    assert server.post("/labels", content=b"{}", headers=HEADERS | form).status_code == 415
    elsewhere = {
        "Sec-Fetch-Site": "cross-site",
        "Authorization": "Basic eDphLXRva2VuLWZvci1sYWJlbHM=",
    }
    body = {"prediction_id": "a", "true_class": "b", "labelled_by": "c"}
    assert server.post("/labels", json=body, headers=elsewhere).status_code == 403
    own = elsewhere | {"Sec-Fetch-Site": "same-origin"}
    assert server.post("/labels", json=body, headers=own).status_code == 200


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


def test_without_review_nothing_of_it_is_there(tmp_path: Path) -> None:
    with start(tmp_path, REVIEW="off") as running:
        running.wait_until_ready()
        assert {path: running.get(path).status_code for path in ROUTES} == dict.fromkeys(
            ROUTES, 404
        )
        assert metric(running, "logging_quality_escape_rate") is None
        assert metric(running, "logging_quality_escape_rate_limit") == 0
    assert not (tmp_path / "data" / "review").exists()
