"""Takes what the model process says to where it belongs: the engine, the state, the metrics."""

from bentos.inference.engine import Engine
from bentos.inference.state import LOAD, InferenceState
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

    def __init__(self, engine: Engine, state: InferenceState) -> None:
        self._engine = engine
        self._state = state
        self._load = LoadChanged("waiting")

    def hear(self, message: Message) -> None:
        """Act on a message."""
        if isinstance(message, Answers):
            self._engine.answered(message)
        elif isinstance(message, InputRefused):
            self._engine.refused(message)
        elif isinstance(message, ModelInstalled):
            self._engine.install(message.generation, message.model)
            identity = message.model.identity
            for name in message.model.spec.class_names:
                self._state.confidence[name]  # its series stands at 0 from now on
            self._state.model_is(identity.name, identity.stage, identity.version)
        elif isinstance(message, LoadChanged):
            self._note_load(message)
            if message.succeeded is not None:
                self._state.loads["success" if message.succeeded else "failure"].add()
                self._state.load_duration.observe(message.seconds)
        else:
            self._hear_check(message)

    def ended(self, how: str, restart_at: float) -> None:
        """Say that the model process is gone, how, and when it is started again."""
        self._state.model_is_gone()
        self._engine.disconnected()
        error = f"the model process {how}"
        self._note_load(
            LoadChanged("failed", self._load.version, self._load.attempts, error, restart_at)
        )

    def _note_load(self, load: LoadChanged) -> None:
        self._load = load
        self._state.write_text(
            LOAD,
            {
                "phase": load.phase,
                "version": load.version,
                "attempts": load.attempts,
                "error": load.error and load.error[:1_000],
                "retry_at": load.retry_at,
            },
        )

    def _hear_check(self, check: RegistryChecked) -> None:
        self._state.registry_checked(accessible=check.accessible, version=check.version)
