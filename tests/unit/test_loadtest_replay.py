"""What the kubelet would have done, told from a load test's probes."""

from loadtests.kubelet.spec import ContainerProbes, HttpProbe
from loadtests.plan import Subject
from loadtests.replay import consequences_of
from loadtests.samples import Cadence, Observations, Port, ProbeSample

NAME = "inference-service"
PROBES = ContainerProbes(
    container=NAME,
    readiness=HttpProbe("readiness", "/ready", 8010, period_seconds=1, failure_threshold=2),
    liveness=HttpProbe("liveness", "/health", 8010, period_seconds=1, failure_threshold=3),
)
SUBJECT = Subject(NAME, "http://127.0.0.1:8000", "http://127.0.0.1:8010", PROBES)


def samples(
    *,
    bad_from: float,
    bad_until: float,
    kind: str = "liveness",
    every: float = 0.1,
    port: Port = "probes",
) -> list[ProbeSample]:
    cadence: Cadence = "dense" if every < 1 else "manifest"
    path = "/health" if kind == "liveness" else "/ready"
    return [
        ProbeSample(
            *(NAME, port, path, kind, cadence, at, 0.0, 0.001),
            *((0, "timeout") if bad_from <= at < bad_until else (200, "")),
        )
        for at in (100 + number * every for number in range(round(10 / every)))
    ]


def found(observed: list[ProbeSample]) -> tuple[int, int]:
    consequences = consequences_of(SUBJECT, Observations(observed, [], {}, 0.0))
    assert consequences.probes == len(observed)
    return consequences.restarts, consequences.unready


def test_a_sound_service_has_no_consequences() -> None:
    assert found(samples(bad_from=0, bad_until=0)) == (0, 0)


def test_a_stall_that_some_phase_of_the_ticks_hits_three_times_restarts() -> None:
    # 2.05 s hold two ticks of most phases and three of some.
    assert found(samples(bad_from=103, bad_until=105.05)) == (1, 0)


def test_a_stall_shorter_than_two_periods_cannot_hold_three_ticks() -> None:
    assert found(samples(bad_from=103, bad_until=104.85)) == (0, 0)


def test_a_failing_readiness_takes_the_pod_out_and_kills_nothing() -> None:
    assert found(samples(bad_from=103, bad_until=109, kind="readiness")) == (0, 1)


def test_probes_at_the_manifests_period_are_replayed_as_they_are() -> None:
    assert found(samples(bad_from=103, bad_until=106, every=1.0)) == (1, 0)
    # The container was ready before its first probe.
    assert found(samples(bad_from=100, bad_until=106, kind="readiness", every=1.0)) == (0, 1)


def test_a_tick_that_was_never_sent_says_nothing_of_the_service() -> None:
    lost = [
        ProbeSample(
            *(NAME, "probes", "/health", "liveness", "dense"),
            *(100 + at / 10, 0.2, 0.0, 0, "missed"),
        )
        for at in range(100)
    ]
    consequences = consequences_of(SUBJECT, Observations(lost, [], {}, 0.0))
    assert (consequences.restarts, consequences.probes) == (0, 0)


def test_the_kubelet_does_not_ask_the_services_own_port() -> None:
    stalled = samples(bad_from=103, bad_until=109, port="http")
    consequences = consequences_of(SUBJECT, Observations(stalled, [], {}, 0.0))
    assert (consequences.restarts, consequences.probes) == (0, 0)


def test_the_reasons_are_told() -> None:
    observed = samples(bad_from=103, bad_until=109)
    consequences = consequences_of(SUBJECT, Observations(observed, [], {}, 0.0))
    assert any("liveness probe /health: timeout" in reason for reason in consequences.reasons)
