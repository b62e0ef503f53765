"""An upper bound: the same encoder, told the answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ciperlib.config import Config, ConfigError
from ciperlib.data.imageset import POSE
from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.losses import standardise
from ciperlib.learn.parallel import gather
from ciperlib.learn.seeds import seeded
from ciperlib.registry import Option, dataset_of, methods

TARGETS = ("category", "object", "session", "pose")


def name_parts(config: Config) -> list[str]:
    """The beginning of a run's name: what is told."""
    return ["supervised", config.option("target")]


def check_target(config: Config) -> None:
    """Raises ConfigError where the images have not what is told, or the views change it."""
    target = config.option("target")
    wanted = POSE if target == "pose" else (target,)
    if not dataset_of(config.dataset).has(*wanted):
        raise ConfigError(
            f"target={target} does not go with dataset={config.dataset!r}, whose {' and '.join(wanted)} is not known"
        )
    if target == "pose" and config.augmentations:
        raise ConfigError(
            f"target=pose does not go with augmentations={config.augmentations}: cut, mirrored or exchanged images are "
            "seen from elsewhere than their factors say; choose augmentations=''"
        )
    if target in config.augmentations:
        raise ConfigError(f"target={target} does not go with augmentations={config.augmentations}: {target} changes it")


@methods.register(
    "supervised", label="supervised", colour="#444444", alpha=None, needs_views=False, check=check_target,
    title=name_parts, place=850,
    options={"target": Option("category", "what a supervised encoder is told", among=TARGETS)},
)  # fmt: skip
class Supervised(Objective):
    """The upper bound of a probe: the same encoder, trained to tell a factor by one linear map of h.

    Categories, objects and sessions by cross-entropy; the pose (sine and cosine of the azimuth, elevation, distance) by
    the mean squared error of what is standardised over the batch.
    """

    passes_per_image = 1
    crops = Objective.crops[:1]

    def build_heads(self, inputs, config, specs):
        self.target = config.option("target")
        size = len(POSE) + 1 if self.target == "pose" else self.levels[self.target]
        with seeded(config.seed, "supervised_head"):
            self.head = nn.Linear(inputs, size)

    def forward(self, batch: Batch) -> Losses:
        (h,) = self.represent_views(batch)
        answer = gather(self.head(h)).float()
        if self.target == "pose":
            azimuth, elevation, distance = (gather(batch.factors[name]).float() for name in POSE)
            pose = torch.stack((azimuth.sin(), azimuth.cos(), elevation, distance), 1)
            loss = F.mse_loss(answer, standardise(pose))
        else:
            loss = F.cross_entropy(answer, gather(batch.factors[self.target]))
        return Losses(loss, {self.target: loss})
