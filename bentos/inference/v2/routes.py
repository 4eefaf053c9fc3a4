"""The routes of the protocol, answered by the parts that answer `/predict`."""

import time
from collections.abc import Awaitable, Callable
from functools import partial

from bentos.edge.door import Guard, Route
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.health.checks import Verdict
from bentos.health.probes import Probes
from bentos.inference.channel import Input
from bentos.inference.engine import Engine, Predicted
from bentos.inference.request import printable
from bentos.inference.state import (
    V2_MODEL_PATH,
    V2_PATH,
    V2_VERSION_PATH,
    InferenceState,
)
from bentos.inference.v2.messages import HEADER_LENGTH, SERVER
from bentos.inference.v2.tensors import in_tensor, metadata, read_request, respond

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_MAX_SHOWN = 60


class V2Routes:
    """Answers the protocol for the one model of the service.

    `predict` gets the inputs of a request, when its body was whole, its id, what its rows are
    called and what raises where a version should not answer; it returns the predictions once they
    are kept. `guard` is that of the routes that predict.
    """

    def __init__(
        self,
        engine: Engine,
        state: InferenceState,
        probes: Probes,
        guard: Guard,
        predict: Callable[[Input, float, str, str, Callable[[str], None]], Awaitable[Predicted]],
        *,
        max_body_bytes: int,
    ) -> None:
        self._name = state.labels["model"]
        self._engine = engine
        self._state = state
        self._probes = probes
        self._guard = guard
        self._predict = predict
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes of the protocol."""
        infer = partial(
            Route,
            "POST",
            guard=self._guard,
            on_failure=self._state.record_error,
            on_refusal=self._state.record_refusal,
        )
        return [
            Route("GET", V2_PATH, self._server),
            Route("GET", f"{V2_PATH}/health/live", self._live, probe="health"),
            Route("GET", f"{V2_PATH}/health/ready", self._ready, probe="ready"),
            *(
                route
                for path in (V2_MODEL_PATH, V2_VERSION_PATH)
                for route in (
                    Route("GET", path, self._model),
                    Route("GET", f"{path}/ready", self._model_ready, probe="ready"),
                    infer(f"{path}/infer", self._infer),
                )
            ),
        ]

    async def _server(self, _: Request) -> Response:
        return json_response(SERVER)

    async def _live(self, _: Request) -> Response:
        return _judged({}, "live", self._probes.live(), status=500)

    async def _ready(self, _: Request) -> Response:
        return _judged({}, "ready", self._probes.is_ready(), status=503)

    async def _model(self, request: Request) -> Response:
        version = self._version_of(request)
        self._engine.spec  # noqa: B018 - raises where there is no model
        model = self._engine.model
        if model is None:
            raise ServiceError(503, "model_not_loaded", "the model is being replaced; try again")
        self._check_version(version, model.identity.version)
        return json_response(metadata(model))

    async def _model_ready(self, request: Request) -> Response:
        version = self._version_of(request)
        model = self._engine.model
        if model is not None:
            self._check_version(version, model.identity.version)
        return _judged({"name": self._name}, "ready", self._probes.is_ready(), status=503)

    async def _infer(self, request: Request) -> Response:
        check = partial(self._check_version, self._version_of(request))
        body = await request.body(self._max_body_bytes)
        started = time.perf_counter()
        length = request.header(_HEADER_LENGTH)
        spec = self._engine.spec
        if self._engine.model is not None:
            check(self._engine.model.identity.version)
        asked = read_request(body, length, spec, limit=self._engine.request_limit)
        try:
            predicted = await self._predict(
                asked.given, started, request.request_id, printable(asked.id or ""), check
            )
        except ServiceError as error:
            raise in_tensor(error) from error.__cause__
        return respond(asked, predicted)

    def _version_of(self, request: Request) -> str | None:
        """Return the version in a request's path, None where it names none.

        Raises ServiceError 404 for another model than the one that is served.
        """
        _, _, _, name, *rest = request.path.split("/")
        if name != self._name:
            raise ServiceError(
                404,
                "not_found",
                f"model: there is no {name[:_MAX_SHOWN]!r} here; the model is {self._name!r}",
                field="model",
            )
        return rest[1] if rest[:1] == ["versions"] else None

    def _check_version(self, version: str | None, served: str) -> None:
        if version not in (None, served):
            raise ServiceError(
                404,
                "not_found",
                f"version: {self._name} has version {served} here, not {version[:_MAX_SHOWN]!r}; "
                "leave /versions/... out to take what is served",
                field="version",
            )


def _judged(about: dict[str, object], word: str, verdict: Verdict, *, status: int) -> Response:
    """Return a probe's answer: the protocol's word, and the reason where it is false."""
    if verdict.passed:
        return json_response({**about, word: True})
    reason = verdict.reason
    content = {**about, word: False, "error": f"not {word}: {reason}", "reason": reason}
    return json_response(content, status=status, log={"reason": reason})
