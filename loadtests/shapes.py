"""How the load runs over time: a wait without load, then stages of a share of the clients."""

import math
from dataclasses import dataclass

from loadtests.settings import LoadTestSettings


@dataclass(frozen=True)
class Stage:
    """So many clients for so long."""

    seconds: float
    clients: int


# Shares of the time and of the clients.
_STAGES = {
    "steady": ((1.0, 1.0),),
    "steps": ((0.25, 0.25), (0.25, 0.5), (0.25, 0.75), (0.25, 1.0)),
    "spike": ((0.4, 1 / 6), (0.2, 1.0), (0.4, 1 / 6)),
    "soak": ((1.0, 1.0),),
}


def stages(settings: LoadTestSettings) -> tuple[Stage, ...]:
    """Return the stages of the chosen shape, the idle one first; none for `manual`."""
    if settings.shape == "manual":
        return ()
    idle = (Stage(settings.idle_seconds, 0),) if settings.idle_seconds else ()
    loaded = tuple(
        Stage(settings.seconds * time, max(1, math.ceil(settings.clients * load)))
        for time, load in _STAGES[settings.shape]
    )
    return idle + loaded


def clients_at(plan: tuple[Stage, ...], seconds: float) -> int | None:
    """Return how many clients send that long after the start, None when all is over."""
    for stage in plan:
        if seconds < stage.seconds:
            return stage.clients
        seconds -= stage.seconds
    return None
