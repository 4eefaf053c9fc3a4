"""A loaded model: what it takes, what it tells, and one call of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Output: TypeAlias = Literal["logits", "probabilities"]
Forward: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]

_BINARY_CLASSES = 2
# Inputs of many sizes, so that no logits are taken for probabilities by chance.
_PROBE_SCALES = (0.0, 0.1, 1.0, 10.0, 100.0, 1_000.0)
_ROUNDING = 1e-3


class UnusableModel(Exception):  # noqa: N818 - says what the model is
    """The model cannot be served as it was registered; the message says what to change."""


class NotFinite(ValueError):  # noqa: N818 - says what the outputs are
    """The model returned NaN or infinity."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which registered model is served."""

    name: str
    stage: str
    version: str


@dataclass(frozen=True)
class ModelSpec:
    """What a model takes and tells.

    `input_shape` is one input's shape, without the batch dimension; `defects` says of each
    class whether it is a defect.
    """

    input_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    class_names: tuple[str, ...]
    defects: tuple[bool, ...]

    @cached_property
    def input_size(self) -> int:
        """Numbers in one input."""
        return prod(self.input_shape)

    @property
    def is_image(self) -> bool:
        """Whether one input is a picture: channels (1, 3), height, width."""
        return len(self.input_shape) == 3 and self.input_shape[0] in (1, 3)


@dataclass(frozen=True)
class ServedModel:
    """Which model answers, and what it takes and tells."""

    identity: ModelIdentity
    spec: ModelSpec


@dataclass(frozen=True)
class LoadedModel(ServedModel):
    """A model that answered its warm-up and may be given requests.

    `forward` takes inputs [n, *input_shape], n at most `max_batch`, and returns what the model
    returns, [n, outputs]; `release` gives its memory back once it is no longer called.
    """

    forward: Forward
    output: Output
    max_batch: int
    release: Callable[[], None] = lambda: None

    def probabilities(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return class probabilities [n, classes] for inputs [n, *input_shape].

        Raises NotFinite where the model returns something not finite.
        """
        return to_probabilities(self.forward(inputs), self.output)


def to_probabilities(outputs: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
    """Return probabilities [n, classes] of a model's outputs [n, k]; k = 1 is a binary model."""
    if not np.isfinite(outputs).all():
        raise NotFinite("the model returned NaN or infinity")
    if outputs.shape[1] == 1:
        positive = (
            np.clip(outputs, 0.0, 1.0)
            if output == "probabilities"
            else np.exp(-np.logaddexp(0, -outputs))
        )
        return np.concatenate([1.0 - positive, positive], axis=1)
    if output == "probabilities":
        return np.clip(outputs, 0.0, 1.0)  # half precision may be a little above 1
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Labels:
    """What the outputs are called, which are defects and what kind of numbers they are.

    An empty tuple or None means nobody said.
    """

    class_names: tuple[str, ...] = ()
    defect_classes: tuple[str, ...] | None = None
    output: Output | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Labels":
        """Read a model's metadata: `class_names`, `defect_classes`, `output`.

        Raises UnusableModel where they are not what they should be.
        """
        defects = metadata.get("defect_classes")
        output = metadata.get("output")
        if output not in (None, "logits", "probabilities"):
            raise UnusableModel(f"metadata output is {output!r}; say logits or probabilities")
        return cls(
            class_names=_names(metadata.get("class_names"), "class_names"),
            defect_classes=None if defects is None else _names(defects, "defect_classes"),
            output=output,
        )


def _names(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(_is_name(name) for name in value):
        raise UnusableModel(f"metadata {field} is {value!r}; it has to be a list of names")
    return tuple(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def name_classes(outputs: int, labels: Labels) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Return the class names of a model with so many outputs and whether each is a defect.

    Without names classes are called by their index; without defect classes none is a defect.
    Raises UnusableModel where names and outputs do not agree.
    """
    classes = _BINARY_CLASSES if outputs == 1 else outputs
    names = labels.class_names or tuple(str(index) for index in range(classes))
    if len(names) != classes:
        raise UnusableModel(
            f"the model has {classes} classes, its class_names are {len(names)}: {list(names)}"
        )
    if len(set(names)) != len(names):
        raise UnusableModel(f"a class name stands twice in {list(names)}")
    defects = labels.defect_classes or ()
    unknown = sorted(set(defects) - set(names))
    if unknown:
        raise UnusableModel(f"defect_classes {unknown} are not among the classes {list(names)}")
    return names, tuple(name in defects for name in names)


def warm_up(
    identity: ModelIdentity,
    forward: Forward,
    *,
    input_shape: Sequence[int],
    dtype: np.dtype[Any],
    labels: Labels,
    max_batch: int,
    release: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Run a model on inputs of zeros and return it ready to serve.

    The first call of a model is its slowest and shows most that can be wrong with it. A model
    that takes one input only, as one exported without a dynamic batch, is given one at a time.
    Raises UnusableModel where it answers nothing that can be served.
    """
    shape = tuple(int(size) for size in input_shape)
    if not shape or any(size < 1 for size in shape):
        raise UnusableModel(
            f"the signature's input shape is {list(input_shape)}; every dimension but the first, "
            "the batch, has to be fixed"
        )
    try:
        outputs = forward(np.zeros((1, *shape), dtype))
    except Exception as error:
        raise UnusableModel(f"the warm-up input failed: {error}") from error
    if outputs.ndim != 2 or outputs.shape[0] != 1 or outputs.shape[1] == 0:
        raise UnusableModel(
            f"one input of shape {list(shape)} gave an output of shape {list(outputs.shape)}; "
            "a classifier gives [1, classes]"
        )
    names, defects = name_classes(int(outputs.shape[1]), labels)
    output = labels.output or _guess_output(forward, shape, dtype)
    model = LoadedModel(
        identity=identity,
        spec=ModelSpec(input_shape=shape, dtype=dtype, class_names=names, defects=defects),
        forward=forward,
        output=output,
        max_batch=_usable_batch(forward, shape, dtype, max_batch),
        release=release,
    )
    try:
        model.probabilities(np.zeros((1, *shape), dtype))
    except NotFinite as error:
        raise UnusableModel(f"the warm-up input: {error}") from error
    return model


def _guess_output(forward: Forward, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Output:
    """Tell probabilities by their range, which logits leave when the inputs are large enough."""
    random = np.random.default_rng(0)
    for scale in _PROBE_SCALES:
        inputs = (scale * random.standard_normal((1, *shape))).astype(dtype)
        try:
            outputs = forward(inputs)
        except Exception:  # noqa: S112 - an input that the model does not know tells nothing
            continue
        sums_to_one = outputs.shape[1] == 1 or np.allclose(outputs.sum(axis=1), 1.0, atol=_ROUNDING)
        if np.isfinite(outputs).all() and not (sums_to_one and _within_unit(outputs)):
            return "logits"
    return "probabilities"


def _within_unit(outputs: NDArray[np.float32]) -> bool:
    return bool((outputs >= 0).all() and (outputs <= 1 + _ROUNDING).all())


def _usable_batch(
    forward: Forward, shape: tuple[int, ...], dtype: np.dtype[Any], wanted: int
) -> int:
    for size in dict.fromkeys((min(2, wanted), wanted)):
        try:
            if forward(np.zeros((size, *shape), dtype)).shape[0] != size:
                return 1
        except Exception:
            return 1
    return wanted
