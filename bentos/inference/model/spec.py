"""What a model takes and tells: known to the worker too, so nothing here imports PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from bentos.inference.model.profile import Profile
from bentos.messages import MAX_CLASSES, MAX_NAME_CHARACTERS, Verdict

# Of a class that has none of its own.
DEFAULT_THRESHOLD = 0.5
_BINARY_CLASSES = 2
_PIXEL_VALUES = 256
# On each side. A call of the model for each cell: a hundred.
HEAT_MAP_CELLS = 10

Output: TypeAlias = Literal["logits", "probabilities"]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_CLASSES)]
Threshold: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Numbers: TypeAlias = float | Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)]


class UnusableModel(Exception):  # noqa: N818 - says what the model is
    """The model cannot be served as it was registered; the message says what to change."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's metadata, or its version's tags, say of it; all of it may be missing.

    A picture's pixels, 0 to 255, become `(pixel * scale - mean) / std`, where `mean` and `std` are
    a number each or one for each channel. `bit_depth` is that of the camera behind 16-bit files.
    `thresholds` are the least confidence, by class, at which a prediction needs no review. What the
    pictures of training were like stands in `profile`, see `read_profile`.
    """

    class_names: Names = ()
    defect_classes: Names | None = None
    output: Output | None = None
    channels: Literal["L", "RGB", "BGR"] | None = None
    layout: Literal["CHW", "HWC"] = "CHW"
    scale: float | None = None
    mean: Numbers = 0.0
    std: Numbers = 1.0
    bit_depth: Annotated[int, Meta(ge=8, le=16)] | None = None
    thresholds: dict[Name, Threshold] = {}
    profile: Any = None

    @classmethod
    def read(cls, *sources: Mapping[str, Any]) -> "Metadata":
        """Read metadata; fields of other names are somebody else's.

        A later source's field replaces that of an earlier one, a threshold only that of its class.
        Raises UnusableModel that names the field.
        """
        content: dict[str, Any] = {}
        for source in sources:
            earlier = content.get("thresholds")
            content |= source
            if isinstance(earlier, Mapping) and isinstance(content["thresholds"], Mapping):
                content["thresholds"] = {**earlier, **content["thresholds"]}
        try:
            read = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise UnusableModel(f"the model's metadata: {error}") from None
        for name in (*read.class_names, *(read.defect_classes or ())):
            if not name.isprintable():
                raise UnusableModel(f"the model's metadata: the class name {name!r} is not text")
        return read


@dataclass(frozen=True)
class Picture:
    """How an image file becomes a model's input: see `Metadata`."""

    height: int
    width: int
    channels: Literal["L", "RGB", "BGR"]
    layout: Literal["CHW", "HWC"]
    scale: float
    mean: Numbers
    std: Numbers
    bit_depth: int | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a heat map."""
        return min(HEAT_MAP_CELLS, self.height), min(HEAT_MAP_CELLS, self.width)


@dataclass(frozen=True)
class ModelIdentity:
    """Which registered model is served.

    `made` tells two versions of the same number apart: a model may be deleted and made anew, or
    its thresholds changed.
    """

    name: str
    stage: str
    version: str
    made: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """What a model takes and tells.

    `input_shape` is one input's shape, without the batch dimension, `dtype` NumPy's name of its
    type; `defects` says of each class whether it is a defect; `picture` is None for a model that
    sees no pictures. `thresholds` has a number for each class, the least confidence at which it
    needs no review, or none where all are DEFAULT_THRESHOLD. Without `profile` no drift is watched.
    """

    input_shape: tuple[int, ...]
    dtype: str
    class_names: tuple[str, ...]
    defects: tuple[bool, ...]
    picture: Picture | None = None
    thresholds: tuple[float, ...] = ()
    profile: Profile | None = None

    @cached_property
    def input_size(self) -> int:
        """Numbers in one input."""
        return prod(self.input_shape)

    def verdict(self, class_index: int, confidence: float) -> Verdict:
        """Return what is to be done with a part: `review` where its class is not sure enough."""
        threshold = self.thresholds[class_index] if self.thresholds else DEFAULT_THRESHOLD
        if confidence < threshold:
            return "review"
        return "fail" if self.defects[class_index] else "pass"


@dataclass(frozen=True)
class ServedModel:
    """Which model answers, and what it takes and tells."""

    identity: ModelIdentity
    spec: ModelSpec


def name_classes(outputs: int, metadata: Metadata) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Return the class names of a model with this many outputs and whether each is a defect.

    Without names classes are called by their index; without defect classes none is a defect.
    Raises UnusableModel where names and outputs do not agree, or where they are too many.
    """
    classes = _BINARY_CLASSES if outputs == 1 else outputs
    if classes > MAX_CLASSES:
        raise UnusableModel(f"the model has {classes} classes; at most {MAX_CLASSES} are served")
    names = metadata.class_names or tuple(str(index) for index in range(classes))
    if len(names) != classes:
        raise UnusableModel(
            f"the model has {classes} classes, its class_names are {len(names)}: {_some(names)}"
        )
    if len(set(names)) != len(names):
        raise UnusableModel(f"a class name stands twice in {_some(names)}")
    defects = frozenset(metadata.defect_classes or ())
    if unknown := sorted(defects - set(names)):
        raise UnusableModel(
            f"defect_classes {_some(unknown)} are not among the classes {_some(names)}"
        )
    return names, tuple(name in defects for name in names)


