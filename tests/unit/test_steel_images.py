"""The generator draws the images that its seed says, one folder per class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples import steel_images


def test_every_class_gets_its_numbered_png_files(tmp_path: Path) -> None:
    written = steel_images.write_images(tmp_path, per_class=3, seed=0)

    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert found == [
        f"{name}/{number:03d}.png" for name in steel_images.class_names() for number in range(3)
    ]
    assert sorted(written) == sorted(tmp_path.rglob("*.png"))


def test_images_are_32_by_32_colour_pictures(tmp_path: Path) -> None:
    for path in steel_images.write_images(tmp_path, per_class=2, seed=0):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
            assert np.asarray(image).std() > 2


def test_there_is_a_normal_class_and_at_least_four_defects() -> None:
    names = steel_images.class_names()

    assert steel_images.NORMAL in names
    assert len(names) >= 5


def test_the_same_seed_draws_the_same_images(tmp_path: Path) -> None:
    first = steel_images.write_images(tmp_path / "first", per_class=2, seed=7)
    second = steel_images.write_images(tmp_path / "second", per_class=2, seed=7)

    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_another_seed_draws_other_images(tmp_path: Path) -> None:
    first = steel_images.write_images(tmp_path / "first", per_class=2, seed=7)
    second = steel_images.write_images(tmp_path / "second", per_class=2, seed=8)

    contents = {path.read_bytes() for path in (*first, *second)}
    assert len(contents) == len(first) + len(second)


def test_asking_for_more_images_keeps_the_first_ones(tmp_path: Path) -> None:
    steel_images.write_images(tmp_path / "few", per_class=1, seed=3)
    steel_images.write_images(tmp_path / "many", per_class=3, seed=3)

    for path in (tmp_path / "few").rglob("*.png"):
        twin = tmp_path / "many" / path.relative_to(tmp_path / "few")
        assert path.read_bytes() == twin.read_bytes()


@pytest.mark.parametrize("kind", [name for name in steel_images.class_names() if name != "normal"])
def test_a_defect_changes_the_bare_surface_where_it_lies(kind: str) -> None:
    strongest = []
    for number in range(20):
        pixels = np.asarray(steel_images.draw(kind, np.random.default_rng(number)), dtype=float)
        grey = pixels.mean(axis=2)
        # Against its own column and row: lighting and brushing are no defect.
        expected = np.median(grey, axis=1, keepdims=True)
        strongest.append(np.abs(grey - expected).max())
    normal = []
    for number in range(20):
        pixels = np.asarray(steel_images.draw("normal", np.random.default_rng(number)), dtype=float)
        grey = pixels.mean(axis=2)
        normal.append(np.abs(grey - np.median(grey, axis=1, keepdims=True)).max())
    assert np.median(strongest) > np.median(normal)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="rust"):
        steel_images.draw("rust", np.random.default_rng(0))


def test_the_command_writes_the_folder_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = steel_images.main(["--out", str(tmp_path), "--per-class", "2", "--seed", "1"])

    assert status == 0
    assert len(list(tmp_path.rglob("*.png"))) == 2 * len(steel_images.class_names())
    assert f"12 images of 6 classes in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--per-class", "0"], "at least 1"),
        (["--seed", "-1"], "must not be negative"),
    ],
)
def test_the_command_refuses_senseless_numbers_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    status = steel_images.main(["--out", str(tmp_path), *options])

    error = capsys.readouterr().err
    assert status == 1
    assert said in error
    assert error.count("\n") == 1


def test_the_command_says_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()

    assert steel_images.main(["--out", str(in_the_way), "--per-class", "1"]) == 1
    assert str(in_the_way) in capsys.readouterr().err
