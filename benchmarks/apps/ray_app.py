"""Ray Serve: one replica that batches, behind Ray's HTTP proxy."""

import argparse
import signal
import threading

import numpy as np
import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request

from benchmarks.apps.shared import Model, answer_of

_BATCH = 32


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Classifier:
    """Classifies inputs."""

    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def classify(self, inputs: list[list[float]]) -> list[dict[str, object]]:
        """Classify a batch."""
        rows = np.asarray(inputs, dtype=np.float32)
        return [answer_of(row) for row in self.model.probabilities(rows)]

    async def __call__(self, request: Request) -> dict[str, object]:
        """Answer one request."""
        body = await request.json()
        found: dict[str, object] = await self.classify(body["data"])
        return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning", num_cpus=2)
    serve.start(
        http_options={"host": "127.0.0.1", "port": parser.parse_args().port},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    application = Classifier.bind()  # type: ignore[attr-defined]
    serve.run(application, logging_config={"enable_access_log": False})
    ended.wait()
    serve.shutdown()
    ray.shutdown()
