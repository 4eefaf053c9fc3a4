"""Scenarios of the alerts on batches that fail or are refused."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events
from monitoring.prometheus.scenarios.world import (
    LOGGING_PLACE,
    LOGGING_STORE,
    LOGGING_TARGET,
    critical,
    logging,
    warning,
)
from monitoring.timings import LOGGING_SERVICE

_TICKETED_TARGET = warning(LOGGING_TARGET, LOGGING_SERVICE)
_PAGED_STORE = critical(LOGGING_STORE, LOGGING_SERVICE)
_TICKETED_STORE = warning(LOGGING_STORE, LOGGING_SERVICE)

_STILL = counter((0, "2h"), start=1000)


def _answers(
    *, stored: Wave, failed: Wave, refused: Wave = _STILL, unauthorized: Wave = _STILL
) -> list[Series]:
    return [
        logging("logging_batches_total", stored),
        logging("logging_errors_total", failed),
        logging("logging_rejected_total", refused, reason="queue_full"),
        logging("logging_rejected_total", unauthorized, reason="unauthorized"),
        logging("logging_rejected_total", counter((20, "2h")), reason="bad_input"),
    ]


_IDLE = _answers(stored=_STILL, failed=_STILL)

SCENARIOS = (
    Story(
        alert="LoggingHighErrorRate",
        what="one batch in eighteen fails",
        series=_answers(
            stored=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="2m",
        over="50m30s",
        labels=_PAGED_STORE,
        summary="5.587% of requests to the logging service fail",
        description=(
            "5.587% of the batches and queries of the last 5 minutes failed for the logging"
            " service's fault (limit 5%); refused input is not counted."
        ),
        lingers="5m",
    ),
    Story(
        alert="LoggingHighErrorRate",
        what="four of 22 batches in 5 minutes fails",
        series=_answers(
            stored=counter((22 / 300, "30m"), (18 / 300, "20m"), (22 / 300, "2h")),
            failed=counter((0, "30m"), (4 / 300, "20m"), (0, "2h")),
        ),
        onset="31m15s",
        hold="2m",
        over="53m30s",
        labels=_PAGED_STORE,
        summary="12.73% of requests to the logging service fail",
        description=(
            "12.73% of the batches and queries of the last 5 minutes failed for the logging"
            " service's fault (limit 5%); refused input is not counted."
        ),
        lingers="5m",
        local=False,
    ),
    Silence(
        alert="LoggingHighErrorRate",
        what="one of eighteen batches in 5 minutes fails",
        series=_answers(stored=counter((17 / 300, "2h")), failed=counter((1 / 300, "2h"))),
        at=("10m", "20m", "30m"),
    ),
    Silence(
        alert="LoggingHighErrorRate",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="LoggingQueueFull",
        what="one batch in eighteen finds the queue full",
        series=_answers(
            stored=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=_STILL,
            refused=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="5m",
        over="50m30s",
        labels=_TICKETED_STORE,
        summary="5.587% of batches to the logging service get 429",
        description=(
            "5.587% of the batches of the last 5 minutes found the write queue full (limit 5%):"
            " predictions come faster than the disk takes them."
        ),
        lingers="5m",
    ),
    Silence(
        alert="LoggingQueueFull",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="LoggingRequestsUnauthorized",
        what="three requests in two minutes have a wrong token",
        series=_answers(stored=_STILL, failed=_STILL, unauthorized=events(1200, 1260, 1320)),
        onset="22m",
        hold="2m",
        over="25m",
        labels={**_TICKETED_TARGET, "reason": "unauthorized"},
        summary=f"{LOGGING_PLACE} refuses requests for their token",
        description=(
            f"About 3 requests to {LOGGING_PLACE} in 5 minutes had no token or a wrong one:"
            " LOGGING_TOKEN differs between the services, or a stranger calls."
        ),
        lingers="5m",
    ),
    Silence(
        alert="LoggingRequestsUnauthorized",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
)
