"""A module that was just loaded to a model that may be served: asked, checked, laid out."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bentos.inference.model.profile import read_profile
from bentos.inference.model.spec import (
    Metadata,
    ModelIdentity,
    ModelSpec,
    Output,
    ServedModel,
    UnusableModel,
    name_classes,
    picture_of,
    thresholds_of,
)

Forward: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]

# Inputs of many sizes, so that no logits are taken for probabilities by chance.
_PROBE_SCALES = (0.0, 0.1, 1.0, 10.0, 100.0, 1_000.0)
_PROBES_REPEATED = 3
_ROUNDING = 1e-3
# Shares of the largest output. Another batch size or half precision may change this much of an
# answer, another order of additions in float32 only that much.
_SAME_ANSWER = 1e-2
_SAME_NUMBERS = 1e-4


class NotFinite(ValueError):  # noqa: N818 - says what the outputs are
    """The model returned NaN or infinity."""


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

    def answers(self) -> bool:
        """Tell whether the model answers its warm-up input, zeros, now."""
        with suppress(Exception):
            self.probabilities(np.zeros((1, *self.spec.input_shape), self.spec.dtype))
            return True
        return False


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


def warm_up(
    identity: ModelIdentity,
    forward: Forward,
    *,
    input_shape: Sequence[int],
    dtype: str,
    metadata: Metadata,
    max_batch: int,
    release: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Ask a model for its first answers and return it ready to serve.

    The first call of a model is its slowest and shows most that can be wrong with it. A model
    that takes one input only, as one exported without a dynamic batch, is given one at a time.
    Raises UnusableModel where it answers nothing that can be served, or not twice the same.
    """
    shape = tuple(int(size) for size in input_shape)
    if not shape or any(size < 1 for size in shape):
        raise UnusableModel(
            f"the signature's input shape is {list(input_shape)}; every dimension but the first, "
            "the batch, has to be fixed"
        )
    zeros = np.zeros((1, *shape), dtype)
    try:
        outputs = forward(zeros)
    except Exception as error:
        raise UnusableModel(f"the warm-up input failed: {error}") from error
    if outputs.ndim != 2 or outputs.shape[0] != 1 or outputs.shape[1] == 0:
        raise UnusableModel(
            f"one input of shape {list(shape)} gave an output of shape {list(outputs.shape)}; "
            "a classifier gives [1, classes]"
        )
    names, defects = name_classes(int(outputs.shape[1]), metadata)
    inputs = _probes(shape, dtype)
    answers = [_finite(forward, one) for one in inputs]
    if answers[0] is None:
        raise UnusableModel("the warm-up input: the model returned NaN or infinity")
    usable = _usable_batch(forward, zeros, max_batch)
    _check_repeats(forward, inputs, answers, batches=usable > 1)
    return LoadedModel(
        identity=identity,
        spec=ModelSpec(
            shape,
            dtype,
            names,
            defects,
            picture_of(shape, dtype, metadata),
            thresholds_of(names, metadata),
            read_profile(metadata.profile),
        ),
        forward=forward,
        output=metadata.output or _guess_output(answers),
        max_batch=usable,
        release=release,
    )


def put_channels_last(
    module: Any, forward: Forward, *, input_shape: Sequence[int], dtype: str
) -> bool:
    """Lay the weights of a module's convolutions out with channels last; tell whether they are.

    Their outputs then are as well, and what follows is several times as fast for pooling and up
    to twice for convolutions (docs.pytorch.org, channels last memory format). A module that takes
    no pictures, gives no numbers for random ones, or does not answer the same any more, as one
    that calls `view` on such an output, is left as it is.
    """
    import torch

    weights = [one for one in module.parameters() if one.dim() == 4 and one.is_contiguous()]
    if not weights or len(input_shape) != 3 or min(input_shape) < 1:
        return False
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((size, *input_shape)).astype(dtype) for size in (1, 2)]
    before = [_finite(forward, one) for one in inputs]
    if all(one is None for one in before):
        return False
    # One by one: a large model's weights would not fit twice.
    for weight in weights:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    after = [_finite(forward, one) for one in inputs]
    if all(_same(*pair, _SAME_NUMBERS) for pair in zip(before, after, strict=True)):
        return True
    for weight in weights:
        weight.data = weight.data.contiguous()
    return False


def _probes(shape: tuple[int, ...], dtype: str) -> list[NDArray[Any]]:
    """Return the warm-up input, zeros, and random ones of growing size, [1, *shape] each."""
    random = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        return [
            (scale * random.standard_normal((1, *shape))).astype(dtype) for scale in _PROBE_SCALES
        ]


def _check_repeats(
    forward: Forward,
    inputs: Sequence[NDArray[Any]],
    answers: Sequence[NDArray[np.float32] | None],
    *,
    batches: bool,
) -> None:
    """Refuse a model that answers the same input otherwise the second time, or in company."""
    for one, answer in list(zip(inputs, answers, strict=True))[:_PROBES_REPEATED]:
        if answer is None:
            continue  # an input that the model does not know tells nothing
        if not _same(answer, _finite(forward, one), _SAME_ANSWER):
            raise UnusableModel(
                "the model answers the same input differently each time, as one exported in "
                "training mode with Dropout does; call .eval() before it is logged"
            )
        # Of half the size, so that a model that scales a batch by its largest number is no suspect.
        pair = np.concatenate([one, (one * 0.5).astype(one.dtype)])
        beside = _finite(forward, pair) if batches else None
        if beside is not None and not _same(answer, beside[:1], _SAME_ANSWER):
            raise UnusableModel(
                "the model's answer to an input depends on the other inputs of its batch, as with "
                "BatchNorm in training mode; call .eval() before it is logged"
            )


def _guess_output(answers: Sequence[NDArray[np.float32] | None]) -> Output:
    """Tell probabilities by their range, which logits leave when the inputs are large enough."""
    for outputs in answers:
        if outputs is None:
            continue
        sums_to_one = outputs.shape[1] == 1 or np.allclose(outputs.sum(axis=1), 1.0, atol=_ROUNDING)
        if not (sums_to_one and (outputs >= 0).all() and (outputs <= 1 + _ROUNDING).all()):
            return "logits"
    return "probabilities"


def _usable_batch(forward: Forward, zeros: NDArray[Any], wanted: int) -> int:
    for size in dict.fromkeys((min(2, wanted), wanted)):
        try:
            if forward(np.repeat(zeros, size, axis=0)).shape[0] != size:
                return 1
        except Exception:
            return 1
    return wanted


def _finite(forward: Forward, inputs: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return what the model answers, None where that is an error or not all of it numbers."""
    with suppress(Exception):
        outputs = forward(inputs)
        return outputs if np.isfinite(outputs).all() else None
    return None


def _same(
    before: NDArray[np.float32] | None, after: NDArray[np.float32] | None, share: float
) -> bool:
    if before is None or after is None or before.shape != after.shape:
        return before is after
    largest = float(np.max(np.abs(before), initial=0.0))
    return np.allclose(before, after, rtol=0.0, atol=share * largest)
