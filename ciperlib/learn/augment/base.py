"""What a step of an augmentation is, what it draws, and what leads from one view to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ciperlib.data.imageset import ImageSet

Draw = Callable[[int], Tensor]  # rows -> random numbers in 0..1, [rows, B]


@dataclass(frozen=True)
class ParameterSpec:
    """One column of a view's parameters.

    Attributes:
        name: of the column.
        kind: "continuous", "binary" (0 or 1) or "categorical" (0, 1, ..., high).
        low, high: the smallest and the largest value it can take.
        predicted: whether a predictor shall learn it; otherwise it is there for the replay.
        step: that draws it; an `Augmentation` fills it in.
    """

    name: str
    kind: str
    low: float
    high: float
    predicted: bool = True
    step: str = ""


class View(NamedTuple):
    """Augmented images, and how they were made.

    Attributes:
        images: float32 [B, 3, H, W] in 0..1.
        parameters: float32 [B, D], one column for each of the augmentation's `specs`.
        source: int64 [B], index in the image set of the image that the image steps were applied to.
    """

    images: Tensor
    parameters: Tensor
    source: Tensor


class ImageStep:
    """Something done to each image, with parameters that are drawn for it.

    A subclass is registered by `steps.register`, and made with the choices that it `reads` and its `options` as
    keywords; each needs a default. `Blur` in CONTRIBUTING.md is one of ten lines.

    Attributes:
        specs: the columns of its parameters.
    """

    specs: tuple[ParameterSpec, ...] = ()

    def draw(self, random: Draw, height: int, width: int) -> Sequence[Tensor]:
        """A column [B] for each of the specs, from `random(rows)`: numbers in 0..1, [rows, B]; the images' size."""
        raise TypeError(f"{type(self).__name__} must say how its parameters are drawn")

    def apply(self, images: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """float [B, 3, H, W] in 0..1 and its parameters by name, each [B] -> the same shape."""
        raise TypeError(f"{type(self).__name__} must say what it does to images")


class DatasetStep:
    """Another image of the anchor's object is the view; the parameters say what differs.

    Attributes:
        specs: the columns of its parameters.
        needs: the factors of the images that it looks at.
        other: the factor in which the view must differ from the anchor; "": another image is enough.
    """

    specs: tuple[ParameterSpec, ...] = ()
    needs: tuple[str, ...] = ("object",)
    other: str = ""

    def check(self, images: ImageSet) -> None:
        """Raises ValueError for images that have the factors, but not in a form that can be used."""

    def compare(self, factors: Mapping[str, Tensor], anchor: Tensor, view: Tensor) -> Sequence[Tensor]:
        """A column [B] for each of the specs; anchor and view int64 [B] are rows of the factors."""
        raise TypeError(f"{type(self).__name__} must say what its parameters are")


# What leads from one view to the other: (the step's predicted specs, all of the first view's parameters by name, all of
# the second's) -> columns [B].
Difference = Callable[[Sequence[ParameterSpec], Mapping[str, Tensor], Mapping[str, Tensor]], Sequence[Tensor]]


def shares(specs: Sequence[ParameterSpec], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[Tensor]:
    """The second's minus the first's, as shares of their ranges: -1..1."""
    return [(second[spec.name] - first[spec.name]) / max(spec.high - spec.low, 1e-6) for spec in specs]


def changes(specs: Sequence[ParameterSpec], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[Tensor]:
    """1 where one has it and the other has not, else 0: of flags."""
    return [(second[spec.name] != first[spec.name]).float() for spec in specs]


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError for a value that is not from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")


def flags(random: Tensor, probability: float) -> Tensor:
    """1 with this probability, else 0: from numbers in 0..1."""
    return (random < probability).to(torch.float32)
