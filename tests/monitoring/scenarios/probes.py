"""Scenarios of the alerts on probes: slow ones, refused ones, and blocked event loops."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import (
    ALWAYS,
    PROBED,
    STILL,
    Series,
    Wave,
    counter,
    events,
    gauge,
)
from tests.monitoring.scenarios.world import (
    BOTH,
    INFERENCE,
    KUBELET,
    LOGGING,
    OTHER_SERVICE,
    Labels,
    Pod,
    critical,
    exporter_up,
    warning,
)

# From the twentieth minute to the fortieth one probe in eight is slow.
_QUICK = counter((0.1, "20m"), (0.0875, "20m"), (0.1, "2h"), start=1000)
# Half of the probes take at most half a second.
_HALF = counter((0.05, "2h"))
# Twice a second a heartbeat; from the twentieth minute on one in a hundred comes too late.
_BEATS = counter((2, "2h"), start=1000)
_IN_TIME = counter((2, "20m"), (1.98, "20m"), (2, "2h"), start=1000)
# Twice in the two hours.
_HARDLY_EVER_LATE = counter((2, "20m"), (1.999, "16m45s"), (2, "2h"), start=1000)
# A target that is first scraped in the twentieth minute, or not for a quarter of an hour.
_NEW = gauge((None, "20m"), (1, "2h"))
_UNREACHABLE = gauge((1, "10m"), (0, "15m"), (1, "2h"))


def _own_durations(pod: Pod, route: str, *, half: Wave, second: Wave, all_: Wave) -> list[Series]:
    """Return probes that took at most half a second, at most one, and all."""
    return [
        pod.common("probe_duration_seconds_bucket", wave, probe=route, status="200", le=bound)
        for bound, wave in (("0.5", half), ("1.0", second), ("2.5", all_), ("+Inf", all_))
    ]


def _kubelet_durations(
    pod: Pod, kind: str, *, half: Wave, second: Wave, all_: Wave
) -> list[Series]:
    return [
        pod.of_kubelet("prober_probe_duration_seconds_bucket", wave, probe_type=kind, le=bound)
        for bound, wave in (("0.5", half), ("1", second), ("2.5", all_), ("+Inf", all_))
    ]


def _slow(pod: Pod, route: str) -> Story:
    return Story(
        "ServingProbeSlow",
        f"one in eight of /{route} of {pod.service} takes more than a second",
        _own_durations(pod, route, half=_QUICK, second=_QUICK, all_=PROBED),
        holds=("24m", "45m45s"),
        labels=warning({**pod.target, "probe": route}, pod.service),
        value="1.54s",
        lingers="10m",
    )


def _slow_for_kubelet(pod: Pod, kind: str) -> Story:
    return Story(
        "ServingKubeletProbeSlow",
        f"one {kind} probe in eight of {pod.service} takes more than a second",
        _kubelet_durations(pod, kind, half=_QUICK, second=_QUICK, all_=PROBED),
        holds=("24m", "45m45s"),
        labels=warning({**pod.labels, "container": pod.service, "probe_type": kind}, pod.service),
        value="1.54s",
        lingers="10m",
        local=False,
    )


_SLOW_SCENARIOS: tuple[Scenario, ...] = (
    *(_slow(pod, route) for pod in BOTH for route in ("health", "ready")),
    Silence(
        "ServingProbeSlow",
        "a scrape takes long, and is no probe",
        _own_durations(INFERENCE, "metrics", half=STILL, second=STILL, all_=PROBED),
    ),
    Silence(
        "ServingProbeSlow",
        "half of the probes take just under a second",
        _own_durations(INFERENCE, "health", half=_HALF, second=PROBED, all_=PROBED),
    ),
    Silence(
        "ServingProbeSlow",
        "nobody probes",
        _own_durations(INFERENCE, "health", half=STILL, second=STILL, all_=STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    *(
        _slow_for_kubelet(pod, kind)
        for pod in BOTH
        for kind in ("Liveness", "Readiness", "Startup")
    ),
    Silence(
        "ServingKubeletProbeSlow",
        "the probes of another service are slow",
        _kubelet_durations(OTHER_SERVICE, "Liveness", half=STILL, second=STILL, all_=PROBED),
    ),
    Silence(
        "ServingKubeletProbeSlow",
        "half of the probes take just under a second",
        _kubelet_durations(INFERENCE, "Liveness", half=_HALF, second=PROBED, all_=PROBED),
    ),
    Silence(
        "ServingKubeletProbeSlow",
        "nobody probes",
        _kubelet_durations(INFERENCE, "Liveness", half=STILL, second=STILL, all_=STILL),
        kind=Kind.NO_TRAFFIC,
    ),
)


def _delays(pod: Pod, *, half: Wave, second: Wave, all_: Wave) -> list[Series]:
    """Return heartbeats that were at most half a second late, at most one, and all."""
    name = "event_loop_delay_seconds"
    return [
        pod.common(f"{name}_bucket", half, le="0.5"),
        pod.common(f"{name}_bucket", second, le="1.0"),
        pod.common(f"{name}_bucket", all_, le="2.5"),
        pod.common(f"{name}_bucket", all_, le="+Inf"),
        pod.common(f"{name}_count", all_),
    ]


def _blocked(pod: Pod) -> Story:
    return Story(
        "ServingEventLoopBlocked",
        f"one heartbeat of {pod.service} in a hundred comes more than a second late",
        _delays(pod, half=_IN_TIME, second=_IN_TIME, all_=_BEATS),
        holds=("22m", "47m45s"),
        labels=warning(pod.target, pod.service),
        value="3.3",
        lingers="10m",
    )


_BLOCKED_SCENARIOS: tuple[Scenario, ...] = (
    *(_blocked(pod) for pod in BOTH),
    Silence(
        "ServingEventLoopBlocked",
        "a heartbeat comes late now and then",
        _delays(INFERENCE, half=_HARDLY_EVER_LATE, second=_HARDLY_EVER_LATE, all_=_BEATS),
    ),
    Silence(
        "ServingEventLoopBlocked",
        "every heartbeat is just under a second late",
        _delays(INFERENCE, half=STILL, second=_BEATS, all_=_BEATS),
    ),
    Silence(
        "ServingEventLoopBlocked",
        "nothing happens any more",
        _delays(INFERENCE, half=STILL, second=STILL, all_=STILL),
        kind=Kind.NO_TRAFFIC,
    ),
)


def _answered(pod: Pod, route: str, up: Wave = ALWAYS, **waves: Wave) -> list[Series]:
    """Return a pod's scrapes, and the answers to a probe by status: `s200` and so on."""
    return [
        pod.up(up),
        *(
            pod.common("probe_duration_seconds_count", wave, probe=route, status=status[1:])
            for status, wave in waves.items()
        ),
    ]


