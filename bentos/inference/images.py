"""Image files to model inputs: one picture, PNG, JPEG or BMP, bounded before it is decoded."""

import asyncio
import io
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bentos.health.http import RETRY_LATER, Request, ServiceError
from bentos.inference.model import ModelSpec

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORMATS = ("PNG", "JPEG", "BMP")
# Decoding so few pixels takes less than handing them to another thread and back.
_INLINE_PIXELS = 128 * 128
_MAX_NAME = 200
# A longer side is no photograph, and its resize takes tables of hundreds of megabytes.
_LONGEST_SIDE = 65_535
_MOST_PARTS = 64
# Large pictures wait in memory, and one of them may take a second to decode.
_MOST_WAITING = 32
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent."""

    content: bytes
    filename: str = ""


class ImageReader:
    """Decodes image files to inputs, the large ones in a thread of their own."""

    def __init__(self, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
        self._waiting = 0

    async def read(self, upload: Upload, spec: ModelSpec) -> NDArray[Any]:
        """Return the picture as the model takes it, values 0 to 1, resized where it has to be.

        Raises ServiceError 400 for what is no image or not whole, 413 for too many pixels and
        429 where too many large images wait.
        """
        if not spec.is_image:
            raise ServiceError(
                400,
                "bad_input",
                f"the model takes inputs of shape {list(spec.input_shape)}, not images; use "
                "/predict",
            )
        image = self._open(upload.content)
        if image.width * image.height <= _INLINE_PIXELS:
            return _pixels(image, spec)
        if self._waiting >= _MOST_WAITING:
            raise ServiceError(
                429,
                "queue_full",
                f"{_MOST_WAITING} large images wait to be decoded; try again later",
                headers=RETRY_LATER,
            )
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._pool, _pixels, image, spec)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, content: bytes) -> Image.Image:
        """Read the header only, so that a bomb is told by its announced size."""
        if not content:
            raise ServiceError(400, "bad_input", "image: the file is empty")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError:
            raise self._too_many("too many") from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            raise ServiceError(
                400, "bad_input", f"image: not an image file; expected {', '.join(FORMATS)}"
            ) from None
        if image.width * image.height > self._max_pixels:
            raise self._too_many(f"{image.width} x {image.height}")
        if max(image.size) > _LONGEST_SIDE:
            raise ServiceError(
                413,
                "too_large",
                f"image: {image.width} x {image.height} pixels; a side may have {_LONGEST_SIDE} "
                "at most",
            )
        return image

    def _too_many(self, got: str) -> ServiceError:
        return ServiceError(
            413,
            "too_large",
            f"image: {got} pixels; at most {self._max_pixels} are taken (MAX_IMAGE_PIXELS)",
        )


def _pixels(image: Image.Image, spec: ModelSpec) -> NDArray[Any]:
    channels, height, width = spec.input_shape
    try:
        picture = _eight_bit(image).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ServiceError(
            400, "bad_input", f"image: the file is damaged or cut short: {error}"
        ) from None
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(picture, dtype=np.float32) / np.float32(255.0)
    values = values[np.newaxis] if channels == 1 else values.transpose(2, 0, 1)
    return np.ascontiguousarray(values, dtype=spec.dtype)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture in 8 bits; Pillow itself would turn it white."""
    if image.mode not in _SIXTEEN_BIT_MODES:
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


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
