"""The verdict of a load test: pure functions of what was observed."""

from collections.abc import Iterable
from typing import Any

import pytest

from loadtests.judge import Judgement, judge
from loadtests.replay import Consequences
from loadtests.samples import Cadence, Change, Observations, Outcome, Port, ProbeSample
from loadtests.settings import LoadTestSettings

SERVICE = "inference-service"
BEGAN = 1_000.0
CALM = {SERVICE: Consequences(restarts=0, unready=0, probes=9, reasons=())}
SENT: dict[str, dict[Outcome, int]] = {"POST /predict": {"succeeded": 99, "failed": 1}}


def probe(
    at: float,
    *,
    path: str = "/ready",
    milliseconds: float = 1.0,
    delay: float = 0.0,
    status: int = 200,
    error: str = "",
    cadence: Cadence = "dense",
    port: Port = "probes",
) -> ProbeSample:
    kind = {"/ready": "readiness", "/health": "liveness", "/metrics": "metrics"}[path]
    latency = milliseconds / 1000
    return ProbeSample(
        SERVICE, port, path, kind, cadence, BEGAN + at, delay, latency, status, error
    )


def sound(seconds: int = 10) -> list[ProbeSample]:
    return [
        probe(at, path=path) for at in range(seconds) for path in ("/health", "/ready", "/metrics")
    ]


def settings(**chosen: Any) -> LoadTestSettings:
    return LoadTestSettings(logging_url="none", image_weight=0, **chosen)


def judged(
    samples: Iterable[ProbeSample],
    *,
    outcomes: dict[str, dict[Outcome, int]] | None = None,
    consequences: dict[str, Consequences] | None = None,
    changes: tuple[Change, ...] = (Change(BEGAN, 16),),
    **chosen: Any,
) -> dict[str, Judgement]:
    observations = Observations(
        samples=list(samples),
        changes=changes,
        outcomes=SENT if outcomes is None else outcomes,
        ended_at=BEGAN + 100,
    )
    found = judge(observations, CALM if consequences is None else consequences, settings(**chosen))
    return {one.limit.removeprefix(f"{SERVICE} "): one for one in found}


def broken(judgements: dict[str, Judgement]) -> set[str]:
    return {name for name, one in judgements.items() if not one.kept}


def test_a_sound_service_keeps_every_limit() -> None:
    assert broken(judged(sound())) == set()


def test_a_test_without_any_sample_breaks_every_limit() -> None:
    judgements = judged([], outcomes={}, consequences={})
    assert broken(judgements) == set(judgements)
    judgements = judged([], outcomes={}, consequences={SERVICE: Consequences(0, 0, 0, ())})
    assert len(judgements) >= 10
    assert broken(judgements) == set(judgements)
    assert "matched no sample" in str(judgements["/ready p99 under load"])


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_a_path_that_was_not_probed_breaks_its_limits(path: str) -> None:
    judgements = judged(sample for sample in sound() if sample.path != path)
    assert {f"{path} p99 under load", f"{path} failed"} <= broken(judgements)


def test_probes_before_the_load_do_not_count_for_the_loaded_percentile() -> None:
    slow_while_idle = [probe(-1, path=path, milliseconds=900) for path in ("/health", "/ready")]
    changes = (Change(BEGAN - 5, 0), Change(BEGAN, 16))
    assert broken(judged([*slow_while_idle, *sound()], changes=changes)) == set()
    only_idle = judged(sound(), changes=(Change(BEGAN, 0),))
    assert "/ready p99 under load" in broken(only_idle)


@pytest.mark.parametrize(
    ("path", "milliseconds"), [("/health", 101), ("/ready", 101), ("/metrics", 251)]
)
def test_a_slow_percentile_breaks_the_limit_of_its_path_alone(
    path: str, milliseconds: float
) -> None:
    samples = [*sound(), probe(11, path=path, milliseconds=milliseconds)]
    assert broken(judged(samples)) == {f"{path} p99 under load"}
    samples = [*sound(), probe(11, path=path, milliseconds=milliseconds - 1.5)]
    assert broken(judged(samples)) == set()


def test_the_services_own_port_is_not_judged() -> None:
    slow = [probe(at, port="http", milliseconds=900) for at in range(5)]
    failed = [probe(at, port="http", path="/health", status=500) for at in range(5)]
    assert broken(judged([*sound(), *slow, *failed])) == set()
    # And its answers make up for none that the probe port did not give.
    only_http = judged([probe(at, port="http") for at in range(10)])
    assert "/ready p99 under load" in broken(only_http)


