"""Image files to inputs: formats, modes, limits, and what is no image."""

import random
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bentos.edge.http import ServiceError
from bentos.inference.images import decode, open_image
from bentos.inference.model import ModelSpec
from tests.support.images import black_png, colour_file, file_of, noise_file

MAX_PIXELS = 1_000_000


def spec_of(*shape: int, dtype: str = "float32") -> ModelSpec:
    return ModelSpec(shape, np.dtype(dtype), ("a", "b"), (False, True))


COLOUR, GREY = spec_of(3, 16, 16), spec_of(1, 16, 16)


def read(content: bytes, spec: ModelSpec = COLOUR) -> NDArray[Any]:
    return decode(open_image(content, max_pixels=MAX_PIXELS), spec)


def refusal(content: bytes, *, status: int = 400, spec: ModelSpec = COLOUR) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        read(content, spec)
    assert refused.value.status == status
    assert refused.value.reason == {400: "bad_input", 413: "too_large"}[status]
    return refused.value


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
def test_a_picture_becomes_channels_of_zero_to_one(form: str) -> None:
    inputs = read(colour_file((255, 0, 51), form=form))
    assert inputs.shape == (3, 16, 16)
    assert inputs.dtype == np.float32
    assert inputs.flags.c_contiguous
    means = inputs.mean(axis=(1, 2))
    np.testing.assert_allclose(means, [1, 0, 0.2], atol=0.02)


def test_a_picture_of_another_size_is_resized() -> None:
    inputs = read(colour_file((0, 255, 0), size=(300, 200)), spec_of(3, 8, 24))
    assert inputs.shape == (3, 8, 24)
    np.testing.assert_array_equal(inputs.mean(axis=(1, 2)), [0, 1, 0])


def test_rows_stay_rows_and_columns_columns() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[0, :, 0] = 255
    inputs = read(file_of(Image.fromarray(pixels)))
    assert inputs[0, 0].min() == 1.0
    assert inputs[0, 1:].max() == 0.0


def test_a_grey_model_sees_colour_in_grey_and_a_colour_model_grey_in_colour() -> None:
    assert read(colour_file((255, 255, 255)), GREY).shape == (1, 16, 16)
    grey = file_of(Image.new("L", (16, 16), 51))
    np.testing.assert_allclose(read(grey), np.full((3, 16, 16), 0.2), atol=1e-6)


def test_the_models_type_is_kept() -> None:
    assert read(colour_file((1, 2, 3)), spec_of(3, 16, 16, dtype="float64")).dtype == np.float64


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    picture = Image.fromarray(np.full((16, 16), 32_768, np.uint16))
    assert picture.mode == "I;16"
    for spec in (GREY, COLOUR):
        np.testing.assert_allclose(read(file_of(picture), spec), 0.5, atol=0.01)


def test_a_large_sixteen_bit_picture_is_read_too() -> None:
    picture = Image.fromarray(np.full((400, 300), 65_535, np.uint16))
    np.testing.assert_allclose(read(file_of(picture), GREY), 1.0, atol=0.01)


def test_a_palette_is_looked_up() -> None:
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([0, 0, 0, 255, 102, 0])
    means = read(file_of(picture)).mean(axis=(1, 2))
    np.testing.assert_allclose(means, [1, 0.4, 0], atol=0.01)


def test_transparency_is_left_out() -> None:
    for mode, colour in (("RGBA", (0, 0, 255, 0)), ("LA", (255, 10))):
        inputs = read(file_of(Image.new(mode, (16, 16), colour)))
        assert inputs[2].mean() == 1.0
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 255])
    assert read(file_of(palette, transparency=0))[2].mean() == 1.0


def test_one_bit_is_black_and_white() -> None:
    assert read(file_of(Image.new("1", (16, 16), 1)), GREY).mean() == 1.0


