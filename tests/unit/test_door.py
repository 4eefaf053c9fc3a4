"""The front door: routes, methods, time-outs, errors in one shape, and what is counted."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bentos.edge.door import Door, FrontDoor, Route, probe_routes, route_table
from bentos.edge.http import BodyMemory, Request, Response, ServiceError, json_response
from bentos.health.metrics import exposition
from bentos.health.probes import Probes
from bentos.health.state import ServiceState
from tests.support.metrics import samples
from tests.support.requests import DISCONNECT, Client, chunk, scope


@dataclass
class Answer:
    """What came back through the door."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HouseState(ServiceState):
    """The state of a service with one route."""

    routes = ("/task",)


class House:
    """A door whose routes have a handler that a test sets, before an app that answers 418."""

    def __init__(self, directory: Path) -> None:
        self.failures: list[str] = []
        self.refusals: list[str] = []
        self.state = HouseState(directory, service="svc")
        self.memory = BodyMemory(10**6)
        self.handler: Callable[[Request], Awaitable[Response]] = _fine
        routes = [
            Route(
                "POST",
                "/task",
                self._handle,
                on_failure=self.failures.append,
                on_refusal=self.refusals.append,
            ),
            Route("GET", "/ready", self._handle, probe="ready"),
        ]
        self.door: Door | None = Door(
            state=self.state,
            routes=route_table(routes),
            timeout_seconds=0.2,
            memory=self.memory,
        )
        self.app = FrontDoor(_teapot, lambda: self.door)

    async def _handle(self, request: Request) -> Response:
        return await self.handler(request)

    def ask(
        self,
        path: str,
        *messages: dict[str, Any],
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = Answer()

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = dict(message["headers"])
            else:
                answer.body += message["body"]

        client = Client(messages or [chunk(b"")])
        asyncio.run(self.app(scope(path, method=method, headers=headers), client.receive, send))
        return answer

    def requests(self, route: str, status: int) -> float:
        return self.state.http_requests[route, str(status)].value


async def _fine(request: Request) -> Response:
    return json_response({"got": len(await request.body(100))})


async def _teapot(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"tea"})


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def raising(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def handler(_: Request) -> Response:
        raise error

    return handler


def test_a_route_of_the_service_is_answered_at_the_door(house: House) -> None:
    answer = house.ask("/task", chunk(b"abc"))
    assert answer.status == 200
    assert answer.json == {"got": 3}
    assert answer.headers[b"content-length"] == b"9"
    assert house.requests("/task", 200) == 1
    assert (house.failures, house.refusals) == ([], [])


def test_what_is_no_route_goes_through_and_makes_no_series(house: House) -> None:
    for path in ("/", "/task/", "/TASK", "/docs.json", "/zzz123"):
        assert house.ask(path).status == 418
    assert b"zzz123" not in exposition(house.state)[0]


def test_what_nobody_has_is_a_404_in_the_one_error_shape_under_one_label(house: House) -> None:
    house.app = FrontDoor(_teapot, lambda: house.door, passes=lambda path: path == "/docs")
    assert house.ask("/docs").status == 418
    for path in ("/zzz123", "/task/", "/zzz123" * 100):
        answer = house.ask(path, chunk(b"x", more=True))
        assert answer.status == 404
        assert answer.json["reason"] == "not_found"
        assert "/task" in answer.json["error"]
        assert len(answer.json["error"]) < 200
    assert house.requests("other", 404) == 3
    assert b"zzz123" not in exposition(house.state)[0]
    assert (house.failures, house.refusals) == ([], [])


def test_before_the_service_is_up_everything_goes_through(house: House) -> None:
    house.door = None
    assert house.ask("/task").status == 418


def test_other_scopes_than_http_go_through(house: House) -> None:
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        sent.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        return {}

    asyncio.run(FrontDoor(app, lambda: house.door)({"type": "lifespan"}, nothing, nothing))
    assert sent == ["lifespan"]


def test_the_wrong_method_is_a_405_that_names_the_right_one(house: House) -> None:
    answer = house.ask("/task", method="GET")
    assert answer.status == 405
    assert answer.headers[b"allow"] == b"POST"
    assert answer.json["reason"] == "method_not_allowed"
    assert house.refusals == ["method_not_allowed"]
    assert house.ask("/ready", method="POST").status == 405


def test_head_is_answered_as_get_without_a_body(house: House) -> None:
    answer = house.ask("/ready", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers[b"content-length"] == b"9"
    assert house.ask("/task", method="HEAD").status == 405


@pytest.mark.parametrize("fails", [False, True])
def test_a_bodys_memory_is_given_back_however_the_request_ends(house: House, fails: bool) -> None:
    async def handler(request: Request) -> Response:
        body = await request.body(10**6)
        assert house.memory.reserved > 0
        if fails:
            raise KeyError
        return json_response(len(body))

    house.handler = handler
    assert house.ask("/task", chunk(b"x" * 100_000)).status == (500 if fails else 200)
    assert house.memory.reserved == 0


def test_a_handler_that_takes_too_long_is_a_504_and_a_failure(house: House) -> None:
    async def slow(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    house.handler = slow
    answer = house.ask("/task")
    assert answer.status == 504
    assert answer.json == {"error": "no answer within 0.2 seconds", "reason": "timeout"}
    assert house.failures == ["timeout"]


def test_a_client_too_slow_to_send_its_body_is_refused_and_no_failure(house: House) -> None:
    answer = house.ask("/task", chunk(b"x", more=True))
    assert answer.status == 408
    assert answer.json["reason"] == "body_timeout"
    assert answer.headers[b"connection"] == b"close"
    assert (house.failures, house.refusals) == ([], ["body_timeout"])


def test_a_client_too_slow_to_send_what_is_too_large_is_no_failure_either(house: House) -> None:
    answer = house.ask("/task", chunk(b"x", more=True), headers={"Content-Length": "1000"})
    assert answer.status == 408
    assert house.failures == []


def test_a_bug_is_a_500_without_a_word_of_it(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.handler = raising(KeyError("secret detail"))
    logger = logging.getLogger("bentos")
    logger.propagate = True
    with caplog.at_level(logging.INFO, logger="bentos"):
        answer = house.ask("/task")
    assert answer.status == 500
    assert answer.json["reason"] == "internal_error"
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert house.failures == ["internal_error"]
    assert caplog.records[-1].levelno == logging.ERROR
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        *((400, "refusal"), (413, "refusal"), (429, "refusal"), (503, "refusal")),
        *((500, "failure"), (504, "failure")),
    ],
)
def test_only_failures_of_the_service_count_as_such(
    house: House, status: int, counted: str
) -> None:
    house.handler = raising(ServiceError(status, "why", "because"))
    assert house.ask("/task").status == status
    assert house.failures == (["why"] if counted == "failure" else [])
    assert house.refusals == (["why"] if counted == "refusal" else [])
    assert house.requests("/task", status) == 1


def test_a_client_that_leaves_gets_nothing_and_counts_nowhere(house: House) -> None:
    answer = house.ask("/task", chunk(b"x", more=True), DISCONNECT)
    assert answer.status == 0
    assert (house.failures, house.refusals) == ([], [])
    assert house.requests("/task", 200) == 0


def test_a_request_id_comes_back_and_a_probe_has_none(house: House) -> None:
    answer = house.ask("/task", headers={"X-Request-ID": "abc"})
    assert answer.headers[b"x-request-id"] == b"abc"
    assert len(house.ask("/task").headers[b"x-request-id"]) == 32
    assert b"x-request-id" not in house.ask("/ready", method="GET").headers


def test_a_probe_is_timed_by_the_status_it_got(house: House) -> None:
    house.ask("/ready", method="GET")
    house.handler = raising(ServiceError(503, "why", "because"))
    house.ask("/ready", method="GET")
    counts = {
        sample.labels["status"]: sample.value
        for sample in samples(
            exposition(house.state)[0].decode(), "probe_duration_seconds_count", probe="ready"
        )
    }
    assert counts == {"200": 1, "503": 1, "500": 0}


def test_a_probe_that_is_not_well_is_no_failed_request(house: House) -> None:
    house.handler = raising(ServiceError(503, "why", "because"))
    assert house.ask("/ready", method="GET").status == 503
    assert house.ask("/ready", method="POST").status == 405
    assert (house.failures, house.refusals) == ([], [])


@pytest.mark.case(48)
def test_every_answer_after_shutting_down_has_begun_closes_its_connection(house: House) -> None:
    """Requests during the drain: each answer, error or not, carries `Connection: close`."""
    asked = [("/task", "POST"), ("/task", "GET"), ("/ready", "GET"), ("/ready", "HEAD")]
    for path, method in asked:
        assert b"connection" not in house.ask(path, method=method).headers
    house.state.begin_shutdown()
    house.app = FrontDoor(_teapot, lambda: house.door, passes=lambda _path: False)
    for path, method in [*asked, ("/nothing", "GET")]:
        assert house.ask(path, method=method).headers[b"connection"] == b"close"


@pytest.mark.case(1)
@pytest.mark.parametrize(
    "path", ["/log\n", "/log/", "//log", "/LOG", "/log\x00", " /log", "/log%0A"]
)
def test_another_spelling_of_a_route_reaches_nobody(house: House, path: str) -> None:
    """`POST /log%0A` and other spellings: 404, since only an exact list of paths is handed on."""
    house.app = FrontDoor(_teapot, lambda: house.door, passes=lambda path: path == "/docs.json")
    assert house.ask(path).status == 404


def test_the_probes_answers_are_routes_that_every_port_can_have(tmp_path: Path) -> None:
    house = House(tmp_path)
    probes = Probes(house.state, liveness=[], readiness=[], describe=lambda _: {"open": True})
    assert house.door is not None
    routes = route_table(probe_routes(probes))
    house.door = Door(state=house.state, routes=routes, timeout_seconds=1)
    for path in probes.answers():
        assert house.ask(path, method="GET").status == 200
        assert house.requests(path, 200) == 1
        assert house.ask(path, method="POST").status == 405
    assert house.ask("/ready", method="GET").json["open"] is True
    assert house.ask("/metrics", method="GET").headers[b"content-type"].startswith(b"text/plain")


def levels_of(
    house: House, caplog: pytest.LogCaptureFixture, handler: Any, path: str, method: str
) -> list[int]:
    house.handler = handler
    caplog.clear()
    logging.getLogger("bentos").propagate = True
    with caplog.at_level(logging.DEBUG, logger="bentos"):
        house.ask(path, method=method)
    return [record.levelno for record in caplog.records if record.name == "bentos.http"]


def test_requests_are_logged_at_the_level_they_deserve(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def level(handler: Any, path: str = "/task", method: str = "POST") -> int:
        (one,) = levels_of(house, caplog, handler, path, method)
        return one

    unwell = raising(ServiceError(503, "why", "because"))
    assert level(_fine) == logging.INFO
    assert level(raising(ServiceError(400, "why", "because"))) == logging.WARNING
    assert level(unwell) == logging.WARNING
    assert level(raising(ServiceError(500, "why", "because"))) == logging.ERROR
    assert level(_fine, "/ready", "GET") == logging.DEBUG
    assert level(unwell, "/ready", "GET") == logging.DEBUG
    assert level(raising(ValueError("broken")), "/ready", "GET") == logging.ERROR


def test_a_path_may_take_several_methods(house: House) -> None:
    async def answer_get(_request: Request) -> Response:
        return Response(b"got")

    assert house.door is not None
    both = [Route("POST", "/both", _fine), Route("GET", "/both", answer_get)]
    house.door = replace(house.door, routes=route_table(both))
    assert house.ask("/both", method="GET").body == b"got"
    assert house.ask("/both", method="HEAD").status == 200
    assert house.ask("/both", chunk(b"abc")).json == {"got": 3}
    refused = house.ask("/both", method="PUT")
    assert refused.status == 405
    assert refused.headers[b"allow"] == b"POST, GET"


def test_a_request_that_its_guard_refuses_reaches_no_handler_and_nothing_of_it_is_read(
    house: House,
) -> None:
    def guard(_: Request) -> None:
        raise ServiceError(401, "unauthorized", "who are you?")

    async def fail(_: Request) -> Response:
        raise AssertionError

    assert house.door is not None
    refused: list[str] = []
    closed = Route("POST", "/task", fail, guard=guard, on_refusal=refused.append)
    house.door = replace(house.door, routes=route_table([closed]))
    assert house.ask("/task", DISCONNECT).status == 401
    assert house.ask("/task", method="PUT").status == 405
    assert refused == ["unauthorized", "method_not_allowed"]


def test_the_answers_of_a_route_are_timed_where_it_asks_for_it(house: House) -> None:
    assert house.door is not None
    duration = house.state.event_loop_delay
    timed = Route("POST", "/task", raising(ServiceError(429, "why", "because")), duration=duration)
    house.door = replace(house.door, routes=route_table([timed]))
    house.ask("/task")
    house.ask("/task", method="GET")
    assert [buckets[-1] for _, buckets, _ in duration.series()] == [("+Inf", 1)]


def test_two_routes_of_one_path_and_method_are_refused() -> None:
    route = Route("GET", "/a", _fine)
    with pytest.raises(ValueError, match="share a path and a method: GET /a"):
        route_table([route, route])
