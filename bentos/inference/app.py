"""The inference service without BentoML: its parts, put together, and the way of a request."""

import asyncio
import gc
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bentos.health import checks
from bentos.edge.limits import BodyRoom
from bentos.health.checks import Check
from bentos.edge.door import Door, Route, route_table
from bentos.edge.http import Request, Response, json_response
from bentos.process.lifecycle import Lifecycle
from bentos.health.metrics import EVENT_LOOP_DELAY
from bentos.health.probes import Probes, isoformat
from bentos.inference.engine import Engine, no_model
from bentos.inference.exposition import InferenceMetrics
from bentos.inference.handover import Destination, Handover
from bentos.inference.listener import ModelListener
from bentos.inference.model import ModelSpec
from bentos.inference.outbox import abandoned_paths, outbox_path
from bentos.inference.payloads import (
    answer_of,
    input_of,
    input_of_image,
    new_prediction_id,
    record_of,
)
from bentos.inference.process import ModelProcess
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.inference.state import InferenceState
from bentos.inference.uploads import upload_of
from bentos.inference.wire import Input

SERVICE_NAME = "inference-service"
PREDICT_PATH = "/predict"
PREDICT_IMAGE_PATH = "/predict_image"
SWITCH_INTERVAL_SECONDS = 0.0005


