"""The state of the small Bento, in a module that imports nothing of BentoML."""

from collections.abc import Mapping
from pathlib import Path

from bentos.health.values import Gauge
from bentos.kit import ServiceState, probe_plan, required
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings

SERVICE_NAME = "small-service"


class SmallState(ServiceState):
    """One gauge, beside what every service has."""

    prefix = "small"

    warm = Gauge("{prefix}_warm", "Whether every worker is warm.", across="all")


def describe(state: SmallState) -> Mapping[str, object]:
    """Return what `/ready` says of the state."""
    return {"warm": bool(state.warm.value)}


def small_probes(settings: ServiceSettings, directory: Path) -> ProbePlan:
    """Return what the probes are made of."""
    return probe_plan(
        SmallState,
        SERVICE_NAME,
        settings,
        directory,
        readiness=[required("cold", "warm")],
        describe=describe,
    )


def plan_of(directory: Path, **settings: object) -> ProbePlan:
    """Return the probes of a pod on loopback that stalls soon."""
    named = {"host": "127.0.0.1", "stall_seconds": 3, "worker_grace_seconds": 1, **settings}
    return small_probes(ServiceSettings.model_validate(named), directory)
