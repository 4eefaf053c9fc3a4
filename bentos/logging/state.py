"""The logging service's state, told for the whole pod."""

import time
from pathlib import Path

from bentos.health.state import ServiceState
from bentos.health.window import WINDOW_SECONDS
from bentos.logging.metrics import ERROR_REASONS, REFUSAL_REASONS, STORE_ERROR_REASONS


class LoggingState(ServiceState):
    """Adds the database to what every service knows of itself."""

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
                "defect_count",
                "duplicate_count",
                "batch_count",
                *(f"store_errors:{reason}" for reason in STORE_ERROR_REASONS),
            ),
            gauges=(
                "db_initialized",
                "db_accessible",
                "db_proved_at",
                "db_failure",
                "writing_since",
                "queue_depth",
                "queue_capacity",
            ),
            error_reasons=ERROR_REASONS,
            refusal_reasons=REFUSAL_REASONS,
            window_seconds=window_seconds,
        )

    @property
    def db_initialized(self) -> bool:
        """Whether every worker has had the database open with its schema up to date."""
        return self._everywhere("db_initialized")

    @property
    def db_accessible(self) -> bool:
        """Whether the last query of every worker's check, or its last commit, succeeded."""
        return self._everywhere("db_accessible")

    def _everywhere(self, flag: str) -> bool:
        # A dead worker is missing, for which there is a reason of its own; the database is fine.
        return all(row.get(flag) == 1.0 for row in self.pod.rows if row.alive or not row.claimed)

    @property
    def db_proof_age_seconds(self) -> float:
        """Seconds since the database last worked, in the worker where that is longest ago."""
        now = time.monotonic()
        ages = (
            now - (row.get("db_proved_at") or row.get("claimed_at")) for row in self.pod.live_rows()
        )
        return max(ages, default=0.0)

    @property
    def transaction_seconds(self) -> float:
        """How long the longest present transaction has been running, 0.0 where none is."""
        now = time.monotonic()
        since = (row.get("writing_since") for row in self.pod.live_rows())
        return max((now - moment for moment in since if moment), default=0.0)

    @property
    def db_failure(self) -> str:
        """Why the database is not accessible, one of STORE_ERROR_REASONS; empty where it is."""
        codes = (int(row.get("db_failure")) for row in self.pod.live_rows())
        return next((STORE_ERROR_REASONS[code - 1] for code in codes if code), "")

    @property
    def defect_count(self) -> int:
        """Stored predictions with a defect, of all workers since the pod started."""
        return int(self.pod.total("defect_count"))

    def record_stored(
        self, *, batches: int, predictions: int, defects: int, duplicates: int
    ) -> None:
        """Count what one transaction stored."""
        if predictions:
            self.record_predictions(predictions, time.time())
        self.row.add("defect_count", defects)
        self.row.add("duplicate_count", duplicates)
        self.row.add("batch_count", batches)
        self.record_success(batches)

    def record_store_error(self, reason: str) -> None:
        """Count a failed transaction or check; KeyError for a reason that is not declared."""
        self.row.add(f"store_errors:{reason}")

    def database_works(self) -> None:
        """Say that the database answered just now."""
        self.row.set("db_proved_at", time.monotonic())
        self.row.set("db_failure", 0.0)
        self.row.set("db_accessible", 1.0)
        self.row.set("db_initialized", 1.0)

    def database_fails(self, reason: str) -> None:
        """Say that the database does not answer, and why."""
        self.row.set("db_failure", STORE_ERROR_REASONS.index(reason) + 1)
        self.row.set("db_accessible", 0.0)
