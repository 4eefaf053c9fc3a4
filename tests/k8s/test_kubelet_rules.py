"""The kubelet's rules, on answers that are given: thresholds, gating, restarts, replays."""

from pathlib import Path

import pytest

from loadtests.kubelet.spec import (
    MANIFESTS,
    ContainerProbes,
    HttpProbe,
    ManifestError,
    probes_of,
    read_probes,
)
from loadtests.kubelet.verdict import ContainerVerdict, Sample, replay, worst_replay
from monitoring.timings import SERVICES, ProbeKind

STARTUP = HttpProbe("startup", "/health", 8000, period_seconds=2, failure_threshold=3)
READINESS = HttpProbe("readiness", "/ready", 8000, period_seconds=5, failure_threshold=3)
LIVENESS = HttpProbe(
    "liveness", "/health", 8000, period_seconds=10, timeout_seconds=2, failure_threshold=3
)
PROBES = ContainerProbes("it", startup=STARTUP, readiness=READINESS, liveness=LIVENESS)


def answer(kind: ProbeKind, at: float, status: int = 200, latency: float = 0.01) -> Sample:
    """Return one answer."""
    return Sample(kind, at, latency, status)


def observe(verdict: ContainerVerdict, *samples: Sample) -> list[str]:
    """Give answers and return the names of what changed by them."""
    return [entry.event for sample in samples for entry in verdict.observe(sample)]


def started(probes: ContainerProbes = PROBES) -> ContainerVerdict:
    """Return the verdict on a container that has started at second 0 and is ready."""
    verdict = ContainerVerdict(probes)
    assert observe(verdict, answer("startup", 0), answer("readiness", 0)) == ["started", "ready"]
    return verdict


def test_a_container_is_not_ready_before_it_was_asked() -> None:
    verdict = ContainerVerdict(PROBES)
    assert not verdict.started
    assert not verdict.ready


def test_nothing_but_the_startup_probe_is_asked_until_it_has_succeeded() -> None:
    verdict = ContainerVerdict(PROBES)
    assert [kind for kind in ("startup", "readiness", "liveness") if verdict.wants(kind, 1)] == [
        "startup"
    ]
    observe(verdict, answer("startup", 1))
    assert [kind for kind in ("startup", "readiness", "liveness") if verdict.wants(kind, 1)] == [
        "readiness",
        "liveness",
    ]


def test_answers_that_the_kubelet_would_not_have_asked_for_change_nothing() -> None:
    """Liveness fails while the container starts: that is what a startup probe is for."""
    verdict = ContainerVerdict(PROBES)
    assert observe(verdict, *(answer("liveness", second, 500) for second in range(9))) == []
    assert verdict.report().probes["liveness"] == 0


def test_a_container_without_startup_probe_is_asked_at_once() -> None:
    verdict = ContainerVerdict(ContainerProbes("it", liveness=LIVENESS))
    assert verdict.ready
    assert verdict.wants("liveness", 0)


def test_the_initial_delay_puts_the_first_probe_off() -> None:
    probes = ContainerProbes(
        "it", readiness=HttpProbe("readiness", "/ready", 8000, initial_delay_seconds=7)
    )
    verdict = ContainerVerdict(probes, started_at=100)
    assert not verdict.wants("readiness", 106.9)
    assert verdict.wants("readiness", 107)


def test_a_startup_probe_may_fail_fewer_times_than_its_threshold() -> None:
    verdict = ContainerVerdict(PROBES)
    failing = [answer("startup", second, 503) for second in (0, 2)]
    assert observe(verdict, *failing, answer("startup", 4)) == ["started"]
    assert verdict.report().started_after == pytest.approx(4.01)


def test_a_startup_probe_that_fails_too_often_restarts_the_container() -> None:
    verdict = ContainerVerdict(PROBES)
    assert observe(verdict, *(answer("startup", second, 0) for second in (0, 2, 4))) == ["restart"]
    assert observe(verdict, *(answer("startup", second, 0) for second in (6, 8))) == []
    assert observe(verdict, answer("startup", 10, 0)) == ["restart"]
    assert verdict.restarts == 2


