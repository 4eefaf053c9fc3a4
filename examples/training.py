"""Fits the network to labelled images and measures it on others."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.dataset import ImageDataset
from examples.network import SurfaceNetwork

_BATCH = 32
_PEAK_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of labelled images.

    `confusion` is int64 [classes, classes]: rows are true classes, columns predicted ones.
    """

    confusion: Tensor

    @property
    def count(self) -> int:
        """Return the number of images."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Return the number of images whose class was found."""
        return int(self.confusion.diagonal().sum())

    @property
    def accuracy(self) -> float:
        """Return the share of images, in 0..1, whose class was found."""
        return self.correct / self.count

    def recall(self, index: int) -> float:
        """Return the share of one class's images, in 0..1, that were found."""
        return float(self.confusion[index, index]) / max(1, int(self.confusion[index].sum()))


def fit(
    images: ImageDataset,
    *,
    epochs: int,
    seed: int,
    flips: bool = True,
    report: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> SurfaceNetwork:
    """Train a network on the images and return it ready for inference.

    `report` is told each epoch's number, from 1, and its mean loss. Nothing is chosen by held-out
    images, so that their accuracy stays an honest estimate. The same images and seed give the
    same network on the same machine.
    """
    pixels, labels = images.pixels, images.labels
    random = torch.Generator().manual_seed(seed)
    # Layers draw their first weights and dropout from torch's global generator: borrow it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _fresh_network(pixels, classes=len(images.class_names))
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=_PEAK_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=_PEAK_LEARNING_RATE,
            total_steps=epochs * -(-len(labels) // _BATCH),
        )
        for epoch in range(1, epochs + 1):
            total = 0.0
            for chosen in torch.randperm(len(labels), generator=random).split(_BATCH):
                batch = _shift(pixels[chosen], random)
                if flips:
                    batch = _flip_some(batch, random)
                loss = nn.functional.cross_entropy(network(batch), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen)
            report(epoch, total / len(labels))
    network.eval()
    return network


def evaluate(network: SurfaceNetwork, images: ImageDataset) -> Evaluation:
    """Compare the classes that the network finds with the images' labels."""
    classes = len(images.class_names)
    with torch.inference_mode():
        predicted = torch.cat([network(batch).argmax(dim=1) for batch in images.pixels.split(256)])
    pairs = torch.bincount(images.labels * classes + predicted, minlength=classes * classes)
    return Evaluation(confusion=pairs.reshape(classes, classes))


def _fresh_network(pixels: Tensor, classes: int) -> SurfaceNetwork:
    _, channels, height, width = pixels.shape
    deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    network = SurfaceNetwork(
        channels=channels,
        height=height,
        width=width,
        classes=classes,
        mean=mean.tolist(),
        # Images that are all one colour have no deviation to divide by.
        deviation=deviation.clamp(min=1e-3).tolist(),
    )
    network.train()
    return network


def _flip_some(batch: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image of [N, C, H, W] left to right, top to bottom, both or not at all."""
    for axis in (2, 3):
        mirrored = torch.rand(len(batch), 1, 1, 1, generator=random) < 0.5
        batch = torch.where(mirrored, batch.flip(axis), batch)
    return batch


def _shift(batch: Tensor, random: torch.Generator) -> Tensor:
    """Move the images of [N, C, H, W] together by up to a sixteenth of their sides.

    Pixels that come in at an edge repeat that edge.
    """
    reach = [side // 16 for side in batch.shape[2:]]
    padded = nn.functional.pad(batch, (reach[1], reach[1], reach[0], reach[0]), mode="replicate")
    top, left = (int(torch.randint(2 * far + 1, (), generator=random)) for far in reach)
    return padded[:, :, top : top + batch.shape[2], left : left + batch.shape[3]]
