"""The joint between the probe kit and BentoML: a service whose front door is ours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from starlette.routing import Match

from bentos.edge.door import Door, FrontDoor
from bentos.edge.http import Scope
from bentos.process.logs import configure_logging
from bentos.health.probes import HEALTH_PATH, READY_PATH, Probes
from bentos.process.supervisor import pod_directory
from bentos.process.settings import ServiceSettings

_PAGES_TIMEOUT_SECONDS = 1


class App(Protocol):
    """A service without BentoML: its parts, put together."""

    door: Door
    probes: Probes

    def start(self) -> None:
        """Start the background parts on the event loop, without waiting for any."""

    async def stop(self) -> None:
        """End the parts in order."""


class FrontedInstance:
    """The life of an app in a BentoML worker; a Bento's class derives from it.

    `service` is the name the probes tell. The derived class says with `make_app` how the app is
    made; BentoML then starts it once the worker's event loop runs, and stops it at the end.
    """

    service: ClassVar[str]
    settings: ClassVar[ServiceSettings]
    app: ClassVar[Any] = None

    def __init__(self) -> None:
        worker = worker_index()
        configure_logging(
            level=self.settings.log_level,
            form=self.settings.log_format,
            service=self.service,
            worker=worker,
        )
        type(self).app = self.make_app(worker, pod_directory(self.service))

    def make_app(self, worker: int, directory: Path) -> App:
        """Return the app of a worker, 1 the first, which shares the directory with the others."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its app is made")

    @classmethod
    def door(cls) -> Door | None:
        """Return what answers the service's own routes, None before there is an instance."""
        app: App | None = cls.app
        return app.door if app is not None else None

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # BentoML ships no types
    async def start(self) -> None:
        """Start the background parts; the port answers at once."""
        self.app.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML ships no types
    async def stop(self) -> None:
        """End the parts in order."""
        await self.app.stop()

    async def __is_alive__(self) -> bool:
        """Answer BentoML's own `/livez` as `/health` does."""
        return bool(self.app.probes.live().passed)

    async def __is_ready__(self) -> bool:
        """Answer BentoML's own `/readyz` as `/ready` does."""
        return bool(self.app.probes.readiness_verdict().passed)


class FrontedService(Service[Any]):  # type: ignore[misc]  # BentoML ships no types
    """A BentoML service that answers its own routes before BentoML's middlewares.

    Its class, `inner`, is a FrontedInstance. BentoML's own pages and routes stay behind it as
    they are.
    """

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI app that a worker serves."""
        app = super().to_asgi(is_main)
        find_door: Callable[[], Door | None] = self.inner.door

        def knows(scope: Scope) -> bool:
            return any(route.matches(scope)[0] is not Match.NONE for route in app.routes)

        return FrontDoor(app, find_door, knows=knows)


def service_config(*, workers: int, port: int) -> Mapping[str, Any]:
    """Return BentoML's settings of a service behind the front door.

    BentoML's request metrics and access log are off: they label raw paths and count probes, so
    a scan would make series without bound. Its time-out is short, since it leaves a timer with all
    that a request holds until then; what takes long is answered at the door, which has its own.
    The probe paths are named for its limiter as well.
    """
    return {
        "workers": workers,
        "traffic": {"timeout": _PAGES_TIMEOUT_SECONDS},
        "http": {"port": port},
        "metrics": {"enabled": False, "namespace": "bentoml_service"},
        "logging": {"access": {"enabled": False}},
        "endpoints": {"livez": HEALTH_PATH, "readyz": READY_PATH},
        "runner_probe": {"enabled": False, "timeout": 1, "period": 10},
    }


def worker_index() -> int:
    """Return the calling worker's index, 1 the first; 1 too outside `bentoml serve`."""
    return int(server_context.worker_index or 1)
