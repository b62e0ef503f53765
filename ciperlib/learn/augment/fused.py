"""Crop, flip, jitter and grayscale in one go: several times as fast as one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ciperlib.learn.augment.base import ImageStep
from ciperlib.learn.augment.pixels import as_floats, centres, grayscale, jitter, mix_rows, sort_by_hue


class FusedStep(ImageStep):
    """A step that says what is drawn; what it does to pixels `apply_fused` does, with the others."""


def apply_fused(
    steps: Collection[str], images: Tensor, index: Tensor, named: Mapping[str, Tensor], out: Tensor,
    colours_first: bool = False,
) -> None:  # fmt: skip
    """Those of crop, flip, jitter and grayscale that are among `steps`, in this order, on images[index].

    Args:
        images: uint8, or float in 0..1, [N, 3, H, W].
        index: int64 [B].
        named: the parameters [B], by name.
        out: float32 [B, 3, H, W], is written to.
        colours_first: the other way round.
    """
    order, bounds = None, []
    if "jitter" in steps:
        order, bounds = sort_by_hue(named)
        index, named = index[order], {name: column[order] for name, column in named.items()}
    images = as_floats(images, index)
    if colours_first:
        planes = images.transpose(0, 1).contiguous()
        _grey(steps, planes, named)
        _jitter(steps, planes, named, bounds)
        planes = _place(steps, planes.transpose(0, 1).contiguous(), named)
    else:
        planes = _place(steps, images, named)
        _jitter(steps, planes, named, bounds)
        _grey(steps, planes, named)
    if order is None:
        out.copy_(planes.transpose(0, 1))
    else:
        torch.index_select(planes.transpose(0, 1), 0, order.argsort(), out=out)


def _jitter(steps: Collection[str], planes: Tensor, named: Mapping[str, Tensor], bounds: list[int]) -> None:
    if "jitter" in steps:
        jitter(planes.flatten(2), named, bounds)


def _grey(steps: Collection[str], planes: Tensor, named: Mapping[str, Tensor]) -> None:
    if "grayscale" in steps:
        gray = named["grayscale"].nonzero()[:, 0]
        planes.index_copy_(1, gray, grayscale(planes.index_select(1, gray)).expand(3, -1, -1, -1))


def _place(steps: Collection[str], images: Tensor, named: Mapping[str, Tensor]) -> Tensor:
    """Crop and flip: [B, 3, H, W] to planes [3, B, H, W], in which each channel is in one piece."""
    count, _, height, width = images.shape
    if "crop" not in steps:
        if "flip" in steps:
            images = torch.where(named["flip"].bool()[:, None, None, None], images.flip(-1), images)
        return images.transpose(0, 1).contiguous()
    columns = centres(named["crop_x"], named["crop_width"], width)
    if "flip" in steps:
        columns = torch.where(named["flip"].bool()[:, None], columns.flip(1), columns)
    weights = (torch.arange(width, device=images.device) - columns[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
    images = torch.bmm(images.flatten(1, 2), weights.transpose(1, 2)).reshape(count, 3, height, width)
    return mix_rows(images, centres(named["crop_y"], named["crop_height"], height))
