"""Where, how often and how patiently each service is probed: the one place that says so.

The manifests are tested against these values, and the alerts on slow probes derive from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ProbeKind = Literal["startup", "readiness", "liveness"]

INFERENCE_SERVICE = "inference-service"
LOGGING_SERVICE = "logging-service"

# What pods call the port of the probe process, which the kubelet and Prometheus ask.
PROBE_PORT_NAME = "probes"


@dataclass(frozen=True)
class ProbeTiming:
    """One probe of a container, in the terms of the Kubernetes API."""

    period_seconds: int
    timeout_seconds: int
    failure_threshold: int

    @property
    def patience_seconds(self) -> int:
        """Return the time, in seconds, after which lasting failure has its consequence."""
        return self.period_seconds * self.failure_threshold


@dataclass(frozen=True)
class ServiceTimings:
    """The three probes of one service's container."""

    startup: ProbeTiming
    readiness: ProbeTiming
    liveness: ProbeTiming

    def probe(self, kind: ProbeKind) -> ProbeTiming:
        """Return the timing of one kind of probe."""
        timing: ProbeTiming = getattr(self, kind)
        return timing


_READINESS = ProbeTiming(period_seconds=5, timeout_seconds=2, failure_threshold=3)
_LIVENESS = ProbeTiming(period_seconds=10, timeout_seconds=2, failure_threshold=3)

# Ten minutes of start-up leave room to download and load a large model.
INFERENCE = ServiceTimings(
    startup=ProbeTiming(period_seconds=2, timeout_seconds=2, failure_threshold=300),
    readiness=_READINESS,
    liveness=_LIVENESS,
)
LOGGING = ServiceTimings(
    startup=ProbeTiming(period_seconds=2, timeout_seconds=2, failure_threshold=30),
    readiness=_READINESS,
    liveness=_LIVENESS,
)
SERVICES: Mapping[str, ServiceTimings] = {INFERENCE_SERVICE: INFERENCE, LOGGING_SERVICE: LOGGING}
