"""Scenarios of the objectives' alerts."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_DEPLOYMENT,
    critical,
    inference,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE

_IDLE = counter((0, "3d"), start=1000)


def _answers(*, good: Wave, failed: Wave = _IDLE, refused: Wave = _IDLE) -> list[Series]:
    return [
        inference("inference_predictions_total", good),
        inference("inference_errors_total", failed, reason="model_failure"),
        inference("inference_rejected_total", refused, reason="model_not_loaded"),
        inference("inference_rejected_total", counter((1, "3d")), reason="queue_full"),
        inference("inference_rejected_total", counter((1, "3d")), reason="bad_input"),
    ]


def _durations(*, quick: Wave, all_: Wave) -> list[Series]:
    """Return predictions within 250 ms, and all of them."""
    return [
        inference("inference_prediction_duration_seconds_bucket", quick, le="0.25"),
        inference("inference_prediction_duration_seconds_bucket", all_, le="+Inf"),
        inference("inference_prediction_duration_seconds_count", all_),
        inference("inference_predictions_total", all_),
    ]


SCENARIOS = ()
