"""Image files to pixels: PNG, JPEG or BMP, read by `make train` and by the model process alike.

Headers are read here and only the picture is given to Pillow's decoders: comments, text, profiles
and chunks of other programs are passed over. Walking over them is bounded in number, so that a
file costs what its pixels cost. Formats: PNG (W3C, third edition), JPEG (ITU-T T.81), Exif.
"""

import io
import logging
import math
import struct
import time
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from bentos.edge.http import ServiceError
from bentos.inference.model.spec import ModelSpec
from bentos.process.logs import event, get_logger

FORMATS = ("PNG", "JPEG", "BMP")
Channels: TypeAlias = Literal["L", "RGB", "BGR"]

# More parts than these belong to no camera and no program: a file with more of them is refused.
MAX_CHUNKS = 10_000
MAX_SEGMENTS = 1_000
MAX_SCANS = 100
# Every scan of a progressive JPEG goes over all of its pixels.
MAX_SCANNED = 16
MAX_RLE_BYTES = 262_144
# No client waits longer for its answer. A piece of data takes a fraction of a second.
MOST_SECONDS = 10.0
_PIECE_BYTES = 65_536
# A longer side is no photograph, and its resize takes tables of hundreds of megabytes.
_LONGEST_SIDE = 65_535
_MOST_TAGS = 1_000

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
# Pillow's mode and its decoder's, by bits a channel and colour type; of 16 bits the high byte.
_PNG_MODES = {
    **{(bits, 0): ("L", f"L;{bits}") for bits in (2, 4)},
    **{(bits, 3): ("P", f"P;{bits}") for bits in (1, 2, 4)},
    (1, 0): ("1", "1"),
    (8, 0): ("L", "L"),
    (8, 2): ("RGB", "RGB"),
    (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"),
    (8, 6): ("RGBA", "RGBA"),
    (16, 0): ("I;16", "I;16B"),
    (16, 2): ("RGB", "RGB;16B"),
    (16, 4): ("RGBA", "LA;16B"),
    (16, 6): ("RGBA", "RGBA;16B"),
}
_JPEG_MODES = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_logger = get_logger("images")


@dataclass(slots=True)
class ImageFile:
    """A file of which the header was read; `width` and `height` are as the picture is seen.

    `data`, or the `chunks` of it that begin and end there, is what `decoder` of Pillow takes, with
    its mode and arguments; a BMP is decoded whole. `bits` are those of a channel, of which
    `significant_bits` are used where the file says so.
    """

    data: bytes
    decoder: Literal["zip", "jpeg", "bmp"]
    width: int
    height: int
    mode: str = "RGB"
    arguments: tuple[object, ...] = ()
    chunks: list[tuple[int, int]] | None = None
    palette: bytes | None = None
    orientation: int = 1
    first_scan: int = 0
    max_pixels: int = 0
    bits: int = 8
    significant_bits: int | None = None

    @property
    def grey(self) -> bool:
        """Whether the picture has one channel."""
        return self.mode in ("1", "L", "LA", "I;16")

    @property
    def pixels(self) -> int:
        return self.width * self.height


def open_image(content: bytes, *, max_pixels: int) -> ImageFile:
    """Return a file that holds a picture and little else, of at most `max_pixels`.

    Raises ServiceError 400 for what is no image, is cut short or holds too many parts, and 413
    for too many pixels.
    """
    if not content:
        raise _bad("the file is empty")
    try:
        if content.startswith(_PNG):
            file = _open_png(content)
        elif content.startswith(_JPEG):
            file = _open_jpeg(content)
        elif content.startswith(_BMP):
            file = _open_bmp(content)
        else:
            raise _bad(f"not an image file; expected {', '.join(FORMATS)}")
    except (struct.error, LookupError, OSError, SyntaxError, ValueError, AssertionError):
        raise _bad("the file is damaged or cut short: its header is not whole") from None
    if file.orientation > 4:
        file.width, file.height = file.height, file.width
    size = f"{file.width} x {file.height} pixels"
    if not file.pixels:
        raise _bad(f"a picture of {size}")
    if file.pixels > max_pixels:
        raise _too_large(f"{size}; at most {max_pixels} are taken (MAX_IMAGE_PIXELS)")
    if max(file.width, file.height) > _LONGEST_SIDE:
        raise _too_large(f"{size}; a side may have {_LONGEST_SIDE} at most")
    file.max_pixels = max_pixels
    return file


def read_pixels(
    file: ImageFile, channels: Channels, size: tuple[int, int], bit_depth: int | None = None
) -> NDArray[np.uint8]:
    """Return a picture upright as uint8 [height, width, channels], scaled to `size`, its first two.

    `bit_depth` says how many bits of a 16-bit file are used; else the file's own sBIT chunk does.
    Raises ServiceError 400 for a file that is damaged or cut short.
    """
    height, width = size
    try:
        picture = _eight_bit(file, bit_depth).convert("L" if channels == "L" else "RGB")
    except (MemoryError, ServiceError):
        raise
    except Exception as error:  # a decoder given a file that somebody sent
        raise _bad(f"the file is damaged or cut short: {_fault(file, error)}") from None
    if file.orientation in _TRANSPOSE:
        picture = picture.transpose(_TRANSPOSE[file.orientation])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(picture).reshape(height, width, -1)
    return pixels[:, :, ::-1] if channels == "BGR" else pixels


def read_input(file: ImageFile, spec: ModelSpec) -> NDArray[Any]:
    """Return a picture as one input of a model that sees pictures: see `Metadata`.

    Raises ServiceError 400 for a file that is damaged or cut short.
    """
    return read_and_measure(file, spec)[0]


def read_and_measure(file: ImageFile, spec: ModelSpec) -> tuple[NDArray[Any], list[float]]:
    """Return a picture as one input of a model, and its measures where the model has a profile.

    Raises ServiceError 400 for a file that is damaged or cut short.
    """
    picture = spec.picture
    if picture is None:
        raise ValueError("the model sees no pictures")
    pixels = read_pixels(file, picture.channels, (picture.height, picture.width), picture.bit_depth)
    measures = [] if spec.profile is None else measure(pixels)
    values = np.true_divide(pixels, np.float32(1 / picture.scale), dtype=np.float32)
    if picture.mean != 0.0 or picture.std != 1.0:
        values = (values - np.asarray(picture.mean, np.float32)) / np.asarray(
            picture.std, np.float32
        )
    if picture.layout == "CHW":
        values = values.transpose(2, 0, 1)
    if not spec.dtype.startswith("float"):
        values = np.rint(values)
    return np.ascontiguousarray(values, dtype=spec.dtype), measures


def measure(pixels: NDArray[np.uint8]) -> list[float]:
    """Return brightness, contrast and sharpness of pixels [height, width, channels].

    Of the mean of the channels, from 0 to 1: its mean, its standard deviation, and the root mean
    square of the differences between neighbours.
    """
    channels = pixels.shape[2]
    grey = pixels.astype(np.float32) @ np.full(channels, 1 / (255 * channels), np.float32)
    brightness = grey.mean()
    across, down = grey[:, 1:] - grey[:, :-1], grey[1:] - grey[:-1]
    return [
        float(brightness),
        _root_mean_square(grey - brightness),
        math.hypot(_root_mean_square(across), _root_mean_square(down)),
    ]


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return math.sqrt(np.vdot(values, values) / max(1, values.size))


def warm_up_decoding(spec: ModelSpec) -> NDArray[Any] | None:
    """Read a picture of each format for a model, so that no client waits for the first ones.

    Returns the last one as the model's input, None for a model that sees no pictures.
    """
    if spec.picture is None:
        return None
    size = (spec.picture.width + 1, spec.picture.height + 1)
    inputs = None
    for kind in FORMATS:
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, kind)
        file = open_image(buffer.getvalue(), max_pixels=size[0] * size[1])
        inputs = read_input(file, spec)
    return inputs


