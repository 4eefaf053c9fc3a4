"""`make browse`: Datasette on the file that a store is writing, with its canned queries."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from msgspec import Raw

from examples import browse
from local.process import Server, clean_environment, free_port
from tests.support.logging_store import RunningStore, row


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    """An open store with a few predictions."""
    folder = tmp_path_factory.mktemp("browse")
    now = time.time()
    with RunningStore(folder / "predictions.db", folder / "pod") as running:
        running.wait_until_accessible()
        running.put(
            *[
                row(timestamp=now - n, inference_time_ms=float(n), model_version="3")
                for n in range(9)
            ],
            row(
                "unsure",
                timestamp=now,
                defect_detected=True,
                model_version="4",
                verdict="review",
                detections=Raw(b'[{"class":"pit","confidence":0.51,"bbox":null,"uncertain":true}]'),
            ),
        )
        yield running


@pytest.fixture(scope="module")
def datasette(
    store: RunningStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of Datasette, started as `make browse` starts it."""
    port = free_port()
    arguments = ["--database", str(store.path), "--port", str(port)]
    environment = clean_environment()
    with Server(
        [sys.executable, "-m", "examples.browse", *arguments],
        port=port,
        log=tmp_path_factory.mktemp("log") / "datasette.log",
        environment=environment,
    ) as server:
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            server.wait_until(lambda: client.get("/").status_code == 200, "Datasette answers")
            yield client


def rows_of(client: httpx.Client, name: str) -> list[dict[str, object]]:
    answer = client.get(f"/predictions/{name}.json?_shape=array")
    assert answer.status_code == 200, answer.text
    return list(answer.json())


@pytest.mark.parametrize("name", browse.QUERIES)
def test_each_canned_query_answers_and_has_a_page(name: str, datasette: httpx.Client) -> None:
    assert rows_of(datasette, name)
    page = datasette.get(f"/predictions/{name}")
    assert page.status_code == 200
    assert browse.QUERIES[name][0] in page.text


def test_the_queries_find_what_they_are_named_after(datasette: httpx.Client) -> None:
    (hour,) = rows_of(datasette, "defects_by_device_and_hour")[:1]
    unsure = rows_of(datasette, "lowest_confidence")[0]
    slowest = rows_of(datasette, "slowest")[0]
    versions = rows_of(datasette, "by_version")
    (verdicts,) = rows_of(datasette, "verdicts_by_version")

    assert (hour["edge_device_id"], hour["defects"]) == ("edge-1", 1)
    assert (unsure["prediction_id"], unsure["confidence"]) == ("unsure", 0.51)
    assert (verdicts["model_version"], verdicts["review"], verdicts["pass"]) == ("4", 1, 0)
    assert slowest["inference_time_ms"] == 8.0
    assert {one["model_version"]: one["predictions"] for one in versions} == {"3": 9, "4": 1}


def test_the_file_is_live_and_cannot_be_written(
    store: RunningStore, datasette: httpx.Client
) -> None:
    store.put(row("new", inference_time_ms=99.0))
    assert rows_of(datasette, "slowest")[0]["prediction_id"] == "new"
    refused = datasette.get("/predictions.json", params={"sql": "DELETE FROM predictions"})
    assert refused.status_code == 400
    assert store.put(row()).predictions == 1
    assert datasette.get("/predictions.db").status_code in (403, 404)


def test_the_first_page_says_what_it_is(datasette: httpx.Client) -> None:
    assert "What the edge devices and the inference service have predicted" in (
        datasette.get("/").text
    )


def test_without_a_database_the_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no database"):
        browse.main(["--database", str(tmp_path / "none.db")])
