"""The status page and the API pages of running services, in a real browser on a closed network."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest

from local.browser import Browser, Page
from tests.support.inference_probe import InferenceStandIn, inference_stand_in
from tests.support.metrics import total
from tests.support.pages import SIZES, check_page
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service, wait_until

LOGGING = "bentos.logging.service:LoggingService"
INFERENCE = "bentos.inference.service:InferenceService"
TOKEN = "a-token-for-reads"
# A page is taken anew after CACHE_SECONDS.
HOSTILE_CLASS = "<script>window.hurt = 5</script>" + "W" * 460
HOSTILE_DEVICE = '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">'


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceStandIn]:
    """The probe process of an inference service."""
    with inference_stand_in(tmp_path_factory.mktemp("inference")) as running:
        yield running


def start(directory: Path, **env: str) -> Server:
    """Start the logging service with its database in the directory."""
    return start_service(
        LOGGING, directory, env={"DATABASE_PATH": str(directory / "predictions.db")} | env
    )


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, inference: InferenceStandIn
) -> Iterator[Server]:
    """A logging service beside the inference service, with an empty database at first."""
    links = {
        "GRAFANA_URL": "http://grafana.example:3000/",
        "INFERENCE_DOCS_URL": "http://inference.example:8000/docs",
        "RUNBOOKS_URL": "http://runbooks.example",
    }
    directory = tmp_path_factory.mktemp("logging")
    with start(directory, INFERENCE_PROBE_URL=inference.url, **links) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A logging service with a token, a prediction, and no other service that it knows of."""
    with start(tmp_path_factory.mktemp("guarded"), LOGGING_TOKEN=TOKEN) as running:
        running.wait_until_ready()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = batch(prediction(), edge_device_id="secret-line")
        assert running.post("/log", json=body, headers=headers).status_code == 200
        yield running


def open_until(page: Page, url: str, says: str) -> str:
    """Return the page's text once it says so; what it shows is up to two seconds old."""

    def opened() -> bool:
        page.open(f"{url}/?refresh=0")
        return says in page.text

    wait_until(opened, f"the page says {says!r}", seconds=60.0, describe=lambda: page.text)
    return page.text


# The tests follow a story: first there is nothing, then predictions, then the other service ends.


