"""A small HTTP server in the logging service's place, that fails, hangs or goes as a test says."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.certificates import Certificates
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.servers import free_port

_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """What the server answers to a batch."""

    status: int = 200
    body: Mapping[str, Any] | str = field(default_factory=lambda: {"status": "success"})
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(index: int, *, status: int = 400, reason: str = "bad_input") -> Reply:
    """Return the refusal of one prediction of a batch, as the logging service words it."""
    field = f"predictions[{index}].confidence"
    return Reply(status, {"error": f"{field}: no", "reason": reason, "field": field})


# The fault is somewhere, and the answer does not say where.
REFUSAL = Reply(400, {"error": "something is wrong", "reason": "bad_input"})
UNAUTHORIZED = Reply(401, {"error": "no valid token", "reason": "unauthorized"})
Behaviour = Callable[[dict[str, Any]], Reply]


class LogServer:
    """Takes batches at `/log`; `behaviour` decides what each of them gets."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.port = free_port()
        self.url = f"http{'s' if certificates else ''}://127.0.0.1:{self.port}"
        self._certificates = certificates
        self.behaviour: Behaviour = lambda _: Reply()
        self.authorized: Callable[[str], bool] = lambda _: True
        self.batches: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.attempts = 0
        self.asked = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._server: HttpServer | None = None

    def __enter__(self) -> "LogServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port each time."""
        context = self._certificates.server_context() if self._certificates else None
        self._server = HttpServer(self._answer, port=self.port, context=context)

    def stop(self) -> None:
        """Listen no more: connections are refused from now on."""
        self._free.set()
        if self._server is not None:
            self._server.close()
            self._server = None

    def hang(self) -> None:
        """Take requests and answer none of them."""
        self.asked.clear()
        self._free.clear()

    def unhang(self) -> None:
        """Answer again."""
        self._free.set()

    @property
    def stored(self) -> list[str]:
        """The ids of all predictions that were acknowledged, in the order they came."""
        return [one["prediction_id"] for batch in self.batches for one in batch["predictions"]]

    def _answer(self, request: Request) -> Answer:
        batch = json.loads(request.body)
        self.attempts += 1
        self.asked.set()
        self._free.wait(_WAIT_SECONDS)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        reply = self.behaviour(batch) if self.authorized(bearer) else UNAUTHORIZED
        if reply.status == 200:
            self.batches.append(batch)
            self.headers.append(request.headers)
        body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        return Answer(body.encode(), reply.status, reply.headers)
