"""Image files to model inputs: PNG, JPEG or BMP, bounded before they are decoded."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bentos.edge.http import ServiceError
from bentos.inference.model import ModelSpec

FORMATS = ("PNG", "JPEG", "BMP")
# A longer side is no photograph, and its resize takes tables of hundreds of megabytes.
_LONGEST_SIDE = 65_535
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})


def open_image(content: bytes, *, max_pixels: int) -> Image.Image:
    """Return an image of which only the header was read, so that a bomb is told by its size.

    Raises ServiceError 400 for what is no image and 413 for too many pixels.
    """
    if not content:
        raise ServiceError(400, "bad_input", "image: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_many("too many", max_pixels) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise ServiceError(
            400, "bad_input", f"image: not an image file; expected {', '.join(FORMATS)}"
        ) from None
    if image.width * image.height > max_pixels:
        raise _too_many(f"{image.width} x {image.height}", max_pixels)
    if max(image.size) > _LONGEST_SIDE:
        raise ServiceError(
            413,
            "too_large",
            f"image: {image.width} x {image.height} pixels; a side may have {_LONGEST_SIDE} "
            "at most",
        )
    return image


def decode(image: Image.Image, spec: ModelSpec) -> NDArray[Any]:
    """Return the picture as the model takes it, values 0 to 1, resized where it has to be.

    Raises ServiceError 400 for a file that is not whole and for a model that sees no images.
    """
    check_sees_images(spec)
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


def check_sees_images(spec: ModelSpec) -> None:
    """Raise ServiceError 400 for a model whose inputs are no images."""
    if not spec.is_image:
        raise ServiceError(
            400,
            "bad_input",
            f"the model takes inputs of shape {list(spec.input_shape)}, not images; use /predict",
        )


def _too_many(got: str, max_pixels: int) -> ServiceError:
    return ServiceError(
        413,
        "too_large",
        f"image: {got} pixels; at most {max_pixels} are taken (MAX_IMAGE_PIXELS)",
    )


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture in 8 bits; Pillow itself would turn it white."""
    if image.mode not in _SIXTEEN_BIT_MODES:
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
