"""What a method is: an encoder with what trains it, and what that is given and gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config
from ciperlib.learn.augment import CROP_SCALE, Augmentation, ParameterSpec, View
from ciperlib.learn.encoders import make_encoder


class Batch(NamedTuple):
    """What an objective is given: `index` [B] into the image set, `anchor` float [B, 3, H, W], the views, and the
    images' factors by name, each [B] (only controls and upper bounds read them)."""

    index: Tensor
    anchor: Tensor
    views: tuple[View, ...]
    factors: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Losses:
    """`total` is what is minimised; `terms` are its parts, unweighted.

    `adversary` is what a head that is trained against the rest minimises. The trainer takes a step for each in turn;
    neither may reach the other's parameters. One SGD is as good as two: its momentum is each parameter's own.
    """

    total: Tensor
    terms: dict[str, Tensor]
    adversary: Tensor | None = None


class Objective(nn.Module):
    """An encoder with what trains it.

    Attributes:
        encoder: all that remains after training.
        levels: how many values each categorical factor of the images has.
        crops: for each view that `forward` wants, the area of its crop as a share of the image's (lowest, highest); a
            view that is not cropped ignores it.
        passes_per_image: through the encoder for each training image, the "n x" of the paper's Table 3. A pass of an
            image of half the side counts a quarter; one without a gradient (a teacher's) counts as any other.
        adversarial: whether a head is trained against the rest, which several processes cannot share.
    """

    crops = (CROP_SCALE, CROP_SCALE)
    passes_per_image = 2.0
    adversarial = False

    def __init__(self, config: Config, specs: Sequence[ParameterSpec], levels: Mapping[str, int] | None = None):
        super().__init__()
        self.config = config
        self.levels = dict(levels or {})
        self.encoder = make_encoder(config)
        self.build_heads(self.encoder.representation_size, config, specs)

    def build_heads(self, inputs: int, config: Config, specs: Sequence[ParameterSpec]) -> None:
        """Makes what stands on top of the encoder: `inputs` is the size of h, `specs` are a view's columns.

        Each head is seeded by a name of its own (`seeded`), so that adding one changes no other.
        """
        raise TypeError(f"{type(self).__name__} must say which heads it has")

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch."""
        raise TypeError(f"{type(self).__name__} must say what its loss is")

    @staticmethod
    def augment(augmentation: Augmentation, config: Config) -> Augmentation:
        """What makes the views, given what the config's steps make: a method that adds to them says so here."""
        return augmentation

    def after_step(self, done: float) -> None:
        """Called after each optimiser step with the share of the training that is done; a teacher moves here."""

    def represent_views(self, batch: Batch) -> tuple[Tensor, ...]:
        """h of each view, from one shared forward pass."""
        return represent(self.encoder, *[view.images for view in batch.views])

    def represent_all(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """h of the anchor and of each view; the anchor in a pass of its own unless the config says joint."""
        if self.config.anchor_forward == "joint":
            h0, *h = represent(self.encoder, batch.anchor, *[view.images for view in batch.views])
        else:
            h0, h = self.encoder(batch.anchor), self.represent_views(batch)
        return (h0 if self.config.anchor_gradient else h0.detach()), tuple(h)


def represent(encoder: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    """h [B, d] of each of several batches of images of one size, from one forward pass."""
    return encoder(torch.cat(images)).chunk(len(images))


def half_size(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H // 2, W // 2], each pixel the mean of four."""
    return F.avg_pool2d(images, 2)
