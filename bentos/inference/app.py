"""The inference service without BentoML: its parts, put together, and the way of a request."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from bentos.edge.door import Route
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.edge.tokens import Tokens
from bentos.edge.traces import span, trace_id, traceparent
from bentos.evidence import ChallengerAnswer
from bentos.health.encoding import encode_json
from bentos.inference.challenger import Challenger
from bentos.inference.channel import Input, InputKind, ModelProcess
from bentos.inference.delivery import Delivery, Destination, Limits
from bentos.inference.delivery.outbox import files_to_adopt, outbox_path
from bentos.inference.drift import DriftWatch
from bentos.inference.engine import Engine, Predicted, Prediction, new_prediction_id
from bentos.inference.evidence import EvidenceSender
from bentos.inference.explain import Explainer
from bentos.inference.model.spec import HEAT_MAP_CELLS
from bentos.inference.request import input_of_image, input_of_numbers, inputs_of, upload_of
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.inference.side import SideModel
from bentos.inference.state import (
    EXPLAIN_PATH,
    PREDICT_IMAGE_PATH,
    PREDICT_PATH,
    SERVICE_NAME,
    InferenceState,
)
from bentos.inference.v2.routes import V2Routes
from bentos.kit import Kit
from bentos.process.probe_process import ProbePlan

# Of a request's time, how much it may wait for a model process that is being replaced: the rest
# is for its 503 to be answered before it is a 504.
_WAIT_FOR_MODEL = 0.8
# And for a heat map, of which the same is true.
_EXPLAIN = 0.8


class InferenceApp:
    """One worker's parts; `start` and `stop` belong on its event loop."""

    def __init__(self, settings: InferenceSettings, plan: ProbePlan, *, worker: int) -> None:
        self._settings = settings
        self.kit = Kit(plan, settings, worker=worker, on_beat=self._beat)
        self.state: InferenceState = self.kit.state
        self.state.queue_capacity.set(settings.queue_size)
        self.state.mlflow_poll_seconds.set(settings.model_poll_seconds)
        self._engine = Engine(
            self.state,
            queue_size=settings.queue_size,
            max_batch=settings.max_batch_size,
            wait_seconds=settings.request_timeout_seconds * _WAIT_FOR_MODEL,
        )
        self._drift = DriftWatch(self.state, window_seconds=settings.drift_window_seconds)
        self._tokens = Tokens(None, settings.predict_tokens_file, realm=SERVICE_NAME)
        given = ModelProcessSettings(settings=settings, service=SERVICE_NAME, worker=worker)
        self._process = ModelProcess(given.model_dump_json(), self._engine, self.state)
        self._destination = self._make_destination()
        self._delivery = self._make_delivery(worker)
        self._challenger = self._make_challenger(worker)
        self._explainer = self._make_explainer(worker)
        self._evidence = self._make_evidence()
        self.kit.add_routes(self._routes())

    def start(self) -> None:
        """Start the background parts; nothing of it waits for the model."""
        self.kit.start()
        self._process.start()
        for part in (self._delivery, self._challenger, self._evidence):
            if part is not None:
                part.start()

    async def stop(self) -> None:
        """Answer what waits, hand over what was predicted, and end the parts."""
        seconds = float(self._settings.shutdown_seconds)
        self.state.begin_shutdown()
        for part in (self._challenger, self._explainer):
            if part is not None:
                await part.stop()
        await self._engine.drained(seconds)
        await self._process.stop()
        senders = [one for one in (self._delivery, self._evidence) if one is not None]
        await asyncio.gather(*[one.stop(seconds / 2) for one in senders])
        await self.kit.stop()

    async def predict_values(self, values: Sequence[float]) -> dict[str, object]:
        """Return the answer for the numbers of one input; for BentoML's own callers."""
        return await self._answer(input_of_numbers(values))

    async def predict_file(self, content: bytes) -> dict[str, object]:
        """Return the answer for an image file's content; for BentoML's own callers."""
        return await self._answer(input_of_image(content, self._engine.spec))

    def _beat(self) -> None:
        self.state.queue_depth.set(self._engine.waiting)
        if self._challenger is not None:
            self._challenger.beat()
        self._drift.beat(self._engine.model)

    def _routes(self) -> list[Route]:
        make = partial(
            Route,
            "POST",
            guard=self._tokens.check,
            on_failure=self.state.record_error,
            on_refusal=self.state.record_refusal,
        )
        routes = [
            make(PREDICT_PATH, self._predict),
            make(PREDICT_IMAGE_PATH, self._predict_image),
            *V2Routes(
                self._engine,
                self.state,
                self.kit.probes,
                self._tokens.check,
                self._predict_all,
                max_body_bytes=self._settings.max_body_bytes,
            ).routes(),
        ]
        if self._explainer is not None:
            # Its failures are none of the service's, by which a pod is judged.
            explain = partial(self._explain, self._explainer)
            routes.append(Route("POST", EXPLAIN_PATH, explain, guard=self._tokens.check))
        return routes

    async def _predict(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        started = time.perf_counter()
        engine = self._engine
        given = inputs_of(request.content_type, body, engine.spec, limit=engine.request_limit)
        return await self._respond(request, given, started)

    async def _predict_image(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        started = time.perf_counter()
        upload = upload_of(request, body)
        given = input_of_image(upload.content, self._engine.spec)
        return await self._respond(request, given, started, image_id=upload.filename)

    async def _explain(self, explainer: Explainer, request: Request) -> Response:
        upload = upload_of(request, await request.body(self._settings.max_body_bytes))
        outcome = "failed"
        try:
            heat_map = await explainer.explain(upload.content)
            outcome = "answered"
        except ServiceError as error:
            outcome = "refused" if error.status < 500 else "failed"
            raise
        finally:
            self.state.explanations[outcome].add()
        return Response(msgspec.json.encode(heat_map))

    async def _respond(
        self, request: Request, given: Input, started: float, *, image_id: str = ""
    ) -> Response:
        predicted = await self._predict_all(given, started, request.request_id, image_id)
        bodies = predicted.bodies()
        if given.kind == InputKind.ROWS:
            return json_response({"predictions": bodies}, log=predicted.log())
        return json_response(bodies[0], log=bodies[0])

    async def _answer(self, given: Input) -> dict[str, object]:
        predicted = await self._predict_all(given, time.perf_counter(), new_prediction_id())
        return predicted.bodies()[0]

    async def _predict_all(
        self,
        given: Input,
        started: float,
        request_id: str,
        image_id: str = "",
        check_version: Callable[[str], None] | None = None,
    ) -> Predicted:
        """Return the predictions for the inputs of a request, once they are in the outbox.

        All of them are, or none is. `image_id` is what the client calls the input;
        `check_version` raises where the model that answered is not the one that was asked for.
        """
        if self._delivery is not None:
            self._delivery.check()
        with span("model") as of_model:
            predictions = await self._engine.predict(given)
            if of_model.is_recording():
                one = predictions[0]
                of_model.set_attribute("batch_size", one.batch_size)
                of_model.set_attribute("model_seconds", one.model_seconds)
        if check_version is not None:
            check_version(predictions[0].model.identity.version)
        seconds = time.perf_counter() - started
        predicted = Predicted(predictions, seconds * 1000)
        if self._delivery is not None:
            records = predicted.records(image_id=image_id, request_id=request_id)
            if (parent := traceparent()) is not None:
                records = [{**record, "traceparent": parent} for record in records]
            with span("outbox"):
                await self._delivery.put(*map(encode_json, records))
        self.state.record_predictions(predictions)
        self.state.duration.observe(seconds, trace_id())
        for prediction in predictions:
            self._drift.count(prediction)
        if self._challenger is not None:
            keep = partial(self._keep, given, predicted, image_id)
            self._challenger.offer(given, predictions, keep)
        else:
            self._keep(given, predicted, image_id, None)
        return predicted

    def _keep(
        self,
        given: Input,
        predicted: Predicted,
        image_id: str,
        challenged: Sequence[Prediction] | None,
    ) -> None:
        """Keep a picture for review where it is to be kept; of a file there is one prediction."""
        if self._evidence is None or given.kind != InputKind.FILE:
            return
        (prediction,) = predicted.predictions
        other = challenged[0] if challenged else prediction
        differs = other.class_name != prediction.class_name
        self._evidence.offer(
            prediction,
            given.content,
            image_id=image_id,
            challenger=ChallengerAnswer(
                other.model.identity.version, other.class_name, other.confidence
            )
            if differs
            else None,
        )

    def _make_challenger(self, worker: int) -> Challenger | None:
        settings = self._settings
        # One a pod: a sample of one worker's requests is one of all.
        if not settings.shadow_stage or worker != 1:
            return None
        return Challenger(
            SideModel(
                settings,
                name="challenger",
                stage=settings.shadow_stage,
                worker=worker,
                most_rows=settings.queue_size,
            ),
            self._engine,
            self.state,
            share=settings.shadow_share,
            seconds=settings.request_timeout_seconds,
        )

    def _make_explainer(self, worker: int) -> Explainer | None:
        settings = self._settings
        if not settings.explain:
            return None
        make = partial(
            SideModel,
            settings,
            name="explainer",
            stage=settings.model_stage,
            worker=worker,
            most_rows=1 + HEAT_MAP_CELLS**2,
        )
        return Explainer(make, seconds=settings.request_timeout_seconds * _EXPLAIN)

    def _make_destination(self) -> Destination | None:
        settings = self._settings
        if settings.logging_url is None:
            return None
        token = settings.logging_token
        return Destination(
            url=str(settings.logging_url).rstrip("/"),
            edge_device_id=settings.edge_device_id,
            token=token.get_secret_value() if token else None,
            token_file=settings.logging_token_file,
        )

    def _make_evidence(self) -> EvidenceSender | None:
        settings = self._settings
        if not settings.keep_images or self._destination is None:
            return None
        return EvidenceSender(
            self._destination,
            self.state,
            pass_share=settings.keep_pass_share,
            sample_share=settings.keep_sample_share,
            max_bytes=settings.keep_queue_bytes // settings.workers,
        )

    def _make_delivery(self, worker: int) -> Delivery | None:
        settings = self._settings
        if self._destination is None:
            return None
        return Delivery(
            outbox_path(settings.outbox_path, worker),
            Limits(
                max_rows=max(1, settings.outbox_max_rows // settings.workers),
                max_bytes=settings.outbox_max_bytes // settings.workers,
                ack=settings.prediction_ack,
                when_full=settings.outbox_full,
            ),
            self._destination,
            self.state,
            adopt=files_to_adopt(settings.outbox_path, worker=worker, workers=settings.workers),
        )
