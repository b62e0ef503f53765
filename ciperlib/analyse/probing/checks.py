"""What a probe refuses: the ways in which its number would not mean what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.config import nearest
from ciperlib.data.imageset import POSE


class ProbeError(ValueError):
    """A probe that would not measure what it says; the message says why and what to do."""


class Categories(NamedTuple):
    """values [K]: the training part's categories; y [N]: its rows as positions in them; truth [n]: the test part's."""

    values: Tensor
    y: Tensor
    truth: Tensor


def inner_split(groups: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions to fit on and to choose on: a fifth of the groups, at least one, held out."""
    distinct, group = torch.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        raise ProbeError(
            "the training part is one group, inside which no strength can be chosen: pass one, regularisation=(1e-3,)"
        )
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    held = torch.isin(group, order[: max(1, len(distinct) // 5)])
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def checked_regularisation(regularisation: Sequence[float]) -> tuple[float, ...]:
    """Strengths as floats; ProbeError for none, or one that is not above 0."""
    if not len(regularisation) or not all(math.isfinite(strength) and strength > 0 for strength in regularisation):
        raise ProbeError(f"regularisation must be numbers above 0, not {regularisation}")
    return tuple(float(strength) for strength in regularisation)


def check_pair(train: Features, test: Features) -> None:
    """Raises ProbeError for parts of different encoders or sizes, or with a group in common."""
    if train.encoder_fingerprint != test.encoder_fingerprint or train.matrix.shape[1] != test.matrix.shape[1]:
        raise ProbeError(
            f"train and test features come from different encoders ({train.encoder_fingerprint}, "
            f"{test.encoder_fingerprint}): extract both from the same one"
        )
    if len(train) < 10 or len(test) < 2:
        raise ProbeError(f"too few rows: {len(train)} to train on (at least 10), {len(test)} to test on (at least 2)")
    for part, features in (("training", train), ("test", test)):
        if not features.matrix.isfinite().all():
            bad = int((~features.matrix.isfinite()).any(dim=1).sum())
            raise ProbeError(f"{bad} rows of the {part} features are not finite: extract them again")
    if train.name == test.name:
        common = np.intersect1d(train.groups.numpy(), test.groups.numpy())
        if len(common):
            raise ProbeError(
                f"{len(common)} groups of {train.name} (the first is {common[0]}) are in both parts, so the probe "
                "could recognise what it should predict: divide with split_features, which keeps groups together"
            )


def column_of(features: Features, factor: str) -> Tensor:
    """A factor of features, [N]; ProbeError, with the nearest known name, where it is missing."""
    if factor not in features.factors:
        raise ProbeError(
            f"{features.name} ({features.split}) has no factor {factor!r}{nearest(factor, features.factors)}"
        )
    return features.factors[factor]


def categories_of(train: Features, test: Features, factor: str) -> Categories:
    """The categories of a factor in both parts, numbered from 0; ProbeError where a probe could not know them."""
    check_pair(train, test)
    fitted, truth = column_of(train, factor), column_of(test, factor)
    if fitted.is_floating_point():
        raise ProbeError(f"{factor} is continuous: use fit_regression_probe, or evaluate, which chooses")
    values, y = torch.unique(fitted, return_inverse=True)
    if len(values) < 2:
        raise ProbeError(f"all training images have the same {factor}: there is nothing to tell apart")
    missing = sorted(set(truth.tolist()) - set(values.tolist()))
    if missing:
        raise ProbeError(
            f"the test part has values of {factor} that the training part has not: {missing[:10]}. If they were held "
            f"out on purpose, another factor can be probed across them, but {factor} itself only by dividing the "
            "held-out images once more: first, second = split_features(test)"
        )
    return Categories(values, y, truth)


def varies(name: str, column: Tensor) -> bool:
    """Whether a factor [N] has two values: categories (int64) that differ, quantities that differ by more than 1e-6 of
    the largest, azimuths by more than 1e-6 radians."""
    if not len(column):
        return False
    if not column.is_floating_point():
        return bool((column != column[0]).any())
    column = column.double()
    size = 1.0 if name == "azimuth" else float(column.abs().max())
    return not float(column.max() - column.min()) <= 1e-6 * size  # what is not a number is for others to refuse


def pose_parts(train: Features, test: Features) -> tuple[str, ...]:
    """What the images have of azimuth, elevation and distance, without what is constant in both parts.

    Raises:
        ProbeError: nothing is left.
    """
    known = tuple(name for name in POSE if name in train.factors)
    parts = tuple(name for name in known if varies(name, train.factors[name]) or varies(name, column_of(test, name)))
    if not parts:
        why = f"the same {' and '.join(known)} in all images" if known else f"none of {', '.join(POSE)} is known"
        raise ProbeError(f"{train.name} has no pose to probe ({why}): probe another factor")
    return parts


def targets_of(features: Features, names: Sequence[str], part: str) -> tuple[tuple[str, ...], Tensor]:
    """Names of the columns, and float64 [N, columns]; azimuth takes two."""
    columns: dict[str, Tensor] = {}
    for name in names:
        column = column_of(features, name)
        if not column.is_floating_point():
            raise ProbeError(f"{name} is categorical: use fit_linear_probe, or evaluate, which chooses")
        column = column.double()
        if not column.isfinite().all():
            raise ProbeError(f"{name} is not finite for some images of the {part} part: leave them out with subset")
        if not varies(name, column):
            raise ProbeError(f"all {part} images have the same {name}: there is nothing to predict")
        if name == "azimuth":
            columns |= {"sin_azimuth": column.sin(), "cos_azimuth": column.cos()}
        else:
            columns[name] = column
    return tuple(columns), torch.stack(list(columns.values()), dim=1)
