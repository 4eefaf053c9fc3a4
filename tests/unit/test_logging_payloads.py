"""Bodies of `/log`: what is taken, and in which words the rest is refused."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.edge.http import ServiceError
from bentos.logging.payloads import parse_batch
from bentos.logging.schema import PredictionRow
from tests.support.predictions import batch, prediction


def parse(body: Any, *, max_predictions: int = 100) -> tuple[PredictionRow, ...]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    parsed = asyncio.run(
        parse_batch(content, max_predictions=max_predictions, request_id="request-1")
    )
    return parsed.rows


def refusal(body: Any, **options: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        parse(body, **options)
    return refused.value


def parsed_or_refused(body: Any) -> tuple[PredictionRow, ...] | ServiceError:
    try:
        return parse(body)
    except ServiceError as refused:
        return refused


def test_every_field_reaches_its_column() -> None:
    sent = prediction(processing_notes="dim", edge_device_id="edge-9", request_id="line-4")
    (row,) = parse(batch(sent, timestamp=1_750_000_000))

    for name in (
        *("prediction_id", "image_id", "timestamp", "edge_device_id", "model_name"),
        *("model_version", "inference_time_ms", "defect_detected", "processing_notes"),
        "request_id",
    ):
        assert getattr(row, name) == sent[name]
    assert json.loads(row.detections) == sent["detections"]
    assert json.loads(row.confidence_scores) == sent["confidence_scores"]
    assert row.sent_at == 1_750_000_000
    assert abs(row.received_at - time.time()) < 60


def test_what_may_be_left_out_may_be_left_out() -> None:
    sent = prediction(prediction_id=None)
    del sent["detections"][0]["uncertain"], sent["detections"][0]["bbox"]
    (row,) = parse({"predictions": [sent], "edge_device_id": "edge-1"})

    assert (row.prediction_id, row.processing_notes, row.sent_at) == (None, None, None)
    assert row.request_id == "request-1"
    assert json.loads(row.detections)[0] == {
        "class": "scratch",
        "confidence": 0.93,
        "bbox": None,
        "uncertain": False,
    }


def test_a_null_is_the_same_as_a_field_left_out() -> None:
    names = ("processing_notes", "edge_device_id", "prediction_id", "request_id")
    (row,) = parse(
        {
            "predictions": [prediction() | dict.fromkeys(names)],
            "edge_device_id": "edge-1",
            "batch_size": None,
            "timestamp": None,
        }
    )

    assert (row.edge_device_id, row.prediction_id) == ("edge-1", None)


def test_the_items_device_goes_before_the_batchs() -> None:
    rows = parse(
        batch(prediction(edge_device_id="of-item"), prediction(), edge_device_id="of-batch")
    )

    assert [row.edge_device_id for row in rows] == ["of-item", "of-batch"]


def test_fields_it_does_not_know_are_passed_over() -> None:
    sent = prediction(camera={"exposure": [1, 2]}) | {"detections": [{**detection(), "mask": "x"}]}

    assert len(parse(batch(sent, firmware="1.2"))) == 1


def detection(**changes: Any) -> dict[str, Any]:
    return {"class": "scratch", "confidence": 0.5, "bbox": None, "uncertain": False} | changes


@pytest.mark.parametrize(
    "timestamp", [1_750_000_000, 1_750_000_000.5, "2025-06-15T15:06:40Z", "2025-06-15T15:06:40"]
)
def test_the_batchs_time_may_be_unix_seconds_or_iso_8601(timestamp: Any) -> None:
    (row,) = parse(batch(prediction(), timestamp=timestamp))

    assert row.sent_at == pytest.approx(
        datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC).timestamp(), abs=1
    )


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"image_id": ""}, "image_id", "a text of 1 to 512 characters"),
        ({"image_id": "x" * 513}, "image_id", "a text of 1 to 512 characters"),
        ({"image_id": 7}, "image_id", "a text of 1 to 512 characters"),
        ({"model_name": ["m"]}, "model_name", "a text of 1 to 512 characters"),
        ({"model_version": 3}, "model_version", "a text of 1 to 128 characters"),
        ({"prediction_id": ""}, "prediction_id", "a text of 1 to 128 characters"),
        ({"edge_device_id": "e" * 129}, "edge_device_id", "a text of 1 to 128 characters"),
        ({"timestamp": "now"}, "timestamp", "Unix seconds"),
        ({"timestamp": 0}, "timestamp", "Unix seconds"),
        ({"timestamp": 1.75e12}, "timestamp", "Unix seconds"),
        ({"timestamp": float("inf")}, "timestamp", "a finite number"),
        ({"inference_time_ms": -0.1}, "inference_time_ms", "milliseconds between 0 and 1e9"),
        ({"inference_time_ms": True}, "inference_time_ms", "milliseconds between 0 and 1e9"),
        ({"inference_time_ms": float("nan")}, "inference_time_ms", "a finite number"),
        ({"defect_detected": 1}, "defect_detected", "true or false"),
        ({"defect_detected": "yes"}, "defect_detected", "true or false"),
        ({"processing_notes": "x" * 10_001}, "processing_notes", "a text of at most 10000"),
        ({"confidence_scores": [0.5, 2]}, "confidence_scores[1]", "a number between 0 and 1"),
        ({"confidence_scores": {"a": "b"}}, "confidence_scores", "a list, or an object by class"),
        ({"confidence_scores": [0.5] * 10_001}, "confidence_scores", "at most 10000 numbers"),
        ({"detections": "none"}, "detections", "a list of at most 1000 detections"),
        ({"detections": [detection()] * 1_001}, "detections", "a list of at most 1000 detections"),
        ({"detections": [7]}, "detections[0]", "a JSON object"),
        ({"detections": [{"class": "x"}]}, "detections[0].confidence", "a number between 0 and 1"),
        (
            {"detections": [detection(), detection(confidence=-1)]},
            "detections[1].confidence",
            "a number between 0 and 1",
        ),
        ({"detections": [detection(bbox=[1, 2, 3])]}, "detections[0].bbox", "four finite numbers"),
        (
            {"detections": [detection(bbox=[1, 2, 3, "4"])]},
            "detections[0].bbox[3]",
            "four finite numbers",
        ),
        (
            {"detections": [detection(bbox=[1, 2, 3, float("nan")])]},
            "detections[0].bbox[3]",
            "a finite number",
        ),
        ({"detections": [detection(uncertain="no")]}, "detections[0].uncertain", "true or false"),
    ],
)
def test_a_faulty_field_is_named_with_what_was_expected(
    changes: dict[str, Any], path: str, expected: str
) -> None:
    refused = refusal(batch(prediction(), prediction() | changes))

    assert (refused.status, refused.reason) == (400, "bad_input")
    assert refused.message.startswith(f"predictions[1].{path}: expected {expected}")
    assert refused.details["field"] == f"predictions[1].{path}"


@pytest.mark.parametrize(
    "name",
    [
        *("image_id", "timestamp", "model_version", "model_name", "inference_time_ms"),
        *("detections", "defect_detected", "confidence_scores"),
    ],
)
def test_a_missing_field_is_named(name: str) -> None:
    refused = refusal(batch(prediction(**{name: None})))

    assert refused.message.startswith(f"predictions[0].{name}: expected")
    assert refused.message.endswith("it is missing")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (batch(), "predictions: expected at least one prediction"),
        ({"predictions": {}}, "predictions: expected a list of predictions, got {}"),
        ([], "body: expected a JSON object, got []"),
        (None, "body: expected a JSON object, got null"),
        (batch(prediction(), batch_size=2), "batch_size: expected 1, the number of predictions"),
        (batch(prediction(), batch_size="1"), "batch_size: expected the number of predictions"),
        (batch(prediction(), timestamp="yesterday"), "timestamp: expected Unix seconds"),
        (batch(prediction(), timestamp=-5), "timestamp: expected Unix seconds"),
        (batch(prediction(), timestamp="1969-07-20T20:17:40Z"), "timestamp: expected Unix"),
        (batch(prediction(), edge_device_id=9), "edge_device_id: expected a text of 1 to 128"),
        (
            batch(prediction(), edge_device_id=None),
            "predictions[0].edge_device_id: expected a text of 1 to 128 characters, here or",
        ),
        (b"", "the body is empty"),
        (b"\xff\xfe", "the body is not valid JSON"),
        (b'{"predictions": [', "the body is not valid JSON"),
        (b"[" * 100_000, "body: expected"),
        (
            b'{"predictions": [{"image_id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
            "body: expected JSON nested less deeply",
        ),
        (b'{"predictions": [{"timestamp": 1e999}]}', "predictions[0].timestamp: expected"),
        (
            batch(prediction(image_id="a\0b")),
            "predictions[0].image_id: expected a text without NUL characters",
        ),
    ],
)
def test_a_faulty_body_is_refused_in_words(body: Any, says: str) -> None:
    refused = refusal(body)

    assert (refused.status, refused.reason) == (400, "bad_input")
    assert refused.message.startswith(says)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    (row,) = parse(batch(prediction(image_id="C:\\u0000")))

    assert row.image_id == "C:\\u0000"


def test_a_long_value_is_shown_in_part() -> None:
    refused = refusal(batch(prediction(image_id="x" * 5_000)))

    assert len(refused.message) < 300


def test_more_predictions_than_allowed_are_a_413() -> None:
    refused = refusal(batch(*[prediction()] * 3), max_predictions=2)

    assert (refused.status, refused.reason) == (413, "too_large")


def test_a_large_batch_lets_the_event_loop_breathe() -> None:
    content = json.dumps(batch(*[prediction()] * 2_000)).encode()

    async def turns_while_parsing() -> int:
        turns = 0
        task = asyncio.create_task(
            parse_batch(content, max_predictions=2_000, request_id="request-1")
        )
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert len((await task).rows) == 2_000
        return turns

    assert asyncio.run(turns_while_parsing()) >= 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(value=JSON)
def test_no_json_value_makes_it_fail_in_another_way_than_a_400(value: Any) -> None:
    assert refusal(value).status == 400


@given(name=st.sampled_from(sorted(prediction())), value=JSON)
def test_no_value_of_a_field_makes_it_fail_in_another_way_than_a_400(name: str, value: Any) -> None:
    outcome = parsed_or_refused(batch(prediction() | {name: value}))

    if isinstance(outcome, ServiceError):
        assert outcome.status == 400
        assert name in outcome.message
    else:
        assert len(outcome) == 1


@given(content=st.binary(max_size=200))
def test_no_bytes_make_it_fail_in_another_way_than_a_400(content: bytes) -> None:
    assert refusal(content).status == 400
