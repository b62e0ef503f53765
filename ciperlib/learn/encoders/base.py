"""What every encoder does before its own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUPS = 4  # of GroupNorm


class Encoder(nn.Module):
    """What every encoder does before its own layers: normalise, then append coordinates.

    Both happen inside and after everything random, so that no augmentation can move the coordinates (a moved
    coordinate would tell the predictor the crop).

    Attributes:
        representation_size: dimensions of h.
        pixel_mean, pixel_std: buffers [3, 1, 1], the training images' statistics in 0..1.
    """

    representation_size: int

    def __init__(self, coordinates: bool):
        super().__init__()
        self.coordinates = coordinates
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 0.25))

    @property
    def in_channels(self) -> int:
        """Of the first layer: 5 with coordinates, 3 without."""
        return 5 if self.coordinates else 3

    def normalise_with(self, images: Tensor) -> None:
        """Stores the mean and standard deviation of uint8 images [N, 3, H, W]."""
        pixels = images.float().div_(255)
        self.pixel_mean.copy_(pixels.mean((0, 2, 3)).view(3, 1, 1))
        self.pixel_std.copy_(pixels.std((0, 2, 3)).clamp_min(1e-3).view(3, 1, 1))

    def prepare(self, images: Tensor) -> Tensor:
        """float [B, 3, H, W] in 0..1 -> normalised, with x and y in -1..1 appended: [B, 5, H, W] (3 without)."""
        x = (images - self.pixel_mean) / self.pixel_std
        if not self.coordinates:
            return x
        b, _, h, w = x.shape
        column = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(b, 1, h, w)
        row = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype).view(h, 1).expand(b, 1, h, w)
        return torch.cat((x, column, row), 1)
