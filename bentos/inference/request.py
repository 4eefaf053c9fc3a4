"""A request's body to an input of the model, or a clear 4xx.

The worker looks at as little of a body as it can. The model process reads the numbers in it, with
`bentos.inference.model.numbers`, or the picture, with `bentos.inference.images`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import orjson
from python_multipart.multipart import parse_options_header

from bentos.edge.http import Request, ServiceError
from bentos.inference.channel import Input, InputKind
from bentos.inference.model.spec import ModelSpec

TENSOR = b"application/octet-stream"
# No more JSON is parsed than a valid body, however it is indented, can have.
BYTES_A_NUMBER = 64
BYTES_BESIDE = 65_536
_MAX_SHOWN = 60
_MAX_NAME = 200
_MAX_HEAD_BYTES = 16_384
_MOST_PARTS = 64
# Of one header with parameters. Reading them takes time with the square of their number.
_MAX_OPTIONS_BYTES = 2_048
_DEEPER = re.compile(rb"\[\s*\[\s*\[")
_NESTED = re.compile(rb"\[\s*\[")


class _Several(msgspec.Struct, gc=False):
    """A body with several inputs, as far as the worker reads it."""

    data: msgspec.Raw


_several = msgspec.json.Decoder(_Several)


def inputs_of(media_type: bytes, body: bytes, spec: ModelSpec, *, limit: int) -> Input:
    """Return what is in a body of `/predict`: several inputs where `data` is an array of them.

    All but raw float32 is taken for JSON. The numbers are read, and a body that cannot be read is
    refused, in the model process. Raises ServiceError 413 for more inputs than `limit` and for more
    bytes than they can take, 400 for inputs that are not flat, and 415 for an image.
    """
    if media_type == TENSOR:
        return Input(InputKind.TENSOR, body)
    if media_type.startswith((b"image/", b"multipart/")):
        raise ServiceError(
            415,
            "bad_input",
            f"Content-Type is {media_type.decode('latin-1')[:_MAX_SHOWN]!r}; send "
            "application/json or application/octet-stream, and images to /predict_image",
        )
    data = _several_in(body)
    if data is None:
        check_size("body", body, 1, spec)
        return Input(InputKind.JSON, body)
    if _DEEPER.match(data):
        raise ServiceError(
            400,
            "bad_input",
            f"data[0]: expected a flat array of {spec.input_size} numbers, got one of arrays",
            field="data[0]",
        )
    # Each input is an array, and nothing else in one: the model process holds them to that.
    rows = data.count(b"[") - 1
    if rows > limit:
        raise too_many("data", rows, limit)
    check_size("data", data, rows, spec)
    return Input(InputKind.ROWS, data, rows=rows)


def _several_in(body: bytes) -> bytes | None:
    """Return the `data` of a JSON body where it is an array of arrays, None for any other body."""
    if body.count(b"[") < 2:
        return None
    try:
        data = bytes(_several.decode(body).data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return data if _NESTED.match(data) else None


def check_size(field: str, data: bytes, rows: int, spec: ModelSpec) -> None:
    """Raise ServiceError 413 for more JSON than the numbers of some inputs can take."""
    limit = BYTES_A_NUMBER * rows * spec.input_size + BYTES_BESIDE
    if len(data) > limit:
        raise ServiceError(
            413,
            "too_large",
            f"{field}: {rows * spec.input_size} numbers take {limit} bytes of JSON at most, "
            f"these {len(data)}",
            field=field,
        )


def too_many(field: str, rows: int, limit: int) -> ServiceError:
    """Return the refusal of a request with more inputs than may wait for the model."""
    return ServiceError(
        413,
        "too_large",
        f"{field}: a request to this model may hold {limit} inputs at most, this one holds "
        f"{str(rows)[:_MAX_SHOWN]}; send several requests, or raise QUEUE_SIZE",
        field=field,
    )


def input_of_numbers(numbers: Sequence[float]) -> Input:
    """Return the input for numbers that were read already, by BentoML."""
    return Input(InputKind.JSON, orjson.dumps({"data": list(numbers)}))


def input_of_image(content: bytes, spec: ModelSpec) -> Input:
    """Return the input for an image file, of which not a byte is looked at here.

    Raises ServiceError 400 for a model that sees no images.
    """
    check_sees_images(spec)
    return Input(InputKind.FILE, content)


def check_sees_images(spec: ModelSpec) -> None:
    """Raise ServiceError 400 for a model whose inputs are no images."""
    if spec.picture is None:
        raise ServiceError(
            400,
            "bad_input",
            f"the model takes inputs of shape {list(spec.input_shape)}, not images; use /predict",
        )


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent."""

    content: bytes
    filename: str = ""


def upload_of(request: Request, body: bytes) -> Upload:
    """Return the one image file of a request, sent as multipart or as the body itself.

    Raises ServiceError 400 where there is no file, or more than one.
    """
    if request.content_type != b"multipart/form-data":
        return Upload(body)
    boundary = _options(request.header(b"content-type") or b"").get(b"boundary")
    if not boundary:
        raise ServiceError(400, "bad_input", "Content-Type: multipart/form-data has no boundary")
    files = _files(body, boundary)
    if len(files) != 1:
        raise ServiceError(
            400, "bad_input", f"image: expected one file in the form, got {len(files)}"
        )
    return files[0]


def printable(name: str) -> str:
    """Return a client's name for something so that it can be kept: short, and without controls."""
    return "".join(letter if letter.isprintable() else "_" for letter in name[:_MAX_NAME])


def _files(body: bytes, boundary: bytes) -> list[Upload]:
    """Return the files in a form (RFC 7578), found without looking at every byte in Python."""
    files: list[Upload] = []
    delimiter = b"--" + boundary
    at = 0 if body.startswith(delimiter) else _next(body, delimiter, 0)
    for _ in range(_MOST_PARTS + 1):
        start = at + len(delimiter)
        if body.startswith(b"--", start):
            return files
        head, content = body.find(b"\r\n", start), body.find(b"\r\n\r\n", start) + 4
        if head < 0 or body[start:head].strip(b" \t") or not 3 < content <= head + _MAX_HEAD_BYTES:
            raise _bad_form("a part has no head, or too long a one")
        at = _next(body, delimiter, content - 2)
        disposition = _disposition(body[head : content - 4])
        if b"filename" in disposition or disposition.get(b"name") in (b"image", b"file"):
            name = disposition.get(b"filename", b"").decode("utf-8", "replace")
            files.append(Upload(body[content : max(content, at - 2)], printable(name)))
    raise _bad_form(f"it has more than {_MOST_PARTS} parts")


def _next(body: bytes, delimiter: bytes, start: int) -> int:
    """Return where the next delimiter is, at the beginning of a line."""
    at = body.find(b"\r\n" + delimiter, start)
    if at < 0:
        raise _bad_form("it is cut short: its last boundary is missing")
    return at + 2


def _disposition(head: bytes) -> Mapping[bytes, bytes]:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return _options(value.strip())
    return {}


def _options(header: bytes) -> Mapping[bytes, bytes]:
    """Return a header's parameters; raises ServiceError 400 where it is far too long for any."""
    if len(header) > _MAX_OPTIONS_BYTES:
        raise _bad_form(f"one of its headers has more than {_MAX_OPTIONS_BYTES} bytes")
    return parse_options_header(header)[1]


def _bad_form(why: str) -> ServiceError:
    return ServiceError(400, "bad_input", f"the form cannot be read: {why}")
