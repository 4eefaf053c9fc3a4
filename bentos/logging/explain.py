"""What is wrong with a body, in words: the field, what was expected, what came."""

import json
import math
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from bentos.edge.http import ServiceError

_MISSING_FIELD = re.compile(r"^Object missing required field `(?P<field>[^`]*)`")
_PATH = re.compile(r" - at `\$?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]")
_SHOWN_CHARACTERS = 60
# A body that is no JSON is searched for a NaN to name only up to this size: it takes a second,
# slow, parser.
_SEARCHED_BYTES = 1 << 20


class _NoValue(Enum):
    MISSING = ", it is missing"
    UNREADABLE = ""


def bad_field(path: str, expected: str, got: object = _NoValue.MISSING) -> ServiceError:
    """Return the 400 that names a field, what it should be and what it is."""
    came = got.value if isinstance(got, _NoValue) else f", got {_show(got)}"
    return ServiceError(400, "bad_input", f"{path}: expected {expected}{came}", field=path)


def explain(error: Exception, raw: bytes, kind: type, *, prefix: str = "") -> ServiceError:
    """Return the 400 for an error of msgspec on `raw`, a JSON value that should be a `kind`.

    `prefix` is the path of the value in the body.
    """
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return explain_syntax(error, raw, prefix=prefix)
    at = _PATH.search(message)
    # A value of an object is told as [...], without its key: what is named is the object.
    known = at["path"].partition("[...]")[0] if at else ""
    keys: list[str | int] = [step["field"] or int(step["index"]) for step in _STEP.finditer(known)]
    missing = _MISSING_FIELD.match(message)
    if missing:
        keys.append(missing["field"])
    expected = _expectation(kind, keys) or message.partition(" - at ")[0].removeprefix("Expected ")
    got: object = _NoValue.MISSING if missing else _look_up(raw, keys)
    return bad_field(_join(prefix, keys) or "body", expected, got)


def explain_syntax(error: Exception, body: bytes, *, prefix: str = "") -> ServiceError:
    """Return the 400 for a body that is no JSON; a NaN or infinity in it is named."""
    if len(body) <= _SEARCHED_BYTES and (b"NaN" in body or b"Infinity" in body):
        try:
            path, number = next(_find(json.loads(body), prefix, _not_finite))
        except (ValueError, RecursionError, StopIteration):
            pass
        else:
            return bad_field(path, "a finite number", number)
    if isinstance(error, RecursionError):
        return bad_field(prefix or "body", "JSON nested less deeply", _NoValue.UNREADABLE)
    return ServiceError(400, "bad_input", f"{prefix or 'the body'} is not valid JSON: {error}")


def refuse_nul(body: bytes) -> None:
    """Raise the 400 for a text with a NUL character, at which SQLite's functions end a text."""
    if b"\\u0000" not in body:
        return
    try:
        found = next(_find(json.loads(body), "", _has_nul), None)
    except (ValueError, RecursionError):
        return  # the body is refused for what it is by whoever parses it
    if found is not None:
        raise bad_field(found[0], "a text without NUL characters", found[1])


def _show(value: object) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _join(prefix: str, keys: list[str | int]) -> str:
    path = prefix
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _look_up(raw: bytes, keys: list[str | int]) -> object:
    try:
        value: Any = json.loads(raw)
        for key in keys:
            value = value[key]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _NoValue.UNREADABLE
    return value


def _expectation(kind: type, keys: list[str | int]) -> str:
    """Return the description of the field at the path, or of the nearest one around it."""
    described = _descriptions(kind)
    template = ["[]" if isinstance(key, int) else key for key in keys]
    for end in range(len(template), 0, -1):
        found = described.get(tuple(template[:end]))
        if found:
            return found
    return described.get((), "")


@cache
def _descriptions(kind: type) -> dict[tuple[str, ...], str]:
    """Return the descriptions of a struct's fields by their path, `[]` for any element."""
    return dict(_walk(inspect.type_info(kind), ()))


def _walk(node: inspect.Type, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, inspect.Metadata):
        description = (node.extra_json_schema or {}).get("description")
        if description:
            yield path, description
        yield from _walk(node.type, path)
    elif isinstance(node, inspect.StructType):
        if not path:
            yield path, "a JSON object"
        for field in node.fields:
            yield from _walk(field.type, (*path, field.encode_name))
    elif isinstance(node, inspect.ListType):
        if isinstance(_bare(node.item_type), inspect.StructType):
            yield (*path, "[]"), "a JSON object"
        yield from _walk(node.item_type, (*path, "[]"))
    elif isinstance(node, inspect.DictType):
        yield from _walk(node.value_type, (*path, "[]"))
    elif isinstance(node, inspect.UnionType):
        for member in node.types:
            yield from _walk(member, path)


def _bare(node: inspect.Type) -> inspect.Type:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _has_nul(value: object) -> bool:
    return isinstance(value, str) and "\0" in value


def _find(value: Any, path: str, wanted: Callable[[object], bool]) -> Iterator[tuple[str, object]]:
    """Yield the path and the value of what is wanted, wherever in a JSON value it stands."""
    if wanted(value):
        yield path or "body", value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _find(item, f"{path}.{key}" if path else str(key), wanted)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, f"{path}[{index}]", wanted)
