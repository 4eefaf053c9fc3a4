"""Requests to image files: one file, as a multipart form or as the body itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bentos.edge.http import Request, ServiceError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_NAME = 200
_MOST_PARTS = 64


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
    _, options = parse_options_header(request.header(b"content-type") or b"")
    boundary = options.get(b"boundary")
    if not boundary:
        raise ServiceError(400, "bad_input", "Content-Type: multipart/form-data has no boundary")
    files = [part for part in _parts(body, boundary) if part.is_file]
    if len(files) != 1:
        raise ServiceError(
            400, "bad_input", f"image: expected one file in the form, got {len(files)}"
        )
    return Upload(b"".join(files[0].chunks), files[0].filename)


class _Part:
    """One part of a form while it is read."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.chunks: list[bytes] = []

    @property
    def _options(self) -> Mapping[bytes, bytes]:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        return options

    @property
    def is_file(self) -> bool:
        options = self._options
        return b"filename" in options or options.get(b"name") in (b"image", b"file")

    @property
    def filename(self) -> str:
        name = self._options.get(b"filename", b"").decode("utf-8", "replace")[:_MAX_NAME]
        return "".join(letter if letter.isprintable() else "_" for letter in name)


def _parts(body: bytes, boundary: bytes) -> list[_Part]:
    parts: list[_Part] = []
    name = bytearray()
    value = bytearray()
    ended = False

    def on_header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def on_end() -> None:
        nonlocal ended
        ended = True

    def on_part_begin() -> None:
        if len(parts) == _MOST_PARTS:
            raise FormParserError(f"it has more than {_MOST_PARTS} parts")
        parts.append(_Part())

    callbacks: MultipartCallbacks = {
        "on_part_begin": on_part_begin,
        "on_header_field": lambda data, start, end: name.extend(data[start:end]),
        "on_header_value": lambda data, start, end: value.extend(data[start:end]),
        "on_header_end": on_header_end,
        "on_part_data": lambda data, start, end: parts[-1].chunks.append(data[start:end]),
        "on_end": on_end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ServiceError(400, "bad_input", f"the form cannot be read: {error}") from None
    if not ended:
        raise ServiceError(400, "bad_input", "the form is cut short: its last boundary is missing")
    return parts
