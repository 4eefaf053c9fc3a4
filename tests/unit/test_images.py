"""Image files to inputs: formats, modes, limits, hostile files, and what is no image."""

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bentos.edge.http import ServiceError
from bentos.inference import images
from bentos.inference.images import open_image, read_input, read_pixels, warm_up_decoding
from bentos.inference.model.spec import Metadata, ModelSpec, picture_of
from bentos.inference.request import check_sees_images
from tests.support.images import black_png, colour_file, file_of, noise_file, png_of

MAX_PIXELS = 1_000_000


def spec_of(*shape: int, dtype: str = "float32", **metadata: Any) -> ModelSpec:
    picture = picture_of(shape, dtype, Metadata(**metadata))
    return ModelSpec(shape, dtype, ("a", "b"), (False, True), picture)


COLOUR, GREY = spec_of(3, 16, 16), spec_of(1, 16, 16)


def read(content: bytes, spec: ModelSpec = COLOUR) -> NDArray[Any]:
    check_sees_images(spec)
    return read_input(open_image(content, max_pixels=MAX_PIXELS), spec)


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


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"").message == "image: the file is empty"


@pytest.mark.parametrize(
    "content",
    [
        *(b"this is a text", b"\x00" * 100, b"<svg/>", b"\x89PNG", b"\xff\xd8", b"B"),
        *(b"P6 1 1 255 abc", b"%!PS-Adobe-3.0 EPSF-3.0", b"%PDF-1.4"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_what_is_taken(content: bytes) -> None:
    assert refusal(content).message == "image: not an image file; expected PNG, JPEG, BMP"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"])
def test_a_file_that_only_begins_as_an_image_is_cut_short(content: bytes) -> None:
    assert "cut short" in refusal(content).message


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
    assert "the checksum of its chunk 'IDAT' is wrong" in refusal(bytes(whole)).message


def test_a_bomb_is_refused_by_its_announced_size() -> None:
    error = refusal(black_png(1_001, 1_000), status=413)
    assert "1001 x 1000 pixels; at most 1000000" in error.message
    assert "MAX_IMAGE_PIXELS" in error.message


def test_a_bomb_beyond_all_bounds_is_refused() -> None:
    header = bytearray(black_png(10, 10))
    header[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    assert "at most 1000000 are taken" in refusal(bytes(header), status=413).message


@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
def test_a_picture_that_is_all_length_is_refused(size: tuple[int, int]) -> None:
    """Few pixels, but a resize that took 400 MB and four seconds for a file of 50 kB."""
    assert "a side" in refusal(black_png(*size), status=413).message


def test_a_picture_of_as_many_pixels_as_allowed_is_read() -> None:
    assert read(black_png(1_000, 1_000)).max() == 0.0
    assert read(black_png(50_000, 1)).shape == (3, 16, 16)


@pytest.mark.case(28)
def test_a_text_bomb_inside_a_picture_is_passed_over() -> None:
    """A PNG with 100 MB of text compressed into it: decoded, the text is never looked at."""
    text = b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000)
    assert read(png_of((16, 16), before=[(b"zTXt", text)])).max() == 0.0


@pytest.mark.parametrize("shape", [(20,), (16, 16), (4, 16, 16)])
def test_a_model_that_sees_no_images_says_so(shape: tuple[int, ...]) -> None:
    error = refusal(colour_file((1, 2, 3)), spec=spec_of(*shape))
    assert str(list(shape)) in error.message
    assert "/predict" in error.message


def chunks(count: int) -> bytes:
    return png_of((16, 16), before=[(b"prVt", b"")] * count)


@pytest.mark.case(5)
def test_a_png_of_very_many_chunks_is_refused_in_a_moment() -> None:
    """A PNG with 800,000 empty chunks: 400 that says so, without a walk over all of them."""
    assert read(chunks(images.MAX_CHUNKS - 3)).max() == 0.0
    hostile = chunks(800_000)
    started = time.process_time()
    assert "more than 10000 chunks" in refusal(hostile).message
    assert time.process_time() - started < 1.0


@pytest.mark.case(5)
def test_a_picture_in_thousands_of_pieces_is_read() -> None:
    """A PNG whose picture stands in 5,000 chunks of a few bytes: decoded in one go."""
    whole = png_of((100, 100), pieces=5_000)
    assert read(whole).max() == 0.0


def jpeg_with(segments: bytes, **options: object) -> bytes:
    """Return a JPEG with segments after its first two bytes."""
    whole = file_of(Image.new("RGB", (128, 128), (200, 0, 0)), "JPEG", **options)
    return whole[:2] + segments + whole[2:]


@pytest.mark.case(5)
def test_a_jpeg_of_very_many_segments_is_refused_in_a_moment() -> None:
    """A JPEG with 2.6 million comments: 400 that says so, without a walk over all of them."""
    comment = b"\xff\xfe\x00\x02"
    assert read(jpeg_with(comment * 900))[0].mean() > 0.7
    hostile = jpeg_with(comment * 2_600_000)
    started = time.process_time()
    assert "more than 1000 segments" in refusal(hostile).message
    assert time.process_time() - started < 1.0


@pytest.mark.case(6)
def test_a_progressive_jpeg_of_very_many_scans_is_refused_in_a_moment() -> None:
    """A progressive JPEG whose last scan is repeated 100,000 times: 400 that says so."""
    whole = jpeg_with(b"", progressive=True)
    last = whole.rindex(b"\xff\xda")
    scan = whole[last:-2]
    assert read(whole[:-2] + scan * 80 + whole[-2:])[0].mean() > 0.7
    hostile = whole[:-2] + scan * 100_000 + whole[-2:]
    started = time.process_time()
    assert "at most 100 are read" in refusal(hostile).message
    assert time.process_time() - started < 1.0


@pytest.mark.case(67)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "run-length encoded BMP"])
def test_a_picture_that_takes_too_long_to_decode_is_given_up(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture whose decoding takes longer than any client waits: 413, and the next one's turn."""
    pixels = np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)
    if kind in images.FORMATS:
        content = file_of(Image.fromarray(pixels), kind, quality=100)
    else:
        content = run_length_bmp(64, 64)
    file = open_image(content, max_pixels=1_000_000)
    assert read_pixels(file, "RGB", (30, 40)).shape == (30, 40, 3)
    monkeypatch.setattr(images, "MOST_SECONDS", -1.0)
    with pytest.raises(ServiceError, match="to decode") as refused:
        read_pixels(file, "RGB", (30, 40))
    assert (refused.value.status, refused.value.reason) == (413, "too_large")


@pytest.mark.case(6)
def test_scans_of_a_large_picture_are_bounded_by_its_pixels() -> None:
    """A JPEG of a million pixels in 50 scans: each costs its pixels again, so fewer are read."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1_000, 1_000), np.uint8))
    whole = file_of(noise, "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert read(whole).shape == COLOUR.input_shape
    assert "at most 16" in refusal(whole[:-2] + scan * 50 + whole[-2:]).message


@pytest.mark.case(5)
def test_a_run_length_encoded_bmp_is_read_up_to_a_size() -> None:
    """Runs of a BMP are decoded in Python: a large one is a 400 that says so."""
    small = run_length_bmp(64, 64)
    assert read(small, GREY).shape == (1, 16, 16)
    assert "run-length encoded" in refusal(run_length_bmp(64, 64, padding=300_000)).message


def run_length_bmp(width: int, height: int, *, padding: int = 0) -> bytes:
    runs = b"".join(bytes([width, 1, 0, 0]) for _ in range(height)) + b"\0\1" + bytes(padding)
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIII", b"BM", start + len(runs), 0, start) + info + palette + runs


@pytest.mark.case(24)
def test_a_model_of_bytes_sees_bytes() -> None:
    """A uint8 model that divides by 255 itself: pixels come from 0 to 255, as with /predict."""
    spec = spec_of(3, 16, 16, dtype="uint8")
    inputs = read(colour_file((255, 128, 3)), spec)
    assert inputs.dtype == np.uint8
    assert inputs[:, 0, 0].tolist() == [255, 128, 3]
    assert read(colour_file((255, 0, 3)), spec_of(3, 16, 16, dtype="int32")).max() == 255


@pytest.mark.case(24)
def test_scale_mean_std_channels_and_layout_of_the_metadata_are_honoured() -> None:
    """A model trained on scaled pictures: its metadata say how pictures are given to it."""
    content = colour_file((255, 0, 51), size=(24, 16))
    scaled = read(content, spec_of(3, 16, 24, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 0.1)))
    np.testing.assert_allclose(scaled[:, 0, 0], [1, -2, 0], atol=1e-5)
    raw = read(content, spec_of(3, 16, 24, scale=1.0, mean=51.0))
    np.testing.assert_allclose(raw[:, 0, 0], [204, -51, 0])
    turned = read(content, spec_of(3, 16, 24, channels="BGR"))
    np.testing.assert_allclose(turned[:, 0, 0], [0.2, 0, 1])
    last = read(content, spec_of(16, 24, 3, layout="HWC", dtype="uint8"))
    assert last.shape == (16, 24, 3)
    assert last[0, 0].tolist() == [255, 0, 51]


@pytest.mark.case(26)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_was_taken_turned_is_seen_upright(form: str, orientation: int) -> None:
    """A picture with an Exif orientation gives what the same picture saved upright gives."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :, 0] = 250
    pixels[:, :16, 1] = 250
    taken = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(taken, form, exif=exif, **({"quality": 100} if form == "JPEG" else {}))
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened)
    file = open_image(content, max_pixels=MAX_PIXELS)
    assert (file.width, file.height) == expected.size
    size = (expected.height, expected.width)
    np.testing.assert_array_equal(read_pixels(file, "RGB", size), np.asarray(expected))
    np.testing.assert_array_equal(read(content), read(file_of(expected)))