def test_one_slow_probe_in_two_hundred_is_within_the_percentile() -> None:
    samples = [*sound(200), probe(300, milliseconds=5_000)]
    assert broken(judged(samples)) == set()


def test_time_lost_before_sending_counts() -> None:
    samples = [*sound(), probe(11, delay=0.2)]
    assert broken(judged(samples)) == {"/ready p99 under load"}


def test_a_failed_probe_is_told_with_its_reason() -> None:
    samples = [*sound(), probe(11, path="/health", status=429)]
    samples += [probe(12, path="/health", status=0, error="timeout")]
    judgements = judged(samples)
    assert broken(judgements) == {"/health failed"}
    assert "status 429 1 times" in str(judgements["/health failed"])
    assert "timeout 1 times" in str(judgements["/health failed"])
    assert broken(judged(samples, max_failed_probes=2)) == set()


def test_a_readiness_that_goes_and_comes_back_flaps_once() -> None:
    samples = [*sound(), *[probe(at, status=503) for at in (20, 21, 22)], probe(23)]
    judgements = judged(samples)
    assert judgements["readiness flaps"].value == 1
    assert "readiness flaps" in broken(judgements)


def test_a_tick_that_was_missed_is_no_flap_but_breaks_its_own_limit() -> None:
    samples = [*sound(), probe(20, status=0, error="missed"), probe(21)]
    assert broken(judged(samples)) == {"missed probes"}


def test_what_the_kubelet_would_have_done_is_judged() -> None:
    killed = {SERVICE: Consequences(restarts=1, unready=0, probes=9, reasons=())}
    assert broken(judged(sound(), consequences=killed)) == {"would have been restarted"}
    unready = {SERVICE: Consequences(restarts=0, unready=2, probes=9, reasons=())}
    name = "would have been taken out of rotation"
    assert broken(judged(sound(), consequences=unready)) == {name}


def test_errors_are_judged_without_the_requests_that_were_refused() -> None:
    outcomes: dict[str, dict[Outcome, int]] = {
        "POST /predict": {"succeeded": 90, "failed": 2, "rejected": 108}
    }
    judgements = judged(sound(), outcomes=outcomes)
    assert judgements["POST /predict failed"].value == pytest.approx(1.0)
    assert judgements["POST /predict answered 429"].value == pytest.approx(54.0)
    assert broken(judgements) == set()
    assert broken(judged(sound(), outcomes=outcomes, max_rejected_ratio=0.5)) == {
        "POST /predict answered 429"
    }
    outcomes["POST /predict"]["failed"] = 3
    assert broken(judged(sound(), outcomes=outcomes)) == {"POST /predict failed"}


def test_a_kind_of_request_that_was_never_sent_breaks_its_limits() -> None:
    judgements = judged(sound(), outcomes={})
    assert broken(judgements) == {"POST /predict failed", "POST /predict answered 429"}


def test_dropped_arrivals_are_judged_in_open_loop_only() -> None:
    outcomes: dict[str, dict[Outcome, int]] = {"POST /predict": {"succeeded": 90, "dropped": 10}}
    closed = judged(sound(), outcomes=outcomes)
    assert not any("dropped" in name for name in closed)
    opened = judged(sound(), outcomes=outcomes, rate=5.0)
    assert broken(opened) == {"POST /predict dropped before sending"}


def test_arrivals_that_were_never_sent_do_not_dilute_the_errors() -> None:
    outcomes: dict[str, dict[Outcome, int]] = {
        "POST /predict": {"succeeded": 90, "failed": 1, "dropped": 100}
    }
    judgement = judged(sound(), outcomes=outcomes, rate=5.0)["POST /predict failed"]
    assert judgement.value == pytest.approx(100 / 91)
    assert judgement.samples == 91


def test_a_soak_is_judged_by_its_worst_minute() -> None:
    samples = [probe(at / 10, path=path) for at in range(12_000) for path in ("/health", "/ready")]
    samples += [probe(at, path="/metrics") for at in range(1_200)]
    # Two bad seconds in the seventh minute are under one percent of the whole.
    samples += [probe(6 * 60 + 20 + at / 10, milliseconds=400) for at in range(20)]
    assert broken(judged(samples, shape="steady")) == set()
    judgements = judged(samples, shape="soak")
    assert broken(judgements) == {"/ready p99 under load"}
    assert "in minute 7 of 20" in str(judgements["/ready p99 under load"])


def test_every_breach_is_listed_with_value_bound_and_samples() -> None:
    text = str(judged([*sound(), probe(11, milliseconds=250)])["/ready p99 under load"])
    assert text == (
        "inference-service /ready p99 under load: 250 ms, BROKEN, more than 100 ms (11 samples)"
    )