def test_liveness_restarts_only_after_as_many_failures_in_a_row_as_its_threshold() -> None:
    verdict = started()
    statuses = (500, 500, 200, 500, 500, 500)
    events = [
        observe(verdict, answer("liveness", 10.0 * number, status))
        for number, status in enumerate(statuses, 1)
    ]
    assert events == [[], [], [], [], [], ["restart"]]


def test_a_restart_begins_everything_anew() -> None:
    verdict = started()
    observe(verdict, *(answer("liveness", second, 500) for second in (10, 20, 30)))
    assert not verdict.ready
    assert not verdict.wants("readiness", 31)
    assert verdict.wants("startup", 31)
    assert observe(verdict, answer("startup", 32), answer("readiness", 33)) == ["started", "ready"]


def test_a_container_that_exits_is_restarted_and_begins_anew() -> None:
    verdict = started()
    (restart,) = verdict.container_exited(12, "exit status 1")
    assert (restart.event, restart.at) == ("restart", 12)
    assert "exit status 1" in restart.why
    assert (verdict.ready, verdict.wants("startup", 13)) == (False, False)
    verdict.container_started(22)
    assert verdict.wants("startup", 22)
    assert observe(verdict, answer("startup", 22), answer("readiness", 23)) == ["started", "ready"]
    assert verdict.report().restarts == 1


def test_an_exit_that_the_kubelet_caused_is_no_second_restart() -> None:
    verdict = started()
    observe(verdict, *(answer("liveness", second, 500) for second in (10, 20, 30)))
    assert verdict.container_exited(31, "exit status 0") == []
    verdict.container_started(31)
    verdict.terminate()
    assert verdict.container_exited(40, "exit status 0") == []
    assert verdict.restarts == 1


def test_readiness_takes_its_threshold_to_fail_and_one_success_to_return() -> None:
    verdict = started()
    failing = [answer("readiness", second, 503) for second in (5, 10, 15, 20)]
    assert observe(verdict, *failing) == ["unready"]
    assert observe(verdict, answer("readiness", 25)) == ["ready"]
    assert verdict.report().unready == 1


def test_a_higher_success_threshold_takes_as_many_successes() -> None:
    """Only readiness may have one."""
    probe = HttpProbe("readiness", "/ready", 8000, success_threshold=2)
    verdict = ContainerVerdict(ContainerProbes("it", readiness=probe))
    assert observe(verdict, answer("readiness", 0)) == []
    assert observe(verdict, answer("readiness", 10)) == ["ready"]


def test_not_being_ready_yet_is_not_becoming_unready() -> None:
    verdict = ContainerVerdict(PROBES)
    observe(verdict, answer("startup", 0))
    observe(verdict, *(answer("readiness", second, 503) for second in range(1, 30)))
    assert verdict.report().unready == 0


@pytest.mark.parametrize(
    ("status", "latency", "good"),
    [
        (200, 0.1, True),
        (204, 0.1, True),
        (399, 0.1, True),
        (200, 2.0, True),
        (200, 2.001, False),
        (199, 0.1, False),
        (400, 0.1, False),
        (429, 0.1, False),
        (503, 0.1, False),
        (0, 0.1, False),
    ],
)
def test_success_is_a_status_from_200_to_399_within_the_timeout(
    status: int, latency: float, good: bool
) -> None:
    probe = HttpProbe("liveness", "/health", 8000, timeout_seconds=2, failure_threshold=1)
    verdict = ContainerVerdict(ContainerProbes("it", liveness=probe))
    observe(verdict, answer("liveness", 0, status, latency))
    assert verdict.restarts == (0 if good else 1)


def test_a_pod_that_is_being_deleted_is_not_killed_by_its_liveness() -> None:
    """Its readiness is still asked, so that it leaves the endpoints."""
    verdict = started()
    verdict.terminate()
    assert not verdict.wants("liveness", 10)
    failing = [answer("readiness", second, 503) for second in (5, 10, 15)]
    assert observe(verdict, *failing) == ["unready"]


def test_a_probe_that_the_container_has_not_is_refused() -> None:
    """A typing error must not count as no failure."""
    with pytest.raises(ValueError, match="no startup probe"):
        ContainerVerdict(ContainerProbes("it", liveness=LIVENESS)).observe(answer("startup", 0))


