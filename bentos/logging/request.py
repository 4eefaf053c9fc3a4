"""A request to what the store takes, or to the error that names the item and the field at fault.

A body of `/log` is parsed in two steps, so that neither time nor memory depends on what it holds.
First the whole of it, in one call of msgspec that leaves lists and objects within a prediction as
they are. Then those lists and objects, one after the other, each checked for its size first;
between two of them other requests get their turn. What is wrong is found by the path or the byte
that msgspec reports. Only a small body is parsed once more, by Python's parser, to show the value
at fault.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw, inspect

from bentos.edge.http import ServiceError
from bentos.logging.store.queries import (
    DEFAULT_LIMIT,
    MAX_ID,
    MAX_LIMIT,
    PageQuery,
    StatsQuery,
)
from bentos.logging.store.schema import StoredPrediction
from bentos.messages import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    MAX_CLASSES,
    MAX_DETECTIONS,
    MAX_DETECTIONS_BYTES,
    SECONDS,
    Batch,
    Detection,
    Detections,
    Scores,
)

# A smaller body is parsed without giving way to other requests: it takes less than 0.1 ms.
_SMALL_BYTES = 4_096
# What is parsed between two turns of the event loop, about a millisecond's worth: JSON of lists
# and objects, or predictions with next to none of it.
_SLICE_BYTES = 65_536
_SLICE_PREDICTIONS = 200
# The value at fault is looked up in what Python's parser reads in about a millisecond.
_SEARCHED_BYTES = 65_536
_SHOWN_CHARACTERS = 60
_NEAR_BYTES = 20

_MISSING_FIELD = re.compile(r"^Object missing required field `(?P<field>[^`]*)`")
_PATH = re.compile(r" - at `\$?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]")
_BYTE = re.compile(r"\(byte (?P<byte>\d+)\)$")
# Numbers that JSON does not know, as many encoders write them, and one that it knows and msgspec
# finds out of range wherever it stands.
_NOT_FINITE = re.compile(rb"-?Infinity|NaN")
_OUT_OF_RANGE = b"1e999"
# An even number of backslashes before it are characters themselves.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_batches = msgspec.json.Decoder(Batch)
_detections = msgspec.json.Decoder(list[Detection])
_scores: "msgspec.json.Decoder[list[float] | dict[str, float]]" = msgspec.json.Decoder(Scores)
_encode = msgspec.json.Encoder().encode
_FLAGS = {"true": True, "1": True, "false": False, "0": False}

ValueT = TypeVar("ValueT")


class _NoValue(Enum):
    MISSING = ", it is missing"
    NOT_SHOWN = ""


def bad_field(path: str, expected: str, got: object = _NoValue.MISSING) -> ServiceError:
    """Return the 400 that names a field, what it should be and what it is."""
    shown = got.value if isinstance(got, _NoValue) else f", got {_show(got)}"
    return ServiceError(400, "bad_input", f"{path}: expected {expected}{shown}", field=path)


@dataclass(frozen=True)
class ParsedBatch:
    """The rows of one request, and what of it was ignored, in words."""

    rows: tuple[StoredPrediction, ...]
    warnings: tuple[str, ...] = ()


class BatchParser:
    """Parses the bodies of `/log`, of the large ones one at a time."""

    def __init__(self, *, max_predictions: int) -> None:
        self._max_predictions = max_predictions
        self._large = asyncio.Lock()

    async def parse(self, body: bytes, *, request_id: str) -> ParsedBatch:
        """Return a body's rows; `request_id` is stored with those that bring none.

        Raises ServiceError 400 for the first fault found, and 413 for too many predictions.
        """
        if len(body) < _SMALL_BYTES:
            return await self._parse(body, request_id)
        # Clients that were answered together send their next batches together. Only one of them
        # is being parsed at a time, and other requests get their turn before each.
        async with self._large:
            await asyncio.sleep(0)
            return await self._parse(body, request_id)

    async def _parse(self, body: bytes, request_id: str) -> ParsedBatch:
        try:
            return await self._rows(body, request_id)
        except _MALFORMED as error:
            malformed = error
        number = _number_at(body, _fault_byte(malformed))
        if number is not None:
            # With JSON in the place of such numbers, parsing again finds the field.
            repaired = body.replace(b"NaN", _OUT_OF_RANGE).replace(b"Infinity", _OUT_OF_RANGE)
            await asyncio.sleep(0)
            try:
                await self._rows(repaired, request_id)
            except ServiceError as refused:
                if str(refused.__cause__).startswith("Number out of range"):
                    field = str(refused.details["field"])
                    raise bad_field(field, "a finite number", number) from None
            except _MALFORMED:
                pass
        raise _malformed(malformed, body) from None

    async def _rows(self, body: bytes, request_id: str) -> ParsedBatch:
        batch = _decode_batch(body, self._max_predictions)
        sent_at, warning = _sent_at(batch.timestamp)
        times = (time.time(), sent_at)
        may_hold_nul = b"\\u0000" in body
        rows: list[StoredPrediction] = []
        slice_bytes = 0
        for index, prediction in enumerate(batch.predictions):
            path = f"predictions[{index}]"
            device = prediction.edge_device_id or batch.edge_device_id
            if device is None:
                raise bad_field(
                    f"{path}.edge_device_id",
                    "a text of 1 to 128 characters, here or as the batch's edge_device_id",
                )
            detections = bytes(prediction.detections)
            scores = bytes(prediction.confidence_scores)
            slice_bytes += len(detections) + len(scores) + _SLICE_BYTES // _SLICE_PREDICTIONS
            if slice_bytes > _SLICE_BYTES:
                await asyncio.sleep(0)
                slice_bytes = 0
            complete = msgspec.structs.replace(
                prediction,
                detections=_parse_detections(detections, f"{path}.detections"),
                confidence_scores=_parse_scores(scores, f"{path}.confidence_scores"),
                edge_device_id=device,
                request_id=prediction.request_id or request_id,
            )
            if may_hold_nul:
                refuse_nul(complete, path)
            rows.append(StoredPrediction(*[*msgspec.structs.astuple(complete), *times]))
        return ParsedBatch(rows=tuple(rows), warnings=(warning,) if warning else ())


def parse_page_query(query: bytes) -> PageQuery:
    """Return which predictions the query string of a URL asks for.

    Raises ServiceError 400 that names the parameter at fault.
    """
    values = parse_parameters(query, "limit", "edge_device_id", "defect_only", "before")
    return PageQuery(
        limit=parse_limit(values.get("limit", str(DEFAULT_LIMIT))),
        edge_device_id=parse_device("edge_device_id", values),
        defect_only=parse_flag("defect_only", values),
        before=_position(values["before"]) if "before" in values else None,
    )


def parse_stats_query(query: bytes) -> StatsQuery:
    """Return which devices the query string of a URL asks for; ServiceError 400 as above."""
    return StatsQuery(after=parse_device("after", parse_parameters(query, "after")) or "")


def parse_parameters(query: bytes, *names: str) -> dict[str, str]:
    """Return the parameters of a URL's query string; ServiceError 400 for others than `names`."""
    values: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16
        )
    except ValueError:
        raise bad_field("query", "URL-encoded parameters in UTF-8", repr(query)) from None
    for name, value in pairs:
        if name not in names:
            raise bad_field("query", f"parameters out of {', '.join(names)}", name)
        if name in values:
            raise bad_field(name, "one value", "several")
        values[name] = value
    return values


