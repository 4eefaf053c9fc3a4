"""The front door: an ASGI app that answers a service's own routes and hands others on.

It stands before BentoML's middlewares. `docs/architecture.md` says what that gains, measured, and
what it costs. What is not the service's own reaches BentoML only by an exact list of paths, so
that no other spelling of a guarded route finds BentoML's unguarded twin of it.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from time import perf_counter
from typing import TypeAlias

from bentos.edge.http import (
    CLOSE,
    AsgiApp,
    BodyMemory,
    ClientDisconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    ServiceError,
)
from bentos.health.metrics import wants_openmetrics
from bentos.health.probes import METRICS_PATH, Answer, Probes
from bentos.health.state import ServiceState
from bentos.health.values import OTHER, Histogram
from bentos.process.logs import event, get_logger

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Guard: TypeAlias = Callable[[Request], None]
Routes: TypeAlias = Mapping[str, Mapping[str, "Route"]]

_logger = get_logger("http")

_MAX_SHOWN = 60
_PARAMETER = re.compile(r"\\{\w+\\}")
_ANY_METHOD = "*"


def admit(_: Request) -> None:
    """Guard a route that is open to everybody."""


@dataclass(frozen=True)
class Route:
    """A path, a method of it and what answers it.

    A name in braces stands for any one segment of the path: `/v2/models/{model}`. `probe` names a
    route that Kubernetes or Prometheus asks: it is timed as a probe and logged at debug. `guard`
    raises ServiceError for a request that may not be answered, before anything of it is read.
    `on_failure` gets the reason when the service failed, `on_refusal` when it turned a request
    away. `duration` observes how long answers take.
    """

    method: str
    path: str
    handler: Handler
    probe: str = ""
    guard: Guard = admit
    on_failure: Callable[[str], None] = lambda _reason: None
    on_refusal: Callable[[str], None] = lambda _reason: None
    duration: Histogram | None = None


@dataclass(frozen=True)
class Door:
    """The routes of a running service, its time-out, its counts and its memory for bodies."""

    state: ServiceState
    routes: Routes
    timeout_seconds: float
    memory: BodyMemory | None = None

    def find(self, method: str, path: str) -> Route | None:
        """Return what answers a request, with a 405 where it must; None where there is no path."""
        methods = self.routes.get(path)
        if methods is None:
            found = (one for pattern, one in self._patterns if pattern.fullmatch(path))
            methods = next(found, None)
            if methods is None:
                return None
        return methods.get(method) or methods[_ANY_METHOD]

    @cached_property
    def _patterns(self) -> Sequence[tuple[re.Pattern[str], Mapping[str, Route]]]:
        return [
            (re.compile(_PARAMETER.sub("[^/]+", re.escape(path))), methods)
            for path, methods in self.routes.items()
            if "{" in path
        ]

    async def answer(self, route: Route, request: Request) -> Response | None:
        """Return the route's answer, an error body included; None where the client left."""
        try:
            return await self._answer(route, request)
        finally:
            request.release()

    async def _answer(self, route: Route, request: Request) -> Response | None:
        started = perf_counter()
        failure: BaseException | None = None
        response: Response
        try:
            route.guard(request)
            if route.probe:
                response = await route.handler(request)
            else:
                async with asyncio.timeout(self.timeout_seconds):
                    response = await route.handler(request)
        except ClientDisconnected:
            return None
        except ServiceError as error:
            response = error.response()
            # 503 says "not now" and 504 "too late": only the latter is a failed attempt.
            if error.status in (500, 504):
                failure = error.__cause__ or error
                route.on_failure(error.reason)
            elif not route.probe:
                route.on_refusal(error.reason)
        except TimeoutError as error:
            if request.receiving:
                response = _too_slow(self.timeout_seconds).response()
                route.on_refusal("body_timeout")
            else:
                failure = error
                response = ServiceError(
                    504, "timeout", f"no answer within {self.timeout_seconds:g} seconds"
                ).response()
                route.on_failure("timeout")
        except Exception as error:
            failure = error
            response = ServiceError(
                500, "internal_error", "the service failed; its log has the details"
            ).response()
            route.on_failure("internal_error")
        self._account(route, request, response, perf_counter() - started, failure)
        return response

    def nothing_here(self, request: Request) -> Response:
        """Return the 404 for a path that is no route."""
        self.state.http_requests[OTHER, "404"].add()
        routes = ", ".join(self.routes)
        return ServiceError(
            404,
            "not_found",
            f"there is nothing at {request.path[:_MAX_SHOWN]}; the routes are {routes}",
        ).response()

    def _account(
        self,
        route: Route,
        request: Request,
        response: Response,
        seconds: float,
        failure: BaseException | None,
    ) -> None:
        status = str(response.status)
        self.state.count_request(route.path, status)
        if route.duration is not None:
            route.duration.observe(seconds)
        if route.probe and response.status in (200, 500, 503):
            self.state.probe_duration[route.probe, status].observe(seconds)
        level = _level(route, response.status)
        if _logger.isEnabledFor(level):
            fields = {
                "method": request.method,
                "path": route.path,
                "status": response.status,
                "duration_ms": round(seconds * 1000, 3),
                "request_id": request.request_id,
                **response.log,
            }
            event(_logger, level, "request", fields, error=failure)


