"""Scenarios of the alerts on slow probes."""

from collections.abc import Mapping

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter
from monitoring.prometheus.scenarios.world import (
    INFERENCE_PLACE,
    INFERENCE_POD,
    INFERENCE_TARGET,
    LOGGING_PLACE,
    LOGGING_POD,
    LOGGING_TARGET,
    kubernetes,
    probe,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_STILL = counter((0, "2h"), start=1000)
_PROBED = counter((0.1, "2h"), start=1000)

# From the twentieth minute to the fortieth one probe in eight is slow.
_QUICK = counter((0.1, "20m"), (0.0875, "20m"), (0.1, "2h"), start=1000)


def _durations(target: Mapping[str, str], route: str, *, quick: Wave, all_: Wave) -> list[Series]:
    """Return probes that take up to half a second, and others between one and 2.5."""
    return [
        probe("probe_duration_seconds_bucket", target, wave, probe=route, status="200", le=bound)
        for bound, wave in (("0.5", quick), ("1.0", quick), ("2.5", all_), ("+Inf", all_))
    ]


def _kubelet_durations(
    pod: Mapping[str, str], container: str, kind: str, *, quick: Wave, all_: Wave
) -> list[Series]:
    return [
        kubernetes(
            "prober_probe_duration_seconds_bucket",
            pod,
            wave,
            container=container,
            probe_type=kind,
            le=bound,
        )
        for bound, wave in (("0.5", quick), ("1", quick), ("2.5", all_), ("+Inf", all_))
    ]


def _slow_story(target: Mapping[str, str], place: str, route: str, service: str) -> Story:
    return Story(
        alert="ServingProbeSlow",
        what=f"one in eight of /{route} of {service} takes more than a second",
        series=_durations(target, route, quick=_QUICK, all_=_PROBED),
        onset="24m",
        hold="2m",
        over="45m45s",
        labels=warning({**target, "probe": route}, service),
        summary=f"/{route} of {place} takes 1.54s (p95)",
        description=(
            f"One probe of /{route} in twenty of {place} has taken 1.54s or more, over half of the"
            " probe's timeoutSeconds: the kubelet will soon count it as failed."
        ),
        lingers="10m",
    )


def _kubelet_slow_story(pod: Mapping[str, str], container: str, kind: str) -> Story:
    return Story(
        alert="ServingKubeletProbeSlow",
        what=f"one {kind} probe in eight of {container} takes more than a second",
        series=_kubelet_durations(pod, container, kind, quick=_QUICK, all_=_PROBED),
        onset="24m",
        hold="2m",
        over="45m45s",
        labels=warning({**pod, "container": container, "probe_type": kind}, container),
        summary=f"the kubelet waits 1.54s (p95) for the {kind} probe of mlops/{pod['pod']}",
        description=(
            f"One successful {kind} probe in twenty of mlops/{pod['pod']} has taken the kubelet"
            " 1.54s or more, over half of its timeoutSeconds. Against probe_duration_seconds this"
            " includes the node, the network and the wait to be accepted."
        ),
        lingers="10m",
        local=False,
    )


SCENARIOS = (
    _slow_story(INFERENCE_TARGET, INFERENCE_PLACE, "health", INFERENCE_SERVICE),
    _slow_story(INFERENCE_TARGET, INFERENCE_PLACE, "ready", INFERENCE_SERVICE),
    _slow_story(LOGGING_TARGET, LOGGING_PLACE, "health", LOGGING_SERVICE),
    _slow_story(LOGGING_TARGET, LOGGING_PLACE, "ready", LOGGING_SERVICE),
    Silence(
        alert="ServingProbeSlow",
        what="a scrape takes long, and is no probe",
        series=_durations(INFERENCE_TARGET, "metrics", quick=counter((0, "2h")), all_=_PROBED),
    ),
    Silence(
        alert="ServingProbeSlow",
        what="half of the probes take just under a second",
        series=[
            probe(
                "probe_duration_seconds_bucket",
                INFERENCE_TARGET,
                wave,
                probe="health",
                status="200",
                le=bound,
            )
            for bound, wave in (
                ("0.5", counter((0.05, "2h"))),
                ("1.0", _PROBED),
                ("2.5", _PROBED),
                ("+Inf", _PROBED),
            )
        ],
    ),
    Silence(
        alert="ServingProbeSlow",
        what="nobody probes",
        series=_durations(INFERENCE_TARGET, "health", quick=_STILL, all_=_STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    _kubelet_slow_story(INFERENCE_POD, INFERENCE_SERVICE, "Liveness"),
    _kubelet_slow_story(INFERENCE_POD, INFERENCE_SERVICE, "Readiness"),
    _kubelet_slow_story(INFERENCE_POD, INFERENCE_SERVICE, "Startup"),
    _kubelet_slow_story(LOGGING_POD, LOGGING_SERVICE, "Liveness"),
    _kubelet_slow_story(LOGGING_POD, LOGGING_SERVICE, "Readiness"),
    _kubelet_slow_story(LOGGING_POD, LOGGING_SERVICE, "Startup"),
    Silence(
        alert="ServingKubeletProbeSlow",
        what="the probes of a stranger are slow",
        series=_kubelet_durations(
            {"namespace": "mlops", "pod": "mlflow-0"},
            "mlflow",
            "Liveness",
            quick=counter((0, "2h")),
            all_=_PROBED,
        ),
    ),
    Silence(
        alert="ServingKubeletProbeSlow",
        what="half of the probes take just under a second",
        series=[
            kubernetes(
                "prober_probe_duration_seconds_bucket",
                INFERENCE_POD,
                wave,
                container=INFERENCE_SERVICE,
                probe_type="Liveness",
                le=bound,
            )
            for bound, wave in (
                ("0.5", counter((0.05, "2h"))),
                ("1", _PROBED),
                ("2.5", _PROBED),
                ("+Inf", _PROBED),
            )
        ],
    ),
    Silence(
        alert="ServingKubeletProbeSlow",
        what="nobody probes",
        series=_kubelet_durations(
            INFERENCE_POD, INFERENCE_SERVICE, "Liveness", quick=_STILL, all_=_STILL
        ),
        kind=Kind.NO_TRAFFIC,
    ),
)
