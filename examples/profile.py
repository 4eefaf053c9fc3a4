"""What the pictures of training are like: kept with the model, and compared with what it serves."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from bentos.inference.images import measure
from bentos.inference.model.profile import Buckets
from bentos.inference.state import MOST_BUCKETS, PICTURE_QUANTITIES
from examples.dataset import ImageDataset, Split
from examples.network import SurfaceNetwork

Numbers: TypeAlias = NDArray[np.float64]

_BUCKETS: Final = 10
_BATCH: Final = 256
_DECIMALS: Final = 6


def profile_of(
    network: SurfaceNetwork, parts: Split, class_mix: Mapping[str, float] | None = None
) -> Mapping[str, object]:
    """Return a profile as it stands in a model's metadata.

    Class mix and confidence are those of the held-out pictures, since a network is surer of the
    ones it was trained on; brightness, contrast and sharpness are those of all. `class_mix` is the
    share of classes where the model is to serve, if it is not the folder's: pictures then count by
    it. Classes that it does not name share the rest as in the folder.
    """
    held_out = parts.held_out
    weights = _weights(held_out, class_mix or {})
    every_weight = np.concatenate([_weights(parts.train, class_mix or {}), weights])
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in held_out.pixels.split(_BATCH)])
    surest = logits.softmax(dim=1).max(dim=1)
    measures = np.concatenate([_measures(part) for part in (parts.train, held_out)])
    profile = {
        "class": _of_classes(surest.indices.numpy(), len(held_out.class_names), weights),
        "confidence": _of_numbers(surest.values.numpy(), weights),
        **{
            name: _of_numbers(values, every_weight)
            for name, values in zip(PICTURE_QUANTITIES, measures.T, strict=True)
        },
    }
    return {name: msgspec.to_builtins(buckets) for name, buckets in profile.items()}


def _measures(images: ImageDataset) -> NDArray[np.float64]:
    """Return brightness, contrast and sharpness of each picture, [N, 3]."""
    pixels = (images.pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.array([measure(one) for one in pixels])


def _weights(images: ImageDataset, class_mix: Mapping[str, float]) -> Numbers:
    """Return how much each picture counts, [N], so that classes have their share of `class_mix`."""
    labels = images.labels.numpy()
    shares = np.bincount(labels, minlength=len(images.class_names)) / len(labels)
    named = np.array([name in class_mix for name in images.class_names])
    wanted = np.array([class_mix.get(name, 0.0) for name in images.class_names])
    rest = shares[~named].sum()
    if rest:
        wanted[~named] = (1 - wanted.sum()) * shares[~named] / rest
    return np.asarray((wanted / shares)[labels])


def _of_classes(predicted: NDArray[np.int64], classes: int, weights: Numbers) -> Buckets:
    """Return a bucket for each class; the last of many for all that follow."""
    edges = np.arange(min(classes, MOST_BUCKETS) - 1) + 0.5
    return _counted(predicted, edges, weights)


def _of_numbers(values: NDArray[np.floating], weights: Numbers) -> Buckets:
    """Return buckets with a tenth of the values each, fewer where many values are the same."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(reached, np.arange(1, _BUCKETS) / _BUCKETS)
    edges = values[order][places].astype(np.float64)
    return _counted(values, np.unique(edges.round(_DECIMALS)), weights)


def _counted(values: NDArray[np.generic], edges: NDArray[np.floating], weights: Numbers) -> Buckets:
    """Return the weighted histogram, of as many pictures as are worth the same without weights.

    That effective number is Kish's (Survey Sampling, 1965).
    """
    places = np.searchsorted(edges, values, side="right")
    counts = np.bincount(places, weights, minlength=len(edges) + 1)
    shares = tuple(float(share) for share in (counts / weights.sum()).round(_DECIMALS))
    effective = max(1, int(weights.sum() ** 2 / (weights**2).sum()))
    return Buckets(tuple(map(float, edges)), shares, effective)
