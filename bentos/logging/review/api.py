"""The routes of pictures and labels on the API page."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel, Field

from bentos.edge.openapi import JSON, Content, Operation
from bentos.evidence import EvidenceBatch
from bentos.logging.state import EVIDENCE_PATH

_BODIES, _PARTS = msgspec.json.schema_components(
    [EvidenceBatch], ref_template="#/components/schemas/{name}"
)
SCHEMAS: Mapping[str, Any] = _PARTS


class EvidenceAnswer(BaseModel):
    """What `/evidence` answers once the pictures are on disk."""

    status: str = Field(description="`success`")
    stored: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Pictures that were stored before.")


_EXAMPLE = {
    "evidence": [
        {
            "prediction_id": "line-4-000017",
            "edge_device_id": "line-4",
            "timestamp": 1795600000.25,
            "image_id": "000017.png",
            "model_name": "steel-defects",
            "model_version": "3",
            "class_name": "crack",
            "confidence": 0.41,
            "verdict": "review",
            "scores": {"crack": 0.41, "good": 0.38, "scratch": 0.21},
            "picture": "iVBORw0KGgo=",
            "sampled": False,
            "sample_probability": 0.2,
            "keep_probability": 1.0,
            "challenger": None,
        }
    ]
}
OPERATIONS: Sequence[Operation] = (
    Operation(
        "POST",
        EVIDENCE_PATH,
        "Store pictures for review",
        "All of them or none; the answer comes after the commit is on disk. A device's"
        " `prediction_id` is stored once.",
        body=[Content(JSON, _BODIES[0], _EXAMPLE)],
        answers={
            200: (
                "Stored, or stored before.",
                Content(JSON, EvidenceAnswer, {"status": "success", "stored": 1, "duplicates": 0}),
            ),
            400: ("A picture or what is said of it is wrong; `field` names it.", None),
            401: ("A token is required, and this is none that is valid now.", None),
            413: ("Too many bytes; send fewer pictures at once.", None),
            429: ("Too many requests wait to be stored; try again later.", None),
            503: ("Nothing of it was stored; send it again.", None),
            504: ("No answer in time; send it again.", None),
        },
        protected=True,
    ),
)
