"""Principal components of pixels, exact: every sum in float64, and no direction in which the images do not differ."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.linalg import eigh
from torch import Tensor

CHUNK = 2**23  # values that are float64 at a time: 64 MB
LEAST = 1e-12  # of the leading variance; rounding in float64 stays below a thousandth of it


def fit_principal(x: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """The mean of float32 [N, p], float64 [p], and its leading principal directions, float64 columns [p, kept].

    Kept are at most `components` and N - 1, and only those whose variance is above `LEAST` of the leading one's:
    divided by its deviation, any other would be rounding error in x and anything in other images. One is always kept,
    though it be of no variance, where all images are equal.
    """
    mean = x.mean(dim=0, dtype=torch.float64)
    wide = len(x) < x.shape[1]
    product = _products_of_rows(x, mean) if wide else _products_of_columns(x, mean)
    last = len(product) - 1
    variances, vectors = eigh(product.numpy(), subset_by_index=[max(0, last + 1 - components), last])
    kept = max(1, int((variances > LEAST * variances[-1]).sum()))
    directions = torch.from_numpy(vectors[:, ::-1][:, :kept].copy())
    return mean, torch.linalg.qr(_combine_rows(x, mean, directions))[0] if wide else directions


def project(x: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Coordinates of float32 [N, p] along `directions`, from `mean`: float32 [N, kept], of sums in float64."""
    return torch.cat([(chunk @ directions).float() for chunk in _rows(x, mean)])


def _products_of_columns(x: Tensor, mean: Tensor) -> Tensor:
    """X'X of the centred X, float64 [p, p]."""
    product = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for chunk in _rows(x, mean):
        product.addmm_(chunk.T, chunk)
    return product


def _products_of_rows(x: Tensor, mean: Tensor) -> Tensor:
    """X X' of the centred X, float64 [N, N]."""
    product = torch.zeros(len(x), len(x), dtype=torch.float64)
    for chunk in _rows(x.T, mean[:, None]):
        product.addmm_(chunk.T, chunk)
    return product


def _combine_rows(x: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    """X'W of the centred X and float64 W [N, k]: float64 [p, k]."""
    return torch.cat([chunk @ weights for chunk in _rows(x.T, mean[:, None])])


def _rows(x: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """x - mean in float64, some rows at a time; a mean of one column is that of each row."""
    count = max(1, CHUNK // max(1, x.shape[1]))
    chunks = x.split(count)
    means = mean.split(count) if mean.ndim == 2 else [mean] * len(chunks)
    for rows, own in zip(chunks, means):
        yield rows.double() - own
