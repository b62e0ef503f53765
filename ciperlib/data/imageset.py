"""The one form in which images travel: uint8 pixels on a device, with everything that is known about each of them."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from ciperlib.files import project_root
from ciperlib.registry import datasets

SPLITS = ("train", "test")
LARGEST = 1024  # side in pixels of an image that is asked for
POSE = ("azimuth", "elevation", "distance")  # the factors that together are the pose


class DataError(Exception):
    """Images that are missing, damaged or impossible to load; the message says which, where, and how to get them."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with named ground-truth factors.

    Attributes:
        name: which images these are; with `ids` it identifies every image across splits and machines.
        split: "train" or "test".
        images: uint8 [N, 3, H, W].
        factors: ground truth by name, each [N]: int64 for categories, float32 for quantities (angles in radians).
        ids: int64 [N], unique within `name` over all splits.
        groups: int64 [N]; images of one group must not be divided between fitting and testing.
        labels: for categorical factors, the names of the values.
        masks: bool [N, H, W], True on the object, where it is known.
        renderer: where the images were rendered, what renders them: (factors, image_size, **options) to images and
            masks. See `rerender`.
    """

    name: str
    split: str
    images: Tensor
    factors: dict[str, Tensor]
    ids: Tensor
    groups: Tensor
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masks: Tensor | None = None
    renderer: Callable[..., tuple[Tensor, Tensor]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise DataError(f"images must be uint8 [N, 3, H, W], not {self.images.dtype} {list(self.images.shape)}")
        columns = {**self.factors, "ids": self.ids, "groups": self.groups}
        if self.masks is not None:
            columns["masks"] = self.masks
        for name, column in columns.items():
            if len(column) != len(self.images):
                raise DataError(f"{name} has {len(column)} rows for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def floats(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images at `index` as float32 in 0..1, [B, 3, H, W]."""
        return self.images[index].float().div_(255)

    def subset(self, index: Tensor | slice) -> ImageSet:
        """The images at `index`, with their factors, ids and groups."""
        return self._map(lambda column: column[index])

    def to(self, device: str | torch.device) -> ImageSet:
        """The same image set on another device."""
        return self._map(lambda column: column.to(device))

    def _map(self, function) -> ImageSet:
        changed = {f.name: function(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **changed, factors={name: function(column) for name, column in self.factors.items()})

    def rerender(self, *, image_size: int | None = None, rays: int | None = None, **factors: Tensor) -> ImageSet:
        """The same images, rendered anew where they differ in some factors.

        Args:
            image_size: side in pixels; None for the one that they have.
            rays: rays a pixel; None for the renderer's own number.
            factors: by name, each [N]; all others stay.

        Raises:
            DataError: images that nobody rendered, or a factor that they have not.
        """
        if self.renderer is None:
            raise DataError(f"{self.name} cannot be rendered anew: its images are as they were taken")
        if unknown := factors.keys() - self.factors.keys():
            raise DataError(f"{self.name} has no factor {min(unknown)!r} to be moved, but {', '.join(self.factors)}")
        factors = {**self.factors, **factors}
        size = self.images.shape[-1] if image_size is None else image_size
        images, masks = self.renderer(factors, size, **({} if rays is None else {"rays": rays}))
        return replace(self, images=images, masks=masks, factors=factors)

    def digest(self) -> str:
        """A fingerprint of which images these are (name and ids, not pixels): 16 hexadecimal digits."""
        content = self.name.encode() + self.ids.cpu().numpy().astype("<i8").tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def content(self) -> str:
        """Which pixels and which truth, for naming what was trained on them: 8 hexadecimal digits.

        Of name, ids, images and factors, all in their order; the same on every device.
        """
        content = hashlib.sha256(self.name.encode())
        for name, column in (("ids", self.ids), ("images", self.images), *self.factors.items()):
            content.update(f"|{name} {column.dtype} {list(column.shape)}|".encode())
            content.update(column.detach().cpu().contiguous().numpy())
        return content.hexdigest()[:8]


@dataclass(frozen=True)
class TrainedOn:
    """Which images an encoder has seen.

    Attributes:
        name: the image set's name.
        ranges: inclusive (first, last) pairs of ids, ascending and disjoint.
    """

    name: str
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, images: ImageSet) -> TrainedOn:
        """All images of `images`."""
        ids = torch.unique(images.ids.cpu())
        breaks = torch.nonzero(ids.diff() > 1).flatten() + 1
        parts = torch.tensor_split(ids, breaks)
        return cls(images.name, tuple((int(part[0]), int(part[-1])) for part in parts if len(part)))

    @classmethod
    def from_list(cls, name: str, ranges: Sequence[Sequence[int]]) -> TrainedOn:
        """The inverse of `to_list`; accepts the ranges in any order."""
        pairs = sorted((int(first), int(last)) for first, last in ranges)
        if any(first > last for first, last in pairs) or any(a[1] >= b[0] for a, b in pairwise(pairs)):
            raise DataError(f"ranges of ids must be disjoint pairs [first, last], not {list(ranges)}")
        return cls(name, tuple(pairs))

    def to_list(self) -> list[list[int]]:
        """The ranges as plain lists, fit for JSON."""
        return [list(pair) for pair in self.ranges]

    def seen(self, ids: Tensor) -> Tensor:
        """bool [N]: which of `ids` (int64 [N]) are among the ranges."""
        if not self.ranges:
            return torch.zeros(len(ids), dtype=torch.bool)
        first, last = torch.tensor(self.ranges, dtype=torch.int64).T.contiguous()
        place = torch.searchsorted(first, ids.cpu(), right=True) - 1
        return (place >= 0) & (ids.cpu() <= last[place.clamp(min=0)])


