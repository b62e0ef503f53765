"""Brightness, contrast, saturation and hue."""

from __future__ import annotations

import torch

from ciperlib.learn.augment.base import ParameterSpec, check_range, shares
from ciperlib.learn.augment.fused import FusedStep
from ciperlib.learn.augment.pixels import BLENDS, ORDERS
from ciperlib.registry import steps


@steps.register("jitter", label="jitter", place=50, reads=("jitter_strength",), difference=shares)
class Jitter(FusedStep):
    """Four colour operations in a drawn order, as torchvision's ColorJitter, with a probability.

    `jitter_order` counts `itertools.permutations` of brightness, contrast, saturation, hue; it is not to be predicted.
    """

    def __init__(self, jitter_strength: float = 0.4, jitter_probability: float = 0.8) -> None:
        check_range("jitter_strength", jitter_strength, 0, 2)
        check_range("jitter_probability", jitter_probability, 0, 1)
        self.probability = jitter_probability
        low, high, hue = max(0.0, 1 - jitter_strength), 1 + jitter_strength, jitter_strength / 4
        self.specs = (
            *(ParameterSpec(name, "continuous", low, high) for name in BLENDS),
            ParameterSpec("hue", "continuous", -hue, hue),
            ParameterSpec("jitter_order", "categorical", 0, len(ORDERS) - 1, predicted=False),
        )

    def draw(self, random, height, width):
        *factors, applied, order = random(6)
        columns = []
        for spec, neutral, factor in zip(self.specs, (1, 1, 1, 0), factors):
            value = spec.low + (spec.high - spec.low) * factor
            columns.append(torch.where(applied < self.probability, value, neutral))
        return [*columns, (order * len(ORDERS)).floor()]
