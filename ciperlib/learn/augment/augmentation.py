"""Batched augmentations that return the parameters they used, and can be replayed from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ciperlib.config import Config, nearest
from ciperlib.data.imageset import POSE, ImageSet
from ciperlib.learn.augment.base import DatasetStep, Draw, ImageStep, ParameterSpec, View
from ciperlib.learn.augment.crop import CROP_SCALE
from ciperlib.learn.augment.fused import FusedStep, apply_fused
from ciperlib.learn.augment.pixels import as_floats
from ciperlib.learn.augment.positives import find_positives
from ciperlib.registry import methods
from ciperlib.registry import steps as known_steps

CHUNK = 512 * 32 * 32  # pixels at a time on a CPU: bounds the memory that comes on top of the result


class Augmentation:
    """Makes views of the images of an image set, with an independent draw for each.

    Args:
        steps: any that are registered, always applied in the order of their places; none at all gives the images
            themselves. `pose` takes another image of the anchor's object, `session` one from another session; both
            together, the latter.
        order: "paper": crop, flip, jitter, grayscale; "reversed": grayscale, jitter, flip, crop. The parameters and
            their distribution are the same.
        choices: keywords of the steps that ship, and options of others.
            sessions (0): number of classes of the factor `session`, for the step `session`.
            pose (all): which of azimuth, elevation and distance the images have, for the step `pose`.
            crop_scale (0.2, 1.0): area of the crop as a fraction of the image's.
            flip_probability (0.5): of a flip from left to right.
            jitter_strength (0.4): s; brightness, contrast and saturation are from 1 - s to 1 + s, hue from -s/4 to s/4
            turns.
            jitter_probability (0.8): of jitter; where it does not happen its parameters are (1, 1, 1, 0).
            grayscale_probability (0.2): of a conversion to grey.

    Attributes:
        steps: in the order in which they are applied.
        specs: the columns of the parameters; those that are not to be predicted come last. Pose is the view's minus
            the anchor's, session the view's; a crop is in fractions of the side.

    Raises:
        ValueError: an unknown or repeated step, a choice that no step has, or a number out of its range.

    Example:
        >>> from ciperlib.data import load_images
        >>> images = load_images("turntable", "train", size=200)
        >>> augmentation = Augmentation(("crop", "flip"), flip_probability=1.0)
        >>> view = augmentation(images, torch.arange(4), torch.Generator().manual_seed(0))
        >>> view.images.shape, [spec.name for spec in augmentation.specs][-1], view.parameters[:, -1].tolist()
        (torch.Size([4, 3, 32, 32]), 'flip', [1.0, 1.0, 1.0, 1.0])
        >>> torch.equal(augmentation.replay(images.images[view.source], view.parameters), view.images)
        True
    """

    def __init__(self, steps: Sequence[str], *, order: str = "paper", **choices: Any) -> None:
        self.steps = tuple(step for step in known_steps if step in steps)
        if sorted(self.steps) != sorted(steps):
            raise ValueError(f"steps must be from {', '.join(known_steps)}, each at most once, not {tuple(steps)}")
        if order not in ("paper", "reversed"):
            raise ValueError(f"order must be 'paper' or 'reversed', not {order!r}")
        keywords = {step: inspect.signature(entry.build).parameters for step, entry in known_steps.items()}
        for choice in choices:
            if not any(choice in accepted for accepted in keywords.values()):
                raise ValueError(f"no step has {choice!r}{nearest(choice, {k for a in keywords.values() for k in a})}")
        made = {}
        for step in self.steps:
            own = {choice: value for choice, value in choices.items() if choice in keywords[step]}
            made[step] = known_steps[step](**own)
        self.dataset_steps: dict[str, DatasetStep] = {s: made[s] for s in self.steps if known_steps[s].dataset}
        self.image_steps: dict[str, ImageStep] = {s: made[s] for s in self.steps if s not in self.dataset_steps}
        self.colours_first = order == "reversed"
        self._drawn = tuple(replace(spec, step=step) for step in self.steps for spec in made[step].specs)
        self._places = sorted(range(len(self._drawn)), key=lambda i: not self._drawn[i].predicted)
        self.specs: tuple[ParameterSpec, ...] = tuple(self._drawn[i] for i in self._places)

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
            image_set: the images, and for dataset steps their positives.
            index: int64 [B], the anchors.
            generator: of all random numbers. One on the CPU gives images on any device the same parameters; one on
                the images' device saves the transfer.

        Raises:
            ValueError: dataset steps on images without the factors they need, or with an object without a partner.
        """
        source = index = index.to(image_set.device)

        def random(rows: int) -> Tensor:
            return torch.rand(rows, len(index), generator=generator, device=generator.device).to(index.device)

        drawn: list[Tensor] = []
        if self.dataset_steps:
            source = find_positives(image_set, self.dataset_steps)(index, random(1)[0])
            for step in self.dataset_steps.values():
                drawn += [column.float() for column in step.compare(image_set.factors, index, source)]
        drawn += self._draw(random, *image_set.images.shape[-2:])
        parameters = self._stack(drawn) if drawn else torch.empty(len(index), 0, device=index.device)
        return View(self._apply(image_set.images, source, parameters), parameters, source)

    @torch.no_grad()
    def replay(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Applies the image steps again: to the images at `view.source`, it gives the very pixels of `view.images`.

        Args:
            images: [B, 3, H, W], uint8 or float in 0..1; after dataset steps the positives, not the anchors.
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

    def _draw(self, random: Draw, height: int, width: int) -> list[Tensor]:
        return [column for step in self.image_steps.values() for column in step.draw(random, height, width)]

    def _stack(self, drawn: Sequence[Tensor]) -> Tensor:
        """What the steps drew, in the order of `specs`: [B, D]."""
        return torch.stack([drawn[i] for i in self._places], 1)

    def _apply(self, images: Tensor, index: Tensor, parameters: Tensor) -> Tensor:
        """The image steps on images[index]; `parameters` [B, D] belong to the entries of `index`."""
        if not self.image_steps:
            return as_floats(images, index)
        out = torch.empty(len(index), *images.shape[1:], device=images.device)
        size = max(CHUNK // images[0, 0].numel(), 1) if images.device.type == "cpu" else max(len(index), 1)
        with torch.autocast(images.device.type, enabled=False):  # products in bfloat16 would be off by 1/255
            for part in zip(index.split(size), parameters.split(size), out.split(size)):
                self._apply_at_once(images, *part)
        return out

    def _apply_at_once(self, images: Tensor, index: Tensor, parameters: Tensor, out: Tensor) -> None:
        named = dict(zip((spec.name for spec in self.specs), parameters.t()))
        order = reversed(self.image_steps) if self.colours_first else self.image_steps
        for fused, group in groupby(order, key=lambda step: isinstance(self.image_steps[step], FusedStep)):
            if fused:
                apply_fused(set(group), images, index, named, out, self.colours_first)
            else:
                changed = as_floats(images, index)
                for step in group:
                    changed = self.image_steps[step].apply(changed, named)
                out.copy_(changed)
            images, index = out, torch.arange(len(out), device=out.device)


def make_augmentation(
    config: Config, images: ImageSet, crop_scale: tuple[float, float] = CROP_SCALE
) -> Augmentation | Callable[..., View]:
    """The config's augmentation for an image set, with what its method adds to it."""
    entries = [known_steps[step] for step in config.augmentations]
    choices = {choice: getattr(config, choice) for entry in entries for choice in entry.reads}
    choices |= {option: config.option(option) for entry in entries for option in entry.options}
    augmentation = Augmentation(
        config.augmentations,
        sessions=len(images.labels.get("session", ())),
        pose=tuple(name for name in POSE if name in images.factors) or POSE,
        crop_scale=crop_scale,
        order=config.augmentation_order,
        **choices,
    )
    return methods[config.method].build.augment(augmentation, config)
