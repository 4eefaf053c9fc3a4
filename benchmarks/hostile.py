"""What clients send to do harm: heads, pictures and batches made to take long."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

_SIGNATURE_AND_HEADER_BYTES = 33


def huge_header(size: int) -> bytes:
    """Return the beginning of a request with one header of that size."""
    return b"GET / HTTP/1.1\r\na: " + b"b" * size


def many_headers(count: int) -> bytes:
    """Return the beginning of a request with that many headers."""
    return b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * count


def long_url(size: int) -> bytes:
    """Return the beginning of a request for a URL of that size."""
    return b"GET /" + b"a" * size


def png_with_chunks(count: int) -> bytes:
    """Return a PNG of 16 x 16 with that many empty ancillary chunks behind its header."""
    png = _file("PNG", Image.new("RGB", (16, 16)))
    chunk = struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    return png[:_SIGNATURE_AND_HEADER_BYTES] + chunk * count + png[_SIGNATURE_AND_HEADER_BYTES:]


def jpeg_with_comments(count: int) -> bytes:
    """Return a JPEG with that many empty comment segments behind its first marker."""
    picture = _noise_jpeg(progressive=False)
    return picture[:2] + b"\xff\xfe\x00\x02" * count + picture[2:]


def jpeg_with_scans(size: int) -> bytes:
    """Return a progressive JPEG of that size whose last scan is repeated."""
    picture = _noise_jpeg(progressive=True)
    scan = picture[picture.rindex(b"\xff\xda") : -2]
    return picture[:-2] + scan * ((size - len(picture)) // len(scan)) + picture[-2:]


def batch_with_late_nul(size: int) -> bytes:
    """Return a batch for `/log` of that size whose one text with a NUL comes last."""
    start, end = b'{"edge_device_id":"a","predictions":[{"x":[', b'"\\u0000"]}]}'
    return start + b"0," * ((size - len(start) - len(end)) // 2) + end


def batch_with_nested_lists(size: int) -> bytes:
    """Return a batch for `/log` of that size whose timestamp is a list of empty lists."""
    start, end = b'{"predictions":[{"timestamp":[', b"[]]}]}"
    return start + b"[]," * ((size - len(start) - len(end)) // 3) + end


def envelope_with_nested_lists(size: int) -> bytes:
    """Return the same with the batch's own timestamp."""
    start, end = b'{"predictions":[{}],"timestamp":[', b"[]]}"
    return start + b"[]," * ((size - len(start) - len(end)) // 3) + end


def _noise_jpeg(*, progressive: bool) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    return _file("JPEG", Image.fromarray(noise), progressive=progressive)


def _file(form: str, picture: Image.Image, **options: bool) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
