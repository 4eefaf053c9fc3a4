"""What a user of BentoML expects of a service works for ours as well, front door or not."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bentoml
import httpx
import pytest

from local import fetch
from tests.support.collector import Collector, bentoml_settings, collecting
from tests.support.images import colour_file
from tests.support.inference import channel, start_inference
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore
from tests.support.servers import ROOT, Server, start_service

LOGGING = "bentos.logging.service:LoggingService"
ORIGIN = "https://factory.example"

_CALLER = """
import bentoml
from bentos.inference.service import InferenceService

@bentoml.service(name="caller", metrics={"enabled": False})
class Caller:
    inference = bentoml.depends(InferenceService)

    @bentoml.api
    async def ask(self, data: list[float]) -> dict:
        answer = await self.inference.to_async.predict(data=data)
        return answer.model_dump() if hasattr(answer, "model_dump") else answer
"""


@pytest.fixture(scope="module")
def inference(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Collector]]:
    """The inference service with traces and CORS as BentoML's own configuration sets them."""
    directory = tmp_path_factory.mktemp("bentoml-ways")
    with collecting() as collector:
        env = bentoml_settings(
            directory,
            tracing=collector.tracing(sample_rate=1.0),
            http={
                "cors": {
                    "enabled": True,
                    "access_control_allow_origins": [ORIGIN],
                    "access_control_allow_methods": ["GET", "POST"],
                }
            },
        )
        uri = model_store.copy(directory).tracking_uri
        with start_inference(directory, uri, env=env) as server:
            server.wait_until_ready()
            yield server, collector


@pytest.mark.parametrize("path", ["/predict", "/predict_image"])
def test_a_request_is_a_span_with_its_id_in_the_trace_of_its_client(
    inference: tuple[Server, Collector], path: str
) -> None:
    server, collector = inference
    trace = "0af7651916cd43dd8448eb211c80319c"
    named = {"X-Request-ID": f"request-of{path}"}
    for headers in (named, {}):
        headers |= {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        answer = server.post(path, json={"data": channel(1)}, headers=headers)
        request_id = answer.headers["x-request-id"]
        span = collector.wait_for(
            lambda one, sought=request_id: one.attributes.get("request_id") == sought  # type: ignore[misc]
        )
        assert span.trace_id == trace
        assert request_id == headers.get("X-Request-ID", request_id)


def test_bentomls_cors_setting_holds_for_the_services_own_routes(
    inference: tuple[Server, Collector],
) -> None:
    server, _ = inference
    asked = server.http.options(
        "/predict",
        headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"},
    )
    answered = server.post("/predict", json={"data": channel(1)}, headers={"Origin": ORIGIN})
    other = server.get("/ready", headers={"Origin": "https://elsewhere.example"})
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers


def test_bentomls_clients_ask_and_wait_longer_than_a_second(
    inference: tuple[Server, Collector], tmp_path: Path
) -> None:
    server, _ = inference
    picture = tmp_path / "green.png"
    picture.write_bytes(colour_file((0, 255, 0), size=(64, 64)))
    with bentoml.SyncHTTPClient(server.url) as client:
        answer = client.predict(data=channel(1))
        of_picture = client.predict_image(image=picture)
        assert client.is_ready()
    assert answer["class_name"] == of_picture["class_name"] == COLOUR_CLASSES[1]

    async def ask() -> Any:
        async with bentoml.AsyncHTTPClient(server.url) as client:
            return await client.predict(data=channel(2))

    assert asyncio.run(ask())["class_name"] == COLOUR_CLASSES[2]


def test_another_bento_depends_on_the_inference_service(
    model_store: ModelStore, tmp_path: Path
) -> None:
    """`bentoml.depends`: its calls are pickles over a socket of the Bento's own."""
    (tmp_path / "caller.py").write_text(_CALLER)
    env = {
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "MLFLOW_TRACKING_URI": model_store.copy(tmp_path).tracking_uri,
        "MODEL_NAME": COLOURS,
        "OUTBOX_PATH": str(tmp_path / "outbox"),
    }
    with start_service("caller:Caller", tmp_path, env=env) as server:
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "inference ready")
        answer = server.post("/ask", json={"data": channel(1)}, timeout=30.0)
        assert answer.status_code == 200, answer.text
        assert answer.json()["class_name"] == COLOUR_CLASSES[1]


def test_a_main_service_takes_no_pickles(inference: tuple[Server, Collector]) -> None:
    """A pickle runs code when it is read; from outside it is only a body that is no JSON."""
    server, _ = inference
    answer = server.post(
        "/predict",
        content=b"\x80\x04.",
        headers={"Content-Type": "application/vnd.bentoml+pickle", "payload-container": "default"},
    )
    assert answer.status_code == 400


@pytest.mark.parametrize("service", ["inference", "logging"])
def test_the_api_page_describes_every_route(
    inference: tuple[Server, Collector], tmp_path: Path, service: str
) -> None:
    env = {"DATABASE_PATH": str(tmp_path / "predictions.db")}
    with ExitStack() as running:
        server = inference[0]
        if service == "logging":
            server = running.enter_context(start_service(LOGGING, tmp_path, env=env))
            server.wait_for_status("/health", 200)
        document = server.get("/docs.json").json()
        missing = server.get("/nothing").json()["error"]
        page, root = server.get("/docs").text, server.get("/").text
    routes = set(missing.partition("the routes are ")[2].split(", "))
    # Pages, and the script of one, are for browsers.
    assert set(document["paths"]) == routes - {"/", "/docs", "/docs.json", "/review/page.js"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert "200" in operation["responses"], path
    assert "swagger-ui" in page
    # The logging service's root shows its status page.
    assert (root == page) is (service == "inference")


@pytest.mark.case(34)
def test_every_connection_speaks_tls_where_the_first_one_does(tmp_path: Path) -> None:
    """`bentoml serve --ssl-certfile`: each of 100 connections speaks https, and none plain http."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(cafile=str(certificate))
    env = {"DATABASE_PATH": str(tmp_path / "predictions.db")}
    options = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with start_service(LOGGING, tmp_path, env=env, options=options) as server:
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready")
        secure = f"https://127.0.0.1:{server.port}/health"
        for _ in range(100):
            assert fetch.get(secure, verify=context).status_code == 200
            with pytest.raises(httpx.TransportError):
                fetch.get(server.url + "/health")
        # The probe process asks the service's port over TLS too: it is still ready.
        assert server.probe("/ready").status_code == 200
