"""Another view of the object: its pose, relative to the anchor's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ciperlib.data.imageset import POSE
from ciperlib.learn.augment.base import DatasetStep, ParameterSpec
from ciperlib.registry import Option, steps

COLUMNS = {
    "azimuth": (("sin_azimuth", -1, 1), ("cos_azimuth", -1, 1)),
    "elevation": (("elevation", -math.pi, math.pi),),
    "distance": (("distance", -math.inf, math.inf),),
}
AZIMUTH_AS = ("turn", "degrees")
DEGREES = ("azimuth_degrees", -180, 180)


def turns(specs, first, second) -> list[Tensor]:
    """Sine and 1 - cosine of the turn from one to the other (or its degrees), and the differences of what else there
    is."""
    a, b, found = first, second, []
    if "sin_azimuth" in first:
        found = [
            b["sin_azimuth"] * a["cos_azimuth"] - b["cos_azimuth"] * a["sin_azimuth"],
            1 - b["cos_azimuth"] * a["cos_azimuth"] - b["sin_azimuth"] * a["sin_azimuth"],
        ]
    if "azimuth_degrees" in first:
        found = [_wrapped(b["azimuth_degrees"] - a["azimuth_degrees"])]
    return [*found, *(b[spec.name] - a[spec.name] for spec in specs if "azimuth" not in spec.name)]


def _wrapped(degrees: Tensor) -> Tensor:
    """From -180 up to 180."""
    return (degrees + 180) % 360 - 180


@steps.register(
    "pose", label="pose", place=10, dataset=True, needs=("object", "azimuth"), difference=turns, answer="free",
    options={
        "azimuth_as": Option("turn", "what is predicted of a turn: its sine and cosine, or degrees", among=AZIMUTH_AS)
    },
)  # fmt: skip
class Pose(DatasetStep):
    """Another image of the anchor's object, pose and session free; the parameters are the view's pose minus the
    anchor's.

    Args:
        pose: which of azimuth, elevation and distance the images have.
        azimuth_as: what the turn is said in: "turn", its sine and cosine; "degrees", from -180 up to 180, as a paper
            that speaks of an error in degrees may mean it: half a turn to the left is then as far from half a turn to
            the right as can be.
    """

    def __init__(self, pose: Sequence[str] = POSE, azimuth_as: str = "turn") -> None:
        if not (pose and set(pose) <= set(POSE)):
            raise ValueError(f"pose (for the step 'pose') must be some of {', '.join(POSE)}, not {tuple(pose)}")
        self.pose = tuple(factor for factor in POSE if factor in pose)
        self.needs = ("object", *self.pose)
        self.degrees = azimuth_as == "degrees"
        columns = {**COLUMNS, **({"azimuth": (DEGREES,)} if self.degrees else {})}
        self.specs = tuple(
            ParameterSpec(name, "continuous", low, high) for factor in self.pose for name, low, high in columns[factor]
        )

    def compare(self, factors, anchor, view):
        columns: list[Tensor] = []
        for name in self.pose:
            change = factors[name][view] - factors[name][anchor]
            if name != "azimuth":
                columns.append(change)
            elif self.degrees:
                columns.append(_wrapped(change.rad2deg()))
            else:
                columns += [change.sin(), change.cos()]
        return columns
