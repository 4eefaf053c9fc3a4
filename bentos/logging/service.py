"""The logging Bento: BentoML's side of the service, and nothing else."""

from pathlib import Path
from typing import Any, ClassVar

import bentoml
import msgspec
from pydantic import BaseModel, Field

from bentos import __version__
from bentos.edge.bento import FrontedInstance, FrontedService, service_config
from bentos.edge.openapi import ApiPage
from bentos.logging.app import LoggingApp
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LOG_PATH, SERVICE_NAME, logging_probes
from bentos.process.image import service_image
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import load_settings

settings = load_settings(LoggingSettings)


class LogAnswer(BaseModel):
    """What `/log` answers once the batch is on disk."""

    status: str = Field(description="`success`")
    predictions_stored: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Predictions whose id was stored before.")
    batch_size: int = Field(ge=1)
    timestamp: str = Field(description="ISO 8601, UTC")


class Logging(FrontedInstance):
    """Keeps predictions in SQLite, each once, and tells what it keeps."""

    service = SERVICE_NAME
    settings = settings
    app: ClassVar[LoggingApp]
    api = ApiPage(
        title="Logging service",
        version=__version__,
        description="Keeps the predictions of edge devices and of the inference service.",
        operations=[],
    )

    @classmethod
    def make_plan(cls, directory: Path) -> ProbePlan:
        """Return what the probes are made of."""
        return logging_probes(settings, directory)

    @classmethod
    def make_app(cls, plan: ProbePlan, worker: int) -> LoggingApp:
        """Return the app of a worker."""
        return LoggingApp(settings, plan, worker=worker)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Make what the workers share, once, before they start."""
        Logging.supervise()

    @bentoml.api(route=LOG_PATH)
    async def log(
        self,
        predictions: list[dict[str, Any]],
        batch_size: int | None = None,
        timestamp: float | str | None = None,
        edge_device_id: str | None = None,
    ) -> LogAnswer:
        """Store a batch of predictions, whole or not at all; the answer comes after the commit."""
        body = msgspec.json.encode(
            {
                "predictions": predictions,
                "batch_size": batch_size,
                "timestamp": timestamp,
                "edge_device_id": edge_device_id,
            }
        )
        answer = await self.app.log(body, request_id="")
        return LogAnswer.model_validate(answer)


LoggingService = FrontedService(
    name="logging_service",
    config=service_config(settings, port=settings.logging_port),
    inner=Logging,
    image=service_image(writable=["/var/lib/predictions"]),
)
