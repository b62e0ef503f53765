"""Discrete transformations of images, the ones whose prediction teaches (Wang et al. 2024, arXiv 2411.06508)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ciperlib.data.imageset import ImageSet

BLURS = (0, 5, 9, 15)  # side of the Gaussian's window at 32x32; 0 does nothing
TILES = tuple(itertools.permutations(range(4)))


@dataclass(frozen=True)
class Transformation:
    """What is done to an image, at one of m levels.

    Attributes:
        name: of the transformation.
        levels: what the levels are called; level 0 leaves the image as it is.
        apply: (images float [B, 3, H, W] in 0..1, level) -> the same shape.
        lossy: whether two levels can give the same image for *every* image (then H(A|X) > 0), or information on the
            image is lost. A rotation is neither; grayscale of a grey image is an exception, not the rule.
        leak: how the level could be told without knowing what is in the image.
    """

    name: str
    levels: tuple[str, ...]
    apply: Callable[[Tensor, int], Tensor]
    lossy: bool
    leak: str

    @property
    def m(self) -> int:
        return len(self.levels)

    def __call__(self, images: ImageSet, level: int) -> ImageSet:
        """The image set at one level, rounded to whole grey values, with the same ids, groups and factors.

        Raises:
            ValueError: no such level.
        """
        if not 0 <= level < self.m:
            raise ValueError(f"{self.name} has levels 0 to {self.m - 1}, not {level}")
        parts = [
            self.apply(images.floats(slice(i, i + 1024)), level).mul(255).round().clamp(0, 255).byte()
            for i in range(0, len(images), 1024)
        ]
        return replace(images, images=torch.cat(parts))


def make_transformation(name: str) -> Transformation:
    """One of `TRANSFORMATIONS` by name; ValueError for another."""
    if name not in TRANSFORMATIONS:
        raise ValueError(f"there is no transformation {name!r}; choose one of {', '.join(TRANSFORMATIONS)}")
    return TRANSFORMATIONS[name]


def jigsaw(images: Tensor, level: int) -> Tensor:
    """The four quarters in another order: quarter i of the result is quarter TILES[level][i]."""
    h, w = images.shape[2] // 2, images.shape[3] // 2
    quarters = [images[:, :, y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
    a, b, c, d = (quarters[i] for i in TILES[level])
    return torch.cat((torch.cat((a, b), 3), torch.cat((c, d), 3)), 2)


def blur(images: Tensor, level: int) -> Tensor:
    """A Gaussian window of side BLURS[level] at 32 pixels (in proportion at other sizes), edges reflected."""
    if BLURS[level] == 0:
        return images
    reach = max(1, round(BLURS[level] // 2 * images.shape[-1] / 32))
    sigma = 0.3 * (reach - 1) + 0.8  # OpenCV's and torchvision's rule
    window = torch.exp(-torch.arange(-reach, reach + 1, device=images.device).float().square() / (2 * sigma**2))
    window = (window / window.sum()).to(images.dtype)
    padded = F.pad(images, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(padded, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
    return smooth.view_as(images)


def _same(images: Tensor, level: int) -> Tensor:
    return images


def _turn(images: Tensor, level: int) -> Tensor:
    return torch.rot90(images, level, (2, 3))


def _flip(images: Tensor, level: int, axis: int) -> Tensor:
    return images.flip(axis) if level else images


def _invert(images: Tensor, level: int) -> Tensor:
    return 1 - images if level else images


def _grey(images: Tensor, level: int) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images) if level else images


TRANSFORMATIONS = {
    t.name: t
    for t in (
        Transformation("identity", tuple("abcd"), _same, True, "not at all: the levels do nothing"),
        Transformation(
            "rotation", tuple(f"{90 * i}°" for i in range(4)), _turn, False,
            "from light, shadows and the horizon; not from borders: whole pixels are moved",
        ),
        Transformation("horizontal_flip", ("as it is", "mirrored"), partial(_flip, axis=3), False,
                       "from writing, and from light that always comes from one side"),
        Transformation("vertical_flip", ("as it is", "upside down"), partial(_flip, axis=2), False,
                       "from light from above, floor and horizon"),
        Transformation("inversion", ("as it is", "negative"), _invert, False, "from the usual colours"),
        Transformation("grayscale", ("colour", "grey"), _grey, True, "from any colour at all: no object need be known"),
        Transformation("jigsaw", tuple("".join(str(i + 1) for i in order) for order in TILES), jigsaw, False,
                       "from edges that do not continue across the seams"),
        Transformation("blur", tuple(f"window {side}" if side else "sharp" for side in BLURS), blur, True,
                       "from the sharpness of any edge"),
    )
}  # fmt: skip


def azimuth_steps(m: int = 4) -> Transformation:
    """The turntable's object turned by 0, 1/m, ... of a circle: rendered anew, with light and shadow as they fall."""
    levels = tuple(f"{360 * i / m:g}°" for i in range(m))
    return _Turned("azimuth", levels, _same, False, "from the picture alone, never from pixels: each level is rendered")


class _Turned(Transformation):
    def __call__(self, images: ImageSet, level: int) -> ImageSet:
        from ciperlib.data import turntable

        if not images.name.startswith("turntable"):
            raise ValueError(f"only the turntable can turn its objects, not {images.name}")
        if not 0 <= level < self.m:
            raise ValueError(f"{self.name} has levels 0 to {self.m - 1}, not {level}")
        azimuth = (images.factors["azimuth"] + 2 * math.pi * level / self.m) % (2 * math.pi)
        factors = {**images.factors, "azimuth": azimuth}
        size = images.images.shape[-1]
        rendered = turntable.render(*(factors[name] for name in turntable.POSE), image_size=size)
        return replace(images, images=rendered.images, masks=rendered.masks, factors=factors)
