"""Checks behind `/ready` and `/health`: each has a reason and tells whether it fails.

A check reads what is known already; none waits for the network, a disk or a model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bentos.health.state import ServiceState

Details: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Check:
    """One condition of readiness or liveness.

    `failing` returns None while the condition holds, else what a reader of the probe should
    know beside the reason, as JSON values. An exception counts as a failure.
    """

    reason: str
    failing: Callable[[], Details | None]


@dataclass(frozen=True)
class Verdict:
    """The outcome of all checks: the first failing one's reason leads."""

    reasons: tuple[str, ...] = ()
    details: Details = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def reason(self) -> str:
        """The first failing check's reason; empty where all passed."""
        return self.reasons[0] if self.reasons else ""


def judge(checks: Sequence[Check]) -> Verdict:
    """Run every check, in their order of weight; an exception in one is its failure."""
    reasons: list[str] = []
    details: dict[str, object] = {}
    for check in checks:
        try:
            failure = check.failing()
        except Exception as error:
            failure = {"error": f"{type(error).__name__}: {error}"}
        if failure is not None:
            reasons.append(check.reason)
            details.update(failure)
    return Verdict(reasons=tuple(reasons), details=details)


def unless(reason: str, holds: Callable[[], bool], *, why: Callable[[], Details] = dict) -> Check:
    """Make a check of a condition that has to hold, with `why` for the reader where it does not."""
    return Check(reason=reason, failing=lambda: None if holds() else why())


def shutting_down(state: ServiceState) -> Check:
    """Fail once any worker of the pod was told to stop."""
    return unless("shutting_down", lambda: not state.shutting_down)


def high_error_rate(state: ServiceState) -> Check:
    """Fail while more than half of the requests in the window failed for the service's fault.

    The window is one of time: it empties by itself, so a pod that gets no more requests
    because it is out of rotation comes back.
    """

    def failing() -> Details | None:
        outcomes = state.outcomes
        if not outcomes.is_high():
            return None
        return {
            "error_rate": round(outcomes.error_rate, 4),
            "errors_in_window": outcomes.errors,
            "requests_in_window": outcomes.requests,
        }

    return Check("high_error_rate", failing)


def worker_missing(state: ServiceState) -> Check:
    """Fail while a worker that once served is dead and not replaced."""

    def failing() -> Details | None:
        dead = [row for row in state.pod.rows if row.claimed and not row.alive]
        if not dead:
            return None
        return {"workers_alive": len(state.pod.live_rows()), "workers": len(state.pod.rows)}

    return Check("worker_missing", failing)


def worker_dead(state: ServiceState, *, grace_seconds: float) -> Check:
    """Fail, for liveness, once a dead worker was not replaced within the grace.

    In an image BentoML starts no worker anew; only a restart of the container brings it back.
    """

    def failing() -> Details | None:
        seconds = state.pod.dead_for()
        return {"dead_for_seconds": round(seconds, 1)} if seconds > grace_seconds else None

    return Check("worker_dead", failing)


def event_loop_stalled(
    state: ServiceState, *, stall_seconds: float, clock: Callable[[], float] = time.monotonic
) -> Check:
    """Fail where a live worker's event loop has not beaten for so long.

    A stalled worker cannot answer for itself; its neighbours tell on it.
    """
    return _too_old(state, "event_loop_stalled", "heartbeat", stall_seconds, clock)


def stuck(
    state: ServiceState,
    reason: str,
    cell: str,
    *,
    stall_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Check:
    """Fail where a live worker has been at one piece of work, begun at `cell`, for so long.

    The cell holds monotonic seconds, 0 while there is no work.
    """
    return _too_old(state, reason, cell, stall_seconds, clock)


def _too_old(
    state: ServiceState, reason: str, cell: str, limit: float, clock: Callable[[], float]
) -> Check:
    def failing() -> Details | None:
        now = clock()
        since = (row.get(cell) for row in state.pod.live_rows())
        seconds = max((now - moment for moment in since if moment), default=0.0)
        return {"stuck_for_seconds": round(seconds, 1)} if seconds > limit else None

    return Check(reason, failing)
