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

from ciperlib.config import IMAGE_STEPS, ConfigError, nearest
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment.augmentation import Augmentation
from ciperlib.learn.augment.base import ParameterSpec, View
from ciperlib.registry import steps, transformations

LEVEL = "level"  # the parameter that says at which level an image is
BLURS = (0, 5, 9, 15)  # side of the Gaussian's window at 32x32; 0 does nothing
TILES = tuple(itertools.permutations(range(4)))


@dataclass(frozen=True)
class Transformation:
    """What is done to an image, at one of m levels.

    Attributes:
        name: of the transformation.
        levels: what the levels are called; level 0 leaves the image as it is, but for what is rendered and for
            `parameter_steps`, which begin at one end of their range (the crop's size at the whole image).
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
        """How many levels there are."""
        return len(self.levels)

    def __call__(self, images: ImageSet, level: int) -> ImageSet:
        """The image set at one level, rounded to whole grey values, with the same ids, groups and factors.

        Raises:
            ValueError: no such level, or images that it cannot be done to.
        """
        if not 0 <= level < self.m:
            raise ValueError(f"{self.name} has levels 0 to {self.m - 1}, not {level}")
        return self._at(images, level)

    def orbit(self, images: ImageSet) -> tuple[ImageSet, ...]:
        """The image set at every level; made once, it serves many encoders."""
        return tuple(self(images, level) for level in range(self.m))

    def only(self, *levels: int) -> Transformation:
        """The same with some of its levels; what was the first of them becomes level 0."""
        names = tuple(self.levels[level] for level in levels)
        return replace(self, levels=names, apply=lambda images, level: self.apply(images, levels[level]))

    def _at(self, images: ImageSet, level: int) -> ImageSet:
        parts = [
            self.apply(images.floats(slice(i, i + 1024)), level).mul(255).round().clamp(0, 255).byte()
            for i in range(0, len(images), 1024)
        ]
        return replace(images, images=torch.cat(parts))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n levels, int64, all as likely."""
        return torch.randint(self.m, (n,), generator=generator, device=generator.device)

    def draw_levels(self, images: ImageSet, source: Tensor, generator: torch.Generator) -> Tensor:
        """A level for each of the images at `source` [B], int64, all as likely."""
        return self.draw(len(source), generator).to(images.device)

    def apply_each(self, images: Tensor, level: Tensor) -> Tensor:
        """Each image at its own level: float [B, 3, H, W] and int64 [B] to [B, 3, H, W]."""
        changed = images.clone()
        for value in level.unique().tolist():
            rows = level == value
            changed[rows] = self.apply(images[rows], value)
        return changed


class Transformed:
    """An augmentation with a transformation on top, at a level drawn for each image: the last of the parameters.

    It has an `Augmentation`'s face. What the base does comes first, so that it cannot move the level.
    """

    def __init__(self, base: Augmentation, transformation: Transformation):
        self.base, self.transformation = base, transformation
        self.specs = (*base.specs, ParameterSpec(LEVEL, "categorical", 0, transformation.m - 1))

    @torch.no_grad()
    def __call__(self, image_set: ImageSet, index: Tensor, generator: torch.Generator) -> View:
        if self._renders(image_set):
            level = self.transformation.draw(len(index), generator).to(image_set.device)
            moved = self.transformation.render_each(image_set.subset(index), level)
            view = self.base(moved, torch.arange(len(index), device=image_set.device), generator)
            return View(view.images, torch.cat([view.parameters, level[:, None].float()], 1), index)
        view = self.base(image_set, index, generator)
        level = self.transformation.draw_levels(image_set, view.source, generator)
        parameters = torch.cat([view.parameters, level[:, None].float()], 1)
        return View(self.transformation.apply_each(view.images, level), parameters, view.source)

    def _renders(self, images: ImageSet) -> bool:
        """Whether the levels are rendered: not where the view is another image, whose own level is then read off."""
        other = any(steps[spec.step].dataset for spec in self.base.specs if spec.step)
        return isinstance(self.transformation, _Rendered) and images.renderer is not None and not other

    @torch.no_grad()
    def replay(self, images: Tensor, parameters: Tensor) -> Tensor:
        """As `Augmentation.replay`."""
        return self.transformation.apply_each(self.base.replay(images, parameters[:, :-1]), parameters[:, -1].long())


def make_transformation(name: str) -> Transformation:
    """One that is registered, by name, those with a free number of levels at 4; ConfigError for another name.

    Example:
        >>> make_transformation("rotation").levels
        ('0°', '90°', '180°', '270°')
    """
    if name not in transformations:
        raise ConfigError(f"there is no transformation {name!r}{nearest(name, transformations)}")
    return transformations[name]()


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


@dataclass(frozen=True)
class _Rendered(Transformation):
    """Level k is a factor of the turntable in the k-th part of its range: rendered anew, for an orbit and for a
    training image. Of images that cannot be rendered (photographs, another image as a view) the level is read off.

    Where in its part an image lies is its own: the part is the level, and every level is as likely. Recipe 1 read the
    levels of all training images off, so that they were the same in every epoch.
    """

    low: float = 0.0
    high: float = 2 * math.pi

    def only(self, *levels: int) -> Transformation:
        raise ValueError(f"parts of a range cannot be left out: choose another number of them, {self.name}_steps(m)")

    def _at(self, images: ImageSet, level: int) -> ImageSet:
        if images.renderer is None:
            raise ValueError(f"only what is rendered can turn and move its objects, not {images.name}")
        return self.render_each(images, torch.full((len(images),), level, device=images.device))

    def render_each(self, images: ImageSet, level: Tensor) -> ImageSet:
        """Each image at its own level, int64 [N]."""
        part = (self.high - self.low) / self.m
        begins = torch.tensor([k * part for k in range(self.m)], device=images.device)[level]
        place = self.low + (images.factors[self.name] - self.low) % part + begins
        return images.rerender(**{self.name: place})

    def draw_levels(self, images: ImageSet, source: Tensor, generator: torch.Generator) -> Tensor:
        place, span = images.factors[self.name][source] - self.low, self.high - self.low
        share = (place % span if self.name == "azimuth" else place) / span
        return (share * self.m).long().clamp(0, self.m - 1)


_FROM_RENDERING = "from the picture alone, never from pixels: each level is rendered"


@transformations.register("azimuth", label="azimuth", place=81, needs=("azimuth",), recipe=2)
def azimuth_steps(m: int = 4) -> Transformation:
    """The object's azimuth in m equal parts of a circle."""
    levels = tuple(f"{360 * i / m:g}° to {360 * (i + 1) / m:g}°" for i in range(m))
    return _Rendered("azimuth", levels, _same, False, _FROM_RENDERING)


@transformations.register("elevation", label="elevation", place=82, rendered=True, recipe=2)
def elevation_steps(m: int = 4) -> Transformation:
    """The camera's elevation in m equal parts of the turntable's range, 10 to 70 degrees."""
    low, high = 10.0, 70.0
    names = tuple(f"{low + (high - low) * i / m:g}° to {low + (high - low) * (i + 1) / m:g}°" for i in range(m))
    return _Rendered("elevation", names, _same, False, _FROM_RENDERING, math.radians(low), math.radians(high))


@transformations.register("distance", label="distance", place=83, rendered=True, recipe=2)
def distance_steps(m: int = 4) -> Transformation:
    """The camera's distance in m equal parts of the turntable's range, 0.8 to 1.3."""
    low, high = 0.8, 1.3
    names = tuple(f"{low + (high - low) * i / m:.3g} to {low + (high - low) * (i + 1) / m:.3g}" for i in range(m))
    return _Rendered("distance", names, _same, False, _FROM_RENDERING, low, high)


