"""The inference Bento: BentoML's side of the service, and nothing else."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import bentoml
from bentoml.validators import ContentType
from pydantic import BaseModel, ConfigDict, Field

from bentos import __version__
from bentos.edge.bento import FrontedInstance, FrontedService, service_config
from bentos.edge.openapi import JSON, ApiPage, Content, Operation
from bentos.evidence import HeatMap
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import (
    EXPLAIN_PATH,
    PREDICT_IMAGE_PATH,
    PREDICT_PATH,
    SERVICE_NAME,
    InferenceReady,
    inference_probes,
)
from bentos.inference.v2.page import infer_operations
from bentos.process.image import service_image, torch_wheels
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import load_settings, writable_directory

if TYPE_CHECKING:
    from bentos.inference.app import InferenceApp

settings = load_settings(InferenceSettings)


class PredictionAnswer(BaseModel):
    """What `/predict` and `/predict_image` answer."""

    model_config = ConfigDict(populate_by_name=True)

    class_index: int = Field(alias="class", description="Index of the predicted class.")
    class_name: str
    confidence: float = Field(ge=0, le=1, description="Probability of the predicted class.")
    defect_detected: bool
    verdict: Literal["pass", "fail", "review"] = Field(
        description="`review` where the confidence is below the class's threshold, else `fail` for "
        "a defect and `pass` for none."
    )
    model_version: str
    prediction_id: str = Field(description="Under which the logging service keeps it.")
    inference_time_ms: float = Field(description="From the whole body to the answer.")


class PredictionAnswers(BaseModel):
    """What `/predict` answers to several inputs."""

    predictions: list[PredictionAnswer] = Field(description="In the order of the inputs.")


class PredictionInput(BaseModel):
    """What `/predict` takes as JSON."""

    data: list[float] | list[list[float]] = Field(
        description="One input, flat, of the model's input size, or an array of several such."
    )


_ANSWER = PredictionAnswer.model_validate(
    {
        "class": 1,
        "class_name": "crack",
        "confidence": 0.9731,
        "defect_detected": True,
        "verdict": "fail",
        "model_version": "3",
        "prediction_id": "187b5f0c2f2e9a10c0ffee0123456789",
        "inference_time_ms": 2.31,
    }
).model_dump(by_alias=True)
_ANSWERS: dict[int, tuple[str, Content | None]] = {
    200: ("The prediction.", Content(JSON, PredictionAnswer, _ANSWER)),
    400: ("The input is not what the model takes; `field` and `error` say how it differs.", None),
    413: ("The body, or the image, is too large.", None),
    415: ("The body is encoded or typed in a way that is not known here.", None),
    422: ("The model fails on this input, though it answers others.", None),
    429: ("Too many inputs wait; try again after `Retry-After` seconds.", None),
    500: ("The model fails, on its warm-up input too.", None),
    503: ("No prediction can be made or kept now; `reason` is that of `/ready`.", None),
    504: ("No answer in time.", None),
}
_HEAT_MAP = HeatMap("crack", 0.9731, "3", 2, 3, [[0.02, 3.1, 0.4], [-0.01, 0.9, 0.03]])
_READY: InferenceReady = {
    "model_loaded": True,
    "mlflow_accessible": True,
    "predictions_served": 1204,
    "errors": 0,
    "last_prediction": "2026-11-25T11:59:58.102000+00:00",
    "model": {"name": "steel-defects", "stage": "production", "version": "3"},
    "model_since": "2026-11-25T08:30:11.004000+00:00",
    "load": {
        "phase": "loaded",
        "version": "3",
        "attempts": 1,
        "error": None,
        "retry_in_seconds": None,
    },
    "registry": None,
    "mlflow_check_age_seconds": 2.4,
    "log_backlog": 0,
    "log_dead_letters": 0,
}
_FILE = {"type": "string", "format": "binary"}
_IMAGE_BODY = [
    Content(
        "multipart/form-data",
        {"type": "object", "properties": {"image": _FILE}, "required": ["image"]},
    ),
    *(Content(f"image/{kind}", _FILE) for kind in ("png", "jpeg", "bmp")),
]
_EXPLAIN = Operation(
    "POST",
    EXPLAIN_PATH,
    "Tell which part of an image decided",
    "The model is asked again with each cell of a grid masked. One image at a time.",
    body=_IMAGE_BODY,
    answers={
        200: ("How much each part counts.", Content(JSON, HeatMap, _HEAT_MAP)),
        **{status: _ANSWERS[status] for status in (400, 413)},
        422: ("The model fails on this image, or on it with a part masked.", None),
        429: ("Another image is being explained.", None),
        503: ("The process that does it is starting; try again after `Retry-After` seconds.", None),
        504: ("No answer in time.", None),
    },
    protected=True,
)


class Inference(FrontedInstance):
    """Classifies inputs with a PyTorch model from the MLflow registry."""

    service = SERVICE_NAME
    app: ClassVar["InferenceApp"]
    api = ApiPage(
        title="Inference service",
        version=__version__,
        description="Classifies inputs with a PyTorch model from an MLflow registry.",
        ready=Content(JSON, InferenceReady, _READY),
        operations=[
            Operation(
                "POST",
                PREDICT_PATH,
                "Classify one input, or several",
                "Several inputs, `data` an array of arrays, are answered with `predictions`, in "
                "their order; all of them, or none.",
                body=[
                    Content(JSON, PredictionInput, {"data": [[0.1, 0.2, 0.3], [1, 0, 0]]}),
                    Content(
                        "application/octet-stream",
                        {**_FILE, "description": "little-endian float32"},
                    ),
                ],
                answers={
                    **_ANSWERS,
                    200: (
                        "The prediction, or several.",
                        Content(JSON, PredictionAnswer | PredictionAnswers, _ANSWER),
                    ),
                },
                protected=True,
            ),
            Operation(
                "POST",
                PREDICT_IMAGE_PATH,
                "Classify one image file: PNG, JPEG or BMP",
                body=_IMAGE_BODY,
                answers=_ANSWERS,
                protected=True,
            ),
            *([_EXPLAIN] if settings.explain else []),
            *infer_operations(_ANSWERS),
        ],
    )

    @classmethod
    def make_plan(cls, directory: Path) -> ProbePlan:
        """Return what the probes are made of."""
        return inference_probes(settings, directory)

    @classmethod
    def make_app(cls, plan: ProbePlan, worker: int) -> "InferenceApp":
        """Return the app of a worker."""
        from bentos.inference.app import InferenceApp  # not in `bentoml serve` itself: 10 MiB

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
        answer = await self.app.predict_values(data)
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
    image=service_image(
        ports=(settings.inference_port, settings.probe_port),
        writable=["/var/lib/outbox"],
        find_links=torch_wheels(),
    ),
)
