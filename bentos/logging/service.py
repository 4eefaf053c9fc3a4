"""The logging Bento: BentoML's side of the service, and nothing else."""

from pathlib import Path
from typing import Any, ClassVar

import bentoml
import msgspec
from pydantic import BaseModel, Field

from bentos import __version__
from bentos.edge.bento import FrontedInstance, FrontedService, service_config
from bentos.edge.openapi import JSON, ApiPage, Content, Operation, parameter
from bentos.logging.app import LoggingApp
from bentos.logging.review import api as review
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import (
    LOG_PATH,
    PREDICTIONS_PATH,
    SERVICE_NAME,
    STATS_PATH,
    LoggingReady,
    logging_probes,
)
from bentos.logging.store.queries import Page, Stats
from bentos.messages import Batch
from bentos.process.image import service_image
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import load_settings

settings = load_settings(LoggingSettings)


class LogAnswer(BaseModel):
    """What `/log` answers once the batch is on disk."""

    status: str = Field(description="`success`")
    predictions_stored: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Predictions that were stored before.")
    batch_size: int = Field(ge=1)
    timestamp: str = Field(description="ISO 8601, UTC")
    warnings: list[str] | None = Field(
        default=None, description="What was left out of the batch's own fields, and why."
    )


_EXAMPLE: dict[str, Any] = {
    "predictions": [
        {
            "prediction_id": "line-4-000017",
            "image_id": "000017.png",
            "timestamp": 1795600000.25,
            "model_name": "steel-defects",
            "model_version": "3",
            "inference_time_ms": 2.3,
            "detections": [
                {"class": "crack", "confidence": 0.97, "bbox": None, "uncertain": False}
            ],
            "defect_detected": True,
            "verdict": "fail",
            "confidence_scores": [0.97, 0.03],
        }
    ],
    "batch_size": 1,
    "edge_device_id": "line-4",
}
_STORED_EXAMPLE = {
    **_EXAMPLE["predictions"][0],
    "edge_device_id": "line-4",
    "processing_notes": None,
    "request_id": None,
    "received_at": 1795600000.31,
    "sent_at": 1795600000.3,
    "id": 17,
}
_STORED_ANSWER = {
    "status": "success",
    "predictions_stored": 1,
    "duplicates": 0,
    "batch_size": 1,
    "timestamp": "2026-11-25T12:00:00.310000+00:00",
}
_COUNTS = {
    "predictions": 17,
    "defects": 4,
    "average_inference_time_ms": 2.3,
    "first_timestamp": 1795599000.0,
    "last_timestamp": 1795600000.25,
}
_STATS_EXAMPLE = {
    "total_predictions": 17,
    "defects_detected": 4,
    "normal_detections": 13,
    "average_inference_time_ms": 2.3,
    "by_edge_device": {"line-4": 17},
    "by_model": {"steel-defects": 17},
    "edge_devices": [{"edge_device_id": "line-4", **_COUNTS}],
    "edge_devices_total": 1,
    "edge_devices_next": None,
    "models": [{"model_name": "steel-defects", "model_version": "3", **_COUNTS}],
    "models_total": 1,
}
_READY: LoggingReady = {
    "db_initialized": True,
    "predictions_logged": 17,
    "defects_detected": 4,
    "errors": 0,
    "last_prediction": "2026-11-25T11:59:58.310000+00:00",
}
_READ_ERRORS: dict[int, tuple[str, Content | None]] = {
    400: ("A parameter is wrong; `field` names it.", None),
    429: ("Too many queries wait; try again after `Retry-After` seconds.", None),
    503: ("The database is not accessible; `/ready` says why.", None),
    504: ("The query takes too long.", None),
}


class Logging(FrontedInstance):
    """Keeps predictions in a database, each once, and tells what it keeps."""

    service = SERVICE_NAME
    app: ClassVar[LoggingApp]
    api = ApiPage(
        title="Logging service",
        version=__version__,
        description="Keeps the predictions of edge devices and of the inference service.",
        ready=Content(JSON, LoggingReady, _READY),
        # The root shows the status page.
        at_root=False,
        operations=[
            Operation(
                "POST",
                LOG_PATH,
                "Store a batch of predictions",
                "Whole or not at all; the answer comes after the commit is on disk.",
                body=[Content(JSON, Batch, _EXAMPLE)],
                answers={
                    200: ("Stored, or stored before.", Content(JSON, LogAnswer, _STORED_ANSWER)),
                    400: ("The batch is wrong; `field` names the item and the field.", None),
                    409: ("The device sent other content under the same id.", None),
                    413: ("Too many predictions, or too many bytes.", None),
                    429: ("Too many predictions wait; try again later.", None),
                    503: ("Nothing of it was stored; send it again.", None),
                    504: ("No answer in time; send it again.", None),
                },
                protected=True,
            ),
            Operation(
                "GET",
                STATS_PATH,
                "Totals by device and model",
                parameters=[
                    parameter("after", "string", "Devices after this one: `edge_devices_next`.")
                ],
                answers={
                    200: ("The totals.", Content(JSON, Stats, _STATS_EXAMPLE)),
                    **_READ_ERRORS,
                },
                protected=True,
            ),
            Operation(
                "GET",
                PREDICTIONS_PATH,
                "A page of predictions, newest first",
                parameters=[
                    parameter("limit", "integer", "At most so many, 1 to 1,000; 100 if unset."),
                    parameter("edge_device_id", "string", "Of this device only."),
                    parameter("defect_only", "boolean", "With a defect only."),
                    parameter("before", "string", "`next` of the page before, or Unix seconds."),
                ],
                answers={
                    200: (
                        "The page.",
                        Content(
                            JSON,
                            Page,
                            {"predictions": [_STORED_EXAMPLE], "count": 1, "next": None},
                        ),
                    ),
                    404: ("The device has stored no prediction.", None),
                    **_READ_ERRORS,
                },
                protected=True,
            ),
            *(review.OPERATIONS if settings.review else ()),
        ],
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
    image=service_image(
        ports=(settings.logging_port, settings.probe_port), writable=["/var/lib/predictions"]
    ),
)