def thresholds_of(class_names: Sequence[str], metadata: Metadata) -> tuple[float, ...]:
    """Return the threshold of each class, nothing where the metadata have none.

    Raises UnusableModel for a threshold of a class that the model has not.
    """
    if unknown := sorted(metadata.thresholds.keys() - set(class_names)):
        raise UnusableModel(
            f"thresholds {_some(unknown)} are of no class of the model, whose classes are "
            f"{_some(list(class_names))} (its metadata or tag `thresholds`, or THRESHOLDS)"
        )
    if not metadata.thresholds:
        return ()
    return tuple(metadata.thresholds.get(name, DEFAULT_THRESHOLD) for name in class_names)


def picture_of(shape: tuple[int, ...], dtype: str, metadata: Metadata) -> Picture | None:
    """Return how pictures are given to a model, None for one that takes no pictures.

    Integers take pixels as they are, 0 to 255, floats from 0 to 1, unless `scale` says otherwise.
    Raises UnusableModel for metadata that do not fit the shape, or that would leave next to
    nothing of a picture in the model's type.
    """
    import numpy as np  # not in `bentoml serve` itself, which imports this module too

    if len(shape) != 3:
        return None
    channels, height, width = shape if metadata.layout == "CHW" else (shape[2], *shape[:2])
    if channels not in (1, 3):
        return None
    order = metadata.channels or ("L" if channels == 1 else "RGB")
    if (order == "L") != (channels == 1):
        raise UnusableModel(f"channels is {order}, the model takes {channels} of them")
    floats = np.issubdtype(dtype, np.floating)
    scale = metadata.scale if metadata.scale is not None else 1 / 255 if floats else 1.0
    for field in ("mean", "std"):
        numbers = getattr(metadata, field)
        if isinstance(numbers, tuple) and len(numbers) != channels:
            raise UnusableModel(f"{field} has {len(numbers)} numbers for {channels} channels")
    if not np.all(metadata.std) or not np.isfinite([scale, *np.ravel(metadata.mean)]).all():
        raise UnusableModel("scale, mean and std have to be numbers, and std not 0")
    picture = Picture(
        height,
        width,
        order,
        metadata.layout,
        scale,
        metadata.mean,
        metadata.std,
        metadata.bit_depth,
    )
    _check_not_flattened(picture, channels, dtype)
    return picture


def _check_not_flattened(picture: Picture, channels: int, dtype: str) -> None:
    import numpy as np

    ramp = np.repeat(np.arange(_PIXEL_VALUES, dtype=np.float64)[:, np.newaxis], channels, axis=1)
    values = (ramp * picture.scale - np.asarray(picture.mean)) / np.asarray(picture.std)
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
    kept = min(len(np.unique(channel)) for channel in cast.T)
    if kept < _PIXEL_VALUES // 2 or not np.allclose(cast, values, rtol=0.01, atol=1.0):
        raise UnusableModel(
            f"pictures would lose their content: with scale {picture.scale:g}, mean {picture.mean} "
            f"and std {picture.std} the 256 values of a pixel become {kept} in {dtype}"
        )


def _some(names: "tuple[str, ...] | list[str]") -> str:
    return f"{list(names[:20])}{' and more' if len(names) > 20 else ''}"
