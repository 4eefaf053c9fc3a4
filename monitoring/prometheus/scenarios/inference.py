"""Scenarios of the inference service's alerts."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events, gauge
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

_CRITICAL_DEPLOYMENT = critical(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)
_WARNING_DEPLOYMENT = warning(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)
_CRITICAL_TARGET = critical({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)
_WARNING_TARGET = warning({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)

_ONE = gauge((1, "2h"))
_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))
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

_MODEL_SCENARIOS = (
    Story(
        alert="InferenceModelNotLoaded",
        what="the last of two pods loses its model",
        series=[
            inference("inference_model_loaded", _BREAKS),
            other_inference("inference_model_loaded", gauge((1, "3m"), (0, "1h"))),
        ],
        onset="5m",
        hold="2m",
        over="20m",
        labels=_CRITICAL_DEPLOYMENT,
        summary="no pod has steel-defects@production loaded in namespace mlops",
        description=(
            "For 2 minutes no target has held a model that answered its warm-up input: /predict of"
            " steel-defects@production answers 503 model_not_loaded everywhere."
        ),
    ),
    Silence(
        alert="InferenceModelNotLoaded",
        what="one of two pods still has its model",
        series=[
            inference("inference_model_loaded", _BREAKS),
            other_inference("inference_model_loaded", _ONE),
        ],
        at=("10m", "19m"),
    ),
    Story(
        alert="InferencePodWithoutModel",
        what="one of two pods does not load its model",
        series=[
            inference("inference_model_loaded", _BREAKS),
            other_inference("inference_model_loaded", _ONE),
        ],
        onset="5m",
        hold="11m",
        over="20m",
        labels=_WARNING_TARGET,
        summary=f"{INFERENCE_PLACE} has not loaded steel-defects@production",
        description=(
            f"{INFERENCE_PLACE} has been without steel-defects@production for 11 minutes, longer"
            " than a start may take, and gets no requests."
        ),
    ),
    Silence(
        alert="InferencePodWithoutModel",
        what="a pod takes all of its ten minutes to start",
        series=[inference("inference_model_loaded", gauge((0, "10m"), (1, "1h")))],
        at=("11m", "12m"),
    ),
    Story(
        alert="InferenceModelLoadFailing",
        what="the third load in 15 minutes fails",
        series=[
            inference("inference_model_loads_total", events(600, 735, 870), outcome="failure"),
            inference(
                "inference_model_loads_total", counter((0, "2h"), start=1), outcome="success"
            ),
        ],
        onset="14m30s",
        hold="1m",
        over="25m",
        labels={**_WARNING_TARGET, "outcome": "failure"},
        summary=f"{INFERENCE_PLACE} fails to load steel-defects@production",
        description=(
            f"About 3 attempts of {INFERENCE_PLACE} to load steel-defects@production have"
            " failed in 15 minutes; what was loaded before goes on serving."
        ),
        lingers="15m",
    ),
    Silence(
        alert="InferenceModelLoadFailing",
        what="nothing is loaded for hours",
        series=[
            inference("inference_model_loads_total", _STILL, outcome="failure"),
            inference(
                "inference_model_loads_total", counter((0, "2h"), start=1), outcome="success"
            ),
        ],
        kind=Kind.NO_TRAFFIC,
    ),
    Silence(
        alert="InferenceModelLoadFailing",
        what="models load again and again, and none fails",
        series=[
            inference("inference_model_loads_total", counter((0, "2h")), outcome="failure"),
            inference("inference_model_loads_total", counter((0.1, "2h")), outcome="success"),
        ],
    ),
    Story(
        alert="InferenceModelVersionStale",
        what="the alias moves on and the pod does not follow",
        series=[
            inference("inference_model_version", gauge((3, "25m"), (4, "1h"))),
            inference("inference_registry_version", gauge((3, "5m"), (4, "1h"))),
        ],
        onset="5m",
        hold="15m",
        over="25m",
        labels=_WARNING_TARGET,
        summary=(
            f"{INFERENCE_PLACE} serves version 3 of steel-defects@production, not the registry's"
        ),
        description=(
            f"For 15 minutes {INFERENCE_PLACE} has served version 3 of steel-defects while"
            " production points to another version in MLflow: the new version does not load, or"
            " the service has stopped following the registry."
        ),
    ),
    Story(
        alert="InferenceModelVersionStale",
        what="the alias moves back to version 1 and the pod does not follow",
        series=[
            inference("inference_model_version", gauge((2, "25m"), (1, "1h"))),
            inference("inference_registry_version", gauge((2, "5m"), (1, "1h"))),
        ],
        onset="5m",
        hold="15m",
        over="25m",
        labels=_WARNING_TARGET,
        summary=(
            f"{INFERENCE_PLACE} serves version 2 of steel-defects@production, not the registry's"
        ),
        description=(
            f"For 15 minutes {INFERENCE_PLACE} has served version 2 of steel-defects while"
            " production points to another version in MLflow: the new version does not load, or"
            " the service has stopped following the registry."
        ),
    ),
    Story(
        alert="InferenceModelVersionStale",
        what="a pod stays at version 1",
        series=[
            inference("inference_model_version", gauge((1, "25m"), (2, "1h"))),
            inference("inference_registry_version", gauge((1, "5m"), (2, "1h"))),
        ],
        onset="5m",
        hold="15m",
        over="25m",
        labels=_WARNING_TARGET,
        summary=(
            f"{INFERENCE_PLACE} serves version 1 of steel-defects@production, not the registry's"
        ),
        description=(
            f"For 15 minutes {INFERENCE_PLACE} has served version 1 of steel-defects while"
            " production points to another version in MLflow: the new version does not load, or"
            " the service has stopped following the registry."
        ),
    ),
    Silence(
        alert="InferenceModelVersionStale",
        what="no model is loaded, and that is another alert",
        series=[
            inference("inference_model_version", gauge((0, "1h"))),
            inference("inference_registry_version", gauge((4, "1h"))),
        ],
        at=("30m",),
    ),
    Silence(
        alert="InferenceModelVersionStale",
        what="MLflow is away, so that the registry's version is unknown",
        series=[
            inference("inference_model_version", gauge((3, "1h"))),
            inference("inference_registry_version", gauge((0, "1h"))),
        ],
        at=("30m",),
    ),
    Story(
        alert="InferenceModelVersionsDiffer",
        what="one of two pods gets a new version and the other keeps the old one",
        series=[
            inference("inference_model_info", gauge((1, "25m"), (None, "1h")), version="3"),
            inference("inference_model_info", gauge((None, "25m"), (1, "1h")), version="4"),
            other_inference("inference_model_info", gauge((1, "5m"), (None, "1h")), version="3"),
            other_inference("inference_model_info", gauge((None, "5m"), (1, "1h")), version="4"),
        ],
        onset="5m",
        hold="15m",
        over="25m",
        labels=_WARNING_DEPLOYMENT,
        summary="pods serve 2 versions of steel-defects@production at once in namespace mlops",
        description=(
            "For 15 minutes 2 versions of steel-defects@production have answered side by side: the"
            " same image may be judged differently from one request to the next."
        ),
    ),
)

_MLFLOW_SCENARIOS = (
    Story(
        alert="InferenceMlflowUnreachable",
        what="MLflow goes away and comes back",
        series=[inference("inference_mlflow_accessible", _BREAKS)],
        onset="5m",
        hold="2m",
        over="20m",
        labels=_CRITICAL_TARGET,
        summary=f"{INFERENCE_PLACE} cannot reach MLflow",
        description=(
            f"Checks of the MLflow registry from {INFERENCE_PLACE} have failed for 2 minutes. With"
            " READINESS_REQUIRES_MLFLOW=always, the default, the pod is out of rotation; the model"
            " that is loaded stays loaded."
        ),
    ),
    Story(
        alert="InferenceMlflowCheckStale",
        what="the watcher hangs for five minutes",
        series=[
            inference(
                "inference_mlflow_check_age_seconds",
                gauge((5, "5m"), (59, "5m"), (61, "10m"), (5, "1h")),
            )
        ],
        onset="10m",
        hold="1m",
        over="20m",
        labels=_WARNING_TARGET,
        summary=f"{INFERENCE_PLACE} last finished a check of MLflow 1m 1s ago",
        description=(
            f"{INFERENCE_PLACE} has not finished a check of MLflow for 1m 1s: its watcher hangs or"
            " has died, so that inference_mlflow_accessible and the version it follows are old"
            " news."
        ),
    ),
)

_READINESS_SCENARIOS = (
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
        labels=_CRITICAL_DEPLOYMENT,
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
        labels=_WARNING_TARGET,
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
        labels=_WARNING_TARGET,
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
        labels=_WARNING_TARGET,
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
        labels=_CRITICAL_TARGET,
        summary=f"{INFERENCE_PLACE} keeps restarting",
        description=(
            f"{INFERENCE_PLACE} has started 3 times in 30 minutes; each start unloads the model and"
            " fails the requests in flight."
        ),
        lingers="30m",
    ),
)

_REQUEST_SCENARIOS = (
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
        labels=_CRITICAL_DEPLOYMENT,
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
        labels=_CRITICAL_DEPLOYMENT,
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
        labels=_CRITICAL_DEPLOYMENT,
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
        labels=_WARNING_DEPLOYMENT,
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


def _outbox(backlog: Wave, delivered: Wave) -> list[Series]:
    return [
        inference("inference_log_backlog", backlog),
        inference("inference_log_delivered_total", delivered),
    ]


_OUTBOX_SCENARIOS = (
    Story(
        alert="InferenceLogBacklogGrowing",
        what="a backlog grows past a thousand, then is worked off",
        series=_outbox(
            gauge((0, "10m"), ((0, 1800), "30m"), ((1800, 0), "20m"), (0, "1h")),
            counter((5, "2h")),
        ),
        onset="26m45s",
        hold="10m",
        over="44m30s",
        labels=_WARNING_TARGET,
        summary=f"1.605k predictions wait in the outbox of {INFERENCE_PLACE}",
        description=(
            f"The outbox of {INFERENCE_PLACE} has held more than 1000 predictions for 10 minutes"
            " and grows; now 1.605k. The logging service takes them more slowly than they come."
            " Nothing is lost until OUTBOX_MAX_ROWS."
        ),
    ),
    Silence(
        alert="InferenceLogBacklogGrowing",
        what="nothing is predicted while a large backlog waits",
        series=_outbox(gauge((5000, "1h")), _STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Silence(
        alert="InferenceLogBacklogGrowing",
        what="a busy service's outbox fills and empties",
        series=_outbox(gauge(*(((100, "30s"), (900, "30s")) * 60)), counter((500, "2h"))),
        at=("20m", "20m30s", "40m"),
    ),
    Story(
        alert="InferenceLogDeliveryStalled",
        what="the logging service is down for twenty minutes",
        series=_outbox(
            gauge((0, "10m"), (1, "20m"), (0, "1h")),
            counter((1, "10m"), (0, "20m"), (1, "1h")),
        ),
        onset="14m45s",
        hold="5m",
        over="30m",
        labels=_WARNING_TARGET,
        summary=f"{INFERENCE_PLACE} delivers no predictions to the logging service",
        description=(
            f"1 predictions wait in the outbox of {INFERENCE_PLACE}, and the logging service has"
            " acknowledged none for 5 minutes: it is down, unreachable, or refuses the token."
        ),
    ),
    Silence(
        alert="InferenceLogDeliveryStalled",
        what="nothing is predicted, nothing waits",
        series=_outbox(gauge((0, "1h")), _STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Silence(
        alert="InferenceLogDeliveryStalled",
        what="a large backlog is being worked off",
        series=_outbox(gauge((9000, "1h")), counter((1, "1h"))),
        at=("30m",),
    ),
    Story(
        alert="InferencePredictionsDropped",
        what="one prediction is given up",
        series=[inference("inference_log_dropped_total", events(1200))],
        onset="20m",
        hold="30s",
        over="35m",
        labels=_CRITICAL_TARGET,
        summary=f"{INFERENCE_PLACE} has given up about 1 predictions",
        description=(
            f"About 1 predictions of {INFERENCE_PLACE} were dropped in the last 15 minutes and will"
            " never be in the database: the outbox is full, or the logging service refused them."
        ),
        lingers="15m",
    ),
    Silence(
        alert="InferencePredictionsDropped",
        what="nothing was dropped since yesterday",
        series=[inference("inference_log_dropped_total", _STILL)],
        kind=Kind.NO_TRAFFIC,
    ),
)

SCENARIOS = (
    *_MODEL_SCENARIOS,
    *_MLFLOW_SCENARIOS,
    *_READINESS_SCENARIOS,
    *_REQUEST_SCENARIOS,
    *_OUTBOX_SCENARIOS,
)
