"""Folders of images become tensors, and folders that cannot be trained on are refused clearly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bentos.inference.images import open_image, read_input
from bentos.inference.model.spec import Metadata, ModelSpec, picture_of
from examples.dataset import DatasetError, read_folder, split

Save = Callable[[str, Image.Image], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save_at(name: str, image: Image.Image) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path

    return save_at


def picture(seed: int, height: int = 12, width: int = 12, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values)


def fill(save: Save, *, classes: int = 2, each: int = 6, **kind: object) -> None:
    for label in range(classes):
        for number in range(each):
            image = picture(100 * label + number, **kind)  # type: ignore[arg-type]
            save(f"class{label}/{number:03d}.png", image)


def test_colour_images_become_three_channels_between_0_and_1(tmp_path: Path, save: Save) -> None:
    fill(save)

    dataset = read_folder(tmp_path)

    assert dataset.pixels.shape == (12, 3, 12, 12)
    assert dataset.pixels.dtype == torch.float32
    assert dataset.pixels.is_contiguous()
    assert dataset.class_names == ("class0", "class1")
    assert dataset.labels.tolist() == [0] * 6 + [1] * 6
    expected = np.asarray(picture(0), dtype=np.float32).transpose(2, 0, 1) / 255.0
    np.testing.assert_array_equal(dataset.pixels[0].numpy(), expected)


def test_a_folder_of_greyscale_images_becomes_one_channel(tmp_path: Path, save: Save) -> None:
    fill(save, mode="L")

    dataset = read_folder(tmp_path)

    assert dataset.pixels.shape == (12, 1, 12, 12)
    expected = np.asarray(picture(0, mode="L"), dtype=np.float32) / 255.0
    np.testing.assert_array_equal(dataset.pixels[0, 0].numpy(), expected)


def test_one_colour_image_among_greyscale_ones_makes_all_of_them_colour(
    tmp_path: Path, save: Save
) -> None:
    fill(save, mode="L")
    save("class0/colour.png", picture(77))

    pixels = read_folder(tmp_path).pixels

    assert pixels.shape[1] == 3
    assert torch.equal(pixels[0, 0], pixels[0, 1])


def test_sixteen_bit_greyscale_keeps_its_shades(tmp_path: Path, save: Save) -> None:
    for label in range(2):
        for number in range(5):
            level = 1000 + 10000 * number + 3000 * label
            save(f"class{label}/{number}.png", Image.fromarray(np.full((9, 9), level, np.uint16)))

    pixels = read_folder(tmp_path).pixels

    assert pixels.shape == (10, 1, 9, 9)
    assert pixels[0].mean().item() == pytest.approx(1000 / 65535, abs=0.005)
    assert pixels[4].mean().item() == pytest.approx(41000 / 65535, abs=0.005)


def test_transparent_and_palette_images_are_read(tmp_path: Path, save: Save) -> None:
    fill(save)
    save("class0/transparent.png", picture(50).convert("RGBA"))
    save("class1/palette.png", picture(51).convert("P"))

    assert read_folder(tmp_path).pixels.shape == (14, 3, 12, 12)


def test_png_jpg_jpeg_and_bmp_are_read_in_any_case_and_other_files_are_not(
    tmp_path: Path, save: Save
) -> None:
    for label in ("good", "bad"):
        for number, suffix in enumerate(("png", "jpg", "jpeg", "bmp", "PNG", "JPG", "BMP")):
            save(f"{label}/{number}.{suffix}", picture(number + 10 * len(label)))
        (tmp_path / label / "notes.txt").write_text("not an image")
        (tmp_path / label / ".hidden.png").write_text("not an image")
    (tmp_path / "readme.md").write_text("not a class")
    (tmp_path / ".cache").mkdir()

    dataset = read_folder(tmp_path)

    assert dataset.class_names == ("bad", "good")
    assert len(dataset) == 14


def test_images_of_mixed_sizes_are_scaled_to_their_median_size(tmp_path: Path, save: Save) -> None:
    for label in range(2):
        for number, (height, width) in enumerate([(10, 20), (12, 24), (12, 24), (40, 50), (9, 9)]):
            save(f"class{label}/{number}.png", picture(10 * label + number, height, width))

    assert read_folder(tmp_path).pixels.shape == (10, 3, 12, 24)


def test_large_images_are_reduced_to_64_pixels_on_their_longer_side(
    tmp_path: Path, save: Save
) -> None:
    fill(save, each=5, height=100, width=200)

    assert read_folder(tmp_path).pixels.shape == (10, 3, 32, 64)


def test_a_size_that_is_asked_for_is_used(tmp_path: Path, save: Save) -> None:
    fill(save, each=5)

    assert read_folder(tmp_path, (16, 24)).pixels.shape == (10, 3, 16, 24)


def test_a_picture_that_is_there_twice_is_used_once(tmp_path: Path, save: Save) -> None:
    fill(save)
    for number in range(4):
        save(f"class0/copy{number}.bmp", picture(0))

    dataset = read_folder(tmp_path)

    assert len(dataset) == 12
    assert dataset.duplicates == 4
    assert len({pixels.numpy().tobytes() for pixels in dataset.pixels}) == 12


def test_a_picture_that_stands_in_two_classes_is_left_out(tmp_path: Path, save: Save) -> None:
    fill(save)
    contradiction = save("class1/copy.png", picture(0))

    dataset = read_folder(tmp_path)

    assert dataset.duplicates == 2
    assert contradiction not in dataset.paths
    assert tmp_path / "class0" / "000.png" not in dataset.paths


def test_a_split_holds_out_the_same_share_of_every_class(tmp_path: Path, save: Save) -> None:
    fill(save, classes=3, each=10)

    parts = split(read_folder(tmp_path), held_out=0.2, seed=1)

    assert parts.held_out.labels.bincount().tolist() == [2, 2, 2]
    assert parts.train.labels.bincount().tolist() == [8, 8, 8]


def test_a_split_puts_every_image_on_exactly_one_side(tmp_path: Path, save: Save) -> None:
    fill(save, each=7)
    dataset = read_folder(tmp_path)

    parts = split(dataset, seed=1)

    assert not set(parts.train.paths) & set(parts.held_out.paths)
    assert set(parts.train.paths) | set(parts.held_out.paths) == set(dataset.paths)
    where = dataset.paths.index(parts.held_out.paths[0])
    assert torch.equal(parts.held_out.pixels[0], dataset.pixels[where])
    assert parts.held_out.labels[0] == dataset.labels[where]


def test_the_seed_alone_decides_the_split(tmp_path: Path, save: Save) -> None:
    fill(save, each=20)
    dataset = read_folder(tmp_path)

    assert split(dataset, seed=1).held_out.paths == split(dataset, seed=1).held_out.paths
    assert split(dataset, seed=1).held_out.paths != split(dataset, seed=2).held_out.paths


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_one_side_empty_is_refused(
    tmp_path: Path, save: Save, share: float
) -> None:
    fill(save)

    with pytest.raises(ValueError, match="between 0 and 1"):
        split(read_folder(tmp_path), held_out=share)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere' is not a folder"):
        read_folder(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_told_the_layout(tmp_path: Path, save: Save) -> None:
    save("loose.png", picture(0))

    with pytest.raises(DatasetError, match=r"no class folders.*<class>/\*\.png"):
        read_folder(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path, save: Save) -> None:
    fill(save, classes=1)

    with pytest.raises(DatasetError, match="only one class, 'class0'"):
        read_folder(tmp_path)


def test_a_class_folder_without_images_is_named(tmp_path: Path, save: Save) -> None:
    fill(save)
    (tmp_path / "empty").mkdir()

    with pytest.raises(DatasetError, match="empty' has no png"):
        read_folder(tmp_path)


def test_a_class_of_too_few_different_images_is_named_with_its_count(
    tmp_path: Path, save: Save
) -> None:
    fill(save)
    for number in range(6):
        save(f"rare/{number}.png", picture(500 + number % 2))

    with pytest.raises(DatasetError, match="'rare' has 2 different images, at least 5"):
        read_folder(tmp_path)


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_file_is_named(tmp_path: Path, save: Save, damage: str) -> None:
    fill(save)
    whole = (tmp_path / "class0" / "000.png").read_bytes()
    broken = tmp_path / "class1" / "broken.png"
    broken.write_bytes({"text": b"not an image", "truncated": whole[:200], "empty": b""}[damage])

    with pytest.raises(DatasetError, match=r"broken\.png' cannot be read as an image"):
        read_folder(tmp_path)


def test_a_size_too_small_for_the_network_is_refused(tmp_path: Path, save: Save) -> None:
    fill(save)

    with pytest.raises(DatasetError, match="4x4 is under 8 pixels"):
        read_folder(tmp_path, (4, 4))


@pytest.mark.case(26)
def test_training_reads_a_picture_as_serving_does(tmp_path: Path, save: Save) -> None:
    """A folder of photographs with Exif orientations: training sees what serving sees, upright."""
    fill(save)
    for path in tmp_path.glob("*/*"):
        with Image.open(path) as opened:
            pixels = np.asarray(opened)
        pixels = np.concatenate([pixels, pixels[:6]])
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=exif)
    spec = ModelSpec(
        (3, 12, 18),
        "float32",
        ("a", "b"),
        (True, True),
        picture_of((3, 12, 18), "float32", Metadata()),
    )
    dataset = read_folder(tmp_path)
    assert dataset.pixels.shape[2:] == (12, 18)
    for path, seen in zip(dataset.paths, dataset.pixels.numpy(), strict=True):
        file = open_image(path.read_bytes(), max_pixels=1_000)
        np.testing.assert_array_equal(read_input(file, spec), seen)
