"""Plain FastAPI: a pydantic body and a sync handler, which runs in the thread pool."""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.apps.shared import Model

app = FastAPI()
model = Model()


class Input(BaseModel):
    """One flat input."""

    data: list[float]


@app.post("/predict")
def predict(body: Input) -> dict[str, object]:
    """Classify one input."""
    return model.answer(body.data)


@app.get("/health")
def health() -> dict[str, str]:
    """Answer a probe."""
    return {"status": "ok"}
