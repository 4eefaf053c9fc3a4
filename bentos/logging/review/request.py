"""What requests for review bring, as values: bodies, and parameters of a query.

All functions raise ServiceError 400 that names the field at fault.
"""

import csv
import io
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from bentos.edge.http import ServiceError
from bentos.evidence import Evidence, EvidenceBatch, media_type_of
from bentos.logging.request import (
    bad_field,
    decode_part,
    parse_device,
    parse_flag,
    parse_limit,
    parse_parameters,
    refuse_nul,
)
from bentos.logging.review.labels import Filters, Label, Labels
from bentos.logging.review.quality import QualityQuery

# Of one request. Storing them takes seconds, and pictures wait meanwhile.
MAX_LABELS = 100_000


LABELS_PAGE = 100
QUEUE_PAGE = 20
_MOST_DAYS = 3_650
_MOST_SKIPPED = 1_000_000
_MOST_ID = 2**63 - 1
_VERDICTS = ("pass", "fail", "review")
_QUEUE_PARAMETERS = ("limit", "skip", "model_version", "edge_device_id", "verdict", "differ")
_FIELDS = Label.__struct_fields__
_REQUIRED = _FIELDS[:3]
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}
_batches = msgspec.json.Decoder(EvidenceBatch)
_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_one = msgspec.json.Decoder(Label)
_several = msgspec.json.Decoder(Labels)


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


def parse_labels(body: bytes, content_type: bytes) -> list[Label]:
    """Return the labels of a body: one as a JSON object, several in `labels`, or CSV.

    Raises ServiceError 400 for the first fault found, and 413 for too many labels.
    """
    if content_type == b"text/csv":
        return _parse_csv(body)
    if not body:
        raise ServiceError(
            400, "bad_input", 'the body is empty; send a JSON object {"labels": [...]}, or CSV'
        )
    if not _has_several(body):
        return _checked([decode_part(_one, body, Label)], body, one=True)
    return _checked(decode_part(_several, body, Labels).labels, body)


def parse_labels_query(query: bytes) -> tuple[int, int]:
    """Return after which label a page begins, and how many it has."""
    values = parse_parameters(query, "after", "limit")
    after = _parse_number("after", values.get("after", "0"), _MOST_ID)
    return after, parse_limit(values.get("limit", str(LABELS_PAGE)))


def parse_queue_query(query: bytes) -> tuple[Filters, int, int]:
    """Return which pictures are asked for, how many of them to skip, and how many to show."""
    values = parse_parameters(query, *_QUEUE_PARAMETERS)
    return (*parse_queue_part(values), parse_limit(values.get("limit", str(QUEUE_PAGE))))


def parse_queue_part(values: Mapping[str, str]) -> tuple[Filters, int]:
    """Return which pictures parameters ask for, and how many of them to skip."""
    verdict = values.get("verdict", "")
    if verdict not in ("", *_VERDICTS):
        raise bad_field("verdict", "pass, fail or review", verdict)
    filters = Filters(
        parse_device("model_version", values) or "",
        parse_device("edge_device_id", values) or "",
        verdict,
        differ=parse_flag("differ", values),
    )
    return filters, _parse_number("skip", values.get("skip", "0"), _MOST_SKIPPED)


def parse_quality_query(query: bytes, *, days: float) -> QualityQuery:
    """Return whose figures are asked for, of the last `days` where the query does not say."""
    values = parse_parameters(query, "days", "model_version", "edge_device_id", "by_device")
    return QualityQuery(
        _parse_days(values["days"]) if "days" in values else days,
        parse_device("model_version", values),
        parse_device("edge_device_id", values),
        by_device=parse_flag("by_device", values),
    )


def _parse_number(name: str, text: str, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= number <= most:
        raise bad_field(name, f"a whole number from 0 to {most}", text)
    return number


def _parse_days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= _MOST_DAYS:
        raise bad_field("days", f"a number above 0 and at most {_MOST_DAYS}", text)
    return days


def _has_several(body: bytes) -> bool:
    try:
        return "labels" in _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # decoding the label says what is wrong


def _checked(labels: list[Label], body: bytes, *, one: bool = False) -> list[Label]:
    if not labels:
        raise bad_field("labels", "at least one label", [])
    if len(labels) > MAX_LABELS:
        raise ServiceError(
            413,
            "too_large",
            f"labels: expected at most {MAX_LABELS}, got {len(labels)}; send several requests",
        )
    if b"\\u0000" in body or b"\0" in body:
        for index, label in enumerate(labels):
            refuse_nul(label, "" if one else f"labels[{index}]")
    return labels


def _parse_csv(body: bytes) -> list[Label]:
    """Return the labels of a CSV file with a header row (RFC 4180), commas or semicolons."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServiceError(
            400, "bad_input", f"the file is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        labels = _read_csv(rows, delimiter)
    except csv.Error as error:
        raise ServiceError(
            400, "bad_input", f"line {rows.line_num + 1} of the file is no CSV: {error}"
        ) from None
    content = msgspec.json.encode({"labels": labels})
    return _checked(decode_part(_several, content, Labels).labels, content)


def _read_csv(rows: "csv.DictReader[str]", delimiter: str) -> list[dict[str, object]]:
    """Return the rows below the header, one more than a request may bring at most."""
    columns = list(rows.fieldnames or ())
    missing = [name for name in _REQUIRED if name not in columns]
    strange = [name for name in columns if name not in _FIELDS]
    if missing or strange or len(set(columns)) < len(columns):
        raise bad_field(
            "header",
            f"a first row with {', '.join(_REQUIRED)} and, where needed, {', '.join(_FIELDS[3:])}",
            delimiter.join(columns),
        )
    labels: list[dict[str, object]] = []
    for row in rows:
        labels.append(_from_csv(row, len(labels)))
        if len(labels) > MAX_LABELS:
            break
    return labels


def _from_csv(row: dict[str, str], index: int) -> dict[str, object]:
    path = f"labels[{index}]"
    if None in row or None in row.values():
        raise bad_field(path, "as many columns as the header has")
    label: dict[str, object] = {name: value for name, value in row.items() if value}
    if "true_class" not in label:
        raise bad_field(f"{path}.true_class", "a text of 1 to 512 characters", "")
    if "reported" in row:
        flag = row["reported"].strip().lower()
        if flag not in _FLAGS:
            raise bad_field(f"{path}.reported", "true or false", row["reported"])
        label["reported"] = _FLAGS[flag]
    return label
