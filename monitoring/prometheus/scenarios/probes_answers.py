"""Scenarios of the alerts on what probes are answered."""

from collections.abc import Mapping

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events, gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_PLACE,
    INFERENCE_POD,
    INFERENCE_TARGET,
    LOGGING_PLACE,
    LOGGING_POD,
    LOGGING_TARGET,
    critical,
    inference,
    kubernetes,
    logging,
    probe,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_STILL = counter((0, "2h"), start=1000)
_PROBED = counter((0.1, "2h"), start=1000)


def _answered(target: Mapping[str, str], route: str, **waves: Wave) -> list[Series]:
    """Return the answers to a probe by status, `s200` and so on."""
    return [
        probe("probe_duration_seconds_count", target, wave, probe=route, status=status[1:])
        for status, wave in waves.items()
    ]


def _failed(pod: Mapping[str, str], container: str, kind: str, failed: Wave) -> list[Series]:
    return [
        kubernetes(
            "prober_probe_total", pod, wave, container=container, probe_type=one, result=result
        )
        for one, result, wave in (
            (kind, "failed", failed),
            (kind, "successful", _PROBED),
            ("Startup", "failed", _PROBED),
        )
    ]


_LIVENESS_TEXTS = (
    "/health of {place} was answered with {status} about {times} times in 5 minutes; the kubelet"
    " restarts the container after three in a row."
)
_READINESS_TEXTS = (
    "/ready of {place} was answered with {status} about {times} times in 5 minutes. It means 200"
    " or 503 only: the probe itself failed, which takes the pod out of rotation."
)

