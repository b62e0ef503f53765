"""Grey views."""

from __future__ import annotations

from ciperlib.learn.augment.base import ParameterSpec, check_range, flags, shares
from ciperlib.learn.augment.fused import FusedStep
from ciperlib.registry import steps


@steps.register("grayscale", label="grayscale", place=60, difference=shares, answer=None)  # AugSelf asks no head for it
class Grayscale(FusedStep):
    """A conversion to grey, with a probability."""

    specs = (ParameterSpec("grayscale", "binary", 0, 1),)

    def __init__(self, grayscale_probability: float = 0.2) -> None:
        check_range("grayscale_probability", grayscale_probability, 0, 1)
        self.probability = grayscale_probability

    def draw(self, random, height, width):
        return [flags(random(1)[0], self.probability)]
