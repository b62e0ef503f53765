"""What the parameters of views say, in the forms in which other methods than CIPER ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.methods.losses import standardise
from ciperlib.registry import steps


def anchor_targets(specs: Sequence[ParameterSpec], parameters: Tensor) -> Tensor:
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


def pair_targets(specs: Sequence[ParameterSpec], first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """What leads from the first view to the second, for each step of augmentation, as the step's `difference` says
    (as AugSelf, arXiv 2111.09613, for those that ship).

    Args:
        first, second: parameters [B, D], columns as in `specs`.

    Returns:
        step -> float [B, k]; all 0 where nothing differs. Exchanging the views changes the sign of all but flags and
        the cosine's.
    """
    names = [spec.name for spec in specs]
    a, b = (dict(zip(names, rows.float().t())) for rows in (first, second))
    found = {}
    for step in dict.fromkeys(spec.step for spec in specs if spec.step):
        columns = steps[step].difference([spec for spec in specs if spec.step == step and spec.predicted], a, b)
        if columns:
            found[step] = torch.stack(list(columns), 1)
    return found
