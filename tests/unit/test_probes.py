"""`/health`, `/ready` and `/metrics` over a state, checks and metrics."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bentos.edge.http import Request, Response, ServiceError
from bentos.health.checks import Check, Details
from bentos.health.metrics import HTTP_REQUESTS, SHARED_FAMILIES, Metrics
from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH, Probes, isoformat
from bentos.health.state import ServiceState
from tests.support.requests import request

ASKED: Request = request(method="GET", path="/any")


def fails(**details: object) -> Check:
    return Check(str(details.pop("reason", "broken")), lambda: details)


def raises() -> Details | None:
    raise RuntimeError("the check itself is broken")


def make(
    directory: Path,
    *,
    liveness: Sequence[Check] = (),
    readiness: Sequence[Check] = (),
    describe: Any = lambda: {"model_loaded": True},
) -> Probes:
    return Probes(
        service="svc",
        state=ServiceState(directory),
        metrics=Metrics(directory / "metrics", SHARED_FAMILIES),
        liveness=liveness,
        readiness=readiness,
        describe=describe,
    )


def told(response: Response) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(response.body)
    moment = datetime.fromisoformat(content["timestamp"])
    assert moment.utcoffset() == UTC.utcoffset(None)
    return content


def test_the_routes_have_the_contracts_paths(tmp_path: Path) -> None:
    paths = {route.path: route.probe for route in make(tmp_path).routes()}
    assert paths == {"/health": "health", "/ready": "ready", "/metrics": "metrics"}
    assert (HEALTH_PATH, READY_PATH, METRICS_PATH) == ("/health", "/ready", "/metrics")


def test_health_is_200_and_says_whose_it_is(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path).health(ASKED))
    content = told(response)
    assert response.status == 200
    assert content["status"] == "healthy"
    assert content["service"] == "svc"
    assert content["uptime_seconds"] >= 0


def test_health_is_500_with_the_reason_where_a_check_fails(tmp_path: Path) -> None:
    response = asyncio.run(
        make(tmp_path, liveness=[fails(reason="stuck", seconds=3)]).health(ASKED)
    )
    content = told(response)
    assert response.status == 500
    assert content["status"] == "unhealthy"
    assert (content["reason"], content["seconds"]) == ("stuck", 3)


def test_health_is_500_where_a_check_raises(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path, liveness=[Check("stuck", raises)]).health(ASKED))
    assert response.status == 500
    assert told(response)["error"] == "RuntimeError: the check itself is broken"


def test_ready_is_200_with_what_the_service_describes(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path).ready(ASKED))
    content = told(response)
    assert response.status == 200
    assert content["status"] == "ready"
    assert content["model_loaded"] is True
    assert "reason" not in content


def test_ready_is_503_with_the_first_reason_and_all_of_them(tmp_path: Path) -> None:
    readiness = [fails(reason="a"), fails(reason="b", error_rate=0.7)]
    response = asyncio.run(make(tmp_path, readiness=readiness).ready(ASKED))
    content = told(response)
    assert response.status == 503
    assert content["status"] == "not_ready"
    assert content["reason"] == "a"
    assert content["reasons"] == ["a", "b"]
    assert content["error_rate"] == 0.7
    assert content["model_loaded"] is True


def test_ready_is_503_where_a_check_raises(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path, readiness=[Check("db", raises)]).ready(ASKED))
    assert response.status == 503
    assert told(response)["reason"] == "db"


def test_ready_is_503_where_the_service_cannot_describe_itself(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path, describe=raises).ready(ASKED))
    assert response.status == 503
    assert told(response)["reason"] == "exception"


@pytest.mark.parametrize("strange", [Path("/a"), float("nan"), "\udc80", {1, 2}, {1: b"x"}, 2**70])
def test_what_a_check_tells_cannot_break_the_probe(tmp_path: Path, strange: object) -> None:
    check = fails(reason="odd", strange=strange)
    response = asyncio.run(make(tmp_path, readiness=[check]).ready(ASKED))
    assert response.status == 503
    assert told(response)["reason"] == "odd"


def test_metrics_that_cannot_be_read_are_a_500(tmp_path: Path) -> None:
    def broken() -> list[tuple[dict[str, str], float]]:
        raise OSError("the disk is gone")

    probes = make(tmp_path)
    probes.metrics.read(HTTP_REQUESTS.name, broken)
    with pytest.raises(ServiceError) as failed:
        asyncio.run(probes.exposition(ASKED))
    assert (failed.value.status, failed.value.reason) == (500, "metrics_failed")


def test_metrics_are_plain_text(tmp_path: Path) -> None:
    response = asyncio.run(make(tmp_path).exposition(ASKED))
    assert response.status == 200
    assert response.content_type.startswith(b"text/plain; version=0.0.4")


def test_a_moment_is_told_with_its_offset() -> None:
    assert isoformat(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05+00:00"
    assert isoformat(None) is None