def parse_device(name: str, values: Mapping[str, str]) -> str | None:
    """Return a parameter of 1 to 128 characters, None without it; ServiceError 400 otherwise."""
    device = values.get(name)
    if device is not None and not 1 <= len(device) <= 128:
        raise bad_field(name, "a text of 1 to 128 characters", device)
    return device


def parse_flag(name: str, values: Mapping[str, str]) -> bool:
    """Return a parameter that is true or false, false without it; ServiceError 400 otherwise."""
    flag = values.get(name, "false")
    if flag.lower() not in _FLAGS:
        raise bad_field(name, "true or false", flag)
    return _FLAGS[flag.lower()]


def parse_limit(text: str) -> int:
    """Return how many of something a page may have; ServiceError 400 for a wrong number."""
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise bad_field("limit", f"a whole number from 1 to {MAX_LIMIT}", text)
    return limit


def _position(text: str) -> tuple[float, int]:
    """Parse `<Unix seconds>` or `<Unix seconds>_<id>`, the form of a page's `next`."""
    expected = f"the `next` of a page, or {SECONDS}"
    seconds, separator, number = text.partition("_")
    try:
        timestamp = float(seconds)
        row_id = int(number) if separator else 0
    except ValueError:
        raise bad_field("before", expected, text) from None
    if not EARLIEST_TIMESTAMP <= timestamp <= LATEST_TIMESTAMP or not 0 <= row_id <= MAX_ID:
        raise bad_field("before", expected, text)
    return timestamp, row_id


