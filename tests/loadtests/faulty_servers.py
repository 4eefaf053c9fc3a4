"""Small servers for the load test's gate: a sound one, and three that must not pass it.

Run `python -m tests.loadtests.faulty_servers KIND PORT`. Each has the routes of both services.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_PREDICTION = {"prediction_id": "1", "class": 0}
_WORK_SECONDS = 0.4
_POOL_THREADS = 2
_LIMIT = 2


async def predict(request: Request) -> Response:
    """Answer at once."""
    await request.body()
    return JSONResponse(_PREDICTION)


async def predict_on_the_loop(request: Request) -> Response:
    """Work where nothing else can be answered meanwhile."""
    await request.body()
    time.sleep(_WORK_SECONDS)  # noqa: ASYNC251 - the fault that is to be found
    return JSONResponse(_PREDICTION)


def predict_in_the_pool(_: Request) -> Response:
    """Work in the thread pool that the probes are answered by as well."""
    time.sleep(_WORK_SECONDS)
    return JSONResponse(_PREDICTION)


async def predict_slowly(request: Request) -> Response:
    """Wait without blocking anything."""
    await request.body()
    await asyncio.sleep(_WORK_SECONDS)
    return JSONResponse(_PREDICTION)


async def log(request: Request) -> Response:
    """Take a batch."""
    await request.body()
    return JSONResponse({"status": "success"})


async def probe(_: Request) -> Response:
    """Answer a probe."""
    return JSONResponse({"status": "ready"})


def probe_in_the_pool(_: Request) -> Response:
    """Answer a probe from the thread pool."""
    return JSONResponse({"status": "ready"})


async def unready(_: Request) -> Response:
    """Answer a probe as a service without a model does."""
    return JSONResponse({"status": "not_ready", "reason": "model_not_loaded"}, status_code=503)


async def metrics(_: Request) -> Response:
    """Answer a scrape."""
    return PlainTextResponse("up 1\n")


class Limiter:
    """Turns away what exceeds the limit, whoever asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 while as many requests as the limit allows are running."""
        if scope["type"] == "http" and self._running >= _LIMIT:
            await Response(status_code=429, headers={"Retry-After": "0"})(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


Handler = Callable[[Request], Awaitable[Response] | Response]


def application(kind: str) -> ASGIApp:
    """Return the server of a kind; KeyError for an unknown one."""
    predictor, prober, ready = {
        "sound": (predict, probe, probe),
        "blocked-loop": (predict_on_the_loop, probe, probe),
        "starved-pool": (predict_in_the_pool, probe_in_the_pool, probe_in_the_pool),
        "limited-probes": (predict_slowly, probe, probe),
        "unready": (predict, probe, unready),
    }[kind]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if kind == "starved-pool":
            to_thread.current_default_thread_limiter().total_tokens = _POOL_THREADS
        yield

    app = Starlette(
        routes=[
            Route("/health", prober),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/predict", predictor, methods=["POST"]),
            Route("/predict_image", predictor, methods=["POST"]),
            Route("/log", log, methods=["POST"]),
        ],
        lifespan=lifespan,
    )
    return Limiter(app) if kind == "limited-probes" else app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
