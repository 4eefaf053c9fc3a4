"""Feeds the logging service's metric families from its state and its work."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from bentos.health.checks import Verdict
from bentos.health.metrics import Metrics, Samples, unready_samples
from bentos.logging.metrics import FAMILIES, ROUTES, STORE_ERROR_REASONS, UNREADY_REASONS
from bentos.logging.state import LoggingState

_FILES = (("database", ""), ("wal", "-wal"))


class LoggingMetrics(Metrics):
    """The service's families, each with its source."""

    def __init__(
        self, directory: Path, state: LoggingState, *, service: str, database_path: Path
    ) -> None:
        super().__init__(directory, FAMILIES)
        self._state = state
        self._labels = {"service": service}
        self._database_path = database_path
        self._commit_duration = self.histograms["logging_commit_duration_seconds"].labels(service)
        self._commit_predictions = self.histograms["logging_commit_predictions"].labels(service)
        requests = self.histograms["logging_request_duration_seconds"]
        self._requests = {route: requests.labels(service, route) for route in ROUTES}
        self._feed_state()
        self._feed_pod()
        self._feed_disk()

    def feed_readiness(self, verdict: Callable[[], Verdict]) -> None:
        """Tell where the verdict of `/ready` is asked from."""
        self.value("logging_ready", self._labels, lambda: float(verdict().passed))
        self.read(
            "logging_unready",
            lambda: unready_samples(self._labels, UNREADY_REASONS, verdict()),
        )

    def requested(self, route: str, seconds: float) -> None:
        """Observe the time of one request, KeyError for a route that is not declared."""
        self._requests[route].observe(seconds)

    def transaction_started(self) -> None:
        """Note when the database was called; a neighbour tells from it that it never returned."""
        self._state.row.set("writing_since", time.monotonic())

    def transaction_ended(self) -> None:
        """Note that the database returned."""
        self._state.row.set("writing_since", 0.0)

    def committed(self, *, predictions: int, seconds: float) -> None:
        """Observe one transaction that is on disk."""
        self._commit_duration.observe(seconds)
        self._commit_predictions.observe(predictions)

    def _feed_state(self) -> None:
        state, labels = self._state, self._labels
        pod = state.pod
        self.value("logging_db_initialized", labels, lambda: float(state.db_initialized))
        self.value("logging_db_accessible", labels, lambda: float(state.db_accessible))
        self.value("logging_predictions_total", labels, lambda: float(state.prediction_count))
        self.value("logging_defects_total", labels, lambda: float(state.defect_count))
        self.value("logging_errors_total", labels, lambda: float(state.error_count))
        self.value("logging_error_ratio", labels, lambda: state.outcomes.error_rate)
        self.read("logging_rejected_total", lambda: state.counts("refusals", labels))
        self.read(
            "logging_store_errors_total",
            lambda: [
                ({**labels, "reason": reason}, pod.total(f"store_errors:{reason}"))
                for reason in STORE_ERROR_REASONS
            ],
        )

    def _feed_pod(self) -> None:
        pod, labels = self._state.pod, self._labels
        self.value("logging_duplicates_total", labels, lambda: pod.total("duplicate_count"))
        self.value("logging_batches_total", labels, lambda: pod.total("batch_count"))
        self.value("logging_queue_depth", labels, lambda: pod.live_total("queue_depth"))
        self.value("logging_queue_capacity", labels, lambda: pod.live_total("queue_capacity"))
        self.value("logging_workers", labels, lambda: float(len(pod.rows)))
        self.value("logging_workers_alive", labels, lambda: float(len(pod.live_rows())))
        self.value("logging_start_time_seconds", labels, lambda: pod.started_at)

    def _feed_disk(self) -> None:
        self.read("logging_database_bytes", self._file_sizes)
        self.read("logging_disk_free_bytes", lambda: self._disk("f_bavail"))
        self.read("logging_disk_size_bytes", lambda: self._disk("f_blocks"))

    def _file_sizes(self) -> Samples:
        path = self._database_path
        for file, suffix in _FILES:
            try:
                size = path.with_name(path.name + suffix).stat().st_size
            except OSError:
                size = 0
            yield {**self._labels, "file": file}, float(size)

    def _disk(self, blocks: str) -> Samples:
        try:
            disk = os.statvfs(self._database_path.parent)
        except OSError:
            return []  # there is no disk to tell of: no sample is truer than a 0
        return [(self._labels, float(getattr(disk, blocks) * disk.f_frsize))]
