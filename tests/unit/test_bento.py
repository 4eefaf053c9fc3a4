"""What bentos/edge uses of BentoML and uvicorn that neither promises, and what it gives back.

An upgrade that changes one of these fails here first, with the name of what changed and the module
that builds on it.
"""

import asyncio
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml
import httptools
import pytest
import uvicorn
from _bentoml_impl.serde import PickleSerde
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from starlette.middleware.cors import CORSMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from bentos.edge import bento
from bentos.edge.bento import worker_index
from bentos.edge.traces import sample_rate
from bentos.process.lifecycle import running_server
from tests.support.servers import ROOT


def changed(package: str, what: object, module: str) -> str:
    """Return what to say of an upgrade."""
    version = {"bentoml": bentoml.__version__, "uvicorn": uvicorn.__version__}[package]
    return f"{package} {version} has no {what} any more, on which {module} builds: adapt it"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing."""


@pytest.fixture
def protocol() -> HttpToolsProtocol:
    config = uvicorn.Config(app, log_config=None)
    config.load()
    loop = asyncio.new_event_loop()
    made = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    loop.close()
    return made


class TestUvicorn:
    @pytest.mark.parametrize(
        "callback",
        [
            *("connection_made", "connection_lost", "data_received", "on_response_complete"),
            *("pause_writing", "resume_writing", "timeout_keep_alive_handler"),
            "_unset_keepalive_if_required",
        ],
    )
    def test_the_protocol_has_the_callbacks_that_are_overridden(self, callback: str) -> None:
        assert callable(getattr(HttpToolsProtocol, callback, None)), changed(
            "uvicorn", f"HttpToolsProtocol.{callback}", "bentos/edge/protocol.py"
        )

    @pytest.mark.parametrize("name", ["parser", "cycle", "flow", "transport", "loop"])
    def test_the_protocol_has_the_attributes_that_are_used(
        self, protocol: HttpToolsProtocol, name: str
    ) -> None:
        assert hasattr(protocol, name), changed(
            "uvicorn", f"HttpToolsProtocol.{name}", "bentos/edge/protocol.py"
        )

    def test_a_cycle_says_how_far_its_answer_is(self) -> None:
        source = inspect.getsource(RequestResponseCycle.__init__)
        for name in ("response_started", "response_complete"):
            assert f"self.{name} = False" in source, changed(
                "uvicorn", f"RequestResponseCycle.{name}", "bentos/edge/protocol.py"
            )

    def test_flow_control_pauses_reading_as_it_is_overridden(self) -> None:
        source = inspect.getsource(FlowControl)
        for what in ("self._transport", "self.read_paused", "def pause_reading", "def resume_read"):
            assert what in source, changed(
                "uvicorn", f"FlowControl's {what}", "bentos/edge/protocol.py"
            )

    def test_a_new_connection_asks_the_configuration_for_its_protocol(self) -> None:
        source = inspect.getsource(uvicorn.Server.startup)
        assert "config.http_protocol_class(" in source, changed(
            "uvicorn", "look-up of http_protocol_class for each connection", "use_bounded_protocol"
        )
        assert source.index("lifespan.startup") < source.index("config.http_protocol_class(")

    @pytest.mark.parametrize(
        "name", ["timeout_keep_alive", "timeout_graceful_shutdown", "is_ssl", "http_protocol_class"]
    )
    def test_the_configuration_has_what_is_set_and_read(self, name: str) -> None:
        config = uvicorn.Config(app, log_config=None)
        config.load()
        assert hasattr(config, name), changed(
            "uvicorn", f"Config.{name}", "bentos/kit.py or bentos/process/lifecycle.py"
        )

    def test_a_server_takes_its_signals_with_a_method_of_its_own(self) -> None:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        before = signal.getsignal(signal.SIGTERM)
        with server.capture_signals():
            assert running_server() is server, changed(
                "uvicorn", "Server.handle_exit as handler of SIGTERM", "running_server"
            )
        assert signal.getsignal(signal.SIGTERM) is before
        assert running_server() is None

    def test_the_parser_has_the_errors_that_are_caught(self) -> None:
        assert issubclass(httptools.HttpParserCallbackError, httptools.HttpParserError)
        assert issubclass(httptools.HttpParserUpgrade, Exception)


class TestBentoML:
    def test_a_service_makes_its_asgi_app_in_a_method(self) -> None:
        assert list(inspect.signature(Service.to_asgi).parameters) == ["self", "is_main"], changed(
            "bentoml", "Service.to_asgi(is_main)", "FrontedService"
        )
        fields = {field.name for field in Service.__attrs_attrs__}
        assert {"name", "config", "inner", "image"} <= fields, changed(
            "bentoml", "Service(name, config, inner, image)", "FrontedService"
        )

    def test_a_process_knows_its_workers_index(self) -> None:
        assert hasattr(server_context, "worker_index"), changed(
            "bentoml", "server_context.worker_index", "worker_index"
        )
        assert worker_index() == 1

    def test_a_sampler_says_the_share_that_it_takes(self) -> None:
        for share in (0.0, 1e-7, 0.5, 1.0):
            provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
            assert sample_rate({"tracer_provider": provider}) == share

    def test_calls_between_services_have_the_media_type_that_is_handed_on(self) -> None:
        assert PickleSerde.media_type.encode() == bento._PICKLE, changed(
            "bentoml", bento._PICKLE, "bentos/edge/bento.py"
        )

    def test_handing_out_the_pages_needs_the_paths_that_pass(self) -> None:
        for path in ("/schema.json", "/livez", "/readyz", "/static_content/swagger.js"):
            assert bento._passes(path)
        for path in ("/log", "/schema.json/", "/livez\n", "/static_contents", "/metrics"):
            assert not bento._passes(path)


# Serves the small Bento in this process with a configuration of BentoML's own, and sends requests.
PROGRAM = """
import asyncio, json, sys, tempfile
from pathlib import Path
import httpx
from _bentoml_sdk import Service
from bentos.edge.bento import FrontedService
from tests.support import small_bento as small

