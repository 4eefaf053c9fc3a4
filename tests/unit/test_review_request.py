"""Bodies of `/evidence`: what is taken, and what a 400 says of the others."""

import base64
import json
from typing import Any

import msgspec
import pytest

from bentos.edge.http import ServiceError
from bentos.evidence import EvidenceBatch
from bentos.logging.review.request import parse_evidence
from tests.support.evidence import evidence


def body(**changes: Any) -> bytes:
    """Return a body with two pictures, the second changed."""
    batch = json.loads(msgspec.json.encode(EvidenceBatch([evidence(), evidence()])))
    batch["evidence"][1] |= changes
    return json.dumps(batch).encode()


def refused(content: bytes) -> tuple[str, str]:
    """Return the field and the message of the 400."""
    with pytest.raises(ServiceError) as caught:
        parse_evidence(content)
    assert caught.value.status == 400
    return str(caught.value.details.get("field", "")), caught.value.message


def test_pictures_are_read_as_they_were_sent() -> None:
    sent = [evidence(), evidence(verdict="pass")]
    assert parse_evidence(msgspec.json.encode(EvidenceBatch(sent))) == sent


@pytest.mark.case(7)
@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"picture": "no base64!"}, "evidence[1].picture", "an image file in base64"),
        ({"picture": 7}, "evidence[1].picture", "an image file in base64"),
        ({"picture": ""}, "evidence[1].picture", "a PNG, JPEG or BMP file in base64"),
        (
            {"picture": base64.b64encode(b"GIF89a, and more").decode()},
            "evidence[1].picture",
            "16 bytes of another kind",
        ),
        ({"verdict": "maybe"}, "evidence[1].verdict", "pass, fail or review"),
        ({"sample_probability": 0}, "evidence[1].sample_probability", "from 0.000001 to 1"),
        ({"sample_probability": 1e-300}, "evidence[1].sample_probability", "from 0.000001 to 1"),
        ({"confidence": 2}, "evidence[1].confidence", "between 0 and 1"),
        ({"prediction_id": "a\0b"}, "evidence[1].prediction_id", "without NUL"),
        ({"scores": {"a\0b": 0.5}}, "evidence[1].scores", "without NUL"),
        ({"scores": {str(n): 0.01 for n in range(21)}}, "evidence[1].scores", "at most 20"),
        (
            {"challenger": {"version": "4", "class_name": "a\0", "confidence": 0.5}},
            "evidence[1].challenger",
            "without NUL",
        ),
        ({"challenger": {"version": "4"}}, "evidence[1].challenger.class_name", "missing"),
        ({"timestamp": 1e30}, "evidence[1].timestamp", "Unix seconds"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str, says: str) -> None:
    """One field of one picture is wrong: 400 names it and says what was expected."""
    named, message = refused(body(**changes))
    assert named == field
    assert says in message


@pytest.mark.case(7)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "a JSON object"),
        (b'{"evidence": []}', "a list of 1 to 100 kept pictures"),
        (b'{"evidence": [%s]}' % b",".join([b"{}"] * 101), "evidence"),
        (b'{"more": ' + b"[" * 100_000, "nested less deeply"),
        (b'{"evidence": [{"scores": ' + b'{"a":' * 100_000, "evidence"),
        (b'{"evidence": NaN}', "not valid JSON"),
        (b'{"evidence": "\xff"}', "evidence"),
    ],
)
def test_what_is_no_list_of_pictures_is_a_400(content: bytes, says: str) -> None:
    """No JSON, or other JSON, also nested 100,000 levels deep: 400 that says what is wrong."""
    field, message = refused(content)
    assert says in field + message
