"""The logging Bento: BentoML's side of the service, and nothing else."""

from typing import Any, ClassVar

import bentoml
import msgspec
from pydantic import BaseModel, Field

from bentos.health.bento import FrontedService, service_config, worker_index
from bentos.health.door import Door
from bentos.health.image import service_image
from bentos.health.logs import configure_logging
from bentos.health.runtime import make_pod_directory, pod_directory
from bentos.health.settings import load_settings
from bentos.logging.app import SERVICE_NAME, LoggingApp
from bentos.logging.metrics import LOG_PATH
from bentos.logging.settings import LoggingSettings

settings = load_settings(LoggingSettings)


class LogAnswer(BaseModel):
    """What `/log` answers once the batch is on disk."""

    status: str = Field(description="`success`")
    predictions_stored: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Predictions whose id was stored before.")
    batch_size: int = Field(ge=1)
    timestamp: str = Field(description="ISO 8601, UTC")


class Logging:
    """Keeps predictions in SQLite, each once, and tells what it keeps."""

    app: ClassVar[LoggingApp | None] = None

    def __init__(self) -> None:
        worker = worker_index()
        configure_logging(
            level=settings.log_level,
            form=settings.log_format,
            service=SERVICE_NAME,
            worker=worker,
        )
        type(self).app = LoggingApp(settings, worker=worker, directory=pod_directory(SERVICE_NAME))

    @classmethod
    def door(cls) -> Door | None:
        """Return what answers the service's own routes, None before there is an instance."""
        return cls.app.door if cls.app is not None else None

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Make what the workers share, once, before they start."""
        make_pod_directory(SERVICE_NAME)

    @bentoml.on_startup
    async def start(self) -> None:
        """Start the background parts; the port answers at once."""
        self._running().start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Store what waits and close the database."""
        await self._running().stop()

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
        answer = await self._running().log(body, request_id="")
        return LogAnswer.model_validate(answer)

    async def __is_alive__(self) -> bool:
        return self._running().probes.live().passed

    async def __is_ready__(self) -> bool:
        return self._running().probes.readiness_verdict().passed

    def _running(self) -> LoggingApp:
        if self.app is None:
            raise RuntimeError("the service has no instance")
        return self.app


LoggingService = FrontedService(
    name="logging_service",
    config=service_config(workers=settings.workers, port=settings.logging_port),
    inner=Logging,
    image=service_image(writable=["/var/lib/predictions"]),
)
