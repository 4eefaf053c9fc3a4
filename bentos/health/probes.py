"""The answers of `/health`, `/ready` and `/metrics`, made of a state and its checks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bentos.health.checks import Check, Verdict, judge
from bentos.health.encoding import encode_json
from bentos.health.metrics import exposition, wants_openmetrics
from bentos.health.state import ServiceState, verdict_families
from bentos.health.values import Family, Samples

HEALTH_PATH = "/health"
READY_PATH = "/ready"
METRICS_PATH = "/metrics"
_JSON = "application/json"

_logger = logging.getLogger("bentos.probes")


@dataclass(frozen=True)
class Answer:
    """A whole answer to a probe; `reason` is why it is not a 200."""

    status: int
    body: bytes
    content_type: str = _JSON
    reason: str = ""


@dataclass(frozen=True)
class Probes:
    """The three answers of a service, the same in every process that has its state.

    `describe` gets the state and returns what `/ready` says beside its verdict. Like a check it
    waits for nothing and can be imported by another process.
    """

    state: ServiceState
    liveness: Sequence[Check]
    readiness: Sequence[Check]
    describe: Callable[[Any], Mapping[str, object]]

    def answers(self) -> dict[str, Callable[[str], Answer]]:
        """Return by path what makes the answer for a request's `Accept` header."""
        return {
            HEALTH_PATH: lambda _: self.health(),
            READY_PATH: lambda _: self.ready(),
            METRICS_PATH: lambda accept: self.metrics(openmetrics=wants_openmetrics(accept)),
        }

    def live(self) -> Verdict:
        """Judge liveness: whether only a restart would help."""
        return judge(self.liveness, self.state)

    def is_ready(self) -> Verdict:
        """Judge readiness: whether requests should come here."""
        return judge(self.readiness, self.state)

    def health(self) -> Answer:
        """Answer the liveness probe: 200 `healthy`, or 500 `unhealthy` with the reason."""
        verdict = self.live()
        body: dict[str, object] = {
            "status": "healthy" if verdict.passed else "unhealthy",
            "service": self.state.service,
            "timestamp": _now(),
            "uptime_seconds": round(self.state.pod.uptime, 3),
        }
        if verdict.passed:
            return Answer(200, encode_json(body))
        body |= {"reason": verdict.reason, "reasons": verdict.reasons}
        # What a check says cannot replace the verdict.
        return Answer(500, encode_json({**body, **verdict.details, **body}), reason=verdict.reason)

    def ready(self) -> Answer:
        """Answer the readiness probe: 200 `ready`, or 503 `not_ready` with the reason."""
        verdict = self.is_ready()
        try:
            described = self.describe(self.state)
        except Exception as error:
            described = {"error": f"{type(error).__name__}: {error}"}
            verdict = Verdict((*verdict.reasons, "exception"), verdict.details)
        body: dict[str, object] = {"status": "ready" if verdict.passed else "not_ready"}
        if not verdict.passed:
            body |= {"reason": verdict.reason, "reasons": verdict.reasons}
        end = {"probe_process": self.state.probe_process, "timestamp": _now()}
        # Neither a check nor the description can replace the verdict.
        content = encode_json({**body, **verdict.details, **described, **body, **end})
        return Answer(200 if verdict.passed else 503, content, reason=verdict.reason)

    def metrics(self, *, openmetrics: bool = False) -> Answer:
        """Answer a scrape with the pod's metrics; 500 where they cannot be read."""
        try:
            verdict = self._verdict_samples()
            return Answer(200, *exposition(self.state, verdict, openmetrics=openmetrics))
        except Exception:
            _logger.exception("the metrics cannot be read")
            body = {"error": "the metrics cannot be read; the log says why"}
            return Answer(
                500, encode_json({**body, "reason": "metrics_failed"}), reason="metrics_failed"
            )

    def _verdict_samples(self) -> list[tuple[Family, Samples]]:
        verdict = self.is_ready()
        ready, unready = verdict_families(type(self.state))
        # Several checks may have one reason.
        reasons = dict.fromkeys(check.reason for check in self.readiness)
        by_reason = [((reason,), float(reason in verdict.reasons)) for reason in reasons]
        return [(ready, [((), float(verdict.passed))]), (unready, by_reason)]


def _now() -> str:
    return datetime.now(UTC).isoformat()
