"""The model of Triton's Python backend: float32 [N, 3, 32, 32] to probabilities [N, classes]."""

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from benchmarks.apps.shared import Model


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 - the backend's signature
        """Load the model."""
        self.model = Model()

    def execute(self, requests: list[object]) -> list[object]:
        """Answer the requests of one batch with one call of the model."""
        inputs = [
            pb_utils.get_input_tensor_by_name(request, "pixels").as_numpy() for request in requests
        ]
        found = self.model.probabilities(np.concatenate(inputs))
        responses: list[object] = []
        first = 0
        for one in inputs:
            part = found[first : first + len(one)]
            first += len(one)
            tensor = pb_utils.Tensor("probabilities", np.ascontiguousarray(part))
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses
