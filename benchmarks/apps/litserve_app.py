"""LitServe: batches of 32 in a process for the model."""

import argparse

import litserve  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray

from benchmarks.apps.shared import Model, answer_of

_BATCH = 32


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # has no types here
    """Classifies inputs."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model, in the process that runs it."""
        self.model = Model()

    def decode_request(self, request: dict[str, list[float]]) -> NDArray[np.float32]:
        """Take the input out of the body."""
        return np.asarray(request["data"], dtype=np.float32)

    def batch(self, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Join the inputs of a batch."""
        return np.stack(inputs)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Classify a batch."""
        return self.model.probabilities(x)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Part the answers of a batch."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, object]:
        """Return one answer."""
        return answer_of(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(
        Classifier(max_batch_size=_BATCH, batch_timeout=0.0), accelerator="cpu", timeout=30
    )
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
