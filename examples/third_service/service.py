"""Classifies irises with scikit-learn, watched by the kit; `uvicorn` serves `app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from starlette.applications import Starlette

from bentos.edge.door import Route
from bentos.edge.http import Request, Response, ServiceError, json_response, parse_json
from bentos.kit import Kit, required
from examples.third_service.state import IrisState, describe

kit = Kit.alone(
    IrisState,
    "iris-service",
    readiness=[required("model_not_loaded", "model_loaded")],
    describe=describe,
)
iris = load_iris()
model = LogisticRegression(max_iter=500)


def load() -> None:
    """Train, answer a warm-up input, and only then say that the model is there."""
    model.fit(iris.data, iris.target).predict_proba(iris.data[:1])
    kit.state.model_loaded.set(1)


async def predict(request: Request) -> Response:
    """Answer `{"data": [4 numbers]}` with the class and its probability."""
    body = parse_json(await request.body(limit=10_000))
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or [type(item) in (int, float) for item in data] != [True] * 4:
        raise ServiceError(400, "bad_input", "data has to be a list of 4 numbers", field="data")
    if not kit.state.model_loaded.value:
        raise ServiceError(503, "model_not_loaded", "the model is not loaded yet")
    (scores,) = await asyncio.to_thread(model.predict_proba, [data])
    kit.state.predictions.add()
    kit.state.record_success()
    best = int(scores.argmax())
    return json_response(
        {"class_name": str(iris.target_names[best]), "confidence": float(scores[best])}
    )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Load in the background: the port answers at once, `/ready` says when there is a model."""
    loading = asyncio.create_task(asyncio.to_thread(load))
    yield
    await loading


kit.add_routes([Route("POST", "/predict", predict, on_failure=kit.state.failed)])
app = kit.asgi(Starlette(lifespan=lifespan))
