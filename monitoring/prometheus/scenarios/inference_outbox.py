"""Scenarios of the alerts on predictions on their way to the logging service."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events, gauge
from monitoring.prometheus.scenarios.world import (
    INFERENCE_PLACE,
    INFERENCE_TARGET,
    MODEL,
    critical,
    inference,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE

_PAGED_TARGET = critical({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)
_TICKETED_TARGET = warning({**INFERENCE_TARGET, **MODEL}, INFERENCE_SERVICE)

_STILL = counter((0, "2h"), start=1000)


def _outbox(backlog: Wave, delivered: Wave) -> list[Series]:
    return [
        inference("inference_log_backlog", backlog),
        inference("inference_log_delivered_total", delivered),
    ]


SCENARIOS = (
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
        labels=_TICKETED_TARGET,
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
        labels=_TICKETED_TARGET,
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
        labels=_PAGED_TARGET,
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
