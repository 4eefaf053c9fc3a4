"""The model that every server serves, loaded the same way by all that are written here."""

import os

import numpy as np
from numpy.typing import NDArray

MODEL_VARIABLE = "BENCHMARK_MODEL"
SHAPE = (3, 32, 32)


class Model:
    """An MLflow PyTorch model that turns pixels into probabilities."""

    def __init__(self) -> None:
        import mlflow
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self._torch = torch
        self._network = mlflow.pytorch.load_model(os.environ[MODEL_VARIABLE])

    def probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [N, classes] of float32 [N, ...] that has `SHAPE`'s size a row."""
        torch = self._torch
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1, *SHAPE))
            found: NDArray[np.float32] = self._network(pixels).softmax(dim=1).numpy()
            return found

    def answer(self, values: list[float]) -> dict[str, object]:
        """Return the answer to one flat input."""
        return answer_of(self.probabilities(np.asarray(values, dtype=np.float32))[0])


def answer_of(probabilities: NDArray[np.float32]) -> dict[str, object]:
    """Return the class and the confidence of one row of probabilities."""
    best = int(probabilities.argmax())
    return {"class": best, "confidence": float(probabilities[best])}
