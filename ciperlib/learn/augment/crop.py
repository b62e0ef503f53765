"""Crops of several sizes and shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ciperlib.learn.augment.base import ParameterSpec, check_range
from ciperlib.learn.augment.fused import FusedStep
from ciperlib.registry import steps

CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_SCALE = (0.2, 1.0)  # of the image's area (SimCLR, and the paper's Table 1)
CROP_ATTEMPTS = 10  # of torchvision, before it takes the centre


def moves(specs, first, second) -> list[Tensor]:
    """The differences of the centre (y, x; x mirrored where the crop was flipped afterwards), height and width."""
    return [y - x for x, y in zip(_centre_and_size(first), _centre_and_size(second))]


def _centre_and_size(view) -> tuple[Tensor, ...]:
    """Centre (y, x), height and width, as fractions of the side; x as it lies in the view that was flipped after."""
    x = view["crop_x"] + view["crop_width"] / 2
    if "flip" in view:
        x = torch.where(view["flip"].bool(), 1 - x, x)
    return view["crop_y"] + view["crop_height"] / 2, x, view["crop_height"], view["crop_width"]


@steps.register("crop", label="crop", place=30, difference=moves)
class Crop(FusedStep):
    """A part of the image, stretched to its size: x (left), y (top), height and width are fractions of the side.

    As torchvision's RandomResizedCrop draws them.

    Args:
        crop_scale: area as a fraction of the image's, lowest and highest.
    """

    specs = tuple(ParameterSpec(f"crop_{side}", "continuous", 0, 1) for side in ("x", "y", "height", "width"))

    def __init__(self, crop_scale: tuple[float, float] = CROP_SCALE) -> None:
        check_range("crop_scale[0]", crop_scale[0], 1e-6, crop_scale[1])
        check_range("crop_scale[1]", crop_scale[1], crop_scale[0], 1)
        self.scale = crop_scale

    def draw(self, random, height, width):
        areas, ratios, (left, top) = random(2 * CROP_ATTEMPTS + 2).split([CROP_ATTEMPTS, CROP_ATTEMPTS, 2])
        low, high = (math.log(ratio) for ratio in CROP_RATIO)
        areas = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * areas)
        ratios = (low + (high - low) * ratios).exp()
        w, h = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(0, keepdim=True)
        found = fits.gather(0, first)[0]
        # where none fits, the largest crop in the centre that has an allowed ratio
        centre_w, centre_h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
        w = torch.where(found, w.gather(0, first)[0], centre_w)
        h = torch.where(found, h.gather(0, first)[0], centre_h)
        x = torch.where(found, (left * (width - w + 1)).floor(), (width - centre_w) // 2)
        y = torch.where(found, (top * (height - h + 1)).floor(), (height - centre_h) // 2)
        return [x / width, y / height, h / height, w / width]
