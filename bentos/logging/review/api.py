"""The routes of pictures and labels on the API page."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from bentos.edge.openapi import JSON, Content, Operation, parameter
from bentos.evidence import EvidenceBatch
from bentos.logging.review.labels import Label, Labels
from bentos.logging.review.page import HEAT_PATH, PICTURE_PATH
from bentos.logging.state import EVIDENCE_PATH, LABELS_PATH, QUALITY_PATH, REVIEW_PATH


class EvidenceAnswer(BaseModel):
    """What `/evidence` answers once the pictures are on disk."""

    status: str = Field(description="`success`")
    stored: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Pictures that were stored before.")


class LabelsAnswer(BaseModel):
    """What `POST /labels` answers once the labels are on disk."""

    status: str = Field(description="`success`")
    labels: int = Field(ge=1)
    unknown: int = Field(ge=0, description="Labels of predictions of which no picture is kept.")
    new_classes: list[str] = Field(
        description="Classes that no model has said and no label named before: misspelt?"
    )


class LabelsPage(BaseModel):
    """Labels, oldest first."""

    labels: list[dict[str, Any]]
    count: int
    next: int | None = Field(description="`after` of the next page, null at the end.")


class Queue(BaseModel):
    """Pictures that wait for a label, in the order in which to look at them."""

    waiting: int = Field(description="How many wait in all.")
    pictures: list[dict[str, Any]]
    next: int | None = Field(description="`skip` of the next page, null at the end.")


class QualityRate(BaseModel):
    """A rate, its 95% interval, and how many labelled pictures are in its denominator."""

    estimate: float
    low: float
    high: float
    labels: int


class VersionQuality(BaseModel):
    """The figures of one version; null where the labels do not tell."""

    model_name: str
    model_version: str
    good_classes: list[str] = Field(description="Classes that the model passes.")
    pictures: int = Field(description="Pictures in the random sample.")
    labels: int = Field(description="Those of them that have a label.")
    unlabelled_verdicts: list[str] = Field(
        description="Verdicts of which none has a label yet, without which there are no figures."
    )
    escape_rate: QualityRate | None = Field(description="Defects that passed, of all defects.")
    false_reject_rate: QualityRate | None = Field(description="Good ones that failed, of all.")
    precision: dict[str, QualityRate | None]
    recall: dict[str, QualityRate | None]


class Quality(BaseModel):
    """How often the answers are right."""

    days: float
    edge_device_id: str | None
    versions: list[VersionQuality]


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
_LABEL = {"prediction_id": "line-4-000017", "true_class": "crack", "labelled_by": "ada"}
_LABELLED = {"status": "success", "labels": 1, "unknown": 0, "new_classes": []}
_SAID = {name: value for name, value in _EXAMPLE["evidence"][0].items() if name != "picture"}
_STORED_LABEL = {
    "id": 1,
    **_LABEL,
    "note": None,
    "reported": False,
    "labelled_at": 1795601000.5,
    **_SAID,
    "picture_kept": True,
    "last": True,
}
_WAITING = {
    **_SAID,
    "true_class": None,
    "bytes": 48_213,
    "media_type": "image/png",
    "received_at": 1795600001.5,
}
_RATE = {"estimate": 0.038462, "low": 0.002219, "high": 0.158013, "labels": 54}
_QUALITY = {
    "days": 30.0,
    "edge_device_id": None,
    "versions": [
        {
            "model_name": "steel-defects",
            "model_version": "3",
            "good_classes": ["good"],
            "pictures": 312,
            "labels": 180,
            "unlabelled_verdicts": [],
            "escape_rate": _RATE,
            "false_reject_rate": None,
            "precision": {"crack": _RATE},
            "recall": {"crack": None},
        }
    ],
}
_READ_ERRORS: Mapping[int, tuple[str, Content | None]] = {
    400: ("A parameter is wrong; `field` names it.", None),
    503: ("The store of pictures and labels is not accessible.", None),
    504: ("The query takes too long.", None),
}


_VERSION = parameter("model_version", "string", "Of this version only.")
_DEVICE = parameter("edge_device_id", "string", "Of this device only.")
_LIMIT = "At most this many, 1 to 1,000; {} if unset."
_TAG = "Review"
_OF_PICTURE = (
    parameter("id", "string", "Of this prediction."),
    parameter("device", "string", "Of this device; where only one has the id, it may be left out."),
)
_FILE = {"type": "string", "format": "binary"}
_HEAT_SCHEMA = {
    "type": "object",
    "required": ["class_name", "confidence", "model_version", "rows", "columns", "drops"],
    "properties": {
        "class_name": {"type": "string", "description": "What the model says."},
        "confidence": {"type": "number"},
        "model_version": {"type": "string", "description": "Of the model that was asked."},
        "rows": {"type": "integer"},
        "columns": {"type": "integer"},
        "drops": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "By row, how far the class falls where this part is covered.",
        },
    },
}
_HEAT_MAP = {
    "class_name": "crack",
    "confidence": 0.97,
    "model_version": "3",
    "rows": 2,
    "columns": 2,
    "drops": [[0.1, 4.2], [0.0, 0.3]],
}
_PICTURE_ERRORS: dict[int, tuple[str, Content | None]] = {
    **_READ_ERRORS,
    404: ("Of this prediction no picture was kept.", None),
    410: ("The picture was deleted, for its age or for space.", None),
}
OPERATIONS: Sequence[Operation] = (
    Operation(
        "POST",
        EVIDENCE_PATH,
        "Store pictures for review",
        "All of them or none; the answer comes after the commit is on disk. A device's"
        " `prediction_id` is stored once.",
        body=[Content(JSON, EvidenceBatch, _EXAMPLE)],
        answers={
            200: (
                "Stored, or stored before.",
                Content(JSON, EvidenceAnswer, {"status": "success", "stored": 1, "duplicates": 0}),
            ),
            400: ("A picture or what is said of it is wrong; `field` names it.", None),
            413: ("Too many bytes; send fewer pictures at once.", None),
            429: ("Too many requests wait to be stored; try again later.", None),
            503: ("Nothing of it was stored; send it again.", None),
            504: ("No answer in time; send it again.", None),
        },
        protected=True,
    ),
    Operation(
        "POST",
        LABELS_PATH,
        "Store what pictures show",
        "One label, several, or a CSV file with the same names in its header row. All of them are"
        " stored or none; the last one of a picture counts.",
        body=[
            Content(JSON, Label | Labels, _LABEL),
            Content(
                "text/csv",
                {"type": "string"},
                "prediction_id,true_class,labelled_by\nline-4-000017,crack,ada\n",
            ),
        ],
        answers={
            200: ("Stored.", Content(JSON, LabelsAnswer, _LABELLED)),
            400: ("A label is wrong; `field` names it.", None),
            413: ("Too many labels, or too many bytes.", None),
            415: ("Neither JSON nor CSV.", None),
            429: ("Too many requests wait to be stored; try again later.", None),
            503: ("Nothing of it was stored; send it again.", None),
            504: ("No answer in time; send it again.", None),
        },
        protected=True,
        tag=_TAG,
    ),
    Operation(
        "GET",
        LABELS_PATH,
        "A page of labels, oldest first",
        "Each with what the model said of the picture, and whether it is its last.",
        parameters=[
            parameter("after", "integer", "`next` of the page before."),
            parameter("limit", "integer", _LIMIT.format(100)),
        ],
        answers={
            200: (
                "The page.",
                Content(JSON, LabelsPage, {"labels": [_STORED_LABEL], "count": 1, "next": None}),
            ),
            **_READ_ERRORS,
        },
        protected=True,
        tag=_TAG,
    ),
    Operation(
        "GET",
        REVIEW_PATH,
        "Pictures that wait for a label",
        "The least confident and the random sample take turns.",
        parameters=[
            parameter("limit", "integer", _LIMIT.format(20)),
            parameter("skip", "integer", "Without the first of them: `next` of the page before."),
            *(_VERSION, _DEVICE),
            parameter("verdict", "string", "With this verdict only: pass, fail or review."),
            parameter("differ", "boolean", "Only where a challenger says another class."),
        ],
        answers={
            200: (
                "The pictures.",
                Content(JSON, Queue, {"waiting": 1, "pictures": [_WAITING], "next": None}),
            ),
            **_READ_ERRORS,
        },
        protected=True,
        tag=_TAG,
    ),
    Operation(
        "GET",
        QUALITY_PATH,
        "How often the answers are right, by model version",
        "Estimated from the labels of the random sample, with 95% intervals.",
        parameters=[
            parameter("days", "number", "Of pictures of the last days; QUALITY_DAYS if unset."),
            *(_VERSION, _DEVICE),
        ],
        answers={200: ("The figures.", Content(JSON, Quality, _QUALITY)), **_READ_ERRORS},
        protected=True,
        tag=_TAG,
    ),
    Operation(
        "GET",
        PICTURE_PATH,
        "A kept picture",
        parameters=_OF_PICTURE,
        answers={
            200: ("The file as it came, PNG, JPEG or BMP.", Content("image/png", _FILE)),
            **_PICTURE_ERRORS,
        },
        protected=True,
        tag=_TAG,
    ),
    Operation(
        "GET",
        HEAT_PATH,
        "Which part of a kept picture decided",
        "As the inference service of EXPLAIN_URL says, which is asked once for each picture. With"
        " `Accept: application/json`; otherwise a picture (SVG) to lay over it.",
        parameters=_OF_PICTURE,
        answers={
            200: ("The heat map.", Content(JSON, _HEAT_SCHEMA, _HEAT_MAP)),
            **_PICTURE_ERRORS,
        },
        protected=True,
        tag=_TAG,
    ),
)