def test_a_replay_takes_samples_in_the_order_of_time() -> None:
    samples = [answer("readiness", second, 503) for second in (15.0, 5.0, 10.0)]
    report = replay(PROBES, samples, running=True)
    assert (report.unready, report.restarts) == (1, 0)
    assert report.transitions[0].at == pytest.approx(15.01)


def dense(stalls: list[tuple[float, float]], *, seconds: float = 60.0) -> list[Sample]:
    """Return liveness answers every 0.1 s, none in the stalls."""
    samples = []
    for tick in range(int(seconds * 10)):
        at = tick / 10
        stalled = any(begin <= at < end for begin, end in stalls)
        samples.append(answer("liveness", at, 0 if stalled else 200, 2.0 if stalled else 0.001))
    return samples


def test_a_stall_that_some_ticks_would_miss_is_found_by_the_worst_phase() -> None:
    """Three stalls, ten seconds apart: ticks at the wrong moment fall into all of them."""
    stalls = [(13.0, 14.0), (23.0, 24.0), (33.0, 34.0)]
    assert worst_replay(PROBES, "liveness", dense(stalls)).restarts == 1
    lucky = [sample for sample in dense(stalls) if sample.at % 10 == 0]
    assert replay(PROBES, lucky, running=True).restarts == 0


def test_stalls_that_no_phase_meets_thrice_restart_nothing() -> None:
    assert worst_replay(PROBES, "liveness", dense([(13.0, 14.0), (23.0, 24.0)])).restarts == 0
    assert worst_replay(PROBES, "liveness", dense([(11.0, 29.0)])).restarts == 0


def test_a_stall_longer_than_the_patience_restarts_at_every_phase() -> None:
    assert worst_replay(PROBES, "liveness", dense([(10.0, 40.0)])).restarts == 1


def test_nothing_to_replay_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        worst_replay(PROBES, "liveness", [])


def test_hastened_probes_have_a_tenth_of_the_patience_and_the_same_startup_budget() -> None:
    hastened = PROBES.hastened(10)
    assert hastened.readiness is not None
    assert hastened.liveness is not None
    assert hastened.startup is not None
    assert (hastened.readiness.period_seconds, hastened.readiness.failure_threshold) == (0.5, 3)
    assert (hastened.liveness.period_seconds, hastened.liveness.timeout_seconds) == (1.0, 2)
    assert (hastened.startup.period_seconds, hastened.startup.failure_threshold) == (0.2, 30)


@pytest.mark.parametrize("name", list(SERVICES))
def test_the_manifest_of_the_base_gives_every_probe(name: str) -> None:
    found = read_probes(MANIFESTS[name], name)
    for kind in ("startup", "readiness", "liveness"):
        probe, timing = found.probe(kind), SERVICES[name].probe(kind)
        assert probe is not None
        assert probe.port in (8010, 8011)
        assert (probe.period_seconds, probe.timeout_seconds, probe.failure_threshold) == (
            timing.period_seconds,
            timing.timeout_seconds,
            timing.failure_threshold,
        )


def manifest(probe: dict[str, object]) -> list[dict[str, object]]:
    """Return a Deployment whose container has one liveness probe."""
    container = {
        "name": "it",
        "ports": [{"name": "http", "containerPort": 8000}],
        "livenessProbe": probe,
    }
    return [
        {
            "kind": "Deployment",
            "metadata": {"name": "it"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
    ]


def test_what_a_manifest_leaves_out_has_the_defaults_of_the_api() -> None:
    found = probes_of(manifest({"httpGet": {"port": "http"}}), "it").liveness
    assert found == HttpProbe(
        "liveness",
        "/",
        8000,
        initial_delay_seconds=0,
        period_seconds=10,
        timeout_seconds=1,
        success_threshold=1,
        failure_threshold=3,
    )


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"exec": {"command": ["true"]}}, "not a plain HTTP GET"),
        ({"httpGet": {"port": "http", "scheme": "HTTPS"}}, "not a plain HTTP GET"),
        ({"httpGet": {"port": "web"}}, "port 'web'"),
    ],
)
def test_a_probe_that_cannot_be_played_is_refused(probe: dict[str, object], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        probes_of(manifest(probe), "it")


def test_a_workload_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there are it"):
        probes_of(manifest({"httpGet": {"port": 1}}), "its")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_probes(tmp_path / "absent.yaml", "it")
