"""Scenarios of the alerts on predictions that fail or are refused."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events
from monitoring.prometheus.scenarios.world import INFERENCE_DEPLOYMENT, critical, inference, warning
from monitoring.timings import INFERENCE_SERVICE

_PAGED_DEPLOYMENT = critical(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)
_TICKETED_DEPLOYMENT = warning(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)

_STILL = counter((0, "2h"), start=1000)


def _answers(*, good: Wave, failed: Wave, refused: Wave = _STILL) -> list[Series]:
    return [
        inference("inference_predictions_total", good),
        inference("inference_errors_total", failed, reason="model_failure"),
        inference("inference_errors_total", counter((0, "2h")), reason="timeout"),
        inference("inference_rejected_total", refused, reason="queue_full"),
        inference("inference_rejected_total", counter((20, "2h")), reason="bad_input"),
    ]


_IDLE = _answers(good=_STILL, failed=_STILL)

SCENARIOS = (
    Story(
        alert="InferenceHighErrorRate",
        what="one request in eighteen fails",
        series=_answers(
            good=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="2m",
        over="50m30s",
        labels=_PAGED_DEPLOYMENT,
        summary="5.587% of predictions of steel-defects@production fail in namespace mlops",
        description=(
            "5.587% of the requests to steel-defects@production in the last 5 minutes failed for"
            " the service's fault (limit 5%); refused input is not counted. Above 50% a pod takes"
            " itself out of rotation."
        ),
        lingers="5m",
    ),
    Story(
        alert="InferenceHighErrorRate",
        what="four of 22 requests in 5 minutes fails",
        series=_answers(
            good=counter((22 / 300, "30m"), (18 / 300, "20m"), (22 / 300, "2h")),
            failed=counter((0, "30m"), (4 / 300, "20m"), (0, "2h")),
        ),
        onset="31m15s",
        hold="2m",
        over="53m30s",
        labels=_PAGED_DEPLOYMENT,
        summary="12.73% of predictions of steel-defects@production fail in namespace mlops",
        description=(
            "12.73% of the requests to steel-defects@production in the last 5 minutes failed for"
            " the service's fault (limit 5%); refused input is not counted. Above 50% a pod takes"
            " itself out of rotation."
        ),
        lingers="5m",
        local=False,
    ),
    Silence(
        alert="InferenceHighErrorRate",
        what="a client sends nonsense",
        series=_answers(good=counter((1, "2h")), failed=counter((0, "2h"))),
    ),
    Silence(
        alert="InferenceHighErrorRate",
        what="nobody asks for a prediction",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
    Silence(
        alert="InferenceHighErrorRate",
        what="one of eighteen requests in 5 minutes fails",
        series=_answers(good=counter((17 / 300, "2h")), failed=counter((1 / 300, "2h"))),
        at=("10m", "20m", "30m"),
    ),
    Story(
        alert="InferenceAllRequestsFailing",
        what="all of a few requests fail until one succeeds",
        series=_answers(good=events(2400), failed=events(1200, 1335, 1470, 1605, 1740, 1875)),
        onset="24m30s",
        hold="1m",
        over="40m",
        labels=_PAGED_DEPLOYMENT,
        summary="every request to steel-defects@production fails in namespace mlops",
        description=(
            "About 3 requests to steel-defects@production have failed in 15 minutes and none has"
            " succeeded. Traffic is too low for InferenceHighErrorRate to tell."
        ),
        lingers="15m",
    ),
    Silence(
        alert="InferenceAllRequestsFailing",
        what="nobody asks for a prediction",
        series=_IDLE,
        at=("20m", "60m"),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="InferenceQueueFull",
        what="one request in eighteen finds the queue full",
        series=_answers(
            good=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=counter((0, "2h")),
            refused=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="5m",
        over="50m30s",
        labels=_TICKETED_DEPLOYMENT,
        summary="5.587% of requests to steel-defects@production get 429 in namespace mlops",
        description=(
            "5.587% of the requests to steel-defects@production in the last 5 minutes found the"
            " queue full (limit 5%): there is more traffic than the pods can predict."
        ),
        lingers="5m",
    ),
    Silence(
        alert="InferenceQueueFull",
        what="nobody asks for a prediction",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
)
