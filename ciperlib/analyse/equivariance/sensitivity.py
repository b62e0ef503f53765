"""How fast a representation moves with a factor of the known world, around each image."""

from __future__ import annotations

from torch import nn

from ciperlib.analyse.features import extract_features
from ciperlib.data.imageset import POSE, ImageSet

RAYS = 64  # a pixel, for small steps: with the usual 4 an edge jumps from ray to ray, and no step is small enough


class SensitivityError(ValueError):
    """Images that cannot be rendered anew; the message says which can."""


def local_sensitivity(
    encoder: nn.Module, images: ImageSet, factor: str, *, step: float = 0.1, tolerance: float = 0.1, halvings: int = 6
) -> tuple[float, float, bool]:
    """How fast h moves with a factor of the turntable: mean of |dh/dt| / spread of h, by central differences.

    Args:
        images: of the turntable.
        factor: azimuth or elevation (per radian), or distance (per unit of it).
        step: the first half-width; halved until the value changes by less than `tolerance` of itself: where the step is
            wide h does not move along a straight line.
        halvings: at most.

    Returns:
        The value, the step it was measured with, and whether it held still.

    Raises:
        SensitivityError: images that cannot be rendered anew, or another factor.
    """
    if images.renderer is None or factor not in POSE:
        raise SensitivityError(
            f"only the turntable's azimuth, elevation and distance can be moved, not {factor!r} of {images.name}"
        )
    spread = float(extract_features(encoder, images).matrix.double().var(0, correction=0).sum().sqrt())

    def slope(step: float) -> float:
        sides = [extract_features(encoder, _moved(images, factor, sign * step)).matrix.double() for sign in (1, -1)]
        return float((sides[0] - sides[1]).norm(dim=1).mean() / (2 * step * spread))

    value = slope(step)
    for _ in range(halvings):
        step, last = step / 2, value
        value = slope(step)
        if abs(value - last) <= tolerance * abs(value):
            return value, step, True
    return value, step, False


def _moved(images: ImageSet, factor: str, by: float) -> ImageSet:
    return images.rerender(rays=RAYS, **{factor: images.factors[factor] + by})
