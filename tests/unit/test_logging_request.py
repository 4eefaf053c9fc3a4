"""Bodies of `/log`: what is taken, and in which words the rest is refused."""

import asyncio
import json
import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.edge.http import ServiceError
from bentos.logging.request import BatchParser
from bentos.logging.store.schema import StoredPrediction
from tests.support.predictions import batch, prediction


def parse(body: Any, *, max_predictions: int = 100) -> tuple[StoredPrediction, ...]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    parser = BatchParser(max_predictions=max_predictions)
    return asyncio.run(parser.parse(content, request_id="request-1")).rows


def refusal(body: Any, **options: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        parse(body, **options)
    return refused.value


def parsed_or_refused(body: Any) -> tuple[StoredPrediction, ...] | ServiceError:
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
    assert json.loads(bytes(row.detections)) == sent["detections"]
    assert json.loads(bytes(row.confidence_scores)) == sent["confidence_scores"]
    assert row.sent_at == 1_750_000_000
    assert abs(row.received_at - time.time()) < 60


def test_what_may_be_left_out_may_be_left_out() -> None:
    sent = prediction(prediction_id=None)
    del sent["detections"][0]["uncertain"], sent["detections"][0]["bbox"]
    (row,) = parse({"predictions": [sent], "edge_device_id": "edge-1"})

    assert (row.prediction_id, row.processing_notes, row.sent_at) == (None, None, None)
    assert row.request_id == "request-1"
    assert json.loads(bytes(row.detections))[0] == {
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
        ({"timestamp": -1}, "timestamp", "Unix seconds"),
        ({"timestamp": 1.75e12}, "timestamp", "Unix seconds"),
        ({"timestamp": float("inf")}, "timestamp", "a finite number"),
        ({"inference_time_ms": -0.1}, "inference_time_ms", "milliseconds between 0 and 1e9"),
        ({"inference_time_ms": True}, "inference_time_ms", "milliseconds between 0 and 1e9"),
        ({"inference_time_ms": float("nan")}, "inference_time_ms", "a finite number"),
        ({"defect_detected": 1}, "defect_detected", "true or false"),
        ({"defect_detected": "yes"}, "defect_detected", "true or false"),
        ({"verdict": "perhaps"}, "verdict", "pass, fail or review"),
        ({"processing_notes": "x" * 10_001}, "processing_notes", "a text of at most 10000"),
        ({"confidence_scores": [0.5, 2]}, "confidence_scores[1]", "a number between 0 and 1"),
        ({"confidence_scores": {"a": "b"}}, "confidence_scores", "a list, or an object by class"),
        ({"confidence_scores": [0.5] * 65_537}, "confidence_scores", "at most 65536 numbers"),
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
        (batch(prediction(), timestamp=[]), "timestamp: expected Unix seconds"),
        (batch(prediction(), timestamp=True), "timestamp: expected Unix seconds"),
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
            b'{"predictions": [{"camera": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
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


def test_other_requests_get_their_turn_while_a_large_batch_is_parsed() -> None:
    content = json.dumps(batch(*[prediction()] * 2_000)).encode()

    async def turns_while_parsing() -> int:
        turns = 0
        parser = BatchParser(max_predictions=2_000)
        task = asyncio.create_task(parser.parse(content, request_id="request-1"))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert len((await task).rows) == 2_000
        return turns

    assert asyncio.run(turns_while_parsing()) >= 10


def holding(field: str, json_value: bytes) -> bytes:
    """Return the body of a batch of one prediction whose field is this JSON."""
    return json.dumps(batch(prediction(**{field: "@"}))).encode().replace(b'"@"', json_value)


# Ten megabytes that once took seconds, or a hundred megabytes of memory, to refuse or to take.
SIZE = 10_000_000
ACCEPTED = ""
HOSTILE = {
    "a NUL last in a field that is not ours": (
        holding("camera", b"[" + b"0," * (SIZE // 2) + b'"\\u0000"]'),
        ACCEPTED,
    ),
    "a NUL first in a field that is not ours": (
        holding("camera", b'["\\u0000"' + b",0" * (SIZE // 2) + b"]"),
        ACCEPTED,
    ),
    "a timestamp of empty lists": (
        holding("timestamp", b"[" + b"[]," * (SIZE // 3) + b"[]]"),
        "predictions[0].timestamp: expected Unix seconds",
    ),
    "numbers for predictions": (
        b'{"predictions":[' + b"0," * (SIZE // 2) + b"0]}",
        "predictions[0]: expected a JSON object",
    ),
    "empty predictions": (
        b'{"predictions":[' + b"{}," * (SIZE // 3) + b"{}]}",
        "predictions[0].image_id: expected a text of 1 to 512 characters, it is missing",
    ),
    "five million scores": (
        holding("confidence_scores", b"[" + b"0," * (SIZE // 2) + b"0]"),
        "predictions[0].confidence_scores: expected at most 65536 numbers",
    ),
    "a million classes": (
        holding("confidence_scores", b'{"a":0' + b',"a":0' * (SIZE // 6) + b"}"),
        "predictions[0].confidence_scores: expected at most 65536 numbers",
    ),
    "scores that are all NaN": (
        holding("confidence_scores", b"[NaN" + b",NaN" * (SIZE // 4) + b"]"),
        "the body is not valid JSON",
    ),
    "detections by the hundred thousand": (
        holding("detections", b"[" + b'{"class":"a","confidence":0},' * (SIZE // 29) + b"7]"),
        "predictions[0].detections: expected at most 1048576 bytes of JSON",
    ),
    "brackets without an end": (
        holding("camera", b"[" * SIZE),
        "body: expected JSON nested less deeply",
    ),
    "escapes": (
        holding("image_id", b'"' + b"\\u0041" * (SIZE // 6) + b'"'),
        "predictions[0].image_id: expected a text of 1 to 512 characters",
    ),
    "backslashes before a NUL": (
        holding("image_id", b'"' + b"\\\\" * (SIZE // 2) + b'\\u0000"'),
        "predictions[0].image_id: expected a text of 1 to 512 characters",
    ),
    "a number of ten million digits": (
        holding("timestamp", b"1" * SIZE),
        "predictions[0].timestamp: expected Unix seconds",
    ),
    "blanks": (b" " * SIZE, "the body is not valid JSON"),
}


@pytest.mark.case(7)
@pytest.mark.parametrize(("body", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_answered_in_bounded_time_and_memory(body: bytes, says: str) -> None:
    """10 MB of JSON made to be slow: parsed or refused at once, with little memory beside it."""
    tracemalloc.start()
    started = time.process_time()
    outcome = parsed_or_refused(body)
    seconds = time.process_time() - started
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    if says == ACCEPTED:
        assert isinstance(outcome, tuple)
    else:
        assert isinstance(outcome, ServiceError)
        assert outcome.message.startswith(says)
        assert len(outcome.message) < 300
    assert most < 4 * len(body)
    assert seconds < 2  # with every allocation traced; 0.1 s without


@pytest.mark.case(7)
def test_a_fault_in_a_large_batch_is_named_without_parsing_it_again() -> None:
    """One wrong time among 5,000 predictions: the item and the field, without the value."""
    sent = [prediction() for _ in range(5_000)]
    sent[4_711]["inference_time_ms"] = -1
    refused = refusal(batch(*sent), max_predictions=5_000)

    assert refused.message == (
        "predictions[4711].inference_time_ms: expected milliseconds between 0 and 1e9"
    )


@pytest.mark.case(7)
def test_a_nan_in_a_large_batch_is_named() -> None:
    """One NaN among 5,000 predictions, which is no JSON: the item and the field are named."""
    sent = [prediction() for _ in range(5_000)]
    sent[4_711]["confidence_scores"] = [0.5, float("nan"), float("nan")]
    refused = refusal(batch(*sent), max_predictions=5_000)

    assert refused.message == (
        "predictions[4711].confidence_scores[1]: expected a finite number, got NaN"
    )


def test_what_is_no_json_is_shown_where_it_ends_to_be() -> None:
    refused = refusal(b'{"predictions": [{"image_id": "a" "timestamp": 1}]}')

    assert "(byte 34)" in refused.message
    assert "timestamp" in refused.message


@pytest.mark.case(21)
@pytest.mark.parametrize(
    ("sent", "stored"),
    [(1.0000001, 1.0), (1 + 9e-7, 1.0), (-1e-7, 0.0), (0.99999999, 0.99999999), (1, 1.0)],
)
def test_rounding_noise_of_float32_is_clamped(sent: float, stored: float) -> None:
    """A confidence of 1.0000001, as float32 rounds: stored as 1, with the rest of the batch."""
    item = prediction(
        confidence_scores=[sent, 0.5], detections=[detection(confidence=sent), detection()]
    )
    by_class = prediction(confidence_scores={"scratch": sent, "none": 0.5})
    first, second = parse(batch(item, by_class))

    assert json.loads(bytes(first.confidence_scores)) == [stored, 0.5]
    assert [one["confidence"] for one in json.loads(bytes(first.detections))] == [stored, 0.5]
    assert json.loads(bytes(second.confidence_scores)) == {"scratch": stored, "none": 0.5}


@pytest.mark.case(21)
@pytest.mark.parametrize("sent", [1.00001, 93, -0.00001])
def test_what_is_no_rounding_noise_is_refused(sent: float) -> None:
    """A confidence of 93, or of 1.00001: a 400 that names it."""
    refused = refusal(batch(prediction(confidence_scores=[0.5, sent])))

    assert refused.message.startswith(
        f"predictions[0].confidence_scores[1]: expected a number between 0 and 1, got {sent}"
    )


@pytest.mark.case(14)
@pytest.mark.parametrize("timestamp", [-5, 1e30, "yesterday", "1969-07-20T20:17:40Z", "", 5e9])
def test_a_batchs_senseless_time_is_ignored_and_said(timestamp: Any) -> None:
    """A batch sent at no possible time: its rows are taken, `sent_at` stays empty."""
    content = json.dumps(batch(prediction(), timestamp=timestamp)).encode()
    parsed = asyncio.run(BatchParser(max_predictions=10).parse(content, request_id="r"))

    assert [row.sent_at for row in parsed.rows] == [None]
    (warning,) = parsed.warnings
    assert warning.startswith("timestamp: expected Unix seconds")
    assert json.dumps(timestamp) in warning


@pytest.mark.case(14)
def test_predictions_of_a_host_whose_clock_stands_at_1970_are_taken() -> None:
    """50 good rows and 5 of 1970 in a batch of 1970: all 55 are taken, each with its own time."""
    good = [prediction() for _ in range(50)]
    early = [prediction(timestamp=12.5 + number) for number in range(5)]
    rows = parse(batch(*good, *early, timestamp=17.0))

    assert [row.timestamp for row in rows[50:]] == [12.5, 13.5, 14.5, 15.5, 16.5]
    assert {row.sent_at for row in rows} == {17.0}
    assert all(row.received_at > 1.7e9 for row in rows)


@pytest.mark.case(15)
def test_the_most_classes_and_the_longest_names_are_taken() -> None:
    """65,536 scores, and names of 512 characters: what a model may have is stored."""
    many = prediction(confidence_scores=[1 / 65_536] * 65_536)
    named = prediction(
        confidence_scores={f"class {number}": 0.0 for number in range(65_536)},
        detections=[detection(**{"class": "c" * 512})],
    )
    first, second = parse(batch(many, named))

    assert len(json.loads(bytes(first.confidence_scores))) == 65_536
    assert len(json.loads(bytes(second.confidence_scores))) == 65_536


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
        # Of what is no JSON, such as a number that is infinite, the place in the body is named.
        assert name in outcome.message or "is not valid JSON" in outcome.message
    else:
        assert len(outcome) == 1


@given(content=st.binary(max_size=200))
def test_no_bytes_make_it_fail_in_another_way_than_a_400(content: bytes) -> None:
    assert refusal(content).status == 400
