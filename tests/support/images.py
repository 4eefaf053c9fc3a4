"""Image files and forms for tests."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Return a picture as a file's content."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def colour_file(
    colour: tuple[int, int, int], *, size: tuple[int, int] = (16, 16), form: str = "PNG"
) -> bytes:
    """Return a picture of one colour, width and height in pixels, as a file's content."""
    return file_of(Image.new("RGB", size, colour), form)


def noise_file(*, size: tuple[int, int] = (64, 48), form: str = "PNG") -> bytes:
    """Return a picture that does not compress, as a file's content."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return file_of(Image.fromarray(pixels), form)


def black_png(width: int, height: int) -> bytes:
    """Return a small PNG file of a large black picture, made without the picture in memory."""
    packer = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    rows = [packer.compress(row) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", b"".join(rows) + packer.flush())
        + _chunk(b"IEND", b"")
    )


def png_of(
    size: tuple[int, int],
    *,
    bits: int = 8,
    colours: int = 0,
    row: bytes | None = None,
    before: Sequence[tuple[bytes, bytes]] = (),
    pieces: int = 1,
) -> bytes:
    """Return a PNG of equal rows, black by default, with chunks before its picture.

    `colours` is the colour type; the picture's data stand in so many `pieces`.
    """
    width, height = size
    row = bytes(max(1, width * bits // 8)) if row is None else row
    data = zlib.compress((b"\0" + row) * height, 0)
    step = -(-len(data) // pieces) if pieces else len(data)
    parts = [data[at : at + step] for at in range(0, len(data), step)] if pieces else []
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
        + b"".join(_chunk(*one) for one in before)
        + b"".join(_chunk(b"IDAT", part) for part in parts)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def form_of(
    parts: Sequence[tuple[str, bytes]], *, boundary: bytes = b"frontier", end: bool = True
) -> bytes:
    """Return a multipart body of parts, each a Content-Disposition and its content."""
    body = b"".join(
        b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (boundary, about.encode(), content)
        for about, content in parts
    )
    return body + (b"--%b--\r\n" % boundary if end else b"")
