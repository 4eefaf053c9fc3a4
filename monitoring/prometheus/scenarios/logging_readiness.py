"""Scenarios of the alerts on the logging service's readiness and restarts."""

from monitoring.prometheus.scenarios.story import Story
from monitoring.prometheus.scenarios.wave import gauge
from monitoring.prometheus.scenarios.world import (
    LOGGING_PLACE,
    LOGGING_TARGET,
    critical,
    logging,
    warning,
)
from monitoring.timings import LOGGING_SERVICE

_PAGED_TARGET = critical(LOGGING_TARGET, LOGGING_SERVICE)
_TICKETED_TARGET = warning(LOGGING_TARGET, LOGGING_SERVICE)

_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))

SCENARIOS = (
    Story(
        alert="LoggingNotReady",
        what="the only pod becomes unready",
        series=[logging("logging_ready", _BREAKS)],
        onset="5m",
        hold="2m",
        over="20m",
        labels=_PAGED_TARGET,
        summary=f"{LOGGING_PLACE} is not ready",
        description=(
            f"/ready of {LOGGING_PLACE} has answered 503 for 2 minutes; the logging service has no"
            " second replica. logging_unready tells the reason."
        ),
    ),
    Story(
        alert="LoggingReadinessFlapping",
        what="the pod comes and goes every minute",
        series=[
            logging("logging_ready", gauge((1, "5m"), *(((0, "1m"), (1, "1m")) * 3), (1, "1h")))
        ],
        onset="10m",
        hold="1m",
        over="20m",
        labels=_TICKETED_TARGET,
        summary=f"readiness of {LOGGING_PLACE} flaps",
        description=(
            f"{LOGGING_PLACE} has changed between ready and not ready 6 times in 15 minutes."
        ),
        lingers="15m",
    ),
    Story(
        alert="LoggingWorkersMissing",
        what="one of two workers dies and comes back",
        series=[
            logging("logging_workers", gauge((2, "2h"))),
            logging("logging_workers_alive", gauge((2, "5m"), (1, "5m"), (2, "1h"))),
        ],
        onset="5m",
        hold="1m",
        over="10m",
        labels=_TICKETED_TARGET,
        summary=f"1 workers of {LOGGING_PLACE} are dead",
        description=(
            f"For a minute 1 worker processes of {LOGGING_PLACE} have been missing. The pod is not"
            " ready, and its liveness probe restarts it unless the worker returns."
        ),
    ),
    Story(
        alert="LoggingRestartLoop",
        what="the third start in half an hour",
        series=[
            logging(
                "logging_start_time_seconds",
                gauge((1000, "5m"), (1300, "5m"), (1600, "5m"), (1900, "2h")),
            )
        ],
        onset="15m",
        hold="1m",
        over="35m",
        labels=_PAGED_TARGET,
        summary=f"{LOGGING_PLACE} keeps restarting",
        description=(
            f"{LOGGING_PLACE} has started 3 times in 30 minutes; no prediction is stored between a"
            " stop and the next start."
        ),
        lingers="30m",
    ),
)
