"""The dataset steps: which other images of an image set can be an image's view."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ciperlib.config import DATASET_STEPS
from ciperlib.data.imageset import ImageSet


class PartnersError(ValueError):
    """Images of which some have no other image to be their view; the message says which and what to do."""


@dataclass(frozen=True, eq=False)
class Partners:
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


_TABLES: WeakKeyDictionary[ImageSet, dict[tuple, Partners]] = WeakKeyDictionary()  # made once for an image set


def find_partners(image_set: ImageSet, steps: tuple[str, ...], sessions: int, pose: tuple[str, ...]) -> Partners:
    """The table of an image set for the dataset steps among `steps`, made once and kept as long as the image set.

    Raises:
        PartnersError: a factor that a step needs is missing or out of range, or an object has no other image.
    """
    key = (*(step for step in DATASET_STEPS if step in steps), sessions, *pose)
    tables = _TABLES.setdefault(image_set, {})
    if key not in tables:
        _check_factors(image_set, steps, sessions, pose)
        tables[key] = _make_partners(image_set, "session" in steps)
    return tables[key]


def _check_factors(image_set: ImageSet, steps: tuple[str, ...], sessions: int, pose: tuple[str, ...]) -> None:
    needed = {"pose": ("object", *pose), "session": ("object", "session")}
    for step in set(steps) & set(DATASET_STEPS):
        for factor in needed[step]:
            if factor not in image_set.factors:
                raise PartnersError(f"the step {step!r} needs the factor {factor!r}, which {image_set.name!r} has not")
    if "session" in steps:
        known, count = image_set.factors["session"].unique().tolist(), sessions
        if not set(known) <= set(range(count)):
            raise PartnersError(f"sessions={count} means 0 to {count - 1}, but {image_set.name!r} has sessions {known}")


def _make_partners(image_set: ImageSet, other_session: bool) -> Partners:
    images = torch.arange(len(image_set), device=image_set.device)
    objects = image_set.factors["object"].unique(return_inverse=True)[1]
    # the run to leave out: the anchor's session, or the anchor alone
    own = image_set.factors["session"].unique(return_inverse=True)[1] if other_session else images
    key = objects * len(image_set) + own
    order = key.argsort()
    (start, total), (skip, length) = _runs(objects[order]), _runs(key[order])
    table = torch.stack([start, skip - start, length, total - length])[:, order.argsort()]
    alone = image_set.factors["object"][table[3] == 0].tolist()
    if alone:
        label = dict(enumerate(image_set.labels.get("object", ()))).get(alone[0], "no label")
        raise PartnersError(
            f"object {alone[0]} ({label}) of {image_set.name!r} has no other image"
            f"{' from another session' if other_session else ''} to be its view: "
            "take more images (train_size), or leave the object out"
        )
    return Partners(order, table)


def _runs(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the sorted values [N], where the run of those equal to it begins, and how long that is."""
    _, run, count = values.unique_consecutive(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - count)[run], count[run]
