"""Scenarios of the alerts on the model, on MLflow and on what the inference service answers."""

from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import ALWAYS, STILL, Series, Wave, counter, events, gauge
from tests.monitoring.scenarios.world import (
    INFERENCE,
    OTHER_INFERENCE,
    critical,
    page,
    ticket,
    warning,
)

_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))


def _stale(what: str, *, served: int, wanted: int) -> Story:
    return Story(
        "InferenceModelVersionStale",
        what,
        [
            INFERENCE.series("inference_model_version", gauge((served, "25m"), (wanted, "1h"))),
            INFERENCE.series("inference_registry_version", gauge((served, "5m"), (wanted, "1h"))),
        ],
        holds=("5m", "25m"),
        labels=ticket(INFERENCE),
        value=str(served),
    )


_MODEL_SCENARIOS = (
    Story(
        "InferenceModelNotLoaded",
        "the last of two pods loses its model",
        [
            INFERENCE.series("inference_model_loaded", _BREAKS),
            OTHER_INFERENCE.series("inference_model_loaded", gauge((1, "3m"), (0, "1h"))),
        ],
        holds=("5m", "20m"),
        labels=critical(INFERENCE.all_pods, INFERENCE.service),
    ),
    Silence(
        "InferenceModelNotLoaded",
        "one of two pods still has its model",
        [
            INFERENCE.series("inference_model_loaded", _BREAKS),
            OTHER_INFERENCE.series("inference_model_loaded", ALWAYS),
        ],
        at=("10m", "19m"),
    ),
    Story(
        "InferencePodWithoutModel",
        "one of two pods does not load its model",
        [
            INFERENCE.series("inference_model_loaded", _BREAKS),
            OTHER_INFERENCE.series("inference_model_loaded", ALWAYS),
        ],
        holds=("5m", "20m"),
        labels=ticket(INFERENCE),
    ),
    Silence(
        "InferencePodWithoutModel",
        "a pod takes all of its ten minutes to start",
        [INFERENCE.series("inference_model_loaded", gauge((0, "10m"), (1, "1h")))],
        at=("11m", "12m"),
    ),
    Story(
        "InferenceModelLoadFailing",
        "the third load in 15 minutes fails",
        [
            INFERENCE.series(
                "inference_model_loads_total", events(600, 735, 870), outcome="failure"
            ),
            INFERENCE.series(
                "inference_model_loads_total", counter((0, "2h"), start=1), outcome="success"
            ),
        ],
        holds=("14m30s", "25m"),
        labels=ticket(INFERENCE, outcome="failure"),
        value="3",
        lingers="15m",
    ),
    Silence(
        "InferenceModelLoadFailing",
        "nothing is loaded for hours",
        [
            INFERENCE.series("inference_model_loads_total", STILL, outcome="failure"),
            INFERENCE.series(
                "inference_model_loads_total", counter((0, "2h"), start=1), outcome="success"
            ),
        ],
        kind=Kind.NO_TRAFFIC,
    ),
    Silence(
        "InferenceModelLoadFailing",
        "models load again and again, and none fails",
        [
            INFERENCE.series("inference_model_loads_total", counter((0, "2h")), outcome="failure"),
            INFERENCE.series(
                "inference_model_loads_total", counter((0.1, "2h")), outcome="success"
            ),
        ],
    ),
    Story(
        "InferenceModelProcessDying",
        "the model process dies for the second time in 15 minutes",
        [INFERENCE.series("inference_model_process_exits_total", events(600, 870))],
        holds=("14m30s", "25m"),
        labels=ticket(INFERENCE),
        value="2",
        lingers="15m",
    ),
    Silence(
        "InferenceModelProcessDying",
        "the model process dies once",
        [INFERENCE.series("inference_model_process_exits_total", events(600))],
        at=("12m", "20m"),
    ),
    Silence(
        "InferenceModelProcessDying",
        "the model process lives for hours",
        [INFERENCE.series("inference_model_process_exits_total", STILL)],
        kind=Kind.NO_TRAFFIC,
    ),
    _stale("the alias moves on and the pod does not follow", served=3, wanted=4),
    _stale("the alias moves back to version 1 and the pod does not follow", served=2, wanted=1),
    _stale("a pod stays at version 1", served=1, wanted=2),
    Silence(
        "InferenceModelVersionStale",
        "no model is loaded, and that is another alert",
        [
            INFERENCE.series("inference_model_version", gauge((0, "1h"))),
            INFERENCE.series("inference_registry_version", gauge((4, "1h"))),
        ],
        at=("30m",),
    ),
    Silence(
        "InferenceModelVersionStale",
        "MLflow is away, so that the registry's version is unknown",
        [
            INFERENCE.series("inference_model_version", gauge((3, "1h"))),
            INFERENCE.series("inference_registry_version", gauge((0, "1h"))),
        ],
        at=("30m",),
    ),
    Story(
        "InferenceModelVersionsDiffer",
        "one of two pods gets a new version and the other keeps the old one",
        [
            INFERENCE.series("inference_model_info", gauge((1, "25m"), (None, "1h")), version="3"),
            INFERENCE.series("inference_model_info", gauge((None, "25m"), (1, "1h")), version="4"),
            OTHER_INFERENCE.series(
                "inference_model_info", gauge((1, "5m"), (None, "1h")), version="3"
            ),
            OTHER_INFERENCE.series(
                "inference_model_info", gauge((None, "5m"), (1, "1h")), version="4"
            ),
        ],
        holds=("5m", "25m"),
        labels=warning(INFERENCE.all_pods, INFERENCE.service),
        value="2",
    ),
    Story(
        "InferenceDrift",
        "the light of one of two lines goes dim",
        [
            INFERENCE.series(
                "inference_drift_psi",
                gauge((0, "5m"), (0.3, "20m"), (0.1, "1h")),
                quantity="brightness",
            ),
            INFERENCE.series("inference_drift_psi", gauge((0.2, "2h")), quantity="sharpness"),
            OTHER_INFERENCE.series("inference_drift_psi", gauge((0, "2h")), quantity="brightness"),
        ],
        holds=("5m", "25m"),
        labels=warning({**INFERENCE.all_pods, "quantity": "brightness"}, INFERENCE.service),
    ),
    Silence(
        "InferenceDrift",
        "a quantity is at the limit",
        [INFERENCE.series("inference_drift_psi", gauge((0.25, "2h")), quantity="class")],
        at=("30m",),
    ),
)