def _open_png(content: bytes) -> ImageFile:  # noqa: PLR0912 - one branch for each chunk
    """Walk over the chunks and note where those of the picture are."""
    at, count = len(_PNG), 0
    header = palette = b""
    chunks: list[tuple[int, int]] = []
    orientation, significant = 1, None
    while True:
        if at + 12 > len(content):
            raise _bad("the file is cut short: its last chunk, IEND, is missing")
        length, kind = struct.unpack_from(">I4s", content, at)
        start, end = at + 8, at + 8 + length
        at = end + 4
        if at > len(content):
            raise _bad(f"the file is cut short in its chunk {_text(kind)}")
        if (count := count + 1) > MAX_CHUNKS:
            raise _bad(f"a PNG of more than {MAX_CHUNKS} chunks")
        if kind == b"IDAT":
            chunks.append((start, end))
        elif kind == b"IHDR":
            header = header or _checked(content, start, end)
        elif kind == b"PLTE":
            palette = palette or _checked(content, start, end)
        elif kind == b"IEND":
            break
        elif kind == b"sBIT" and length:
            significant = max(content[start : min(end, start + 3)])
        elif kind == b"eXIf":
            orientation = _exif_orientation(content[start:end])
        elif not kind[0] & 0x20:
            raise _bad(f"a PNG with a chunk {_text(kind)} that is not known")
    if not header or not chunks:
        raise _bad("a PNG without a picture in it")
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if (bits, colours) not in _PNG_MODES:
        raise _bad(f"a PNG of {bits} bits and colour type {colours}, which there is not")
    mode, raw_mode = _PNG_MODES[bits, colours]
    return ImageFile(
        content,
        "zip",
        width,
        height,
        mode,
        (raw_mode, int(bool(interlaced))),
        chunks=chunks,
        palette=palette if mode == "P" else None,
        orientation=orientation,
        bits=bits,
        significant_bits=significant,
    )


