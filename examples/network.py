"""The demo model's network: two convolutions and two linear layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The side, in cells, of the map that the linear layers see: 32x32 images give it exactly, and
# larger ones are pooled down to it, so that the linear layers do not grow with the image.
_LARGEST_MAP = 8


class SurfaceNetwork(nn.Module):  # type: ignore[misc]
    """A small image classifier that normalises its own input.

    Takes float32 pixels in 0..1 of shape [batch, channels, height, width] and returns logits of
    shape [batch, classes]. `mean` and `deviation` are the training images', one value per channel.
    Raises ValueError for sides under 4 pixels or under two classes.
    """

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        classes: int,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(height, width) < 4:
            raise ValueError(f"images must be at least 4x4 pixels, not {height}x{width}")
        if classes < 2:
            raise ValueError(f"there must be at least two classes, not {classes}")
        rows, columns = min(height // 4, _LARGEST_MAP), min(width // 4, _LARGEST_MAP)
        per_channel = (1, channels, 1, 1)
        self.register_buffer("mean", torch.tensor(mean or [0.5] * channels).reshape(per_channel))
        self.register_buffer(
            "deviation", torch.tensor(deviation or [0.25] * channels).reshape(per_channel)
        )
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            # A defect is small: its strongest response must survive, not the average of its area.
            nn.Identity()
            if (height // 4, width // 4) == (rows, columns)
            else nn.AdaptiveMaxPool2d((rows, columns)),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * rows * columns, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits [batch, classes] of pixels [batch, channels, height, width]."""
        return self.layers((pixels - self.mean) / self.deviation)
