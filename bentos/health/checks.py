"""Checks behind `/ready` and `/health`: each has a reason and a function that looks at the state.

The state is the pod's shared memory, so no check waits for the network, a disk or a model. A check
depends on nothing else, so the probe process, which has the same state and no other part of the
service, comes to the same verdict as the workers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from bentos.health.state import ServiceState

Details: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Check:
    """One condition of readiness or liveness.

    `failing` gets the state and returns None while the condition holds, else what a reader of the
    probe should know beside the reason, as JSON values. An exception counts as a failure. It has
    to be a function that another process can import: no lambda, no method.
    """

    reason: str
    failing: Callable[[Any], Details | None]


@dataclass(frozen=True)
class Verdict:
    """The outcome of all checks: the first failing one's reason leads."""

    reasons: tuple[str, ...] = ()
    details: Details = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.reasons

    @property
    def reason(self) -> str:
        """The first failing check's reason; empty where all passed."""
        return self.reasons[0] if self.reasons else ""


def judge(checks: Sequence[Check], state: ServiceState) -> Verdict:
    """Run every check, in their order of weight; an exception in one is its failure."""
    reasons: list[str] = []
    details: dict[str, object] = {}
    for check in checks:
        try:
            failure = check.failing(state)
        except Exception as error:
            failure = {"error": f"{type(error).__name__}: {error}"}
        if failure is not None:
            reasons += [] if check.reason in reasons else [check.reason]
            # Later failures often follow from the first one, so its details are kept.
            details = {**failure, **details}
    return Verdict(reasons=tuple(reasons), details=details)


def required(reason: str, gauge: str) -> Check:
    """Make a check that a gauge of the state is 1, as `Gauge(across="all")` is in all workers."""
    return Check(reason, partial(_is_not_one, gauge))


def _is_not_one(gauge: str, state: ServiceState) -> Details | None:
    return None if getattr(state, gauge).value == 1.0 else {}


def stuck(reason: str, moment: str, *, stall_seconds: float) -> Check:
    """Make a check that no live worker has been at one piece of work for over `stall_seconds`.

    `moment` names the gauge that holds since when, in monotonic seconds, 0 while there is none.
    """
    return Check(reason, partial(_stuck, moment, stall_seconds))


def _stuck(moment: str, stall_seconds: float, state: ServiceState) -> Details | None:
    seconds = state.pod.longest_since(moment)
    return {"stuck_for_seconds": round(seconds, 1)} if seconds > stall_seconds else None


def shutting_down(state: ServiceState) -> Details | None:
    """Fail once any worker of the pod was asked to stop."""
    return {} if state.shutting_down else None


def high_error_rate(state: ServiceState) -> Details | None:
    """Fail while more than half of the requests in the window failed for the service's fault.

    The window is one of time: it empties by itself, so a pod that gets no more requests because
    it is out of rotation comes back.
    """
    outcomes = state.outcomes
    if not outcomes.is_high():
        return None
    return {
        "error_rate": round(outcomes.error_rate, 4),
        "errors_in_window": outcomes.errors,
        "requests_in_window": outcomes.requests,
    }


def worker_missing(state: ServiceState) -> Details | None:
    """Fail while a worker that once served is dead and not replaced."""
    if all(row.alive for row in state.pod.workers if row.claimed):
        return None
    return {"workers_alive": len(state.pod.live_workers()), "workers": len(state.pod.workers)}


def worker_dead(grace_seconds: float, state: ServiceState) -> Details | None:
    """Fail, for liveness, once a dead worker was not replaced within the grace.

    In an image BentoML starts no worker anew; only a restart of the container brings it back.
    """
    seconds = state.pod.dead_for()
    return {"dead_for_seconds": round(seconds, 1)} if seconds > grace_seconds else None


def port_not_answering(grace_seconds: float, state: ServiceState) -> Details | None:
    """Fail where the probe process got no answer on the service's port for `grace_seconds`."""
    if not state.pod.probe_process.alive:
        return None  # what a dead probe process saw last is out of date
    seconds = state.pod.longest_since("port_failing_since", [state.pod.probe_process])
    return {"port_failing_for_seconds": round(seconds, 1)} if seconds > grace_seconds else None
