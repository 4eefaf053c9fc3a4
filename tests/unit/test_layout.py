"""Weights with channels last: faster, and the same model."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bentos.inference.model_process.layout import put_channels_last

FLOAT = np.dtype(np.float32)
PICTURE = (3, 8, 8)


def forward_of(module: nn.Module) -> Any:
    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = module(torch.from_numpy(inputs)).numpy()
            return result

    return forward


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 4))
    return nn.Sequential(*layers).eval()


class Viewing(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Calls `view` on a convolution's output, which fails with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return outputs [n, 144]."""
        return self.convolution(pixels).view(len(pixels), -1)


class Strided(nn.Module):  # type: ignore[misc]
    """Answers something else with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return outputs [n, 1]: a stride of the convolution's output."""
        stride = self.convolution(pixels).stride(1)
        return torch.full((len(pixels), 1), float(stride))


def is_channels_last(module: nn.Module) -> bool:
    (weight,) = [one for one in module.parameters() if one.dim() == 4]
    return bool(weight.is_contiguous(memory_format=torch.channels_last))


def put(module: nn.Module, shape: tuple[int, ...] = PICTURE) -> bool:
    return put_channels_last(module, forward_of(module), input_shape=shape, dtype=FLOAT)


def test_a_network_of_convolutions_is_laid_out_anew_and_answers_the_same() -> None:
    module = network()
    original = copy.deepcopy(module)
    assert put(module)
    assert is_channels_last(module)
    inputs = np.random.default_rng(1).random((5, *PICTURE), np.float32)
    np.testing.assert_allclose(
        forward_of(module)(inputs), forward_of(original)(inputs), rtol=1e-4, atol=1e-6
    )


def test_so_is_an_exported_one() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = (torch.zeros(2, *PICTURE),)
    module = torch.export.export(network(), inputs, dynamic_shapes=({0: batch},)).module()
    assert put(module)
    assert is_channels_last(module)


@pytest.mark.parametrize("kind", [Viewing, Strided])
def test_one_that_would_fail_or_answer_otherwise_is_left_as_it_is(kind: type[nn.Module]) -> None:
    module = kind().eval()
    inputs = np.random.default_rng(1).random((3, *PICTURE), np.float32)
    before = forward_of(module)(inputs)
    assert not put(module)
    assert not is_channels_last(module)
    np.testing.assert_array_equal(forward_of(module)(inputs), before)


def test_one_without_pictures_or_convolutions_is_not_touched() -> None:
    assert not put(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    assert not put(network(), (192,))
    assert not put(network(), (3, -1, -1))  # which the warm-up refuses with a word of its own


@pytest.mark.parametrize("last", [nn.Linear(7, 4), nn.Threshold(float("inf"), float("nan"))])
def test_one_that_fails_or_gives_no_numbers_proves_nothing_and_is_left(last: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), last).eval()
    assert not put(module)
    assert not is_channels_last(module)


def test_one_that_takes_one_input_only_is_laid_out_by_that_one() -> None:
    module = torch.export.export(network(), (torch.zeros(1, *PICTURE),)).module()
    assert put(module)
