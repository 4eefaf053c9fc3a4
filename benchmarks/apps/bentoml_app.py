"""BentoML as its documentation shows it: a typed API method in a service class."""

import bentoml

from benchmarks.apps.shared import Model


@bentoml.service(logging={"access": {"enabled": False}})
class Stock:
    """Classifies inputs."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, data: list[float]) -> dict[str, object]:
        """Classify one input."""
        return self.model.answer(data)
