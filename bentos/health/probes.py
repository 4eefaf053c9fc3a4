"""`/health`, `/ready` and `/metrics` over a state, its checks and its metrics."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bentos.health.checks import Check, Verdict, judge
from bentos.edge.door import Route
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.health.metrics import CONTENT_TYPE, Metrics
from bentos.health.state import ServiceState

HEALTH_PATH = "/health"
READY_PATH = "/ready"
METRICS_PATH = "/metrics"


@dataclass(frozen=True)
class Probes:
    """The three routes of a service.

    `describe` returns what `/ready` says beside its verdict; it may not block either.
    """

    service: str
    state: ServiceState
    metrics: Metrics
    liveness: Sequence[Check]
    readiness: Sequence[Check]
    describe: Callable[[], Mapping[str, object]]

    def routes(self) -> list[Route]:
        """Return the routes, each marked as a probe."""
        return [
            Route("GET", HEALTH_PATH, self.health, probe="health"),
            Route("GET", READY_PATH, self.ready, probe="ready"),
            Route("GET", METRICS_PATH, self.exposition, probe="metrics"),
        ]

    def live(self) -> Verdict:
        """Judge liveness: whether only a restart would help."""
        return judge(self.liveness)

    def readiness_verdict(self) -> Verdict:
        """Judge readiness: whether requests should come here."""
        return judge(self.readiness)

    async def health(self, _: Request) -> Response:
        """Answer the liveness probe: 200 `healthy`, or 500 `unhealthy` with the reason."""
        verdict = self.live()
        body: dict[str, object] = {
            "status": "healthy" if verdict.passed else "unhealthy",
            "service": self.service,
            "timestamp": _now(),
            "uptime_seconds": round(time.time() - self.state.pod.started_at, 3),
        }
        if verdict.passed:
            return json_response(body)
        body |= {"reason": verdict.reason, **verdict.details}
        return json_response(body, status=500, log={"reason": verdict.reason})

    async def ready(self, _: Request) -> Response:
        """Answer the readiness probe: 200 `ready`, or 503 `not_ready` with the reason."""
        verdict = self.readiness_verdict()
        body: dict[str, object] = {"status": "ready" if verdict.passed else "not_ready"}
        if not verdict.passed:
            body |= {"reason": verdict.reason, "reasons": verdict.reasons, **verdict.details}
        try:
            body |= self.describe()
        except Exception as error:
            body |= {"status": "not_ready", "error": f"{type(error).__name__}: {error}"}
            body.setdefault("reason", "exception")
        body["timestamp"] = _now()
        ready = body["status"] == "ready"
        return json_response(
            body, status=200 if ready else 503, log={} if ready else {"reason": body["reason"]}
        )

    async def exposition(self, _: Request) -> Response:
        """Answer a scrape; the files of all workers are read off the event loop."""
        try:
            text = await self.metrics.scrape()
        except Exception as error:
            raise ServiceError(500, "metrics_failed", "the metrics cannot be read") from error
        return Response(body=text, content_type=CONTENT_TYPE)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def isoformat(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 with its offset, None for None."""
    return moment.isoformat() if moment else None