def _too_slow(seconds: float) -> ServiceError:
    return ServiceError(
        408,
        "body_timeout",
        f"the body was not whole within {seconds:g} seconds; send it faster, or less of it",
        headers=CLOSE,
    )


def _level(route: Route, status: int) -> int:
    if route.probe and status != 500:
        return logging.DEBUG
    if status < 400:
        return logging.INFO
    if status in (500, 504):
        return logging.ERROR
    return logging.WARNING


def route_table(routes: Sequence[Route]) -> Routes:
    """Return the routes by path and method; ValueError where two share both.

    HEAD is answered as GET is, and any other method with a 405.
    """
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        if route.method in table.setdefault(route.path, {}):
            raise ValueError(f"two routes share a path and a method: {route.method} {route.path}")
        table[route.path][route.method] = route
    for path, methods in table.items():
        refuse = partial(_refuse_method, path, tuple(methods))
        first = next(iter(methods.values()))
        methods[_ANY_METHOD] = replace(first, handler=refuse, guard=admit, duration=None)
        if "GET" in methods:
            methods["HEAD"] = methods["GET"]
    return table


async def _refuse_method(path: str, methods: Sequence[str], request: Request) -> Response:
    raise ServiceError(
        405,
        "method_not_allowed",
        f"{path} takes {' and '.join(methods)}, not {request.method}",
        headers={"Allow": ", ".join(methods)},
    )


class SharedScrape:
    """Makes one exposition, on a thread, for all who ask for it at the same time.

    It takes some milliseconds, and any client may ask for it on the service's own port: made for
    each of many, one after the other, it would keep predictions waiting for all of them.
    """

    def __init__(self, expose: Callable[[], Answer]) -> None:
        self._expose = expose
        self._running: asyncio.Task[Answer] | None = None
        self._next: asyncio.Task[Answer] | None = None

    async def answer(self) -> Answer:
        """Return an exposition that was begun after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
        # A client that gives up leaves it to the others.
        return await asyncio.shield(self._next)

    async def _run(self) -> Answer:
        if self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await asyncio.to_thread(self._expose)


def probe_routes(probes: Probes) -> list[Route]:
    """Return the probes as routes of the service's own port."""

    scrapes = {
        openmetrics: SharedScrape(partial(probes.metrics, openmetrics=openmetrics))
        for openmetrics in (False, True)
    }

    def route(path: str, answer: Callable[[str], Answer]) -> Route:
        async def handler(request: Request) -> Response:
            accept = (request.header(b"accept") or b"").decode("latin-1")
            if path == METRICS_PATH:
                found = await scrapes[wants_openmetrics(accept)].answer()
            else:
                found = answer(accept)
            log = {"reason": found.reason} if found.reason else {}
            return Response(found.body, found.status, found.content_type.encode(), log=log)

        return Route("GET", path, handler, probe=path.removeprefix("/"))

    return [route(path, answer) for path, answer in probes.answers().items()]


class FrontDoor:
    """Wraps an ASGI app; `door` returns the running service's Door, None before it is up.

    `passes` gets a decoded path and returns whether it is the app's own.
    """

    def __init__(
        self,
        app: AsgiApp,
        door: Callable[[], Door | None],
        *,
        passes: Callable[[str], bool] = lambda _path: True,
    ) -> None:
        self._app = app
        self._door = door
        self._passes = passes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one of the service's own routes or hand the request on."""
        door = self._door() if scope["type"] == "http" else None
        route = door.find(scope["method"], scope["path"]) if door is not None else None
        if door is None or (route is None and self._passes(scope["path"])):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, door.memory)
        response = (
            door.nothing_here(request) if route is None else await door.answer(route, request)
        )
        if response is not None:
            await _send(
                request,
                response,
                send,
                identified=route is None or not route.probe,
                close=door.state.row.get("shutting_down") == 1.0,
            )


async def _send(
    request: Request, response: Response, send: Send, *, identified: bool, close: bool
) -> None:
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        *response.headers,
    ]
    if identified:
        headers.append((b"x-request-id", request.request_id.encode()))
    if close:
        # The next request on this connection would meet a closed port.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    body = b"" if request.method == "HEAD" else response.body
    await send({"type": "http.response.body", "body": body})