def test_a_cmyk_jpeg_is_read_in_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    means = read(file_of(red, "JPEG", quality=95)).mean(axis=(1, 2))
    np.testing.assert_allclose(means, [1, 0, 0], atol=0.05)


def test_a_progressive_jpeg_is_read() -> None:
    picture = Image.new("RGB", (200, 200), (255, 255, 255))
    assert read(file_of(picture, "JPEG", progressive=True)).mean() == 1.0


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"").message == "image: the file is empty"


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"this is a text",
            b"\x00" * 100,
            b"<svg/>",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"BM",
        ),
        *(b"P6 1 1 255 abc", b"%!PS-Adobe-3.0 EPSF-3.0", b"%PDF-1.4"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_what_is_taken(content: bytes) -> None:
    assert refusal(content).message == "image: not an image file; expected PNG, JPEG, BMP"


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused(form: str) -> None:
    assert "expected PNG, JPEG, BMP" in refusal(colour_file((1, 2, 3), form=form)).message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("size", [(64, 48), (300, 200)])
def test_a_truncated_file_is_refused(form: str, size: tuple[int, int]) -> None:
    whole = noise_file(size=size, form=form)
    for kept in (0.3, 0.6, 0.9):
        refusal(whole[: int(len(whole) * kept)])


def test_a_damaged_file_is_refused() -> None:
    whole = bytearray(noise_file())
    whole[len(whole) // 2] ^= 0xFF
    assert "damaged or cut short" in refusal(bytes(whole)).message


def test_a_bomb_is_refused_by_its_announced_size() -> None:
    error = refusal(black_png(1_001, 1_000), status=413)
    assert "1001 x 1000 pixels; at most 1000000" in error.message
    assert "MAX_IMAGE_PIXELS" in error.message


def test_a_bomb_beyond_all_bounds_is_refused() -> None:
    header = bytearray(black_png(10, 10))
    header[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    assert "too many pixels" in refusal(bytes(header), status=413).message


@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
def test_a_picture_that_is_all_length_is_refused(size: tuple[int, int]) -> None:
    """Few pixels, but a resize that took 400 MB and four seconds for a file of 50 kB."""
    assert "a side" in refusal(black_png(*size), status=413).message


def test_a_picture_of_as_many_pixels_as_allowed_is_read() -> None:
    assert read(black_png(1_000, 1_000)).max() == 0.0
    assert read(black_png(50_000, 1)).shape == (3, 16, 16)


def test_a_text_bomb_inside_a_picture_is_refused_or_ignored() -> None:
    whole = black_png(16, 16)
    text = b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000)
    size, crc = len(text).to_bytes(4, "big"), zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    bomb = whole[:33] + size + b"zTXt" + text + crc + whole[33:]
    refusal(bomb)


@pytest.mark.parametrize("shape", [(20,), (16, 16), (4, 16, 16)])
def test_a_model_that_sees_no_images_says_so(shape: tuple[int, ...]) -> None:
    error = refusal(colour_file((1, 2, 3)), spec=spec_of(*shape))
    assert str(list(shape)) in error.message
    assert "/predict" in error.message


def test_mutated_files_are_images_or_clear_refusals() -> None:
    chance = random.Random(0)
    files = [noise_file(form=form) for form in ("PNG", "JPEG", "BMP")]
    files.append(file_of(Image.fromarray(np.full((24, 31), 9_000, np.uint16))))
    files.append(file_of(Image.new("P", (20, 20), 3)))

    def outcome(content: bytes) -> int:
        try:
            inputs = read(content)
        except ServiceError as error:
            return error.status
        assert 0 <= inputs.min() <= inputs.max() <= 1
        return 200

    seen = set()
    for _ in range(3_000):
        content = bytearray(chance.choice(files))
        for _ in range(chance.randrange(1, 5)):
            content[chance.randrange(min(len(content), 200))] = chance.randrange(256)
        seen.add(outcome(bytes(content[: chance.randrange(1, 2 * len(content))])))
    assert seen == {200, 400, 413}
