"""The routes of pictures and labels on the API page."""

from collections.abc import Mapping, Sequence

from bentos.edge.openapi import JSON, Content, Operation, parameter
from bentos.evidence import EvidenceBatch, HeatMap
from bentos.logging.review.figures import Figures, Rate
from bentos.logging.review.labels import Label, Labelled, Labels, LabelsPage, Queue
from bentos.logging.review.page import HEAT_PATH, PICTURE_PATH
from bentos.logging.review.quality import Quality
from bentos.logging.review.request import LABELS_PAGE, QUEUE_PAGE
from bentos.logging.review.store import Stored
from bentos.logging.state import EVIDENCE_PATH, LABELS_PATH, QUALITY_PATH, REVIEW_PATH

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
_RATE = Rate(0.038462, 0.002219, 0.158013, 54)
_QUALITY = Quality(
    30.0,
    None,
    [
        Figures(
            model_name="steel-defects",
            model_version="3",
            good_classes=["good"],
            pictures=312,
            labels=180,
            unlabelled_verdicts=[],
            escape_rate=_RATE,
            false_reject_rate=None,
            precision={"crack": _RATE},
            recall={"crack": None},
        )
    ],
)
_TAG = "Review"
_READ_ERRORS: Mapping[int, tuple[str, Content | None]] = {
    400: ("A parameter is wrong; `field` names it.", None),
    503: ("The store of pictures and labels is not accessible.", None),
    504: ("The query takes too long.", None),
}
_WRITE_ERRORS: Mapping[int, tuple[str, Content | None]] = {
    400: ("Something in it is wrong; `field` names it.", None),
    413: ("Too many bytes, or too many labels; send fewer at once.", None),
    429: ("Too many requests wait to be stored; try again later.", None),
    503: ("Nothing of it was stored; send it again.", None),
    504: ("No answer in time; send it again.", None),
}
_PICTURE_ERRORS: Mapping[int, tuple[str, Content | None]] = {
    404: ("Of this prediction no picture was kept.", None),
    410: ("The picture was deleted, for its age or for space.", None),
}
_LIMIT = "At most this many, 1 to 1,000; {} if unset."
_NARROWED = (
    parameter("model_version", "string", "Of this version only."),
    parameter("edge_device_id", "string", "Of this device only."),
)
_OF_PICTURE = (
    parameter("id", "string", "Of this prediction."),
    parameter("device", "string", "Of this device; where only one has the id, it may be left out."),
)


def _read(
    path: str,
    summary: str,
    description: str,
    answer: Content,
    *parameters: Mapping[str, object],
    errors: Mapping[int, tuple[str, Content | None]] = {},
) -> Operation:
    """Describe a route that reads."""
    return Operation(
        "GET",
        path,
        summary,
        description,
        parameters=parameters,
        answers={200: ("What was asked for.", answer), **_READ_ERRORS, **errors},
        protected=True,
        tag=_TAG,
    )


OPERATIONS: Sequence[Operation] = (
    Operation(
        "POST",
        EVIDENCE_PATH,
        "Store pictures for review",
        "All of them or none; the answer comes after the commit is on disk. A device's"
        " `prediction_id` is stored once.",
        body=[Content(JSON, EvidenceBatch, _EXAMPLE)],
        answers={
            200: ("Stored, or stored before.", Content(JSON, Stored, Stored(1, 0))),
            **_WRITE_ERRORS,
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
            200: ("Stored.", Content(JSON, Labelled, Labelled(1, 0, []))),
            415: ("Neither JSON nor CSV.", None),
            **_WRITE_ERRORS,
        },
        protected=True,
        tag=_TAG,
    ),
    _read(
        LABELS_PATH,
        "A page of labels, oldest first",
        "Each with what the model said of the picture, and whether it is its last.",
        Content(JSON, LabelsPage, LabelsPage([_STORED_LABEL], 1, None)),
        parameter("after", "integer", "`next` of the page before."),
        parameter("limit", "integer", _LIMIT.format(LABELS_PAGE)),
    ),
    _read(
        REVIEW_PATH,
        "Pictures that wait for a label",
        "The least confident and the random sample take turns.",
        Content(JSON, Queue, Queue(1, [_WAITING], None)),
        parameter("limit", "integer", _LIMIT.format(QUEUE_PAGE)),
        parameter("skip", "integer", "Without the first of them: `next` of the page before."),
        *_NARROWED,
        parameter("verdict", "string", "With this verdict only: pass, fail or review."),
        parameter("differ", "boolean", "Only where a challenger says another class."),
    ),
    _read(
        QUALITY_PATH,
        "How often the answers are right, by model version",
        "Estimated from the labels of the random sample, with 95% intervals.",
        Content(JSON, Quality, _QUALITY),
        parameter("days", "number", "Of pictures of the last days; QUALITY_DAYS if unset."),
        *_NARROWED,
        parameter("by_device", "boolean", "Each device's own figures, not those of all together."),
    ),
    _read(
        PICTURE_PATH,
        "A kept picture",
        "The file as it came: PNG, JPEG or BMP.",
        Content("image/png", {"type": "string", "format": "binary"}),
        *_OF_PICTURE,
        errors=_PICTURE_ERRORS,
    ),
    _read(
        HEAT_PATH,
        "Which part of a kept picture decided",
        "As the inference service of EXPLAIN_URL says, which is asked once for each picture. With"
        " `Accept: application/json`; otherwise a picture (SVG) to lay over it.",
        Content(JSON, HeatMap, HeatMap("crack", 0.97, "3", 2, 2, [[0.1, 4.2], [0.0, 0.3]])),
        *_OF_PICTURE,
        errors=_PICTURE_ERRORS,
    ),
)
