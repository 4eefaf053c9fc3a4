"""The probe kit, put together: what a service gets from a state and its checks.

A service of one's own needs a state and the kit::

    class CacheState(ServiceState):
        prefix = "cache"
        warm = Gauge("{prefix}_warm", "Whether the cache is filled.", across="all")

    kit = Kit.alone(CacheState, "my-service", readiness=[required("cache_cold", "warm")])
    app = kit.asgi(my_app)
"""

import gc
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bentos.edge.door import Door, FrontDoor, Route, probe_routes, route_table
from bentos.edge.http import AsgiApp, BodyMemory, Receive, Scope, Send
from bentos.edge.protocol import use_bounded_protocol
from bentos.health import checks
from bentos.health.checks import Check, port_not_answering, required, stuck
from bentos.health.state import ServiceState
from bentos.health.values import Counter, Gauge, Histogram
from bentos.process.lifecycle import Lifecycle, running_server
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings
from bentos.process.supervisor import (
    Supervisor,
    pod_directory,
    raise_descriptor_limit,
    remove_own_directory,
)

__all__ = ["Counter", "Gauge", "Histogram", "Kit", "ServiceState", "probe_plan", "required"]


def probe_plan(
    state: type[ServiceState],
    service: str,
    settings: ServiceSettings,
    directory: Path,
    *,
    labels: Mapping[str, str] | None = None,
    liveness: Sequence[Check] = (),
    readiness: Sequence[Check] = (),
    describe: Callable[[Any], Mapping[str, object]],
) -> ProbePlan:
    """Return a service's probes: what every service is judged by, and its own checks.

    `liveness` and `readiness` are the service's own, in their order of weight. What explains the
    others comes first: a worker that is gone also has no model.
    """
    return ProbePlan(
        state=state,
        arguments={
            "directory": directory,
            "service": service,
            "labels": labels or {},
            "workers": settings.workers,
            "window_seconds": settings.error_window_seconds,
            "probe_port": settings.probe_port,
        },
        liveness=[
            Check("worker_dead", partial(checks.worker_dead, settings.worker_grace_seconds)),
            stuck(
                "event_loop_stalled",
                "heartbeat",
                stall_seconds=settings.stall_seconds + settings.worker_grace_seconds,
            ),
            Check("port_not_answering", partial(port_not_answering, settings.stall_seconds)),
            *liveness,
        ],
        readiness=[
            Check("shutting_down", checks.shutting_down),
            Check("worker_missing", checks.worker_missing),
            stuck("event_loop_stalled", "heartbeat", stall_seconds=settings.stall_seconds),
            Check("port_not_answering", partial(port_not_answering, 0.0)),
            *readiness,
            Check("high_error_rate", checks.high_error_rate),
            required("worker_not_serving", "serving"),
        ],
        describe=describe,
        host=settings.host,
        port=settings.probe_port,
        logging={
            "level": settings.log_level,
            "form": settings.log_format,
            "service": service,
        },
    )


# The default, 5 ms, is how long a request would wait for a thread that is busy in Python.
_SWITCH_INTERVAL_SECONDS = 0.0005
# What a worker has open beside its connections: files, pipes, a database and its log.
_OTHER_DESCRIPTORS = 128
_LIFESPAN_ENDS = frozenset(
    ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")
)


def _describe_nothing(_: ServiceState) -> Mapping[str, object]:
    return {}


class Kit:
    """One worker's state, probes, routes and lifecycle; `start` and `stop` on its event loop."""

    def __init__(
        self,
        plan: ProbePlan,
        settings: ServiceSettings,
        *,
        worker: int = 1,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self.probes = plan.probes(worker)
        self.state: Any = self.probes.state
        self.memory = BodyMemory(settings.max_bodies_bytes_a_worker)
        self._routes = probe_routes(self.probes)
        self.door = self._door()
        self._lifecycle = Lifecycle(
            self.probes,
            drain_seconds=settings.drain_seconds,
            shutdown_seconds=settings.shutdown_seconds,
            on_beat=on_beat,
        )
        self._supervisor: Supervisor | None = None

    @classmethod
    def alone(
        cls,
        state: type[ServiceState],
        service: str,
        *,
        liveness: Sequence[Check] = (),
        readiness: Sequence[Check] = (),
        describe: Callable[[Any], Mapping[str, object]] = _describe_nothing,
        settings: ServiceSettings | None = None,
    ) -> "Kit":
        """Return the kit of a service without BentoML, with `asgi` for any server.

        Without settings they are read from the environment: `PROBE_PORT=8012` starts a probe
        process. It imports the module of `state`, of the checks and of `describe`, so that module
        should import nothing large and must not be the program itself.
        """
        settings = settings or ServiceSettings()
        plan = probe_plan(
            state,
            service,
            settings,
            pod_directory(service),
            liveness=liveness,
            readiness=readiness,
            describe=describe,
        )
        kit = cls(plan, settings)
        kit._supervisor = Supervisor(plan) if settings.probe_port else None
        return kit

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Answer these routes from now on, beside the probes and those that were added before.

        Raises ValueError where two routes share a path.
        """
        self._routes = [*self._routes, *routes]
        self.door = self._door()

    def start(self) -> None:
        """Begin to beat, and bound what clients may do where uvicorn serves."""
        # What was imported is not garbage: a full collection over it stops everything for 100 ms.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        server = running_server()
        if server is not None:
            server.config.timeout_keep_alive = self._settings.keep_alive_seconds
            descriptors = raise_descriptor_limit() - _OTHER_DESCRIPTORS
            most = max(1, min(self._settings.max_connections, descriptors))
            use_bounded_protocol(server, max_connections=most)
        self._lifecycle.start()
        if self._supervisor is not None:
            self._supervisor.start()

    async def stop(self) -> None:
        """End the heartbeat, the last of all parts."""
        await self._lifecycle.stop()
        if self._supervisor is not None:
            self._supervisor.stop()
        # Of a lone service, which uvicorn ends by the signal that it got: nothing runs at exit.
        remove_own_directory(self._plan.arguments["directory"])

    def asgi(self, app: AsgiApp) -> AsgiApp:
        """Return an ASGI app that answers the kit's routes and hands everything else on.

        The kit starts before the app and stops after it, by ASGI's lifespan messages.
        """
        door = FrontDoor(app, lambda: self.door)

        async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
            handle = partial(self._live, app) if scope["type"] == "lifespan" else door
            await handle(scope, receive, send)

        return with_lifespan

    async def _live(self, app: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        answered = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            if message["type"] in _LIFESPAN_ENDS:
                await self.stop()
            await send(message)
            answered = True

        try:
            await app(scope, receive, answer)
        except Exception:
            if answered:
                raise
        if not answered:
            # An app without a lifespan raises or returns.
            await answer({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await answer({"type": "lifespan.shutdown.complete"})

    def _door(self) -> Door:
        return Door(
            state=self.probes.state,
            routes=route_table(self._routes),
            timeout_seconds=self._settings.request_timeout_seconds,
            memory=self.memory,
        )
