"""The inference Bento: BentoML's side of the service, and nothing else."""

import os
from pathlib import Path
from typing import Annotated, ClassVar

import bentoml
import numpy as np
from bentoml.validators import ContentType
from pydantic import BaseModel, ConfigDict, Field

from bentos.edge.bento import FrontedInstance, FrontedService, service_config
from bentos.inference.app import InferenceApp
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import (
    PREDICT_IMAGE_PATH,
    PREDICT_PATH,
    SERVICE_NAME,
    inference_probes,
)
from bentos.process.image import service_image, torch_wheels
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import load_settings, writable_directory

settings = load_settings(InferenceSettings)


class PredictionAnswer(BaseModel):
    """What `/predict` and `/predict_image` answer."""

    model_config = ConfigDict(populate_by_name=True)

    class_index: int = Field(alias="class", description="Index of the predicted class.")
    class_name: str
    confidence: float = Field(ge=0, le=1, description="Probability of the predicted class.")
    defect_detected: bool
    model_version: str
    prediction_id: str = Field(description="Under which the logging service keeps it.")
    inference_time_ms: float = Field(description="From the whole body to the answer.")


class Inference(FrontedInstance):
    """Classifies inputs with a PyTorch model from the MLflow registry."""

    service = SERVICE_NAME
    settings = settings
    app: ClassVar[InferenceApp]

    @classmethod
    def make_plan(cls, directory: Path) -> ProbePlan:
        """Return what the probes are made of."""
        return inference_probes(settings, directory)

    @classmethod
    def make_app(cls, plan: ProbePlan, worker: int) -> InferenceApp:
        """Return the app of a worker."""
        return InferenceApp(settings, plan, worker=worker)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Make what the workers share, once, before they start."""
        # MLflow and torch make threads of their own for every core unless they are told.
        os.environ.setdefault("OMP_NUM_THREADS", str(settings.torch_threads))
        if settings.logging_url is not None:
            writable_directory(settings.outbox_path, "OUTBOX_PATH")
        Inference.supervise()

    @bentoml.api(route=PREDICT_PATH)
    async def predict(self, data: list[float]) -> PredictionAnswer:
        """Classify one input: `data`, a flat list of the model's input size."""
        answer = await self.app.predict_values(np.array(data, dtype=np.float64))
        return PredictionAnswer.model_validate(answer)

    @bentoml.api(route=PREDICT_IMAGE_PATH)
    async def predict_image(
        self, image: Annotated[Path, ContentType("image/*")]
    ) -> PredictionAnswer:
        """Classify one image file: PNG, JPEG or BMP, as multipart or as the body itself."""
        answer = await self.app.predict_file(image.read_bytes())
        return PredictionAnswer.model_validate(answer)


InferenceService = FrontedService(
    name="inference_service",
    config=service_config(settings, port=settings.inference_port),
    inner=Inference,
    image=service_image(writable=["/var/lib/outbox"], find_links=torch_wheels()),
)