class InferenceApp:
    """One worker's parts; `start` and `stop` belong on its event loop."""

    def __init__(self, settings: InferenceSettings, *, worker: int, directory: Path) -> None:
        self._settings = settings
        self.state = InferenceState(
            directory,
            worker=worker,
            workers=settings.workers,
            window_seconds=settings.error_window_seconds,
        )
        self.state.row.set("queue_capacity", settings.queue_size)
        self._metrics = InferenceMetrics(
            directory / "metrics",
            self.state,
            model=settings.model_name,
            stage=settings.model_stage,
        )
        self._engine = Engine(
            queue_size=settings.queue_size,
            max_batch=settings.max_batch_size,
            max_pixels=settings.max_image_pixels,
            observer=self._metrics,
        )
        self._listener = ModelListener(self._engine, self.state, self._metrics)
        told = ModelProcessSettings(settings=settings, service=SERVICE_NAME, worker=worker)
        self._process = ModelProcess(
            told.model_dump_json().encode(),
            on_start=self._engine.connected,
            on_message=self._listener.hear,
            on_end=self._listener.ended,
        )
        self._handover = self._make_handover(worker)
        self.probes = Probes(
            service=SERVICE_NAME,
            state=self.state,
            metrics=self._metrics,
            liveness=self._liveness(),
            readiness=self._readiness(),
            describe=self._describe,
        )
        self._metrics.feed_readiness(self.probes.readiness_verdict)
        self._loop_delay = self._metrics.histograms[EVENT_LOOP_DELAY.name].labels(SERVICE_NAME)
        self._lifecycle = Lifecycle(
            self.state,
            self.probes.readiness_verdict,
            liveness=self.probes.live,
            drain_seconds=settings.drain_seconds,
            shutdown_seconds=settings.shutdown_seconds,
            on_beat=self._beat,
        )
        self.door = Door(
            service=SERVICE_NAME,
            routes=route_table([*self.probes.routes(), *self._routes()]),
            metrics=self._metrics,
            timeout_seconds=settings.request_timeout_seconds,
            room=BodyRoom(settings.max_bodies_bytes_a_worker),
        )

    def start(self) -> None:
        """Start the background parts; nothing of it waits for the model."""
        # The default, 5 ms, is how long a probe would wait for a thread that is busy in Python.
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        # What was imported is not garbage: a full collection over it would keep a probe waiting.
        gc.collect()
        gc.freeze()
        self._metrics.reserve()
        self._lifecycle.start()
        self._process.start()
        if self._handover is not None:
            self._handover.start()

    async def stop(self) -> None:
        """Answer what waits, hand over what was predicted, and end the parts."""
        seconds = float(self._settings.shutdown_seconds)
        self.state.begin_shutdown()
        await self._engine.drained(seconds)
        await self._process.stop()
        if self._handover is not None:
            await asyncio.to_thread(self._handover.stop, seconds / 2)
        await self._lifecycle.stop()

    async def predict_values(self, values: NDArray[Any]) -> dict[str, object]:
        """Return the answer for one input given as an array; for BentoML's own callers."""
        self._spec()
        return await self._answer(
            Input.from_array(values), time.perf_counter(), request_id=new_prediction_id()
        )

    async def predict_file(self, content: bytes) -> dict[str, object]:
        """Return the answer for an image file's content; for BentoML's own callers."""
        started = time.perf_counter()
        given = self._image_input(content)
        return await self._answer(given, started, request_id=new_prediction_id())

    def _beat(self, late_seconds: float) -> None:
        self._loop_delay.observe(late_seconds)
        self.state.row.set("queue_depth", self._engine.waiting)

    def _routes(self) -> list[Route]:
        make = partial(
            Route,
            "POST",
            on_failure=self.state.record_error,
            on_refusal=self.state.record_refusal,
        )
        return [
            make(PREDICT_PATH, self._predict),
            make(PREDICT_IMAGE_PATH, self._predict_image),
        ]

    async def _predict(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        started = time.perf_counter()
        given = input_of(request.content_type, body, self._spec())
        return await self._respond(request, given, started)

    async def _predict_image(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        started = time.perf_counter()
        upload = upload_of(request, body)
        given = self._image_input(upload.content)
        return await self._respond(request, given, started, image_id=upload.filename)

    async def _respond(
        self, request: Request, given: Input, started: float, *, image_id: str = ""
    ) -> Response:
        answer = await self._answer(
            given, started, request_id=request.request_id, image_id=image_id
        )
        return json_response(answer, log=answer)

    async def _answer(
        self, given: Input, started: float, *, request_id: str, image_id: str = ""
    ) -> dict[str, object]:
        prediction = await self._engine.predict(given)
        seconds = time.perf_counter() - started
        prediction_id = new_prediction_id()
        answer = answer_of(prediction, prediction_id, seconds * 1000)
        self.state.record_predictions(1, time.time())
        self.state.record_success()
        self._metrics.predicted(prediction, seconds)
        if self._handover is not None:
            self._handover.put(
                record_of(
                    prediction,
                    prediction_id,
                    seconds * 1000,
                    image_id=image_id or prediction_id,
                    request_id=request_id,
                )
            )
        return answer

    def _image_input(self, content: bytes) -> Input:
        return input_of_image(content, self._spec(), max_pixels=self._settings.max_image_pixels)

    def _spec(self) -> ModelSpec:
        spec = self._engine.spec
        if spec is None:
            raise no_model()
        return spec

    def _make_handover(self, worker: int) -> Handover | None:
        settings = self._settings
        if settings.logging_url is None:
            return None
        token = settings.logging_token
        return Handover(
            outbox_path(settings.outbox_path, worker),
            Destination(
                url=str(settings.logging_url).rstrip("/"),
                token=token.get_secret_value() if token else None,
                edge_device_id=settings.edge_device_id,
            ),
            self.state,
            max_rows=settings.outbox_max_rows,
            abandoned=(
                abandoned_paths(settings.outbox_path, workers=settings.workers)
                if worker == 1
                else ()
            ),
        )

    def _liveness(self) -> list[Check]:
        settings = self._settings
        return [
            checks.worker_dead(self.state, grace_seconds=settings.worker_grace_seconds),
            checks.event_loop_stalled(self.state, stall_seconds=settings.stall_seconds),
            checks.stuck(
                self.state,
                "model_thread_stuck",
                "batch_since",
                stall_seconds=settings.stall_seconds,
            ),
        ]

    def _readiness(self) -> list[Check]:
        return [
            checks.shutting_down(self.state),
            # Before what a dead worker cannot hold either: it is the cause.
            checks.worker_missing(self.state),
            checks.unless("model_not_loaded", lambda: self.state.model_loaded),
            checks.unless("mlflow_not_accessible", self._mlflow_as_required),
            checks.high_error_rate(self.state),
        ]

    def _mlflow_as_required(self) -> bool:
        required = self._settings.readiness_requires_mlflow
        if required == "never" or (required == "startup" and self.state.model_loaded):
            return True
        # A check that hangs says nothing any more: what it last said goes out of date.
        oldest = 3 * self._settings.model_poll_seconds + 2 * self._settings.mlflow_timeout_seconds
        return self.state.mlflow_accessible and self.state.mlflow_check_age_seconds < oldest

    def _describe(self) -> dict[str, object]:
        state, settings = self.state, self._settings
        model = state.model
        return {
            "model_loaded": state.model_loaded,
            "mlflow_accessible": state.mlflow_accessible,
            "predictions_served": state.prediction_count,
            "errors": state.error_count,
            "last_prediction": isoformat(state.last_prediction_time),
            "model": {
                "name": settings.model_name,
                "stage": settings.model_stage,
                "version": model.version if model else None,
            },
            "load": self._listener.load_as_json(),
            "mlflow_check_age_seconds": round(state.mlflow_check_age_seconds, 1),
        }
