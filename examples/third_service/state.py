"""What the iris service knows of itself. The probe process imports this module, so it is small."""

from bentos.kit import Counter, Gauge, ServiceState


class IrisState(ServiceState):
    """A model, and what was answered with it."""

    prefix = "iris"
    routes = ("/predict",)
    model_loaded = Gauge("{prefix}_model_loaded", "Whether the model is trained.", across="all")
    predictions = Counter("{prefix}_predictions_total", "Predictions answered.")
    errors = Counter("{prefix}_errors_total", "Requests that failed for the service's fault.")

    def failed(self, _reason: str) -> None:
        """Count a failure, in the metric and in the error rate that `/ready` judges."""
        self.errors.add()
        self.row.record(errors=1)


def describe(state: IrisState) -> dict[str, object]:
    """Return what `/ready` says beside its verdict."""
    return {"predictions_served": int(state.predictions.value)}
