"""Scenarios of the alerts on the model and on MLflow."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import counter, events, gauge
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
_TICKETED_DEPLOYMENT = warning(INFERENCE_DEPLOYMENT, INFERENCE_SERVICE)
_PAGED_TARGET = critical({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)
_TICKETED_TARGET = warning({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)

_ONE = gauge((1, "2h"))
_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))
_STILL = counter((0, "2h"), start=1000)

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
        labels=_PAGED_DEPLOYMENT,
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
        labels=_TICKETED_TARGET,
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
        labels={**_TICKETED_TARGET, "outcome": "failure"},
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
        alert="InferenceModelProcessDying",
        what="the model process dies for the second time in 15 minutes",
        series=[inference("inference_model_process_exits_total", events(600, 870))],
        onset="14m30s",
        hold="1m",
        over="25m",
        labels=_TICKETED_TARGET,
        summary=f"the model process of {INFERENCE_PLACE} dies again and again",
        description=(
            f"The process that holds steel-defects@production in {INFERENCE_PLACE} has ended about"
            " 2 times in 15 minutes; each time the pod is unready until the model is loaded again,"
            " and the requests it was at have failed."
        ),
        lingers="15m",
    ),
    Silence(
        alert="InferenceModelProcessDying",
        what="the model process dies once",
        series=[inference("inference_model_process_exits_total", events(600))],
        at=("12m", "20m"),
    ),
    Silence(
        alert="InferenceModelProcessDying",
        what="the model process lives for hours",
        series=[inference("inference_model_process_exits_total", _STILL)],
        kind=Kind.NO_TRAFFIC,
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
        labels=_TICKETED_TARGET,
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
        labels=_TICKETED_TARGET,
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
        labels=_TICKETED_TARGET,
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
        labels=_TICKETED_DEPLOYMENT,
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
        labels=_PAGED_TARGET,
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
        labels=_TICKETED_TARGET,
        summary=f"{INFERENCE_PLACE} last finished a check of MLflow 1m 1s ago",
        description=(
            f"{INFERENCE_PLACE} has not finished a check of MLflow for 1m 1s: its watcher hangs or"
            " has died, so that inference_mlflow_accessible and the version it follows are old"
            " news."
        ),
    ),
)

SCENARIOS = (*_MODEL_SCENARIOS, *_MLFLOW_SCENARIOS)
