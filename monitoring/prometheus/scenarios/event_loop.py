"""Scenarios of the alert on an event loop that is blocked again and again."""

from collections.abc import Mapping

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter
from monitoring.prometheus.scenarios.world import (
    INFERENCE_PLACE,
    INFERENCE_TARGET,
    LOGGING_PLACE,
    LOGGING_TARGET,
    probe,
    warning,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_STILL = counter((0, "2h"), start=1000)
_BEATS = counter((2, "2h"), start=1000)
# From the twentieth minute to the fortieth one heartbeat in a hundred comes too late.
_IN_TIME = counter((2, "20m"), (1.98, "20m"), (2, "2h"), start=1000)
# Twice in the two hours.
_HARDLY_EVER_LATE = counter((2, "20m"), (1.999, "16m45s"), (2, "2h"), start=1000)


def _delays(target: Mapping[str, str], *, in_time: Wave, all_: Wave) -> list[Series]:
    """Return heartbeats that are at most a second late, and others."""
    name = "event_loop_delay_seconds"
    return [
        probe(f"{name}_bucket", target, in_time, le="0.5"),
        probe(f"{name}_bucket", target, in_time, le="1.0"),
        probe(f"{name}_bucket", target, all_, le="2.5"),
        probe(f"{name}_bucket", target, all_, le="+Inf"),
        probe(f"{name}_count", target, all_),
    ]


def _story(target: Mapping[str, str], place: str, service: str) -> Story:
    return Story(
        alert="ServingEventLoopBlocked",
        what=f"one heartbeat of {service} in a hundred comes more than a second late",
        series=_delays(target, in_time=_IN_TIME, all_=_BEATS),
        onset="22m",
        hold="30s",
        over="47m45s",
        labels=warning(target, service),
        summary=f"the event loop of {place} is blocked again and again",
        description=(
            f"About 3.3 times in 10 minutes the event loop of {place} was blocked for more than"
            " 1 s, over half of the probes' timeoutSeconds. A probe that comes meanwhile waits as"
            " long; probe_duration_seconds, which begins when it is read, does not show it."
        ),
        lingers="10m",
    )


SCENARIOS = (
    _story(INFERENCE_TARGET, INFERENCE_PLACE, INFERENCE_SERVICE),
    _story(LOGGING_TARGET, LOGGING_PLACE, LOGGING_SERVICE),
    Silence(
        alert="ServingEventLoopBlocked",
        what="a heartbeat comes late now and then",
        series=_delays(INFERENCE_TARGET, in_time=_HARDLY_EVER_LATE, all_=_BEATS),
    ),
    Silence(
        alert="ServingEventLoopBlocked",
        what="every heartbeat is just under a second late",
        series=[
            probe(
                "event_loop_delay_seconds_bucket", INFERENCE_TARGET, counter((0, "2h")), le="0.5"
            ),
            probe("event_loop_delay_seconds_bucket", INFERENCE_TARGET, _BEATS, le="1.0"),
            probe("event_loop_delay_seconds_count", INFERENCE_TARGET, _BEATS),
        ],
    ),
    Silence(
        alert="ServingEventLoopBlocked",
        what="nothing happens any more",
        series=_delays(INFERENCE_TARGET, in_time=_STILL, all_=_STILL),
        kind=Kind.NO_TRAFFIC,
    ),
)
