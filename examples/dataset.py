"""Reads folders of labelled images into tensors and splits them for training."""

import hashlib
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bentos.edge.http import ServiceError
from bentos.inference.images import ImageFile, open_image, read_pixels
from examples.command import MAX_PIXELS, CommandError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp")
SMALLEST_CLASS: Final = 5
SMALLEST_SIDE: Final = 8
LARGEST_DEFAULT_SIDE: Final = 64

_Labelled = tuple[Path, int, NDArray[np.uint8]]

# Of a picture with one channel.
_GREY_MODES: Final = ("1", "L", "LA", "I;16")


class DatasetError(CommandError):
    """The folder cannot be trained on; the message tells a user why, and which file or class."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images.

    `pixels` is float32 [N, C, H, W] in 0..1, `labels` int64 [N] of indices into `class_names`.
    """

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> "ImageDataset":
        """Return the images at indices, int64 [M], in that order."""
        return ImageDataset(
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            class_names=self.class_names,
            paths=tuple(self.paths[index] for index in indices.tolist()),
        )


@dataclass(frozen=True)
class Split:
    """Images to train on, and images of the same classes that training never sees."""

    train: ImageDataset
    held_out: ImageDataset


def read_folder(
    folder: Path, size: tuple[int, int] | None = None, bit_depth: int | None = None
) -> ImageDataset:
    """Read every `folder/<class>/*.png|jpg|jpeg|bmp`, scaled to one size.

    `size` is height and width in pixels; by default it is the images' median size, reduced to at
    most 64 pixels on the longer side. Files are read as the inference service reads them;
    `bit_depth` is that of the camera behind 16-bit files. The images have one channel when all
    files are greyscale, else three. A picture found again in its class is used once, and one found
    in several classes is left out, so that no picture stands on both sides of a split;
    `duplicates` counts the files left out. Raises DatasetError for a folder that cannot be trained
    on.
    """
    files = _find_files(folder)
    shapes = {}
    greyscale = True
    for path in (path for paths in files.values() for path in paths):
        image = _opened(path)
        shapes[path] = (image.height, image.width)
        greyscale = greyscale and image.mode in _GREY_MODES
    size = size or _default_size(list(shapes.values()))
    if min(size) < SMALLEST_SIDE:
        raise DatasetError(f"the image size {size[0]}x{size[1]} is under {SMALLEST_SIDE} pixels")

    class_names = tuple(files)
    read = [
        (path, label, _read_pixels(path, greyscale, size, bit_depth))
        for label, name in enumerate(class_names)
        for path in files[name]
    ]
    kept = _without_duplicates(read)
    counts = Counter(label for _, label, _ in kept)
    for label, name in enumerate(class_names):
        if counts[label] < SMALLEST_CLASS:
            raise DatasetError(
                f"class '{name}' has {counts[label]} different images, "
                f"at least {SMALLEST_CLASS} are needed"
            )
    stacked = np.stack([pixels for _, _, pixels in kept])
    return ImageDataset(
        pixels=torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float().div_(255.0),
        labels=torch.tensor([label for _, label, _ in kept], dtype=torch.int64),
        class_names=class_names,
        paths=tuple(path for path, _, _ in kept),
        duplicates=len(read) - len(kept),
    )


def split(dataset: ImageDataset, *, held_out: float = 0.2, seed: int = 0) -> Split:
    """Hold out the same share of every class, at least one image of each, chosen by the seed.

    Raises ValueError where the share is not between 0 and 1.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"the share to hold out must lie between 0 and 1, not {held_out}")
    random = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(len(dataset.class_names)):
        members = (dataset.labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=random)]
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        test.append(shuffled[:count])
        train.append(shuffled[count:])
    return Split(
        train=dataset.subset(torch.cat(train)),
        held_out=dataset.subset(torch.cat(test)),
    )


def _find_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of every class folder, both in alphabetical order."""
    if not folder.is_dir():
        raise DatasetError(f"'{folder}' is not a folder")
    class_folders = sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
    if not class_folders:
        raise DatasetError(
            f"'{folder}' has no class folders: images are expected at "
            f"{folder}/<class>/*.png|jpg|jpeg|bmp"
        )
    files = {}
    for class_folder in class_folders:
        images = sorted(
            path
            for path in class_folder.iterdir()
            if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."
        )
        if not images:
            raise DatasetError(f"class folder '{class_folder}' has no png, jpg, jpeg or bmp files")
        files[class_folder.name] = images
    if len(files) < 2:
        raise DatasetError(
            f"'{folder}' has only one class, '{class_folders[0].name}': at least two are needed"
        )
    return files


def _opened(path: Path) -> ImageFile:
    try:
        return open_image(path.read_bytes(), max_pixels=MAX_PIXELS)
    except (OSError, ServiceError) as error:
        raise DatasetError(f"'{path}' cannot be read as an image: {error}") from error


def _default_size(shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the median height and width, reduced to the default's longest side."""
    height = statistics.median(height for height, _ in shapes)
    width = statistics.median(width for _, width in shapes)
    scale = min(1.0, LARGEST_DEFAULT_SIDE / max(height, width))
    return (
        max(SMALLEST_SIDE, round(height * scale)),
        max(SMALLEST_SIDE, round(width * scale)),
    )


def _read_pixels(
    path: Path, greyscale: bool, size: tuple[int, int], bit_depth: int | None
) -> NDArray[np.uint8]:
    """Return one file's pixels as uint8 [height, width, channels]."""
    try:
        return read_pixels(_opened(path), "L" if greyscale else "RGB", size, bit_depth)
    except ServiceError as error:
        raise DatasetError(f"'{path}' cannot be read as an image: {error}") from error


def _without_duplicates(read: list[_Labelled]) -> list[_Labelled]:
    """Keep the first file of every picture, and none where the classes contradict each other."""
    digests = [hashlib.sha256(pixels.tobytes()).digest() for _, _, pixels in read]
    classes: defaultdict[bytes, set[int]] = defaultdict(set)
    for digest, (_, label, _) in zip(digests, read, strict=True):
        classes[digest].add(label)
    kept: dict[bytes, _Labelled] = {}
    for digest, item in zip(digests, read, strict=True):
        if len(classes[digest]) == 1:
            kept.setdefault(digest, item)
    return list(kept.values())