SCENARIOS = (
    Story(
        alert="ServingLivenessFailing",
        what="/health answers 500 for the first time, twice",
        series=_answered(
            INFERENCE_TARGET,
            "health",
            s200=_PROBED,
            s500=gauge((None, "20m"), (1, "15s"), (2, "2h")),
        ),
        onset="20m",
        hold="30s",
        over="25m15s",
        labels=critical(
            {**INFERENCE_TARGET, "probe": "health", "status": "500"}, INFERENCE_SERVICE
        ),
        summary=f"/health of {INFERENCE_PLACE} answers 500",
        description=_LIVENESS_TEXTS.format(place=INFERENCE_PLACE, status=500, times=2),
        lingers="5m",
    ),
    Story(
        alert="ServingLivenessFailing",
        what="/health of the logging service answers 504 again",
        series=_answered(LOGGING_TARGET, "health", s200=_PROBED, s504=events(1200)),
        onset="20m",
        hold="30s",
        over="25m",
        labels=critical({**LOGGING_TARGET, "probe": "health", "status": "504"}, LOGGING_SERVICE),
        summary=f"/health of {LOGGING_PLACE} answers 504",
        description=_LIVENESS_TEXTS.format(place=LOGGING_PLACE, status=504, times=1),
        lingers="5m",
    ),
    Silence(
        alert="ServingLivenessFailing",
        what="/ready answers 503 and /health 200",
        series=[
            *_answered(INFERENCE_TARGET, "health", s200=_PROBED, s500=_STILL),
            *_answered(INFERENCE_TARGET, "ready", s503=_PROBED),
        ],
    ),
    Silence(
        alert="ServingLivenessFailing",
        what="nobody probes",
        series=_answered(INFERENCE_TARGET, "health", s200=_STILL, s500=_STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="ServingReadinessRefused",
        what="/ready answers 429 for the first time, twice",
        series=_answered(
            INFERENCE_TARGET,
            "ready",
            s200=_PROBED,
            s503=_PROBED,
            s429=gauge((None, "20m"), (1, "15s"), (2, "2h")),
        ),
        onset="20m",
        hold="30s",
        over="25m15s",
        labels=warning({**INFERENCE_TARGET, "probe": "ready", "status": "429"}, INFERENCE_SERVICE),
        summary=f"/ready of {INFERENCE_PLACE} answers 429",
        description=_READINESS_TEXTS.format(place=INFERENCE_PLACE, status=429, times=2),
        lingers="5m",
    ),
    Story(
        alert="ServingReadinessRefused",
        what="/ready of the logging service answers 504 again",
        series=_answered(LOGGING_TARGET, "ready", s200=_PROBED, s504=events(1200)),
        onset="20m",
        hold="30s",
        over="25m",
        labels=warning({**LOGGING_TARGET, "probe": "ready", "status": "504"}, LOGGING_SERVICE),
        summary=f"/ready of {LOGGING_PLACE} answers 504",
        description=_READINESS_TEXTS.format(place=LOGGING_PLACE, status=504, times=1),
        lingers="5m",
    ),
    Silence(
        alert="ServingReadinessRefused",
        what="/ready answers 503, as it should without a model",
        series=[
            *_answered(INFERENCE_TARGET, "ready", s503=_PROBED, s504=_STILL),
            *_answered(INFERENCE_TARGET, "health", s500=_PROBED),
        ],
    ),
    Silence(
        alert="ServingReadinessRefused",
        what="nobody probes",
        series=_answered(INFERENCE_TARGET, "ready", s200=_STILL, s504=_STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="ServingKubeletLivenessFailing",
        what="two liveness probes in ten minutes fail",
        series=_failed(INFERENCE_POD, INFERENCE_SERVICE, "Liveness", events(1200, 1320)),
        onset="22m",
        hold="30s",
        over="30m",
        labels=critical({**INFERENCE_POD, "container": INFERENCE_SERVICE}, INFERENCE_SERVICE),
        summary=f"the kubelet sees liveness probes of mlops/{INFERENCE_POD['pod']} fail",
        description=(
            f"About 2 liveness probes of mlops/{INFERENCE_POD['pod']} have failed in 10 minutes, by"
            " time-out, refusal or status; three in a row restart the container."
        ),
        lingers="10m",
        local=False,
    ),
    Silence(
        alert="ServingKubeletLivenessFailing",
        what="readiness probes fail, and that is another alert",
        series=_failed(INFERENCE_POD, INFERENCE_SERVICE, "Readiness", _PROBED),
    ),
    Silence(
        alert="ServingKubeletLivenessFailing",
        what="the liveness probes of a stranger fail",
        series=_failed({"namespace": "mlops", "pod": "mlflow-0"}, "mlflow", "Liveness", _PROBED),
    ),
    Silence(
        alert="ServingKubeletLivenessFailing",
        what="nobody probes",
        series=_failed(INFERENCE_POD, INFERENCE_SERVICE, "Liveness", _STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="ServingReadinessContradicted",
        what="two readiness probes fail while the service is ready",
        series=[
            *_failed(INFERENCE_POD, INFERENCE_SERVICE, "Readiness", events(1200, 1260)),
            inference("inference_ready", gauge((1, "2h"))),
        ],
        onset="21m",
        hold="2m",
        over="25m",
        labels=warning({**INFERENCE_POD, "container": INFERENCE_SERVICE}, INFERENCE_SERVICE),
        summary=(f"the kubelet finds mlops/{INFERENCE_POD['pod']} unready, the service does not"),
        description=(
            f"About 2 readiness probes of mlops/{INFERENCE_POD['pod']} have failed in 5 minutes"
            " although the service has called itself ready all the time: probes time out, or"
            " something before the service answers them."
        ),
        lingers="5m",
        local=False,
    ),
    Story(
        alert="ServingReadinessContradicted",
        what="two readiness probes of the logging service fail while it is ready",
        series=[
            *_failed(LOGGING_POD, LOGGING_SERVICE, "Readiness", events(1200, 1260)),
            logging("logging_ready", gauge((1, "2h"))),
        ],
        onset="21m",
        hold="2m",
        over="25m",
        labels=warning({**LOGGING_POD, "container": LOGGING_SERVICE}, LOGGING_SERVICE),
        summary="the kubelet finds mlops/logging-service-0 unready, the service does not",
        description=(
            "About 2 readiness probes of mlops/logging-service-0 have failed in 5 minutes"
            " although the service has called itself ready all the time: probes time out, or"
            " something before the service answers them."
        ),
        lingers="5m",
        local=False,
    ),
    Silence(
        alert="ServingReadinessContradicted",
        what="readiness probes fail because the services are unready",
        series=[
            *_failed(INFERENCE_POD, INFERENCE_SERVICE, "Readiness", _PROBED),
            inference("inference_ready", gauge((1, "15m"), (0, "1h"))),
            *_failed(LOGGING_POD, LOGGING_SERVICE, "Readiness", _PROBED),
            logging("logging_ready", gauge((1, "15m"), (0, "1h"))),
        ],
        at=("16m", "30m"),
    ),
    Silence(
        alert="ServingReadinessContradicted",
        what="liveness probes fail, and that is another alert",
        series=[
            *_failed(INFERENCE_POD, INFERENCE_SERVICE, "Liveness", _PROBED),
            inference("inference_ready", gauge((1, "2h"))),
        ],
    ),
    Silence(
        alert="ServingReadinessContradicted",
        what="nobody probes",
        series=[
            *_failed(INFERENCE_POD, INFERENCE_SERVICE, "Readiness", _STILL),
            inference("inference_ready", gauge((1, "2h"))),
        ],
        kind=Kind.NO_TRAFFIC,
    ),
)