@pytest.mark.parametrize(
    "exif",
    [
        *(b"", b"II", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"),
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
    ],
)
def test_exif_data_that_make_no_sense_turn_nothing(exif: bytes) -> None:
    assert read(png_of((16, 16), before=[(b"eXIf", exif)])).shape == COLOUR.input_shape
    segment = b"Exif\0\0" + exif
    header = b"\xff\xe1" + struct.pack(">H", len(segment) + 2)
    assert read(jpeg_with(header + segment)).shape == COLOUR.input_shape


def grey_16(value: int, **chunks: Any) -> bytes:
    return png_of((16, 16), bits=16, row=struct.pack(">H", value) * 16, **chunks)


def colour_16(value: int, **chunks: Any) -> bytes:
    return png_of(
        (16, 16), bits=16, colours=2, row=struct.pack(">HHH", value, 0, value) * 16, **chunks
    )


@pytest.mark.case(27)
@pytest.mark.parametrize("content_of", [grey_16, colour_16])
def test_a_camera_of_12_bits_has_its_full_range(content_of: Any) -> None:
    """A 16-bit PNG of a 12-bit camera: 4,095 is white, by the metadata or by the file's sBIT."""
    for value, seen in ((4_095, 1.0), (2_048, 0.5), (0, 0.0), (9_000, 1.0)):
        for content, spec in (
            (content_of(value), spec_of(3, 16, 16, bit_depth=12)),
            (content_of(value, before=[(b"sBIT", bytes([12, 12, 12]))]), COLOUR),
        ):
            np.testing.assert_allclose(read(content, spec)[0], seen, atol=0.005)
    np.testing.assert_allclose(read(content_of(65_535))[0], 1.0)


@pytest.mark.case(27)
@pytest.mark.parametrize("content_of", [grey_16, colour_16])
def test_a_dark_16_bit_picture_without_a_depth_is_warned_of_once(
    content_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A 16-bit PNG that uses its low bits only and says nothing of it: read as it is, and said."""
    images._warn_of_dark_pictures.cache_clear()
    with caplog.at_level("WARNING", logger="bentos.images"):
        for _ in range(3):
            assert read(content_of(2_000))[0].max() < 0.05
    (record,) = caplog.records
    assert "IMAGE_BIT_DEPTH" in record.getMessage()


@pytest.mark.case(28)
def test_a_picture_with_a_long_text_or_a_damaged_note_is_read() -> None:
    """A PNG with an iTXt of 2 MB, and one with a wrong checksum in gAMA: both decoded."""
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2_000_000
    assert read(png_of((16, 16), before=[(b"iTXt", text)])).max() == 0.0
    damaged = png_of((16, 16), before=[(b"gAMA", b"\0\0\xb1\x8f")])
    at = damaged.index(b"gAMA") + 8
    assert read(damaged[:at] + b"\0\0\0\0" + damaged[at + 4 :]).max() == 0.0


@pytest.mark.case(28)
def test_a_jpeg_without_its_end_mark_is_refused_by_that_name() -> None:
    """A JPEG whose last two bytes are missing: nobody knows if more is, and the 400 says so."""
    whole = noise_file(form="JPEG")
    assert "the JPEG has no end mark (FF D9)" in refusal(whole[:-2]).message


@pytest.mark.case(28)
def test_what_is_wrong_with_a_picture_is_named() -> None:
    """Pictures with one fault each: the 400 says which."""
    whole = black_png(16, 16)
    faults = {
        "its last chunk, IEND, is missing": whole[:-12],
        "cut short in its chunk 'IDAT'": whole[:-20],
        "'CgBI' that is not known": png_of((16, 16), before=[(b"CgBI", b"1234")]),
        "5 bits and colour type 0": png_of((16, 16), bits=5),
        "not enough image data": png_of((16, 20), row=b"\0" * 10),
        "without a picture": png_of((16, 16), pieces=0),
        "a picture of 0 x 16": png_of((0, 16)),
    }
    for fault, content in faults.items():
        assert fault in refusal(content).message


@pytest.mark.case(58)
@pytest.mark.parametrize("spec", [COLOUR, GREY, spec_of(8, 9, 3, layout="HWC", dtype="uint8")])
def test_warming_up_reads_a_picture_of_each_format(spec: ModelSpec) -> None:
    """The first picture after a start is as quick as later ones: its whole way was gone before."""
    inputs = warm_up_decoding(spec)
    assert inputs is not None
    assert inputs.shape == spec.input_shape
    assert warm_up_decoding(spec_of(20)) is None
