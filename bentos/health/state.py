"""What a service knows of itself, told for the whole pod from any of its workers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bentos.health.pod import PodMemory
from bentos.health.window import WINDOW_SECONDS, Outcomes


class ServiceState:
    """The state object that a service owns: counters, time stamps, the error window.

    `worker` is the index of the calling process, 1 the first, of `workers`. `counters` and
    `gauges` are the cells that a service adds to those every service has; `error_reasons` are
    the failures of the service it can tell apart, `refusal_reasons` the requests it turns away.
    """

    def __init__(
        self,
        directory: Path,
        *,
        worker: int = 1,
        workers: int = 1,
        counters: Sequence[str] = (),
        gauges: Sequence[str] = (),
        error_reasons: Sequence[str] = (),
        refusal_reasons: Sequence[str] = (),
        window_seconds: int = WINDOW_SECONDS,
    ) -> None:
        self.error_reasons = tuple(error_reasons)
        self.refusal_reasons = tuple(refusal_reasons)
        self.pod = PodMemory(
            directory / "pod.state",
            workers=workers,
            counters=(
                "prediction_count",
                "error_count",
                "last_prediction_time",
                *counters,
                *(f"errors:{reason}" for reason in self.error_reasons),
                *(f"refusals:{reason}" for reason in self.refusal_reasons),
            ),
            gauges=gauges,
            window_seconds=window_seconds,
        )
        self.row = self.pod.claim(worker)

    @property
    def startup_time(self) -> datetime:
        """When the pod's first worker came up, UTC."""
        return datetime.fromtimestamp(self.pod.started_at, UTC)

    @property
    def prediction_count(self) -> int:
        """Predictions of all workers since the pod started."""
        return int(self.pod.total("prediction_count"))

    @property
    def error_count(self) -> int:
        """Failures of all workers since the pod started; refused input is none."""
        return int(self.pod.total("error_count"))

    @property
    def last_prediction_time(self) -> datetime | None:
        """When any worker last predicted, UTC, or None."""
        latest = self.pod.maximum("last_prediction_time")
        return datetime.fromtimestamp(latest, UTC) if latest else None

    @property
    def shutting_down(self) -> bool:
        """Whether any live worker was told to stop."""
        return self.pod.live_total("shutting_down") > 0

    @property
    def outcomes(self) -> Outcomes:
        """Successes and errors of the pod within the sliding window."""
        return self.pod.outcomes()

    def record_predictions(self, count: int, at: float) -> None:
        """Count predictions, all of one moment, Unix seconds."""
        self.row.add("prediction_count", count)
        self.row.set("last_prediction_time", at)

    def record_success(self, requests: int = 1) -> None:
        """Count requests that the service answered as it should."""
        self.row.record(successes=requests)

    def record_error(self, reason: str) -> None:
        """Count a failure of the service; KeyError for a reason it did not declare."""
        self.row.add(f"errors:{reason}")
        self.row.add("error_count")
        self.row.record(errors=1)

    def record_refusal(self, reason: str) -> None:
        """Count a request turned away for no failure of the service."""
        self.row.add(f"refusals:{reason}")

    def counts(
        self, kind: Literal["errors", "refusals"], labels: Mapping[str, str]
    ) -> list[tuple[Mapping[str, str], float]]:
        """Return the pod's failures or refusals by reason, as samples with these labels."""
        reasons = self.error_reasons if kind == "errors" else self.refusal_reasons
        return [
            ({**labels, "reason": reason}, self.pod.total(f"{kind}:{reason}")) for reason in reasons
        ]

    def begin_shutdown(self) -> None:
        """Say in `/ready` from now on that the pod is going."""
        self.row.set("shutting_down", 1.0)
