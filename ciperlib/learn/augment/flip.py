"""From left to right."""

from __future__ import annotations

from ciperlib.learn.augment.base import ParameterSpec, changes, check_range, flags
from ciperlib.learn.augment.fused import FusedStep
from ciperlib.registry import steps


@steps.register("flip", label="flip", place=40, reads=("flip_probability",), difference=changes, answer="flag")
class Flip(FusedStep):
    """A mirror image, with a probability."""

    specs = (ParameterSpec("flip", "binary", 0, 1),)

    def __init__(self, flip_probability: float = 0.5) -> None:
        check_range("flip_probability", flip_probability, 0, 1)
        self.probability = flip_probability

    def draw(self, random, height, width):
        return [flags(random(1)[0], self.probability)]
