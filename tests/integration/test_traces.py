"""One trace from a client's `traceparent` to the commit of its prediction, and exemplars."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.collector import Collector, bentoml_settings, collecting
from tests.support.inference import channel, start_inference
from tests.support.models import ModelStore
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service

_LOGGING = "bentos.logging.service:LoggingService"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# Hardly anything is sampled unless its client says so.
_RARE = 0.0001
_TRACE = "0af7651916cd43dd8448eb211c80319c"
_CLIENT_SPAN = "b7ad6b7169203331"


@dataclass(frozen=True)
class Stack:
    """Both services, and the collector that they send their spans to."""

    collector: Collector
    inference: Server
    logging: Server

    def predict(self, traceparent: str | None = None) -> str:
        """Send a prediction and return its id, once it is stored."""
        headers = {} if traceparent is None else {"traceparent": traceparent}
        answer = self.inference.post("/predict", json={"data": channel(1)}, headers=headers)
        prediction_id = str(answer.json()["prediction_id"])
        self.logging.wait_until(lambda: prediction_id in self.stored(), "the prediction is stored")
        return prediction_id

    def stored(self) -> dict[str, str | None]:
        """Return the `traceparent` of each stored prediction by its id."""
        page = self.logging.get("/predictions?limit=1000").json()["predictions"]
        return {one["prediction_id"]: one["traceparent"] for one in page}

    def buckets(self, metric: str) -> list[Sample]:
        """Return the buckets of a histogram as a scrape of the probe port's OpenMetrics."""
        scrape = self.inference.probe("/metrics", headers={"Accept": _OPENMETRICS})
        assert scrape.headers["content-type"].startswith("application/openmetrics-text")
        families = text_string_to_metric_families(scrape.text)  # type: ignore[no-untyped-call]
        (family,) = (one for one in families if one.name == metric)
        return [one for one in family.samples if one.name.endswith("_bucket")]


@pytest.fixture(scope="module")
def stack(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("traces")
    with ExitStack() as running:
        collector = running.enter_context(collecting())
        env = bentoml_settings(directory, tracing=collector.tracing(sample_rate=_RARE))
        logging = running.enter_context(
            start_service(
                _LOGGING,
                directory,
                env={**env, "DATABASE_PATH": str(directory / "predictions.db")},
            )
        )
        inference = running.enter_context(
            start_inference(
                directory,
                model_store.copy(directory).tracking_uri,
                env={**env, "LOGGING_URL": logging.url},
            )
        )
        logging.wait_for_status("/ready", 200)
        inference.wait_until_ready()
        yield Stack(collector, inference, logging)


def test_a_sampled_request_is_one_trace_from_the_client_to_the_commit(stack: Stack) -> None:
    prediction_id = stack.predict(f"00-{_TRACE}-{_CLIENT_SPAN}-01")
    stored = stack.collector.wait_for(
        lambda one: one.attributes.get("prediction_id") == prediction_id
    )
    spans = {
        name: stack.collector.wait_for(
            lambda one, name=name: one.trace_id == _TRACE and one.name == name  # type: ignore[misc]
        )
        for name in ("model", "outbox", "/log")
    }
    request = stack.collector.wait_for(
        lambda one: one.trace_id == _TRACE and "request_id" in one.attributes
    )
    assert request.parent_id == _CLIENT_SPAN
    assert spans["/log"] == stored
    assert {one.parent_id for one in spans.values()} == {request.span_id}
    assert spans["model"].attributes["batch_size"] == 1
    assert request.start <= spans["model"].start <= spans["model"].end <= spans["outbox"].start
    assert stored.service != request.service
    assert stored.start >= spans["outbox"].end - 0.001
    assert stack.stored()[prediction_id] == f"00-{_TRACE}-{request.span_id}-01"


def test_its_bucket_of_the_latency_histogram_names_the_trace(stack: Stack) -> None:
    trace = "a" * 32
    stack.predict(f"00-{trace}-{_CLIENT_SPAN}-01")

    def named() -> set[str]:
        buckets = stack.buckets("inference_prediction_duration_seconds")
        return {one.exemplar.labels["trace_id"] for one in buckets if one.exemplar}

    # A bucket keeps its exemplar for a second.
    stack.inference.wait_until(
        lambda: bool(stack.predict(f"00-{trace}-{_CLIENT_SPAN}-01")) and trace in named(),
        "the exemplar",
    )


@pytest.mark.parametrize(
    "traceparent",
    [None, f"00-{'b' * 32}-{_CLIENT_SPAN}-00", "00-nonsense-01", "00-" + "0" * 32 + "-1-01"],
    ids=["none", "not-sampled", "malformed", "zero"],
)
def test_a_request_that_is_not_sampled_leaves_no_trace(
    stack: Stack, traceparent: str | None
) -> None:
    prediction_id = stack.predict(traceparent)
    assert stack.stored()[prediction_id] is None


def test_a_device_that_sends_a_malformed_traceparent_loses_no_prediction(stack: Stack) -> None:
    body = batch(prediction(prediction_id="of-a-device", traceparent="nonsense"))
    assert stack.logging.post("/log", json=body).json()["predictions_stored"] == 1
    assert stack.stored()["of-a-device"] == "nonsense"


def test_every_prediction_of_a_batch_may_be_sampled_and_a_hundred_get_a_span(stack: Stack) -> None:
    sampled, last = (f"00-{digit * 32}-{_CLIENT_SPAN}-01" for digit in "cd")
    body = batch(*(prediction(traceparent=sampled) for _ in range(500)))
    assert stack.logging.post("/log", json=body).json()["predictions_stored"] == 500
    stack.logging.post("/log", json=batch(prediction(traceparent=last)))
    stack.collector.wait_for(lambda one: one.trace_id == "d" * 32)
    assert sum(one.trace_id == "c" * 32 for one in stack.collector.spans) == 100