@dataclass(frozen=True)
class _Refusal:
    """An alert on answers that a probe must not get."""

    alert: str
    route: str
    make: Callable[[Labels, str], dict[str, str]]

    def story(self, pod: Pod, what: str, status: str, wave: Wave, times: int, over: str) -> Story:
        """Return the story of a wave of answers with one status."""
        return Story(
            self.alert,
            what,
            _answered(pod, self.route, s200=PROBED, s503=STILL, **{f"s{status}": wave}),
            holds=("20m", over),
            labels=self.make({**pod.target, "probe": self.route, "status": status}, pod.service),
            value=str(times),
            lingers="0s" if over == "25m" and times > 1 else "5m",
        )

    def scenarios(self) -> Iterator[Scenario]:
        """Yield a story of each way in which the counter may begin, and what is no failure."""
        first = gauge((None, "20m"), (1, "15s"), (2, "2h"))
        born = gauge((None, "20m"), (3, "2h"))
        yield self.story(INFERENCE, "a first answer, then a second", "500", first, 2, "25m15s")
        yield self.story(INFERENCE, "three answers within one scrape", "500", born, 3, "25m")
        yield self.story(LOGGING, "another answer after many", "504", events(1200), 1, "25m")
        for what, up in (
            ("the target was never scraped before", _NEW),
            ("the target could not be scraped for a while", _UNREACHABLE),
        ):
            old = gauge(*((None if level != 1 else 7, length) for level, length in up.phases))
            yield Silence(
                self.alert,
                f"{what} and has failed before",
                _answered(INFERENCE, self.route, up, s200=old, s500=old),
                at=("20m15s", "25m15s", "26m"),
            )
        yield Silence(
            self.alert,
            "nobody probes",
            _answered(INFERENCE, self.route, s200=STILL, s500=STILL),
            kind=Kind.NO_TRAFFIC,
        )


_REFUSALS = (
    _Refusal("ServingLivenessFailing", "health", critical),
    _Refusal("ServingReadinessRefused", "ready", warning),
)

_ANSWER_SCENARIOS: tuple[Scenario, ...] = (
    *(scenario for refusal in _REFUSALS for scenario in refusal.scenarios()),
    Silence(
        "ServingLivenessFailing",
        "/ready answers 503 and /health 200",
        [
            *_answered(INFERENCE, "health", s200=PROBED, s500=STILL),
            *_answered(INFERENCE, "ready", s503=PROBED)[1:],
        ],
    ),
    Silence(
        "ServingReadinessRefused",
        "/ready answers 503, as it should without a model",
        [
            *_answered(INFERENCE, "ready", s503=PROBED, s504=STILL),
            *_answered(INFERENCE, "health", s500=PROBED)[1:],
        ],
    ),
)


