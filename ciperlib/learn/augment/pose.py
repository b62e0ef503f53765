"""Another view of the object: its pose, relative to the anchor's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ciperlib.data.imageset import POSE
from ciperlib.learn.augment.base import DatasetStep, ParameterSpec
from ciperlib.registry import steps

COLUMNS = {
    "azimuth": (("sin_azimuth", -1, 1), ("cos_azimuth", -1, 1)),
    "elevation": (("elevation", -math.pi, math.pi),),
    "distance": (("distance", -math.inf, math.inf),),
}


def turns(specs, first, second) -> list[Tensor]:
    """Sine and 1 - cosine of the turn from one to the other, and the differences of what else there is."""
    a, b, found = first, second, []
    if "sin_azimuth" in first:
        found = [
            b["sin_azimuth"] * a["cos_azimuth"] - b["cos_azimuth"] * a["sin_azimuth"],
            1 - b["cos_azimuth"] * a["cos_azimuth"] - b["sin_azimuth"] * a["sin_azimuth"],
        ]
    return [*found, *(b[spec.name] - a[spec.name] for spec in specs if "azimuth" not in spec.name)]


@steps.register(
    "pose", label="pose", place=10, dataset=True, needs=("object", "azimuth"), difference=turns, answer="free"
)
class Pose(DatasetStep):
    """Another image of the anchor's object, pose and session free; the parameters are the view's pose minus the
    anchor's.

    Args:
        pose: which of azimuth, elevation and distance the images have.
    """

    def __init__(self, pose: Sequence[str] = POSE) -> None:
        if not (pose and set(pose) <= set(POSE)):
            raise ValueError(f"pose (for the step 'pose') must be some of {', '.join(POSE)}, not {tuple(pose)}")
        self.pose = tuple(factor for factor in POSE if factor in pose)
        self.needs = ("object", *self.pose)
        self.specs = tuple(
            ParameterSpec(name, "continuous", low, high) for factor in self.pose for name, low, high in COLUMNS[factor]
        )

    def compare(self, factors, anchor, view):
        columns: list[Tensor] = []
        for name in self.pose:
            change = factors[name][view] - factors[name][anchor]
            columns += [change.sin(), change.cos()] if name == "azimuth" else [change]
        return columns
