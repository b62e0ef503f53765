"""The augmentation preview without widgets: anchors, two views, and a replay with one parameter changed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from torch import Tensor

from ciperlib.config import IMAGE_STEPS
from ciperlib.data.imageset import POSE, ImageSet
from ciperlib.learn.augment import Augmentation, ParameterSpec
from ciperlib.present.pictures import plot_views


def make_preview_augmentation(
    images: ImageSet, steps: Sequence[str] = IMAGE_STEPS, *, smallest_crop: float = 0.2, **strengths: float
) -> Augmentation:
    """An augmentation for these images.

    Args:
        smallest_crop: its area, as a share of the image's.
        strengths: flip_probability, jitter_strength, grayscale_probability of `Augmentation`.

    Raises:
        ValueError: an unknown step, or a number out of its range.
    """
    pose = tuple(name for name in POSE if name in images.factors) or POSE
    sessions = len(images.labels.get("session", ()))
    return Augmentation(steps, sessions=sessions, pose=pose, crop_scale=(smallest_crop, 1.0), **strengths)


def changeable(augmentation: Augmentation) -> list[ParameterSpec]:
    """The parameters that can be changed by hand: those of the image steps, in their order (a pose is only drawn)."""
    return [spec for spec in augmentation.specs if spec.predicted and spec.step in augmentation.image_steps]


def plot_preview(
    images: ImageSet, augmentation: Augmentation, *, anchors: int = 6, seed: int = 0,
    change: tuple[str, float] | None = None,
) -> go.Figure:  # fmt: skip
    """The first images, two views of each, the first view replayed, and the first view's parameters.

    Args:
        anchors: how many images.
        seed: of the draw.
        change: a parameter's name and the value that it gets in the replay, for all images; a crop stays in the image.

    Raises:
        ValueError: a parameter that this augmentation does not have or that cannot be changed.
    """
    generator, index = torch.Generator().manual_seed(seed), torch.arange(anchors)
    first, second = (augmentation(images, index, generator) for _ in range(2))
    rows = {"anchor x0": images.images[index], "view x1": first.images, "view x2": second.images}
    if changeable(augmentation):
        again = _changed(augmentation, first.parameters, change) if change else first.parameters
        name = f"x1, {change[0].replace('_', ' ')} {change[1]:.2f}" if change else "x1 replayed"
        rows[name] = augmentation.replay(images.images[first.source], again)
    names = [spec.name for spec in augmentation.specs if spec.predicted]
    columns = [augmentation.column(name) for name in names]
    return plot_views(rows, first.parameters[:, columns], names)


def _changed(augmentation: Augmentation, parameters: Tensor, change: tuple[str, float]) -> Tensor:
    name, value = change
    known = [spec.name for spec in changeable(augmentation)]
    if name not in known:
        raise ValueError(f"{name!r} cannot be changed by hand here; choose from {', '.join(known)}")
    parameters = parameters.clone()
    parameters[:, augmentation.column(name)] = value
    if name.startswith("crop"):
        for place, size in (("crop_x", "crop_width"), ("crop_y", "crop_height")):
            at, extent = augmentation.column(place), augmentation.column(size)
            parameters[:, extent].clamp_(min=0.1)  # a crop of nothing has no pixels
            parameters[:, at] = torch.minimum(parameters[:, at], 1 - parameters[:, extent])
    return parameters