def _decode_batch(body: bytes, max_predictions: int) -> Batch:
    if not body:
        raise ServiceError(
            400, "bad_input", 'the body is empty; send a JSON object {"predictions": [...]}'
        )
    try:
        batch = _batches.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(error, body, Batch) from error
    count = len(batch.predictions)
    if count == 0:
        raise bad_field("predictions", "at least one prediction", [])
    if count > max_predictions:
        raise ServiceError(
            413,
            "too_large",
            f"predictions: expected at most {max_predictions} (MAX_BATCH_PREDICTIONS), got {count};"
            " send several batches",
        )
    if batch.batch_size is not None and batch.batch_size != count:
        raise bad_field("batch_size", f"{count}, the number of predictions sent", batch.batch_size)
    return batch


def _sent_at(timestamp: float | str | None) -> tuple[float | None, str]:
    """Return the Unix seconds of a batch's timestamp, or None and a warning about it."""
    try:
        if isinstance(timestamp, str):
            moment = datetime.fromisoformat(timestamp)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        elif timestamp is None:
            return None, ""
        else:
            seconds = timestamp
    except (ValueError, OverflowError):
        seconds = -1.0
    if EARLIEST_TIMESTAMP <= seconds <= LATEST_TIMESTAMP:
        return seconds, ""
    return None, f"timestamp: expected {SECONDS}, or ISO 8601, got {_show(timestamp)}; ignored"


def _parse_detections(content: bytes, path: str) -> Raw:
    """Return detections as they are stored: known fields alone, confidences within 0 to 1."""
    if len(content) > MAX_DETECTIONS_BYTES:
        raise bad_field(path, f"at most {MAX_DETECTIONS_BYTES} bytes of JSON", _NoValue.NOT_SHOWN)
    detections = decode_part(_detections, content, Detections, path)
    if len(detections) > MAX_DETECTIONS:
        raise bad_field(path, f"a list of at most {MAX_DETECTIONS} detections", len(detections))
    if any(not 0 <= one.confidence <= 1 for one in detections):
        detections = [
            msgspec.structs.replace(one, confidence=_clamp(one.confidence)) for one in detections
        ]
    return Raw(_encode(detections))


def _parse_scores(content: bytes, path: str) -> Raw:
    """Return scores as they are stored, each within 0 to 1."""
    # As many elements as commas, and one; an object has two quotes a name, and as many again for
    # those that a name may hold. So what is far too much takes no memory.
    elements = 0
    if len(content) > 2 * MAX_CLASSES:
        is_object = content.startswith(b"{")
        elements = content.count(b'"') // 4 if is_object else content.count(b",") + 1
    if elements <= MAX_CLASSES:
        scores = decode_part(_scores, content, Scores, path)
        elements = len(scores)
    if elements > MAX_CLASSES:
        raise bad_field(path, f"at most {MAX_CLASSES} numbers", _NoValue.NOT_SHOWN)
    values = scores.values() if isinstance(scores, dict) else scores
    if values and not (min(values) >= 0 and max(values) <= 1):
        scores = (
            {name: _clamp(score) for name, score in scores.items()}
            if isinstance(scores, dict)
            else [_clamp(score) for score in scores]
        )
    return Raw(_encode(scores))


