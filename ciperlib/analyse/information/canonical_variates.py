"""A low-rank summary of representations, learned for the question and cross-fitted: no row is summarised by a map that
has seen it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, beside the mean eigenvalue of the features
LARGEST_RANK = 16


@dataclass(frozen=True)
class CanonicalVariates:
    """What each outer fold sees of the representations.

    Attributes:
        values: float64 [F, R, r]: for outer fold f, every row's summary; columns by falling strength, spread 1 within
            cells, mean 0.
        folds: int64 [R], the fold of each row.
    """

    values: Tensor
    folds: Tensor


def assign_folds(groups: Tensor, folds: int, seed: int) -> Tensor:
    """A fold for each row, int64 [R]: whole groups, as even as can be."""
    distinct, group = torch.unique(groups, return_inverse=True)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(len(distinct), dtype=torch.int64)
    fold[order] = torch.arange(len(distinct)) % folds
    return fold[group]


def fit_canonical_variates(
    z: Tensor, cell: Tensor, cells: int, folds: Tensor, rank: int = LARGEST_RANK
) -> CanonicalVariates:
    """Canonical variates of the cells (level, class) after ridge regression onto their indicators.

    For outer fold f and any other fold g, rows of g are summarised by a ridge regression fitted on neither f nor g, the
    rows of f by one fitted on all but f; so what is fitted on a summary meets, in f, what it met in training. For
    equal covariances within cells the canonical variates are sufficient for (A, C) (Fisher's discriminant); what is not
    linear in z is lost.

    Args:
        z: float32 [R, d]. cell: int64 [R] in 0 ... cells - 1. folds: int64 [R].
        rank: at most so many columns.
    """
    count = int(folds.max()) + 1
    # no intercept: one fitted without a fold would tell how often each cell is in it
    x = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    hit = torch.nn.functional.one_hot(cell, cells).float()
    hit -= hit.mean(0)
    spectrum = torch.linalg.eigvalsh((x.T @ x / len(x)).double())
    rank = min(rank, cells - 1, int((spectrum > 1e-6 * spectrum[-1]).sum()))
    rows = [torch.nonzero(folds == g).flatten() for g in range(count)]
    grams = torch.stack([(x[r].T @ x[r]).double() for r in rows])
    crosses = torch.stack([(x[r].T @ hit[r]).double() for r in rows])
    outer = []
    for f in range(count):
        others = [g for g in range(count) if g != f]
        gram, cross = grams.sum(0) - grams[f], crosses.sum(0) - crosses[f]
        parts = {g: _ridge(gram - grams[g], cross - crosses[g]) for g in others}
        inner = {g: x[rows[g]] @ parts[g].float() for g in others}  # (regularisation, rows, cells)
        errors = sum((inner[g] - hit[rows[g]]).square().sum((1, 2)) for g in others)
        best = int(errors.argmin())
        whole = _ridge(gram, cross)[best]
        predicted = torch.empty(len(z), cells, dtype=torch.float64)
        for g in others:
            predicted[rows[g]] = inner[g][best].double()
        predicted[rows[f]] = x[rows[f]].double() @ whole
        fitted = folds != f
        outer.append(predicted @ _canonical(predicted[fitted], cell[fitted], cells, rank))
    most = max(one.shape[1] for one in outer)  # of few images one fold may show fewer directions than another
    values = torch.stack([torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in outer])
    return CanonicalVariates(values - values.mean(1, keepdim=True), folds)


def _ridge(gram: Tensor, cross: Tensor) -> Tensor:
    """Weights [regularisation, d, cells]."""
    values, vectors = torch.linalg.eigh(gram)
    mean = values.mean().clamp_min(1e-12)
    projected = vectors.T @ cross
    return torch.stack([vectors @ (projected / (values + s * mean).clamp_min(1e-12)[:, None]) for s in SHRINKAGES])


def _canonical(predicted: Tensor, cell: Tensor, cells: int, rank: int) -> Tensor:
    """Directions [cells, r] in which the cells' means lie farthest apart, next to the spread within cells."""
    count = torch.bincount(cell, minlength=cells).clamp_min(1).double()
    means = torch.zeros(cells, predicted.shape[1], dtype=torch.float64).index_add_(0, cell, predicted) / count[:, None]
    inside = predicted - means[cell]
    within = inside.T @ inside / len(cell)
    values, vectors = torch.linalg.eigh(within)
    kept = values > 1e-4 * values.max()  # less is what the folds differ in, not the images
    whiten = vectors[:, kept] / values[kept].sqrt()
    spread = (means - means.mean(0)) @ whiten
    _, directions = torch.linalg.eigh(spread.T @ (count[:, None] * spread) / count.sum())
    return whiten @ directions.flip(1)[:, :rank]
