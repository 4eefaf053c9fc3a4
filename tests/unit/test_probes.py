"""The answers of `/health`, `/ready` and `/metrics`, made of a state and its checks."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.health.checks import Check, Details
from bentos.health.probes import Answer, Probes
from bentos.health.state import ServiceState, isoformat
from bentos.health.values import computed


class BrokenState(ServiceState):
    """A state of which one metric cannot be read."""

    @computed("service_broken")
    def broken(self) -> float:
        """Fail, as what reads a disk may."""
        raise OSError("the disk is gone")


def fails(reason: str = "broken", **details: object) -> Check:
    return Check(reason, lambda _: details)


def raises(_: ServiceState) -> Details | None:
    raise RuntimeError("the check itself is broken")


def make(
    directory: Path,
    *,
    state: type[ServiceState] = ServiceState,
    liveness: Sequence[Check] = (),
    readiness: Sequence[Check] = (),
    describe: Any = lambda _: {"model_loaded": True},
) -> Probes:
    return Probes(state(directory, service="svc"), liveness, readiness, describe)


def content_of(answer: Answer) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(answer.body)
    moment = datetime.fromisoformat(content["timestamp"])
    assert moment.utcoffset() == UTC.utcoffset(None)
    assert answer.content_type == "application/json"
    return content


def test_the_three_probes_have_the_contracts_paths(tmp_path: Path) -> None:
    assert set(make(tmp_path).answers()) == {"/health", "/ready", "/metrics"}


def test_health_is_200_and_says_whose_it_is(tmp_path: Path) -> None:
    answer = make(tmp_path).health()
    content = content_of(answer)
    assert answer.status == 200
    assert content["status"] == "healthy"
    assert content["service"] == "svc"
    assert content["uptime_seconds"] >= 0


def test_health_is_500_with_the_reason_where_a_check_fails(tmp_path: Path) -> None:
    answer = make(tmp_path, liveness=[fails("stuck", seconds=3)]).health()
    content = content_of(answer)
    assert (answer.status, answer.reason) == (500, "stuck")
    assert content["status"] == "unhealthy"
    assert (content["reason"], content["seconds"]) == ("stuck", 3)


def test_health_is_500_where_a_check_raises(tmp_path: Path) -> None:
    answer = make(tmp_path, liveness=[Check("stuck", raises)]).health()
    assert answer.status == 500
    assert content_of(answer)["error"] == "RuntimeError: the check itself is broken"


def test_ready_is_200_with_what_the_service_describes(tmp_path: Path) -> None:
    answer = make(tmp_path).ready()
    content = content_of(answer)
    assert (answer.status, answer.reason) == (200, "")
    assert content["status"] == "ready"
    assert content["model_loaded"] is True
    assert "reason" not in content


def test_ready_is_503_with_the_first_reason_and_all_of_them(tmp_path: Path) -> None:
    answer = make(tmp_path, readiness=[fails("a"), fails("b", error_rate=0.7)]).ready()
    content = content_of(answer)
    assert (answer.status, answer.reason) == (503, "a")
    assert content["status"] == "not_ready"
    assert content["reason"] == "a"
    assert content["reasons"] == ["a", "b"]
    assert content["error_rate"] == 0.7
    assert content["model_loaded"] is True


def test_ready_is_503_where_a_check_raises(tmp_path: Path) -> None:
    answer = make(tmp_path, readiness=[Check("db", raises)]).ready()
    assert answer.status == 503
    assert content_of(answer)["reason"] == "db"


def test_ready_is_503_where_the_service_cannot_describe_itself(tmp_path: Path) -> None:
    answer = make(tmp_path, describe=raises).ready()
    assert (answer.status, answer.reason) == (503, "exception")
    assert content_of(answer)["reason"] == "exception"
    answer = make(tmp_path, describe=raises, readiness=[fails("a")]).ready()
    assert content_of(answer)["reasons"] == ["a", "exception"]


def test_neither_a_check_nor_the_description_replaces_the_verdict(tmp_path: Path) -> None:
    liar = Check("a", lambda _: {"status": "ready", "reason": "b"})
    probes = make(tmp_path, liveness=[liar], readiness=[liar], describe=lambda _: {"status": "ok"})
    for answer, status in ((probes.ready(), "not_ready"), (probes.health(), "unhealthy")):
        assert content_of(answer)["status"] == status
        assert content_of(answer)["reason"] == "a"
    assert make(tmp_path, describe=lambda _: {"status": "not_ready"}).ready().status == 200


@pytest.mark.parametrize("strange", [Path("/a"), float("nan"), "\udc80", {1, 2}, {1: b"x"}, 2**70])
def test_whatever_a_check_says_cannot_break_the_probe(tmp_path: Path, strange: object) -> None:
    answer = make(tmp_path, readiness=[fails("odd", strange=strange)]).ready()
    assert answer.status == 503
    assert content_of(answer)["reason"] == "odd"


def test_ready_says_whether_the_probe_process_runs(tmp_path: Path) -> None:
    def probe_process_of(**named: Any) -> object:
        probes = Probes(ServiceState(tmp_path, **named), [], [], lambda _: {})
        return content_of(probes.ready())["probe_process"]

    assert probe_process_of() == "off"
    assert probe_process_of(probe_port=8010) == "missing"
    started = ServiceState(tmp_path, worker=0)
    assert probe_process_of(probe_port=8010) == "missing"
    started.serving.set(1)
    assert probe_process_of(probe_port=8010) == "running"


def test_metrics_are_plain_text_with_the_verdict_and_every_reason(tmp_path: Path) -> None:
    # Two checks may have one reason; Prometheus refuses a series that comes twice.
    readiness = [Check("one", lambda _: None), fails("two"), Check("two", lambda _: None)]
    probes = make(tmp_path, readiness=readiness)
    answer = probes.metrics()
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    samples = [
        (sample.name, sample.labels.get("reason"), sample.value)
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    ]
    found = {(name, reason): value for name, reason, value in samples}
    assert [name for name, _, _ in samples].count("service_unready") == 2
    assert found["service_ready", None] == 0
    assert found["service_unready", "one"] == 0
    assert found["service_unready", "two"] == 1
    names = {family.name.removesuffix("_total") for family in probes.state.families()}
    exposed = {one.name for one in text_string_to_metric_families(answer.body.decode())}
    assert names == exposed


def test_metrics_that_cannot_be_read_are_a_500_without_a_word_of_it(tmp_path: Path) -> None:
    answer = make(tmp_path, state=BrokenState).metrics()
    assert (answer.status, answer.reason) == (500, "metrics_failed")
    assert json.loads(answer.body)["reason"] == "metrics_failed"
    assert b"disk" not in answer.body


def test_a_moment_is_written_with_its_offset() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert isoformat(moment) == "2026-01-02T03:04:05+00:00"
    assert isoformat(0) is None