def _failed(pod: Pod, kind: str, failed: Wave, up: Wave = ALWAYS) -> list[Series]:
    """Return the kubelet's scrapes, on two paths, and its verdicts on the probes of a kind."""
    return [
        exporter_up({**KUBELET, "metrics_path": "/metrics/probes"}, up),
        exporter_up({**KUBELET, "metrics_path": "/metrics/cadvisor"}, up),
        *(
            pod.of_kubelet("prober_probe_total", wave, probe_type=one, result=result)
            for one, result, wave in (
                (kind, "failed", failed),
                (kind, "successful", PROBED),
                ("Startup", "failed", PROBED),
            )
        ),
    ]


def _liveness_story(what: str, failed: Wave, onset: str, over: str, times: int) -> Story:
    return Story(
        "ServingKubeletLivenessFailing",
        what,
        _failed(INFERENCE, "Liveness", failed),
        holds=(onset, over),
        labels=critical({**INFERENCE.labels, "container": INFERENCE.service}, INFERENCE.service),
        value=str(times),
        lingers="10m",
        local=False,
    )


def _contradicted_story(pod: Pod, ready: str, failed: Wave, times: int) -> Story:
    return Story(
        "ServingReadinessContradicted",
        f"{times} readiness probes of {pod.service} fail while it is ready",
        [*_failed(pod, "Readiness", failed), pod.series(ready, ALWAYS)],
        holds=("21m", "25m" if times == 2 else "26m"),
        labels=warning({**pod.labels, "container": pod.service}, pod.service),
        value=str(times),
        lingers="5m",
        local=False,
    )


_KUBELET_SCENARIOS: tuple[Scenario, ...] = (
    _liveness_story("two liveness probes in ten minutes fail", events(1200, 1320), "22m", "30m", 2),
    _liveness_story(
        "three liveness probes fail within one scrape",
        gauge((None, "20m"), (3, "2h")),
        "20m",
        "30m",
        3,
    ),
    Silence(
        "ServingKubeletLivenessFailing",
        "the kubelet was never scraped before and has counted failures",
        _failed(INFERENCE, "Liveness", gauge((None, "20m"), (7, "2h")), _NEW),
        at=("20m15s", "25m"),
    ),
    Silence(
        "ServingKubeletLivenessFailing",
        "readiness probes fail, and that is another alert",
        _failed(INFERENCE, "Readiness", PROBED),
    ),
    Silence(
        "ServingKubeletLivenessFailing",
        "the liveness probes of another service fail",
        _failed(OTHER_SERVICE, "Liveness", PROBED),
    ),
    Silence(
        "ServingKubeletLivenessFailing",
        "nobody probes",
        _failed(INFERENCE, "Liveness", STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    _contradicted_story(INFERENCE, "inference_ready", events(1200, 1260), 2),
    _contradicted_story(LOGGING, "logging_ready", events(1200, 1260), 2),
    _contradicted_story(INFERENCE, "inference_ready", gauge((None, "21m"), (3, "2h")), 3),
    Silence(
        "ServingReadinessContradicted",
        "readiness probes fail because the services are unready",
        [
            *_failed(INFERENCE, "Readiness", PROBED),
            INFERENCE.series("inference_ready", gauge((1, "15m"), (0, "1h"))),
            *_failed(LOGGING, "Readiness", PROBED)[2:],
            LOGGING.series("logging_ready", gauge((1, "15m"), (0, "1h"))),
        ],
        at=("16m", "30m"),
    ),
    Silence(
        "ServingReadinessContradicted",
        "the kubelet was never scraped before and has counted failures",
        [
            *_failed(INFERENCE, "Readiness", gauge((None, "20m"), (7, "2h")), _NEW),
            INFERENCE.series("inference_ready", ALWAYS),
        ],
        at=("20m15s", "24m"),
    ),
    Silence(
        "ServingReadinessContradicted",
        "liveness probes fail, and that is another alert",
        [*_failed(INFERENCE, "Liveness", PROBED), INFERENCE.series("inference_ready", ALWAYS)],
    ),
    Silence(
        "ServingReadinessContradicted",
        "nobody probes",
        [*_failed(INFERENCE, "Readiness", STILL), INFERENCE.series("inference_ready", ALWAYS)],
        kind=Kind.NO_TRAFFIC,
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    *_SLOW_SCENARIOS,
    *_BLOCKED_SCENARIOS,
    *_ANSWER_SCENARIOS,
    *_KUBELET_SCENARIOS,
)