def parameter_steps(name: str, m: int = 4) -> Transformation:
    """One of CIPER's augmentation parameters at m values from end to end of its range, the others doing nothing.

    Args:
        name: crop_x or crop_y (of a crop of half the side), crop_size (the side, in the middle), brightness, contrast,
            saturation or hue.

    Raises:
        ValueError: another name.
    """
    if name not in PARAMETER_STEPS:
        raise ValueError(f"there are no steps of {name!r}, but of {', '.join(PARAMETER_STEPS)}")
    low, high, leak = PARAMETER_STEPS[name]
    values = [low + (high - low) * i / (m - 1) for i in range(m)]
    levels = tuple(f"{name} {value:.2g}" for value in values)
    return Transformation(name, levels, partial(_set, name=name, values=values), name != "hue", leak)


PARAMETER_STEPS = {  # low, high, leak; of the teaching config's augmentation
    "crop_x": (0.0, 0.5, "from which edge of the scene is cut off"),
    "crop_y": (0.0, 0.5, "from whether floor or wall is seen"),
    "crop_size": (1.0, 0.45, "from the blur of what was enlarged"),
    "brightness": (0.6, 1.4, "from white pixels that overflow"),
    "contrast": (0.6, 1.4, "from the spread of grey values"),
    "saturation": (0.6, 1.4, "from the strongest colour"),
    "hue": (-0.1, 0.1, "from the usual colours"),
}


def _set(images: Tensor, level: int, name: str, values: list[float]) -> Tensor:
    """The augmentation replayed with one parameter at a value and the others neutral."""
    named = dict(crop_x=0, crop_y=0, crop_height=1, crop_width=1, brightness=1, contrast=1, saturation=1)
    value = values[level]
    if name == "crop_size":
        named |= dict(crop_x=(1 - value) / 2, crop_y=(1 - value) / 2, crop_height=value, crop_width=value)
    else:
        named |= {**(dict(crop_height=0.5, crop_width=0.5) if "crop" in name else {}), name: value}
    augmentation = Augmentation(IMAGE_STEPS)
    row = torch.tensor([float(named.get(spec.name, 0)) for spec in augmentation.specs])
    return augmentation.replay(images, row.expand(len(images), -1))


@transformations.register("identity", label="identity", place=80)
def _identity() -> Transformation:
    return Transformation("identity", tuple("abcd"), _same, True, "not at all: the levels do nothing")


@transformations.register("rotation", label="rotation", place=10)
def _rotation() -> Transformation:
    leak = "from light, shadows and the horizon; not from borders: whole pixels are moved"
    return Transformation("rotation", tuple(f"{90 * i}°" for i in range(4)), _turn, False, leak)


@transformations.register("horizontal_flip", label="horizontal flip", place=20, hidden_by=("flip",))
def _horizontal_flip() -> Transformation:
    leak = "from writing, and from light that always comes from one side"
    return Transformation("horizontal_flip", ("as it is", "mirrored"), partial(_flip, axis=3), False, leak)


@transformations.register("vertical_flip", label="vertical flip", place=30)
def _vertical_flip() -> Transformation:
    leak = "from light from above, floor and horizon"
    return Transformation("vertical_flip", ("as it is", "upside down"), partial(_flip, axis=2), False, leak)


@transformations.register("inversion", label="inversion", place=40)
def _inversion() -> Transformation:
    return Transformation("inversion", ("as it is", "negative"), _invert, False, "from the usual colours")


@transformations.register("grayscale", label="grayscale", place=50)
def _grayscale() -> Transformation:
    return Transformation(
        "grayscale", ("colour", "grey"), _grey, True, "from any colour at all: no object need be known"
    )


@transformations.register("jigsaw", label="jigsaw", place=60)
def _jigsaw() -> Transformation:
    levels = tuple("".join(str(i + 1) for i in order) for order in TILES)
    return Transformation("jigsaw", levels, jigsaw, False, "from edges that do not continue across the seams")


@transformations.register("blur", label="blur", place=70)
def _blur() -> Transformation:
    levels = tuple(f"window {side}" if side else "sharp" for side in BLURS)
    return Transformation("blur", levels, blur, True, "from the sharpness of any edge")


def _register_steps_of(name: str) -> None:
    @transformations.register(name, label=name.replace("_", " "), place=90)
    def build() -> Transformation:
        return parameter_steps(name)


for _name in PARAMETER_STEPS:
    _register_steps_of(_name)