def decode_part(
    decoder: "msgspec.json.Decoder[ValueT]", content: bytes, kind: Any, path: str = ""
) -> ValueT:
    """Return the JSON at a path of a body, decoded; ServiceError 400 that names what is wrong."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise _explain(error, content, kind, path) from error
    except _MALFORMED as error:
        raise _malformed(error, content, path) from None


def _clamp(probability: float) -> float:
    return min(max(probability, 0.0), 1.0)


def refuse_nul(prediction: msgspec.Struct, path: str) -> None:
    """Raise the 400 for a text with a NUL character, at which SQLite's functions end a text."""
    for name, value in msgspec.structs.asdict(prediction).items():
        expected = "a text without NUL characters"
        if isinstance(value, str) and "\0" in value:
            raise bad_field(_join(path, [name]), expected, value)
        if isinstance(value, Raw) and _ESCAPED_NUL.search(bytes(value)):
            raise bad_field(f"{path}.{name}", expected, _NoValue.NOT_SHOWN)


def _explain(
    error: msgspec.ValidationError, content: bytes, kind: Any, prefix: str = ""
) -> ServiceError:
    """Return the 400 for a JSON value at `prefix` of the body that is no `kind`."""
    message = str(error)
    at = _PATH.search(message)
    # A value of an object is reported as [...], without its name: what is named is the object.
    known = at["path"].partition("[...]")[0] if at else ""
    keys: list[str | int] = [step["field"] or int(step["index"]) for step in _STEP.finditer(known)]
    missing = _MISSING_FIELD.match(message)
    if missing:
        keys.append(missing["field"])
    expected = _expectation(kind, keys) or message.partition(" - at ")[0].removeprefix("Expected ")
    got: object = _NoValue.MISSING if missing else _look_up(content, keys)
    return bad_field(_join(prefix, keys) or "body", expected, got)


def _malformed(error: Exception, content: bytes, path: str = "") -> ServiceError:
    """Return the 400 for what is no JSON."""
    if isinstance(error, RecursionError):
        return bad_field(path or "body", "JSON nested less deeply", _NoValue.NOT_SHOWN)
    at = _fault_byte(error)
    near = ""
    if at is not None:
        part = content[max(0, at - _NEAR_BYTES) : at + _NEAR_BYTES].decode("utf-8", "replace")
        near = f", near {json.dumps(part)}"
    return ServiceError(400, "bad_input", f"{path or 'the body'} is not valid JSON: {error}{near}")


def _fault_byte(error: Exception) -> int | None:
    """Return the byte at which msgspec found a body to be no JSON."""
    found = _BYTE.search(str(error))
    return int(found["byte"]) if found else None


def _number_at(body: bytes, position: int | None) -> float | None:
    """Return the number that is not finite at the byte that msgspec reports, None for none."""
    if position is None:
        return None
    # Of "-Infinity" the second byte is reported.
    found = _NOT_FINITE.match(body, max(position - 1, 0)) or _NOT_FINITE.match(body, position)
    return float(found[0]) if found else None


def _show(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _join(prefix: str, keys: list[str | int]) -> str:
    path = prefix
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _look_up(content: bytes, keys: list[str | int]) -> object:
    """Return the value at a path, where it is found quickly."""
    if len(content) > _SEARCHED_BYTES:
        return _NoValue.NOT_SHOWN
    try:
        value: Any = json.loads(content)
        for key in keys:
            value = value[key]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _NoValue.NOT_SHOWN
    return value


def _expectation(kind: Any, keys: list[str | int]) -> str:
    """Return the description of the field at the path, or of the nearest one around it."""
    described = _descriptions(kind)
    template = ["[]" if isinstance(key, int) else key for key in keys]
    for end in range(len(template), 0, -1):
        found = described.get(tuple(template[:end]))
        if found:
            return found
    return described.get((), "")


@cache
def _descriptions(kind: Any) -> dict[tuple[str, ...], str]:
    """Return the descriptions of a type's fields by their path, `[]` for any element."""
    return dict(_walk(inspect.type_info(kind), ()))


def _walk(node: inspect.Type, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, inspect.Metadata):
        description = (node.extra_json_schema or {}).get("description")
        if description:
            yield path, description
        yield from _walk(node.type, path)
    elif isinstance(node, inspect.StructType):
        yield path, "a JSON object"
        for field in node.fields:
            yield from _walk(field.type, (*path, field.encode_name))
    elif isinstance(node, inspect.ListType):
        yield from _walk(node.item_type, (*path, "[]"))
    elif isinstance(node, inspect.DictType):
        yield from _walk(node.value_type, (*path, "[]"))
    elif isinstance(node, inspect.UnionType):
        for member in node.types:
            yield from _walk(member, path)
