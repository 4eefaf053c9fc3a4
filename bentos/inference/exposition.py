"""Feeds the inference service's metric families from its state and its work."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import Histogram

from bentos.health.checks import Verdict
from bentos.health.metrics import Metrics, unready_samples
from bentos.inference.engine import Prediction
from bentos.inference.metrics import FAMILIES, UNREADY_REASONS
from bentos.inference.state import LOAD_OUTCOMES, InferenceState


class InferenceMetrics(Metrics):
    """The service's families, each with its source."""

    def __init__(self, directory: Path, state: InferenceState, *, model: str, stage: str) -> None:
        super().__init__(directory, FAMILIES)
        self._state = state
        self._labels = {"model": model, "stage": stage}
        self._duration = self._child("inference_prediction_duration_seconds")
        self._model_duration = self._child("inference_model_duration_seconds")
        self._batch_size = self._child("inference_batch_size")
        self._load_duration = self._child("inference_model_load_duration_seconds")
        self._confidence: dict[str, Histogram] = {}
        self._feed_state()
        self._feed_pod()

    def _child(self, name: str, **labels: str) -> Histogram:
        return self.histograms[name].labels(**self._labels, **labels)

    def feed_readiness(self, verdict: Callable[[], Verdict]) -> None:
        """Tell where the verdict of `/ready` is asked from."""
        self.value("inference_ready", self._labels, lambda: float(verdict().passed))
        self.read(
            "inference_unready",
            lambda: unready_samples(self._labels, UNREADY_REASONS, verdict()),
        )

    def know_classes(self, class_names: tuple[str, ...]) -> None:
        """Make the confidence series of a model's classes stand at 0 from its load on."""
        for name in class_names:
            self._confidence_of(name)

    def predicted(self, prediction: Prediction, seconds: float) -> None:
        """Observe an answered request."""
        self._duration.observe(seconds)
        self._confidence_of(prediction.class_name).observe(prediction.confidence)

    def loaded(self, succeeded: bool, seconds: float) -> None:
        """Observe the end of an attempt to load a model."""
        self._state.row.add(f"loads:{'success' if succeeded else 'failure'}")
        self._load_duration.observe(seconds)

    def model_busy(self, since: float | None) -> None:
        """Note since when the model owes an answer; a neighbour tells from it that it is stuck."""
        self._state.row.set("batch_since", since or 0.0)

    def model_called(self, *, inputs: int, seconds: float) -> None:
        """Observe one call of the model."""
        self._batch_size.observe(inputs)
        self._model_duration.observe(seconds)

    def _confidence_of(self, class_name: str) -> Histogram:
        child = self._confidence.get(class_name)
        if child is None:
            child = self._child("inference_confidence", class_name=class_name)
            self._confidence[class_name] = child
        return child

    def _feed_state(self) -> None:
        state, labels = self._state, self._labels
        pod = state.pod
        self.value("inference_model_loaded", labels, lambda: float(state.model_loaded))
        self.value("inference_mlflow_accessible", labels, lambda: float(state.mlflow_accessible))
        self.value(
            "inference_mlflow_check_age_seconds", labels, lambda: state.mlflow_check_age_seconds
        )
        self.read(
            "inference_model_info",
            lambda: [
                ({**labels, "version": str(version)}, 1.0) for version in state.served_versions
            ],
        )
        self.value(
            "inference_model_version", labels, lambda: float(min(state.served_versions, default=0))
        )
        self.value(
            "inference_registry_version",
            labels,
            lambda: max((row.get("registry_version") for row in pod.live_rows()), default=0.0),
        )
        self.read(
            "inference_model_loads_total",
            lambda: [
                ({**labels, "outcome": outcome}, pod.total(f"loads:{outcome}"))
                for outcome in LOAD_OUTCOMES
            ],
        )
        self.value("inference_predictions_total", labels, lambda: float(state.prediction_count))
        self.value("inference_error_ratio", labels, lambda: state.outcomes.error_rate)
        self.read("inference_errors_total", lambda: state.counts("errors", labels))
        self.read("inference_rejected_total", lambda: state.counts("refusals", labels))

    def _feed_pod(self) -> None:
        pod, labels = self._state.pod, self._labels
        for family, cell in (
            ("inference_queue_depth", "queue_depth"),
            ("inference_queue_capacity", "queue_capacity"),
            ("inference_log_backlog", "log_backlog"),
        ):
            self.value(family, labels, lambda cell=cell: pod.live_total(cell))  # type: ignore[misc]
        for family, cell in (
            ("inference_model_process_exits_total", "model_exits"),
            ("inference_log_delivered_total", "log_delivered"),
            ("inference_log_dropped_total", "log_dropped"),
            ("inference_log_send_errors_total", "log_send_errors"),
        ):
            self.value(family, labels, lambda cell=cell: pod.total(cell))  # type: ignore[misc]
        self.value("inference_workers", labels, lambda: float(len(pod.rows)))
        self.value("inference_workers_alive", labels, lambda: float(len(pod.live_rows())))
        self.value("inference_start_time_seconds", labels, lambda: pod.started_at)