def _checked(content: bytes, start: int, end: int) -> bytes:
    """Return the data of a PNG's chunk.

    Raises ServiceError 400 where its checksum is wrong.
    """
    (checksum,) = struct.unpack_from(">I", content, end)
    if checksum != zlib.crc32(memoryview(content)[start - 4 : end]):
        kind = _text(content[start - 4 : start])
        raise _bad(f"the file is damaged: the checksum of its chunk {kind} is wrong")
    return content[start:end]


def _open_jpeg(content: bytes) -> ImageFile:
    """Walk over the segments before the first scan."""
    at, frame, orientation = 2, None, 1
    for _ in range(MAX_SEGMENTS):
        while content[at] == content[at + 1] == 0xFF:  # padding
            at += 1
        if content[at] != 0xFF:
            raise _bad("the file is damaged: something that is no segment stands in its header")
        marker = content[at + 1]
        if marker == 0xD9:
            raise _bad("a JPEG without a picture in it")
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", content, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = struct.unpack_from(">BHHB", content, at + 4)
        if marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(content[at + 10 : at + 2 + length])
        at += 2 + length
    else:
        raise _bad(f"a JPEG of more than {MAX_SEGMENTS} segments")
    if frame is None:
        raise _bad("a JPEG without a frame header")
    bits, height, width, channels = frame
    if bits != 8 or channels not in _JPEG_MODES:
        raise _bad(f"a JPEG of {channels} channels of {bits} bits, which is not read")
    mode, raw_mode = _JPEG_MODES[channels]
    return ImageFile(
        content,
        "jpeg",
        width,
        height,
        mode,
        (raw_mode, ""),
        orientation=orientation,
        first_scan=at,
    )


def _open_bmp(content: bytes) -> ImageFile:
    image = BmpImageFile(io.BytesIO(content))
    if image.info.get("compression") in (1, 2) and len(content) > MAX_RLE_BYTES:
        raise _bad(f"a run-length encoded BMP of more than {MAX_RLE_BYTES} bytes")
    return ImageFile(content, "bmp", *image.size, mode=image.mode)


