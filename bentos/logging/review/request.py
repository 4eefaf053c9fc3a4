"""A body of `/evidence` to kept pictures, or to the error that names the item and the field."""

import msgspec
from msgspec import Raw

from bentos.edge.http import ServiceError
from bentos.evidence import Evidence, EvidenceBatch, media_type_of
from bentos.logging.request import bad_field, decode_part, refuse_nul

_batches = msgspec.json.Decoder(EvidenceBatch)
_encode = msgspec.json.Encoder().encode


def parse_evidence(body: bytes) -> list[Evidence]:
    """Return the pictures of a body; raises ServiceError 400 for the first fault found."""
    if not body:
        raise ServiceError(
            400, "bad_input", 'the body is empty; send a JSON object {"evidence": [...]}'
        )
    evidence = decode_part(_batches, body, EvidenceBatch).evidence
    may_hold_nul = b"\\u0000" in body
    for index, one in enumerate(evidence):
        path = f"evidence[{index}]"
        if media_type_of(one.picture) is None:
            raise bad_field(
                f"{path}.picture",
                "a PNG, JPEG or BMP file in base64",
                f"{len(one.picture)} bytes of another kind",
            )
        if may_hold_nul:
            parts = {name: Raw(_encode(getattr(one, name))) for name in ("scores", "challenger")}
            refuse_nul(msgspec.structs.replace(one, **parts), path)
    return evidence
