"""Takes what the model process says to where it belongs: the engine, the state, the metrics."""

import time

from bentos.inference.engine import Engine
from bentos.inference.exposition import InferenceMetrics
from bentos.inference.state import InferenceState
from bentos.inference.wire import (
    Answers,
    InputRefused,
    LoadChanged,
    Message,
    ModelInstalled,
    RegistryChecked,
)


class ModelListener:
    """Hears one worker's model process, on the event loop."""

    def __init__(self, engine: Engine, state: InferenceState, metrics: InferenceMetrics) -> None:
        self._engine = engine
        self._state = state
        self._metrics = metrics
        self._load = LoadChanged("waiting")

    def hear(self, message: Message) -> None:
        """Act on a message."""
        if isinstance(message, Answers):
            self._engine.answered(message)
        elif isinstance(message, InputRefused):
            self._engine.refused(message)
        elif isinstance(message, ModelInstalled):
            self._engine.install(message.generation, message.model)
            self._metrics.know_classes(message.model.spec.class_names)
            self._state.model_is(message.model.identity)
        elif isinstance(message, LoadChanged):
            self._load = message
            if message.succeeded is not None:
                self._metrics.loaded(message.succeeded, message.seconds)
        else:
            self._hear_check(message)

    def ended(self, how: str, restart_at: float) -> None:
        """Say that the model process is gone, how, and when it is started again."""
        self._state.model_is_gone()
        self._engine.disconnected()
        error = f"the model process {how}"
        self._load = LoadChanged(
            "failed", self._load.version, self._load.attempts, error, restart_at
        )

    def load_as_json(self) -> dict[str, object]:
        """Return how the loading stands for `/ready`; the time to the next attempt in seconds."""
        load = self._load
        wait = None if load.retry_at is None else max(0.0, load.retry_at - time.monotonic())
        return {
            "phase": load.phase,
            "version": load.version,
            "attempts": load.attempts,
            "error": load.error,
            "retry_in_seconds": None if wait is None else round(wait, 1),
        }

    def _hear_check(self, check: RegistryChecked) -> None:
        self._state.mlflow_checked(accessible=check.accessible)
        if check.accessible:
            self._state.registry_points_to(check.version)