def _exif_orientation(data: bytes) -> int:
    """Return the orientation in Exif data, 1 to 8; 1, upright, where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, _MOST_TAGS), 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            if tag == _ORIENTATION and kind == 3:
                (value,) = struct.unpack_from(f"{order}H", data, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _eight_bit(file: ImageFile, bit_depth: int | None) -> Image.Image:
    """Return the decoded picture with 8 bits a channel.

    Pillow itself would turn a 16-bit grey picture white, and takes the high bytes of a coloured
    one, which leaves nothing of a camera that uses the low 12 bits.
    """
    image = _decoded(file)
    if file.bits != 16:
        return image
    high = np.asarray(image)
    grey = image.mode.startswith("I")
    bits = bit_depth or file.significant_bits or 16
    if bits >= 16:
        if int(high.max()) < (4_096 if grey else 16):
            _warn_of_dark_pictures()
        return Image.fromarray((high >> 8).astype(np.uint8)) if grey else image
    if not grey:
        high = high.astype(np.uint16) << 8 | np.asarray(_decoded(file, low_bytes=True))
    pixels = (high >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels, None if grey else image.mode)


def _decoded(file: ImageFile, *, low_bytes: bool = False) -> Image.Image:
    if file.decoder == "bmp":
        image: Image.Image = BmpImageFile(_TimedReader(file.data))
        image.load()
        return image
    raw_mode, *others = file.arguments
    if low_bytes:
        raw_mode = str(raw_mode).replace("16B", "16L")
    size = (file.width, file.height) if file.orientation <= 4 else (file.height, file.width)
    data = file.data
    if file.decoder == "jpeg":
        _check_scans(file)
    if file.chunks is not None:
        data = b"".join(_checked(data, start, end) for start, end in file.chunks)
    image = Image.new(file.mode, size)
    _decode(image, data, file.decoder, (raw_mode, *others))
    if file.palette is not None:
        image.putpalette(file.palette)
    return image


def _decode(image: Image.Image, data: bytes, name: str, arguments: tuple[object, ...]) -> None:
    """Fill a picture, as `Image.frombytes` does, piece by piece: between two it looks at the clock.

    Raises ServiceError 413 where it takes too long, ValueError where the data are damaged.
    """
    decoder = Image._getdecoder(image.mode, name, arguments)
    decoder.setimage(image.im, (0, 0, *image.size))
    ends = time.monotonic() + MOST_SECONDS
    view, start, end = memoryview(data), 0, 0
    while end < len(data):
        if time.monotonic() > ends:
            raise _too_slow()
        end = min(end + _PIECE_BYTES, len(data))
        # What it leaves of a piece, it gets again with the next one.
        taken, error = decoder.decode(bytes(view[start:end]))
        if taken < 0:
            if error:
                raise ValueError("cannot decode image data")
            return
        start += taken
    raise ValueError("not enough image data")


class _TimedReader(io.BytesIO):
    """A file for a decoder that reads it itself, piece by piece: each time it looks at the clock.

    `read` raises ServiceError 413 where it takes too long.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._ends = time.monotonic() + MOST_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._ends:
            raise _too_slow()
        return super().read(size)


def _check_scans(file: ImageFile) -> None:
    scans = file.data.count(b"\xff\xda", file.first_scan)
    most = min(MAX_SCANS, MAX_SCANNED * file.max_pixels // file.pixels)
    if scans > most:
        size = f"{file.width} x {file.height} pixels"
        raise _bad(f"a JPEG of {scans} scans; of one of {size} at most {most} are read")


@cache
def _warn_of_dark_pictures() -> None:
    """Say once that 16-bit pictures use their low bits only."""
    event(
        _logger,
        logging.WARNING,
        "a 16-bit picture uses its lowest 12 bits at most and is read as nearly black; set "
        "IMAGE_BIT_DEPTH, or bit_depth in the model's metadata, to the camera's",
    )


def _fault(file: ImageFile, error: Exception) -> str:
    if file.decoder == "jpeg" and b"\xff\xd9" not in file.data:
        return "the JPEG has no end mark (FF D9)"
    return str(error) or type(error).__name__


def _text(kind: bytes) -> str:
    return repr(kind.decode("latin-1"))


def _bad(message: str) -> ServiceError:
    return ServiceError(400, "bad_input", f"image: {message}")


def _too_large(message: str) -> ServiceError:
    return ServiceError(413, "too_large", f"image: {message}")


def _too_slow() -> ServiceError:
    return _too_large(f"it takes more than {MOST_SECONDS:g} s to decode")
