"""Scenarios of the alerts on the inference service's readiness and restarts."""

from monitoring.prometheus.scenarios.story import Silence, Story
from monitoring.prometheus.scenarios.wave import gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_DEPLOYMENT,
    INFERENCE_PLACE,
    INFERENCE_TARGET,
    MODEL,
    critical,
    inference,
    other_inference,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE

_PAGED_DEPLOYMENT = critical(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)
_PAGED_TARGET = critical({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)
_TICKETED_TARGET = warning({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)

_ONE = gauge((1, "2h"))
_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))

SCENARIOS = (
    Story(
        alert="InferenceNotReady",
        what="the last of two pods becomes unready",
        series=[
            inference("inference_ready", _BREAKS),
            other_inference("inference_ready", gauge((1, "3m"), (0, "1h"))),
        ],
        onset="5m",
        hold="2m",
        over="20m",
        labels=_PAGED_DEPLOYMENT,
        summary="no pod of steel-defects@production is ready in namespace mlops",
        description=(
            "For 2 minutes /ready of every pod of steel-defects@production has answered 503: in a"
            " cluster no request reaches the model. inference_unready tells the reason."
        ),
    ),
    Silence(
        alert="InferenceNotReady",
        what="one of two pods is still ready",
        series=[inference("inference_ready", _BREAKS), other_inference("inference_ready", _ONE)],
        at=("10m", "19m"),
    ),
    Story(
        alert="InferencePodUnready",
        what="one of two pods is unready",
        series=[inference("inference_ready", _BREAKS), other_inference("inference_ready", _ONE)],
        onset="5m",
        hold="11m",
        over="20m",
        labels=_TICKETED_TARGET,
        summary=f"{INFERENCE_PLACE} is not ready",
        description=(
            f"/ready of {INFERENCE_PLACE} has answered 503 for 11 minutes, longer than a start may"
            " take: the service runs with less capacity than it should."
        ),
    ),
    Story(
        alert="InferenceReadinessFlapping",
        what="a pod comes and goes every minute",
        series=[
            inference(
                "inference_ready",
                gauge(
                    (1, "5m"),
                    *(((0, "1m"), (1, "1m")) * 3),
                    (1, "1h"),
                ),
            )
        ],
        onset="10m",
        hold="1m",
        over="20m",
        labels=_TICKETED_TARGET,
        summary=f"readiness of {INFERENCE_PLACE} flaps",
        description=(
            f"{INFERENCE_PLACE} has changed between ready and not ready 6 times in 15 minutes; each"
            " change moves its traffic to the others and back."
        ),
        lingers="15m",
    ),
    Story(
        alert="InferenceWorkersMissing",
        what="one of two workers dies and comes back",
        series=[
            inference("inference_workers", gauge((2, "2h"))),
            inference("inference_workers_alive", gauge((2, "5m"), (1, "5m"), (2, "1h"))),
        ],
        onset="5m",
        hold="1m",
        over="10m",
        labels=_TICKETED_TARGET,
        summary=f"1 workers of {INFERENCE_PLACE} are dead",
        description=(
            f"For a minute 1 worker processes of {INFERENCE_PLACE} have been missing. The pod is"
            " not ready, and its liveness probe restarts it unless the worker returns."
        ),
    ),
    Story(
        alert="InferenceRestartLoop",
        what="the third start in half an hour",
        series=[
            inference(
                "inference_start_time_seconds",
                gauge((1000, "5m"), (1300, "5m"), (1600, "5m"), (1900, "2h")),
            )
        ],
        onset="15m",
        hold="1m",
        over="35m",
        labels=_PAGED_TARGET,
        summary=f"{INFERENCE_PLACE} keeps restarting",
        description=(
            f"{INFERENCE_PLACE} has started 3 times in 30 minutes; each start unloads the model and"
            " fails the requests in flight."
        ),
        lingers="30m",
    ),
)