_MLFLOW_SCENARIOS = (
    Story(
        "InferenceMlflowUnreachable",
        "MLflow goes away and comes back",
        [INFERENCE.series("inference_mlflow_accessible", _BREAKS)],
        holds=("5m", "20m"),
        labels=page(INFERENCE),
    ),
    *(
        Story(
            "InferenceMlflowCheckStale",
            f"the watcher hangs, MODEL_POLL_SECONDS={poll:g}",
            [
                INFERENCE.series("inference_mlflow_poll_seconds", gauge((poll, "2h"))),
                INFERENCE.series(
                    "inference_mlflow_check_age_seconds",
                    gauge((poll, "5m"), (limit - 1, "5m"), (limit + 1, "10m"), (poll, "1h")),
                ),
            ],
            holds=("10m", "20m"),
            labels=ticket(INFERENCE),
            value=age,
        )
        for poll, limit, age in ((5.0, 60.0, "1m 1s"), (300.0, 1830.0, "30m 31s"))
    ),
)


def _answers(*, good: Wave, failed: Wave) -> list[Series]:
    return [
        INFERENCE.series("inference_predictions_total", good),
        INFERENCE.series("inference_errors_total", failed, reason="model_failure"),
        INFERENCE.series("inference_errors_total", counter((0, "2h")), reason="timeout"),
    ]


_ANSWER_SCENARIOS = (
    Story(
        "InferencePodUnready",
        "one of two pods is unready",
        [
            INFERENCE.series("inference_ready", _BREAKS),
            OTHER_INFERENCE.series("inference_ready", ALWAYS),
        ],
        holds=("5m", "20m"),
        labels=ticket(INFERENCE),
    ),
    Story(
        "InferenceAllRequestsFailing",
        "all of a few requests fail until one succeeds",
        _answers(good=events(2400), failed=events(1200, 1335, 1470, 1605, 1740, 1875)),
        holds=("24m30s", "40m"),
        labels=critical(INFERENCE.all_pods, INFERENCE.service),
        value="3",
        lingers="15m",
    ),
    Silence(
        "InferenceAllRequestsFailing",
        "nobody asks for a prediction",
        _answers(good=STILL, failed=STILL),
        at=("20m", "60m"),
        kind=Kind.NO_TRAFFIC,
    ),
)

SCENARIOS: tuple[Scenario, ...] = (*_MODEL_SCENARIOS, *_MLFLOW_SCENARIOS, *_ANSWER_SCENARIOS)
