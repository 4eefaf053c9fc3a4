"""Scenarios of the alerts on what can be scraped."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_PLACE,
    INFERENCE_TARGET,
    LOGGING_PLACE,
    LOGGING_TARGET,
    OTHER_TARGET,
    critical,
    inference,
    logging,
    up,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_BREAKS = gauge((1, "5m"), (0, "5m"), (1, "1h"))
_UP = gauge((1, "1h"))
_LOST = gauge((1, "5m"), (None, "5m"), (1, "1h"))

SCENARIOS = (
    Story(
        alert="InferenceServiceDown",
        what="the only target stops answering",
        series=[up(INFERENCE_TARGET, _BREAKS), up(LOGGING_TARGET, _UP)],
        onset="5m",
        hold="1m",
        over="10m",
        labels=critical({"job": INFERENCE_SERVICE}, INFERENCE_SERVICE),
        summary="no target of inference-service can be scraped",
        description=(
            "For a minute Prometheus has known no target with job inference-service that answers"
            " /metrics: the service is stopped, unreachable or no longer discovered. Nothing is"
            " predicted."
        ),
        outlasts_targets=True,
    ),
    Silence(
        alert="InferenceServiceDown",
        what="one of two targets is left",
        series=[up(INFERENCE_TARGET, _BREAKS), up(OTHER_TARGET, _UP)],
        at=("4m", "9m", "20m"),
    ),
    Story(
        alert="LoggingServiceDown",
        what="the only target stops answering",
        series=[up(LOGGING_TARGET, _BREAKS), up(INFERENCE_TARGET, _UP)],
        onset="5m",
        hold="1m",
        over="10m",
        labels=critical({"job": LOGGING_SERVICE}, LOGGING_SERVICE),
        summary="no target of logging-service can be scraped",
        description=(
            "For a minute Prometheus has known no target with job logging-service that answers"
            " /metrics: the service is stopped, unreachable or no longer discovered. Predictions"
            " wait in the outboxes of the inference service."
        ),
        outlasts_targets=True,
    ),
    Story(
        alert="ServingTargetDown",
        what="one of two targets stops answering",
        series=[up(INFERENCE_TARGET, _BREAKS), up(OTHER_TARGET, _UP)],
        onset="5m",
        hold="2m",
        over="10m",
        labels=warning(INFERENCE_TARGET, INFERENCE_SERVICE),
        summary=f"{INFERENCE_PLACE} of inference-service cannot be scraped",
        description=(
            f"Every scrape of {INFERENCE_PLACE}, job inference-service, has failed for 2 minutes:"
            " the process is gone, hangs, or the network is closed."
        ),
    ),
    Story(
        alert="ServingTargetDown",
        what="the logging service stops answering",
        series=[up(LOGGING_TARGET, _BREAKS)],
        onset="5m",
        hold="2m",
        over="10m",
        labels=warning(LOGGING_TARGET, LOGGING_SERVICE),
        summary=f"{LOGGING_PLACE} of logging-service cannot be scraped",
        description=(
            f"Every scrape of {LOGGING_PLACE}, job logging-service, has failed for 2 minutes: the"
            " process is gone, hangs, or the network is closed."
        ),
    ),
    Silence(
        alert="ServingTargetDown",
        what="a target of another job is down",
        series=[up({**INFERENCE_TARGET, "job": "node-exporter"}, gauge((0, "1h")))],
    ),
    Story(
        alert="InferenceMetricsAbsent",
        what="the metric is gone from a target that answers",
        series=[
            up(INFERENCE_TARGET, _UP),
            inference("inference_model_loaded", _LOST),
            up(LOGGING_TARGET, _UP),
        ],
        onset="5m",
        hold="2m",
        over="10m",
        labels=critical(INFERENCE_TARGET, INFERENCE_SERVICE),
        summary=f"{INFERENCE_PLACE} is scraped but does not tell inference_model_loaded",
        description=(
            f"{INFERENCE_PLACE} has answered /metrics for 2 minutes without"
            " inference_model_loaded: another program answers on this port, or the service's"
            " metrics are broken. Alerts on inference-service are blind to this target."
        ),
    ),
    Silence(
        alert="InferenceMetricsAbsent",
        what="the target is down, and that is another alert",
        series=[up(INFERENCE_TARGET, gauge((0, "1h")))],
    ),
    Story(
        alert="LoggingMetricsAbsent",
        what="the metric is gone from a target that answers",
        series=[
            up(LOGGING_TARGET, _UP),
            logging("logging_db_initialized", _LOST),
            up(INFERENCE_TARGET, _UP),
        ],
        onset="5m",
        hold="2m",
        over="10m",
        labels=critical(LOGGING_TARGET, LOGGING_SERVICE),
        summary=f"{LOGGING_PLACE} is scraped but does not tell logging_db_initialized",
        description=(
            f"{LOGGING_PLACE} has answered /metrics for 2 minutes without logging_db_initialized:"
            " another program answers on this port, or the service's metrics are broken. Alerts on"
            " logging-service are blind to this target."
        ),
    ),
    Silence(
        alert="LoggingMetricsAbsent",
        what="the target is down, and that is another alert",
        series=[up(LOGGING_TARGET, gauge((0, "1h")))],
        kind=Kind.TARGET_GONE,
    ),
)
