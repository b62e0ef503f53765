"""Batched augmentations that return the parameters they used, and can be replayed from them.

The image steps are SimCLR's without blur (Chen et al. 2020, arXiv:2002.05709): what torchvision's RandomResizedCrop,
hflip, ColorJitter and grayscale do to float tensors, with the distributions of their `get_params`, but for the whole
batch at once. The dataset steps take another image of the anchor's object as the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ciperlib.config import DATASET_STEPS, IMAGE_STEPS, STEPS
from ciperlib.data.imageset import POSE, ImageSet
from ciperlib.learn.partners import find_partners
from ciperlib.learn.pixels import (
    BLENDS,
    ORDERS,
    as_floats,
    centres,
    grayscale,
    jitter,
    mix_rows,
    sort_by_hue,
)  # fmt: skip

CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_SCALE = (0.2, 1.0)  # of the image's area (SimCLR, and the paper's Table 1)
CROP_ATTEMPTS = 10  # of torchvision, before it takes the centre
POSE_COLUMNS = {
    "azimuth": [("sin_azimuth", "continuous", -1, 1), ("cos_azimuth", "continuous", -1, 1)],
    "elevation": [("elevation", "continuous", -math.pi, math.pi)],
    "distance": [("distance", "continuous", -math.inf, math.inf)],
}
CHUNK = 512 * 32 * 32  # pixels at a time on a CPU: bounds the memory that comes on top of the result


@dataclass(frozen=True)
class ParameterSpec:
    """One column of a view's parameters.

    Attributes:
        name: of the column.
        kind: "continuous", "binary" (0 or 1) or "categorical" (0, 1, ..., high).
        low, high: the smallest and the largest value it can take.
        predicted: whether a predictor shall learn it; otherwise it is there for the replay.
    """

    name: str
    kind: str
    low: float
    high: float
    predicted: bool = True


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


class Augmentation:
    """Makes views of the images of an image set, with an independent draw for each.

    Args:
        steps: any of `STEPS`, always applied in that order; none at all gives the images themselves. `pose` takes
            another image of the anchor's object, `session` one from another session; both together, the latter.
        sessions: number of classes of the factor `session`, for the step `session`.
        pose: which of azimuth, elevation and distance the images have, for the step `pose`.
        crop_scale: area of the crop as a fraction of the image's.
        flip_probability: of a flip from left to right.
        jitter_strength: s; brightness, contrast and saturation are from 1 - s to 1 + s, hue from -s/4 to s/4 turns.
        jitter_probability: of jitter; where it does not happen its parameters are (1, 1, 1, 0).
        grayscale_probability: of a conversion to grey.
        order: "paper": crop, flip, jitter, grayscale; "reversed": grayscale, jitter, flip, crop. The parameters and
            their distribution are the same.

    Attributes:
        steps: in the order in which they are applied.
        specs: the columns of the parameters. Pose is the view's minus the anchor's, session the view's; the crop's
            x (left), y (top), height and width are fractions of the side; `jitter_order` counts
            `itertools.permutations` of brightness, contrast, saturation, hue, and is not to be predicted.

    Raises:
        ValueError: an unknown or repeated step, or a number out of its range.
    """

    def __init__(
        self,
        steps: Sequence[str],
        *,
        sessions: int = 0,
        pose: Sequence[str] = POSE,
        crop_scale: tuple[float, float] = CROP_SCALE,
        flip_probability: float = 0.5,
        jitter_strength: float = 0.4,
        jitter_probability: float = 0.8,
        grayscale_probability: float = 0.2,
        order: str = "paper",
    ) -> None:
        self.steps = tuple(step for step in STEPS if step in steps)
        if sorted(self.steps) != sorted(steps):
            raise ValueError(f"steps must be from {', '.join(STEPS)}, each at most once, not {tuple(steps)}")
        for name, value, low, high in (
            ("crop_scale[0]", crop_scale[0], 1e-6, crop_scale[1]),
            ("crop_scale[1]", crop_scale[1], crop_scale[0], 1),
            ("flip_probability", flip_probability, 0, 1),
            ("jitter_strength", jitter_strength, 0, 2),
            ("jitter_probability", jitter_probability, 0, 1),
            ("grayscale_probability", grayscale_probability, 0, 1),
            ("sessions (for the step 'session')", sessions, 2 if "session" in steps else 0, math.inf),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        if "pose" in self.steps and not (pose and set(pose) <= set(POSE)):
            raise ValueError(f"pose (for the step 'pose') must be some of {', '.join(POSE)}, not {tuple(pose)}")
        if order not in ("paper", "reversed"):
            raise ValueError(f"order must be 'paper' or 'reversed', not {order!r}")
        self.colours_first = order == "reversed"
        self.sessions = sessions
        self.pose = tuple(factor for factor in POSE if factor in pose)
        self.crop_scale = crop_scale
        self.flip_probability = flip_probability
        self.jitter_strength = jitter_strength
        self.jitter_probability = jitter_probability
        self.grayscale_probability = grayscale_probability
        self.specs = self._make_specs()

    def _make_specs(self) -> tuple[ParameterSpec, ...]:
        low, high = max(0.0, 1 - self.jitter_strength), 1 + self.jitter_strength
        hue = self.jitter_strength / 4
        columns = {
            "pose": [column for factor in self.pose for column in POSE_COLUMNS[factor]],
            "session": [("session", "categorical", 0, self.sessions - 1)],
            "crop": [(f"crop_{side}", "continuous", 0, 1) for side in ("x", "y", "height", "width")],
            "flip": [("flip", "binary", 0, 1)],
            "jitter": [*((name, "continuous", low, high) for name in BLENDS), ("hue", "continuous", -hue, hue)],
            "grayscale": [("grayscale", "binary", 0, 1)],
        }
        specs = [ParameterSpec(*column) for step in self.steps for column in columns[step]]
        if "jitter" in self.steps:
            specs.append(ParameterSpec("jitter_order", "categorical", 0, len(ORDERS) - 1, predicted=False))
        return tuple(specs)

    def __repr__(self) -> str:
        return f"Augmentation({self.steps})"

    def column(self, name: str) -> int:
        """Which column of the parameters has this name; ValueError if none has."""
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise ValueError(f"{self} has no parameter {name!r}, but {', '.join(names) or 'none at all'}")
        return names.index(name)

    @torch.no_grad()
    def __call__(self, image_set: ImageSet, index: Tensor, generator: torch.Generator) -> View:
        """One view of each of the images at `index`.

        Args:
            image_set: the images, and for dataset steps their partners.
            index: int64 [B], the anchors.
            generator: of all random numbers. One on the CPU gives images on any device the same parameters; one on
                the images' device saves the transfer.

        Raises:
            ValueError: dataset steps on images without the factors they need, or with an object without a partner.
        """
        source = index = index.to(image_set.device)

        def draw(rows: int) -> Tensor:
            return torch.rand(rows, len(index), generator=generator, device=generator.device).to(index.device)

        columns: list[Tensor] = []
        if set(self.steps) & set(DATASET_STEPS):
            source = find_partners(image_set, self.steps, self.sessions, self.pose)(index, draw(1)[0])
            columns += self._compare(image_set.factors, index, source)
        columns += self._draw(draw, *image_set.images.shape[-2:])
        parameters = torch.stack(columns, 1) if columns else torch.empty(len(index), 0, device=index.device)
        return View(self._apply(image_set.images, source, parameters), parameters, source)

    @torch.no_grad()
    def replay(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Applies the image steps again: to the images at `view.source`, it gives the very pixels of `view.images`.

        Args:
            images: [B, 3, H, W], uint8 or float in 0..1; after dataset steps the partners, not the anchors.
            parameters: float32 [B, D], with the columns of `specs`.

        Returns:
            float32 [B, 3, H, W] in 0..1.

        Raises:
            ValueError: parameters of another shape.
        """
        shape = (len(images), len(self.specs))
        if parameters.shape != shape:
            raise ValueError(f"parameters must be {list(shape)} for {self}, not {list(parameters.shape)}")
        return self._apply(images, torch.arange(len(images), device=images.device), parameters.to(images.device))

    def _compare(self, factors: dict[str, Tensor], anchor: Tensor, view: Tensor) -> list[Tensor]:
        columns = []
        if "pose" in self.steps:
            for name in self.pose:
                change = factors[name][view] - factors[name][anchor]
                columns += [change.sin(), change.cos()] if name == "azimuth" else [change]
        if "session" in self.steps:
            columns.append(factors["session"][view])
        return [column.float() for column in columns]

    def _draw(self, draw, height: int, width: int) -> list[Tensor]:
        """The columns of the image steps, from `draw(rows)`: random numbers in 0..1, [rows, B]."""
        columns: list[Tensor] = []
        if "crop" in self.steps:
            columns += _crops(draw(2 * CROP_ATTEMPTS + 2), height, width, self.crop_scale)
        if "flip" in self.steps:
            columns += (draw(1) < self.flip_probability).float()
        if "jitter" in self.steps:
            *factors, applied, order = draw(6)
            ranges = [(spec.low, spec.high) for spec in self.specs if spec.name in (*BLENDS, "hue")]
            for (low, high), neutral, factor in zip(ranges, (1, 1, 1, 0), factors):
                columns.append(torch.where(applied < self.jitter_probability, low + (high - low) * factor, neutral))
        if "grayscale" in self.steps:
            columns += (draw(1) < self.grayscale_probability).float()
        if "jitter" in self.steps:
            columns.append((order * len(ORDERS)).floor())
        return columns

    def _apply(self, images: Tensor, index: Tensor, parameters: Tensor) -> Tensor:
        """The image steps on images[index]; `parameters` [B, D] belong to the entries of `index`."""
        if not set(self.steps) & set(IMAGE_STEPS):
            return as_floats(images, index)
        out = torch.empty(len(index), *images.shape[1:], device=images.device)
        size = max(CHUNK // images[0, 0].numel(), 1) if images.device.type == "cpu" else max(len(index), 1)
        with torch.autocast(images.device.type, enabled=False):  # products in bfloat16 would be off by 1/255
            for part in zip(index.split(size), parameters.split(size), out.split(size)):
                self._apply_at_once(images, *part)
        return out

    def _apply_at_once(self, images: Tensor, index: Tensor, parameters: Tensor, out: Tensor) -> None:
        names, bounds = [spec.name for spec in self.specs], []
        named = dict(zip(names, parameters.t()))
        if "jitter" in self.steps:
            order, bounds = sort_by_hue(named)
            index, named = index[order], dict(zip(names, parameters.t()[:, order]))
        images = as_floats(images, index)
        if self.colours_first:
            planes = images.transpose(0, 1).contiguous()
            for step in (self._grey, self._jitter):
                step(planes, named, bounds)
            planes = self._place(planes.transpose(0, 1).contiguous(), named)
        else:
            planes = self._place(images, named)
            for step in (self._jitter, self._grey):
                step(planes, named, bounds)
        if "jitter" in self.steps:
            torch.index_select(planes.transpose(0, 1), 0, order.argsort(), out=out)
        else:
            out.copy_(planes.transpose(0, 1))

    def _jitter(self, planes: Tensor, named: dict[str, Tensor], bounds: list[int]) -> None:
        if "jitter" in self.steps:
            jitter(planes.flatten(2), named, bounds)

    def _grey(self, planes: Tensor, named: dict[str, Tensor], _bounds: list[int]) -> None:
        if "grayscale" in self.steps:
            gray = named["grayscale"].nonzero()[:, 0]
            planes.index_copy_(1, gray, grayscale(planes.index_select(1, gray)).expand(3, -1, -1, -1))

    def _place(self, images: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Crop and flip: [B, 3, H, W] to planes [3, B, H, W], in which each channel is in one piece."""
        count, _, height, width = images.shape
        if "crop" not in self.steps:
            if "flip" in self.steps:
                images = torch.where(named["flip"].bool()[:, None, None, None], images.flip(-1), images)
            return images.transpose(0, 1).contiguous()
        columns = centres(named["crop_x"], named["crop_width"], width)
        if "flip" in self.steps:
            columns = torch.where(named["flip"].bool()[:, None], columns.flip(1), columns)
        weights = (torch.arange(width, device=images.device) - columns[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
        images = torch.bmm(images.flatten(1, 2), weights.transpose(1, 2)).reshape(count, 3, height, width)
        return mix_rows(images, centres(named["crop_y"], named["crop_height"], height))


def _crops(random: Tensor, height: int, width: int, scale: tuple[float, float]) -> list[Tensor]:
    """Columns x, y, height, width [B] as torchvision draws them, from numbers in 0..1, [2 * CROP_ATTEMPTS + 2, B]."""
    areas, ratios, (left, top) = random.split([CROP_ATTEMPTS, CROP_ATTEMPTS, 2])
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    ratios = (low + (high - low) * ratios).exp()
    w, h = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(0, keepdim=True)
    found = fits.gather(0, first)[0]
    # where none fits, the largest crop in the centre that has an allowed ratio
    centre_w, centre_h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    w = torch.where(found, w.gather(0, first)[0], centre_w)
    h = torch.where(found, h.gather(0, first)[0], centre_h)
    x = torch.where(found, (left * (width - w + 1)).floor(), (width - centre_w) // 2)
    y = torch.where(found, (top * (height - h + 1)).floor(), (height - centre_h) // 2)
    return [x / width, y / height, h / height, w / width]