@SIZES
def test_a_service_without_a_model_and_an_empty_database(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    with browser.page(width=size[0], height=size[1]) as page:
        page.open(f"{server.url}/?refresh=0")
        text = page.text
        check_page(page, server, scripts=0)
        links = page.evaluate("[...document.links].map(link => link.href)")
    assert "The inference service is not ready" in text
    assert "No model is loaded." in text
    assert "No prediction is stored yet." in text
    assert "http://runbooks.example/InferenceModelNotLoaded.md" in links
    assert f"{server.url}/docs" in links
    assert {"http://inference.example:8000/docs", "http://grafana.example:3000/"} <= set(links)


@SIZES
def test_what_is_served_and_what_was_predicted(
    browser: Browser, server: Server, inference: InferenceStandIn, size: tuple[int, int]
) -> None:
    inference.serve(version="3")
    inference.state.log_backlog.set(12)
    inference.state.log_dead_letters.set(3)
    server.post("/log", json=batch(prediction(), prediction(), edge_device_id="line-4"))
    with browser.page(width=size[0], height=size[1]) as page:
        text = open_until(page, server.url, "Both services are ready")
        check_page(page, server, scripts=0)
        bars = page.evaluate("document.querySelectorAll('figure rect:not(.unseen)').length")
    assert re.search(r"Version\s+3", text)
    assert re.search(r"Served since\s+\S.* UTC, 2 h ago", text)
    assert re.search(r"12\s+waiting in the outbox", text)
    assert re.search(r"3\s+refused for good", text)
    assert re.search(r"scratch\s+defect\s+93.0%\s+line-4", text)
    assert bars >= 1


@SIZES
def test_text_of_clients_is_shown_as_it_is_and_breaks_nothing(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    """A device named `<script>`, a class of 500 characters without a space, and turned text."""
    rows = [
        prediction(
            image_id="\u202egnp.exe" + "x" * 400,
            detections=[{"class": HOSTILE_CLASS, "confidence": 1.0}] * 900,
            model_name="</title></style><script>window.hurt = 3</script>",
            model_version="<script>window.hurt = 4</script>",
        )
    ]
    server.post("/log", json=batch(*rows, edge_device_id=HOSTILE_DEVICE)).raise_for_status()
    with browser.page(width=size[0], height=size[1]) as page:
        text = open_until(page, server.url, HOSTILE_DEVICE)
        check_page(page, server, scripts=0)
    assert "and 899 more" in text


def test_dark_and_light_follow_the_browser(browser: Browser, server: Server) -> None:
    grounds = []
    for dark in (False, True):
        with browser.page(width=400, height=700, dark=dark) as page:
            page.open(f"{server.url}/?refresh=0")
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds.append(sum(int(part) for part in re.findall(r"\d+", colour)[:3]))
    assert grounds[0] > 600
    assert grounds[1] < 150


def test_an_inference_service_that_is_gone_is_told(
    browser: Browser, server: Server, inference: InferenceStandIn
) -> None:
    inference.process.stop()
    with browser.page(width=360, height=740) as page:
        text = open_until(page, server.url, "The inference service is not reachable")
        check_page(page, server, scripts=0)
    assert f"No connection to {httpx.URL(inference.url).netloc.decode()}." in text
    assert re.search(r"unknown\s+waiting in the outbox", text)


def test_looking_counts_neither_as_an_error_nor_as_a_refusal(server: Server) -> None:
    before = server.get("/ready").json()["errors"]
    for query in ("", "?refresh=0", "?refresh=never", "?sign-in"):
        assert server.get(f"/{query}").status_code in (200, 400)
    assert server.http.head("/").status_code == 200
    assert server.post("/").status_code == 405
    assert server.get("/ready").json()["errors"] == before
    assert total(server.get("/metrics").text, "logging_rejected_total") == 0


def test_a_browser_signs_in_with_the_token_as_the_password(
    browser: Browser, guarded: Server
) -> None:
    with browser.page(width=1280, height=800) as page:
        page.open(f"{guarded.url}/?refresh=0")
        assert "secret-line" not in page.text
        assert "Sign in" in page.text
        assert "not configured" in page.text
        check_page(page, guarded, scripts=0)
        page.open(guarded.url.replace("://", f"://any:{TOKEN}@") + "/?sign-in")
        assert "secret-line" in page.text
        # The browser keeps the password for all of the page's addresses.
        page.open(f"{guarded.url}/?refresh=0")
        assert "secret-line" in page.text
    assert guarded.get("/").status_code == 200
    assert "secret-line" not in guarded.get("/").text
    wrong = {"Authorization": "Bearer wrong"}
    assert "secret-line" not in guarded.get("/", headers=wrong).text
    assert guarded.get("/?sign-in", headers=wrong).status_code == 401


def check_api_page(browser: Browser, server: Server, title: str, *routes: str) -> None:
    """Raise AssertionError where the page lacks something, or asks another host for it."""
    count = "document.querySelectorAll('{}').length"
    with browser.page(width=1280, height=900) as page:
        page.open(f"{server.url}/docs")
        wait_until(lambda: page.evaluate(count.format(".opblock")), "it is drawn", seconds=60)
        operations = page.evaluate(count.format(".opblock"))
        page.evaluate(
            "document.querySelectorAll('.opblock-summary-control').forEach(one => one.click())"
        )
        unfolded = count.format(".responses-wrapper")
        wait_until(lambda: page.evaluate(unfolded) == operations, "they unfold", seconds=60)
        text = page.text
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.complaints == []
        hosts = {httpx.URL(url).netloc for url in page.requests}
    assert hosts == {httpx.URL(server.url).netloc}
    for expected in (title, "Example Value", *routes):
        assert expected in text
    assert "validator" not in text.lower()


def test_the_api_page_of_the_logging_service_needs_no_other_host(
    browser: Browser, server: Server
) -> None:
    routes = ("/log", "/stats", "/predictions", "/health", "/ready", "/metrics")
    check_api_page(browser, server, "Logging service", *routes)


def test_the_api_page_of_the_inference_service_needs_no_other_host(
    browser: Browser, tmp_path: Path
) -> None:
    env = {
        "OUTBOX_PATH": str(tmp_path / "outbox"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    with start_service(INFERENCE, tmp_path, env=env) as running:
        running.wait_for_status("/health", 200)
        routes = ("/predict", "/predict_image", "/health", "/ready", "/metrics")
        check_api_page(browser, running, "Inference service", *routes)


@pytest.mark.parametrize("path", ["/stats", "/predictions", "/health", "/ready"])
def test_answers_are_what_the_api_page_says(server: Server, path: str) -> None:
    document = server.get("/docs.json").json()
    answer = server.get(path)
    response = document["paths"][path]["get"]["responses"][str(answer.status_code)]
    schema = response["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    validator.validate(json.loads(answer.content))
