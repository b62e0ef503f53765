"""What the parameters of views say, in the forms in which CIPER's kin ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.methods.losses import standardise

STEP_COLUMNS = {
    "pose": ("sin_azimuth", "cos_azimuth", "elevation", "distance"),
    "session": ("session",),
    "crop": ("crop_x", "crop_y", "crop_height", "crop_width"),
    "flip": ("flip",),
    "jitter": ("brightness", "contrast", "saturation", "hue"),
    "grayscale": ("grayscale",),
}


def absolute(specs: Sequence[ParameterSpec], parameters: Tensor) -> Tensor:
    """What was done to the anchor: quantities and flags standardised over the rows, categories one-hot.

    Args:
        parameters: [R, D], columns as in `specs`; those that are not to be predicted are left out.

    Returns:
        float [R, k], without gradient.
    """
    plain = [i for i, spec in enumerate(specs) if spec.predicted and spec.kind != "categorical"]
    parts = [standardise(parameters[:, plain])] if plain else []
    for i, spec in enumerate(specs):
        if spec.predicted and spec.kind == "categorical":
            parts.append(F.one_hot(parameters[:, i].long(), int(spec.high) + 1).float())
    return torch.cat(parts, 1)


def relative(specs: Sequence[ParameterSpec], first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """What leads from the first view to the second, for each step of augmentation (as AugSelf, arXiv 2111.09613).

    - pose: sine and 1 - cosine of the turn from one to the other, and the differences of what else there is.
    - session: one-hot of the second's minus one-hot of the first's.
    - crop: the differences of the centre (y, x; x mirrored where the crop was flipped afterwards), height and width.
    - flip: 1 where one is flipped and the other is not.
    - jitter: the differences of the four factors, as shares of their ranges.
    - grayscale: the second's flag minus the first's.

    Args:
        first, second: parameters [B, D], columns as in `specs`.

    Returns:
        step -> float [B, k]; all 0 where nothing differs. Exchanging the views changes the sign of all but flip and
        the cosine's.
    """
    names = [spec.name for spec in specs]
    a, b = (dict(zip(names, rows.float().t())) for rows in (first, second))
    spans = {spec.name: spec.high - spec.low for spec in specs}
    columns = {step: [name for name in known if name in names] for step, known in STEP_COLUMNS.items()}
    found: dict[str, list[Tensor]] = {}
    if pose := columns["pose"]:
        if "sin_azimuth" in pose:
            found["pose"] = [
                b["sin_azimuth"] * a["cos_azimuth"] - b["cos_azimuth"] * a["sin_azimuth"],
                1 - b["cos_azimuth"] * a["cos_azimuth"] - b["sin_azimuth"] * a["sin_azimuth"],
            ]
        rest = [b[name] - a[name] for name in pose if "azimuth" not in name]
        found["pose"] = [*found.get("pose", ()), *rest]
    if columns["session"]:
        classes = int(spans["session"]) + 1
        codes = [F.one_hot(view["session"].long(), classes).float() for view in (a, b)]
        found["session"] = list((codes[1] - codes[0]).t())
    if columns["crop"]:
        found["crop"] = [y - x for x, y in zip(_crop(a), _crop(b))]
    if columns["flip"]:
        found["flip"] = [(b["flip"] != a["flip"]).float()]
    if columns["jitter"]:
        found["jitter"] = [(b[name] - a[name]) / max(spans[name], 1e-6) for name in columns["jitter"]]
    if columns["grayscale"]:
        found["grayscale"] = [b["grayscale"] - a["grayscale"]]
    return {step: torch.stack(values, 1) for step, values in found.items()}


def _crop(view: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Centre (y, x), height and width, as fractions of the side; x as it lies in the view that was flipped after."""
    x = view["crop_x"] + view["crop_width"] / 2
    if "flip" in view:
        x = torch.where(view["flip"].bool(), 1 - x, x)
    return view["crop_y"] + view["crop_height"] / 2, x, view["crop_height"], view["crop_width"]