def load_images(
    name: str = "turntable",
    split: str = "train",
    *,
    size: int | None = None,
    image_size: int = 32,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Loads an image set by name.

    Args:
        name: that of a dataset; for your own images "folder:NAME".
        split: "train" or "test".
        size: the first `size` images (the sets are in random or balanced order); None for the usual number.
        image_size: side in pixels, at most `LARGEST`; rendered sets are rendered at it, photographs are made smaller.
        root: folder that holds the files; without it `CIPER_DATA`, then `data/` of the checkout.
        device: where the images shall stay.

    Raises:
        DataError: unknown name or split, a size that is no whole number or out of range, or files that are missing,
            truncated or have a wrong checksum.

    Example:
        >>> images = load_images("turntable", "test", size=200)
        >>> images.images.shape, sorted(images.factors)
        (torch.Size([200, 3, 32, 32]), ['azimuth', 'category', 'distance', 'elevation', 'object', 'session'])
    """
    kind, colon, _ = str(name).partition(":")
    if not isinstance(name, str) or kind not in datasets:
        raise DataError(f"there is no image set named {name!r}; choose one of {', '.join(datasets)}")
    if colon and not datasets[kind].named:
        raise DataError(f"there is no image set named {name!r}: choose {kind!r}; only folder:NAME has a name after it")
    if split not in SPLITS:
        raise DataError(f"split must be 'train' or 'test', not {split!r}")
    if size is not None and not _is_whole(size, 1):
        raise DataError(f"size must be a whole number of at least 1, not {size!r}")
    if not _is_whole(image_size, 1, LARGEST):
        raise DataError(f"image_size must be a whole number from 1 to {LARGEST}, not {image_size!r}")
    return datasets[kind](name, split, size=size, image_size=image_size, root=root).to(device)


def _is_whole(number: object, low: int, high: float = math.inf) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and low <= number <= high


def source_of(name: str) -> str:
    """What the name of an image set says of where its images come from: the same source at another size or, since two
    folders may hold the same pictures, any folder."""
    return "folder" if name.startswith("folder:") else re.sub(r"-\d+$", "", name)


def data_root(root: str | Path | None = None) -> Path:
    """Where image files are looked for: `root`, else the environment's `CIPER_DATA`, else `data/` of the checkout."""
    return Path(root or os.environ.get("CIPER_DATA") or project_root() / "data").expanduser()
