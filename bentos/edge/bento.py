"""The joint between a service and BentoML: a Bento whose front door is ours.

Everything here that is no public API of BentoML is listed in `tests/unit/test_bento.py`, which
fails with a clear message when an upgrade changes it.
"""

import os
import signal
from collections.abc import Callable, Mapping, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Protocol

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.middleware.cors import CORSMiddleware

from bentos.edge.door import Door, FrontDoor
from bentos.edge.http import AsgiApp, Receive, Scope, Send, ServiceError
from bentos.edge.openapi import ApiPage
from bentos.edge.traces import SampledTraces, sample_rate
from bentos.health.probes import HEALTH_PATH, READY_PATH
from bentos.process.logs import configure_logging
from bentos.process.parent import end_with_parent
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings
from bentos.process.supervisor import (
    Supervisor,
    make_pod_directory,
    pod_directory,
    raise_descriptor_limit,
)

# What BentoML answers itself: its probes, the description that its clients read, and the files
# that show an API page.
_BENTOML_PATHS = frozenset({"/schema.json", "/livez", "/readyz", "/healthz"})
_BENTOML_FOLDERS = ("/static_content/", "/assets/")
_REASONS = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}
_MAX_SHOWN = 60
# The environment variable with the process id of `bentoml serve`, for its workers.
_SUPERVISOR = "POD_SUPERVISOR"
_PICKLE = b"application/vnd.bentoml+pickle"


class App(Protocol):
    """A service without BentoML: its parts, put together."""

    @property
    def kit(self) -> Any:
        """The `bentos.kit.Kit` that answers the service's own routes and probes."""

    def start(self) -> None:
        """Start the background parts on the event loop, without waiting for any."""

    async def stop(self) -> None:
        """End the parts in order."""


class FrontedInstance:
    """The life of an app in a BentoML worker; a Bento's class derives from it.

    `service` is the name that probes and logs say, `api` the page of the service's routes. The
    derived class says with `make_plan` what the probes are made of and with `make_app` how a
    worker's app is made. BentoML starts the app once the worker's event loop runs.
    """

    service: ClassVar[str]
    api: ClassVar[ApiPage]
    app: ClassVar[Any] = None

    def __init__(self) -> None:
        worker = worker_index()
        plan = self.make_plan(pod_directory(self.service))
        configure_logging(**plan.logging, worker=worker)
        app = self.make_app(plan, worker)
        app.kit.add_routes(self.api.routes(plan))
        type(self).app = app

    @classmethod
    def make_plan(cls, directory: Path) -> ProbePlan:
        """Return what the probes are made of; the directory is the pod's."""
        raise NotImplementedError(f"{cls.__name__} does not say what its probes are made of")

    @classmethod
    def make_app(cls, plan: ProbePlan, worker: int) -> App:
        """Return the app of a worker, 1 the first."""
        raise NotImplementedError(f"{cls.__name__} does not say how its app is made")

    @classmethod
    def supervise(cls) -> None:
        """Make what the workers share and start the probe process, in `bentoml serve` itself."""
        plan = cls.make_plan(make_pod_directory(cls.service))
        configure_logging(**plan.logging, worker=0)
        raise_descriptor_limit()
        os.environ[_SUPERVISOR] = str(os.getpid())
        Supervisor(plan).start()

    @classmethod
    def door(cls) -> Door | None:
        """Return what answers the service's own routes, None before there is an instance."""
        app: App | None = cls.app
        return app.kit.door if app is not None else None

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # BentoML ships no types
    async def start(self) -> None:
        """Start the background parts; the port answers at once."""
        supervisor = os.environ.get(_SUPERVISOR)
        if supervisor is not None:
            end_with_parent(signal.SIGTERM, int(supervisor))
        self.app.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML ships no types
    async def stop(self) -> None:
        """End the parts in order."""
        await self.app.stop()

    async def __is_alive__(self) -> bool:
        """Answer BentoML's own `/livez` as `/health` does."""
        return bool(self.app.kit.probes.live().passed)

    async def __is_ready__(self) -> bool:
        """Answer BentoML's own `/readyz` as `/ready` does."""
        return bool(self.app.kit.probes.is_ready().passed)


class FrontedService(Service[Any]):  # type: ignore[misc]  # BentoML ships no types
    """A BentoML service that answers its own routes before BentoML's middlewares.

    Its class, `inner`, is a FrontedInstance. BentoML's own pages and routes stay behind it as
    they are, and its tracing and CORS settings hold for the service's own routes as well.
    """

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI app that a worker serves."""
        app = super().to_asgi(is_main)
        find_door: Callable[[], Door | None] = self.inner.door
        fronted: Any = FrontDoor(_OneShape(app), find_door, passes=_passes)
        if not is_main:
            fronted = _PickledCalls(app, fronted)
        for middleware in reversed(app.user_middleware):
            if middleware.cls is CORSMiddleware:
                fronted = CORSMiddleware(fronted, **middleware.kwargs)
            if middleware.cls is OpenTelemetryMiddleware and sample_rate(middleware.kwargs) > 0:
                fronted = SampledTraces(fronted, middleware.kwargs)
        return fronted


class _OneShape:
    """Gives errors on BentoML's own paths, as a missing static file, the one shape of errors."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and an answer back unless it is an error."""
        refused = False

        async def reshaped(message: MutableMapping[str, Any]) -> None:
            nonlocal refused
            if message["type"] != "http.response.start" or message["status"] < 400:
                if not refused:
                    await send(message)
                return
            refused = True
            status = HTTPStatus(message["status"])
            reason = _REASONS.get(status, "refused")
            body = ServiceError(status, reason, f"{scope['path'][:_MAX_SHOWN]}: {status.phrase}")
            answer = body.response()
            length = str(len(answer.body)).encode()
            headers = [(b"content-type", answer.content_type), (b"content-length", length)]
            await send({**message, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})

        await self._app(scope, receive, reshaped)


class _PickledCalls:
    """Hands calls from another service of the same Bento to BentoML, which reads their pickles.

    They come over a socket that only this Bento's processes have. A service that is served by
    itself takes none: BentoML refuses them there, and so does the front door.
    """

    def __init__(self, app: AsgiApp, fronted: AsgiApp) -> None:
        self._app = app
        self._fronted = fronted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pickled = scope["type"] == "http" and any(
            name == b"content-type" and value.startswith(_PICKLE)
            for name, value in scope["headers"]
        )
        await (self._app if pickled else self._fronted)(scope, receive, send)


def _passes(path: str) -> bool:
    return path in _BENTOML_PATHS or path.startswith(_BENTOML_FOLDERS)


def service_config(settings: ServiceSettings, *, port: int) -> Mapping[str, Any]:
    """Return BentoML's settings of a service behind the front door.

    BentoML's request metrics and access log are off: they label raw paths and count probes, so
    a scan would make series without bound. The probe paths are named for its limiter as well.
    """
    return {
        "workers": settings.workers,
        "traffic": {"timeout": settings.request_timeout_seconds},
        "http": {"host": settings.host, "port": port},
        "metrics": {"enabled": False, "namespace": "bentoml_service"},
        "logging": {"access": {"enabled": False}},
        "endpoints": {"livez": HEALTH_PATH, "readyz": READY_PATH},
        "runner_probe": {"enabled": False, "timeout": 1, "period": 10},
    }


def worker_index() -> int:
    """Return the calling worker's index, 1 the first; 1 too outside `bentoml serve`."""
    return int(server_context.worker_index or 1)