more, is_main, requests = json.loads(sys.argv[1])
config = small.service_config(small.settings, port=3000)
config = config | more | {{"http": config["http"] | more.get("http", {{}})}}
service = FrontedService(name="small", config=config, inner=small.Small)
app = service.to_asgi(is_main=is_main)
bentomls = Service.to_asgi(service)
plan = small.small_probes(small.settings, Path(tempfile.mkdtemp()))
small.Small.app = small.SmallApp(plan, 1)

async def main():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        found = []
        for method, path, headers, content in requests:
            body = content.encode("latin-1")
            answer = await client.request(method, path, headers=headers, content=body)
            found.append([answer.status_code, dict(answer.headers), answer.text])
        return found

found = asyncio.run(main())
{after}
print(json.dumps({{
    "answers": found,
    "middleware": [[one.cls.__name__, sorted(one.kwargs)] for one in bentomls.user_middleware],
    "more": seen,
}}))
"""
SPANS = """
from bentoml._internal.configuration.containers import BentoMLContainer
(processor,) = BentoMLContainer.tracer_provider.get()._active_span_processor._span_processors
processor.force_flush()
spans = processor._batch_processor._exporter.get_finished_spans()
seen = [dict(span.attributes) for span in spans if "http.method" in span.attributes]
"""


def run(
    config: dict[str, object],
    *requests: tuple[str, str, dict[str, str], str],
    home: Path,
    is_main: bool = True,
    after: str = "seen = None",
) -> Any:
    ended = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM.format(after=after)),
            json.dumps([config, is_main, requests]),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_bentomls_cors_setting_holds_for_the_services_own_routes(tmp_path: Path) -> None:
    origin = {"Origin": "https://a.example"}
    preflight = origin | {"Access-Control-Request-Method": "POST"}
    allowed = {"enabled": True, "access_control_allow_origins": "https://a.example"}
    allowed |= {"access_control_allow_methods": "POST"}
    found = run(
        {"http": {"cors": allowed}},
        ("POST", "/work", origin, "0"),
        ("OPTIONS", "/work", preflight, ""),
        home=tmp_path,
    )
    for status, headers, _ in found["answers"]:
        assert status == 200
        assert headers["access-control-allow-origin"] == "https://a.example"
    assert CORSMiddleware.__name__ in [name for name, _ in found["middleware"]]


@pytest.mark.slow
def test_a_request_is_traced_with_its_id_where_tracing_is_on(tmp_path: Path) -> None:
    found = run(
        {"tracing": {"sample_rate": 1.0, "exporter_type": "in_memory"}},
        ("POST", "/work", {"X-Request-ID": "abc-1"}, "0"),
        ("POST", "/work", {}, "0"),
        home=tmp_path,
        after=SPANS,
    )
    middleware = dict(found["middleware"])
    assert "tracer_provider" in middleware[OpenTelemetryMiddleware.__name__], changed(
        "bentoml", "tracer_provider among the middleware's options", "bentos/edge/bento.py"
    )
    first, second = found["more"]
    assert (first["http.target"], first["request_id"]) == ("/work", "abc-1")
    assert second["request_id"] == found["answers"][1][1]["x-request-id"]


@pytest.mark.slow
def test_pickles_are_read_from_services_of_the_same_bento_only(tmp_path: Path) -> None:
    content = pickle.dumps({"text": "hello"}, protocol=5).decode("latin-1")
    call = ("POST", "/guarded", {"Content-Type": PickleSerde.media_type}, content)
    ours = ("POST", "/work", {"Content-Type": PickleSerde.media_type}, "0")
    (alone,) = run({}, call, home=tmp_path)["answers"]
    assert alone[0] == 404
    within, other = run({}, call, ours, home=tmp_path, is_main=False)["answers"]
    assert within[0] != 404
    assert other[0] == 404  # BentoML has no such route; ours is not asked
