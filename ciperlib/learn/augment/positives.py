"""The dataset steps: which other images of an image set can be an image's view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment.base import DatasetStep


class PositivesError(ValueError):
    """Images of which some have no other image to be their view; the message says which and what to do."""


@dataclass(frozen=True, eq=False)
class Positives:
    """Which images can stand for an image: those of its object, without one run of images that holds it.

    Attributes:
        images: int64 [N], the images sorted by object, then by what is left out.
        table: int64 [4, N], for each image: where its object begins, after how many images its own run begins, how
            long the run is, and how many images are left to choose from.
    """

    images: Tensor
    table: Tensor

    def __call__(self, index: Tensor, random: Tensor) -> Tensor:
        start, skip, length, left = self.table[:, index]
        chosen = (random.double() * left).long()
        return self.images[start + chosen + length * (chosen >= skip)]


_TABLES: WeakKeyDictionary[ImageSet, dict[tuple, Positives]] = WeakKeyDictionary()  # made once for an image set


def find_positives(image_set: ImageSet, steps: Mapping[str, DatasetStep]) -> Positives:
    """The table of an image set for these dataset steps, made once and kept as long as the image set.

    Raises:
        PositivesError: a factor that a step needs is missing or out of range, an object has no other image, or two
            steps want a difference in two factors.
    """
    key = tuple((type(step), step.needs, step.other, step.specs) for step in steps.values())
    tables = _TABLES.setdefault(image_set, {})
    if key not in tables:
        _check_factors(image_set, steps)
        others = {step.other for step in steps.values()} - {""}
        if len(others) > 1:
            raise PositivesError(f"a view can be asked to differ in one factor, not in {' and '.join(sorted(others))}")
        tables[key] = _make_positives(image_set, next(iter(others), ""))
    return tables[key]


def _check_factors(image_set: ImageSet, steps: Mapping[str, DatasetStep]) -> None:
    for name, step in steps.items():
        for factor in step.needs:
            if factor not in image_set.factors:
                raise PositivesError(f"the step {name!r} needs the factor {factor!r}, which {image_set.name!r} has not")
        step.check(image_set)


def _make_positives(image_set: ImageSet, other: str) -> Positives:
    images = torch.arange(len(image_set), device=image_set.device)
    objects = image_set.factors["object"].unique(return_inverse=True)[1]
    # the run to leave out: what shares the anchor's session, say, or the anchor alone
    own = image_set.factors[other].unique(return_inverse=True)[1] if other else images
    key = objects * len(image_set) + own
    order = key.argsort()
    (start, total), (skip, length) = _runs(objects[order]), _runs(key[order])
    table = torch.stack([start, skip - start, length, total - length])[:, order.argsort()]
    alone = image_set.factors["object"][table[3] == 0].tolist()
    if alone:
        label = dict(enumerate(image_set.labels.get("object", ()))).get(alone[0], "no label")
        raise PositivesError(
            f"object {alone[0]} ({label}) of {image_set.name!r} has no other image"
            f"{f' from another {other}' if other else ''} to be its view: "
            "take more images (train_size), or leave the object out"
        )
    return Positives(order, table)


def _runs(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the sorted values [N], where the run of those equal to it begins, and how long that is."""
    _, run, count = values.unique_consecutive(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - count)[run], count[run]
