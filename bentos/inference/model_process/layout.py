"""The memory layout in which a model's convolutions are fastest on a CPU."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bentos.inference.model import Forward

_BATCHES = (1, 2)
# Of the largest output: another order of additions changes the last digits of float32 only.
_ROUNDING = 1e-4


def put_channels_last(
    module: Any, forward: Forward, *, input_shape: Sequence[int], dtype: np.dtype[Any]
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
    inputs = [random.standard_normal((size, *input_shape)).astype(dtype) for size in _BATCHES]
    before = [_outputs(forward, one) for one in inputs]
    if all(one is None for one in before):
        return False
    # One by one: a large model's weights would not fit twice.
    for weight in weights:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    if all(map(_same, before, (_outputs(forward, one) for one in inputs))):
        return True
    for weight in weights:
        weight.data = weight.data.contiguous()
    return False


def _outputs(forward: Forward, inputs: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return what the module answers, None where that is an error or not all of it numbers."""
    with suppress(Exception):
        outputs = forward(inputs)
        return outputs if np.isfinite(outputs).all() else None
    return None


def _same(before: NDArray[np.float32] | None, after: NDArray[np.float32] | None) -> bool:
    if before is None or after is None or before.shape != after.shape:
        return before is after
    largest = float(np.max(np.abs(before), initial=0.0))
    return np.allclose(before, after, rtol=0.0, atol=_ROUNDING * largest)
