"""Errors, shares of variance, and the intervals that go with them: bootstrap samples of whole groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def circular_error(a: Tensor, b: Tensor) -> Tensor:
    """Absolute difference of angles around the circle: radians in, radians in 0..pi out."""
    return torch.atan2(torch.sin(a - b), torch.cos(a - b)).abs()


def r2_terms(guess: Tensor, truth: Tensor) -> Tensor:
    """What to sum over rows for R2, float64 [n, 3 * columns + 1]: 1, errors squared, targets, targets squared."""
    centred = truth - truth.mean(dim=0)  # against cancellation
    return torch.cat([torch.ones_like(truth[:, :1]), (guess - truth).square(), centred, centred.square()], dim=1)


def r2_columns(sums: np.ndarray) -> np.ndarray:
    """R2 of each column, [..., columns], from sums [..., 3 * columns + 1]."""
    error, total, squares = np.split(sums[..., 1:], 3, axis=-1)
    return 1 - error / np.maximum(squares - total**2 / sums[..., :1], 1e-300)


def r2(sums: np.ndarray) -> np.ndarray:
    """The mean of the columns' R2, [...], from sums [..., 3 * columns + 1]."""
    return r2_columns(sums).mean(axis=-1)


def bootstrap_interval(
    groups: Tensor, terms: Tensor, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """The central 95% of `statistic` over bootstrap samples of whole groups.

    Args:
        groups: int64 [n]. terms: float64 [n, c].
        statistic: from sums of terms over the drawn rows [resamples, c] to [resamples].

    Returns:
        NaN twice for a single group, which says nothing about other groups, or without resamples.
    """
    distinct, group = torch.unique(groups, return_inverse=True)
    count = len(distinct)
    if count < 2 or resamples < 1:
        return math.nan, math.nan
    sums = torch.zeros(count, terms.shape[1], dtype=torch.float64).index_add_(0, group, terms).numpy()
    generator = np.random.default_rng(seed)
    # the times that each group is drawn are multinomial; a row at a time, because all at once may not fit in memory
    weights = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(resamples))
    low, high = np.quantile(statistic(np.stack([weight @ sums for weight in weights])), [0.025, 0.975])
    return float(low), float(high)
