"""The inference service's state, told for the whole pod."""

import time
from pathlib import Path

from bentos.health.state import ServiceState
from bentos.health.window import WINDOW_SECONDS
from bentos.inference.metrics import ERROR_REASONS, REFUSAL_REASONS
from bentos.inference.model import ModelIdentity

LOAD_OUTCOMES = ("success", "failure")


class InferenceState(ServiceState):
    """Adds the model and MLflow to what every service knows of itself."""

    def __init__(
        self,
        directory: Path,
        *,
        worker: int,
        workers: int,
        window_seconds: int = WINDOW_SECONDS,
    ) -> None:
        super().__init__(
            directory,
            worker=worker,
            workers=workers,
            counters=(
                *(f"loads:{outcome}" for outcome in LOAD_OUTCOMES),
                "model_exits",
                "log_delivered",
                "log_dropped",
                "log_send_errors",
            ),
            gauges=(
                "model_loaded",
                "model_version",
                "registry_version",
                "mlflow_accessible",
                "mlflow_checked_at",
                "batch_since",
                "queue_depth",
                "queue_capacity",
                "log_backlog",
            ),
            error_reasons=ERROR_REASONS,
            refusal_reasons=REFUSAL_REASONS,
            window_seconds=window_seconds,
        )
        self.model: ModelIdentity | None = None

    @property
    def model_loaded(self) -> bool:
        """Whether every worker holds a model that answered its warm-up."""
        return self.pod.everywhere("model_loaded")

    @property
    def mlflow_accessible(self) -> bool:
        """Whether the last check of MLflow succeeded, in every worker."""
        return self.pod.everywhere("mlflow_accessible")

    @property
    def mlflow_check_age_seconds(self) -> float:
        """Seconds since a check last ended in the worker where it is the longest ago.

        Since its start for a worker that has not ended one yet.
        """
        now = time.monotonic()
        ages = (
            now - (row.get("mlflow_checked_at") or row.get("claimed_at"))
            for row in self.pod.live_rows()
        )
        return max(ages, default=0.0)

    @property
    def served_versions(self) -> list[int]:
        """The versions that live workers serve; more than one only while a new one comes in."""
        versions = {int(row.get("model_version")) for row in self.pod.live_rows()}
        return sorted(versions - {0})

    def model_is(self, identity: ModelIdentity) -> None:
        """Say that this worker serves the model from now on."""
        self.model = identity
        self.row.set("model_version", _as_number(identity.version))
        self.row.set("model_loaded", 1.0)

    def model_is_gone(self) -> None:
        """Say that this worker's model process ended, and the model with it."""
        self.row.add("model_exits")
        self.row.set("model_loaded", 0.0)
        self.row.set("model_version", 0.0)
        self.model = None

    def registry_points_to(self, version: str | None) -> None:
        """Say which version the alias points to, None for none."""
        self.row.set("registry_version", _as_number(version))

    def mlflow_checked(self, *, accessible: bool) -> None:
        """Record the end of a check of MLflow."""
        self.row.set("mlflow_accessible", float(accessible))
        self.row.set("mlflow_checked_at", time.monotonic())


def _as_number(version: str | None) -> float:
    return float(version) if version is not None and version.isdigit() else 0.0
