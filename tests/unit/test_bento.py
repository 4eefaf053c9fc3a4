"""What bentos/edge uses of BentoML and uvicorn that neither promises, and what it gives back.

An upgrade that changes one of these fails here first, with the name of what changed and the module
that builds on it.
"""

import asyncio
import inspect
import signal
from typing import Any

import bentoml
import httptools
import pytest
import uvicorn
from _bentoml_impl.serde import PickleSerde
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from bentos.edge import bento
from bentos.edge.bento import worker_index
from bentos.edge.traces import sample_rate
from bentos.process.lifecycle import running_server


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

    @pytest.mark.parametrize("name", ["parser", "cycle", "transport", "loop"])
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

    def test_traces_and_cors_come_as_the_middlewares_that_are_put_around_the_door(self) -> None:
        source = inspect.getsource(ServiceAppFactory.middlewares.fget)
        for what in ("OpenTelemetryMiddleware", "tracer_provider=", "Middleware(CORSMiddleware"):
            assert what in source, changed("bentoml", f"{what} middleware", "bentos/edge/bento.py")

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
