"""What can be said of representations without any label: how many dimensions they use, and how alike two are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(h: Tensor) -> float:
    """The effective rank exp(-sum p log p), p the singular values' shares (RankMe, arXiv 2210.02885, Eq. 1).

    Args:
        h: [N, d], N > d; the value depends on N, so compare at equal N.

    Returns:
        From 1 (one direction) to d.
    """
    if len(h) <= h.shape[1]:
        raise ValueError(f"RankMe needs more rows than columns: {len(h)} x {h.shape[1]}; encode more images")
    values = torch.linalg.svdvals(h.double())
    p = values / values.sum().clamp_min(1e-300)
    return float(torch.exp(-(p * p.clamp_min(1e-300).log()).sum()))


def alignment(h0: Tensor, h1: Tensor) -> float:
    """The mean squared distance of pairs of rows [N, d] on the unit sphere (arXiv 2005.10242, Eq. 6): 0 at best."""
    return float((F.normalize(h0.double(), dim=1) - F.normalize(h1.double(), dim=1)).square().sum(1).mean())


def uniformity(h: Tensor) -> float:
    """log of the mean of exp(-2 |a - b|^2) over pairs of rows on the unit sphere (Eq. 7): from 0 (all alike) down."""
    z = F.normalize(h.double(), dim=1)
    return float(torch.pdist(z).square().mul(-2).exp().mean().log())


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA by the unbiased estimate of HSIC (arXiv 2010.15327, Eq. 3): 1 for the same up to rotation and scale,
    about 0 for what has nothing in common, at any N. x [N, d], y [N, e], N > 3; rows belong together."""
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA compares the same images, at least 4 of them, not {len(x)} and {len(y)}")
    k, l = (_gram(rows) for rows in (x, y))  # noqa: E741 (the paper's letters)
    return float(_hsic(k, l) / (_hsic(k, k) * _hsic(l, l)).clamp_min(1e-300).sqrt())


def _gram(rows: Tensor) -> Tensor:
    rows = rows.double() - rows.double().mean(0)
    return (rows @ rows.T).fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    n = len(k)
    cross = k.sum(0) @ l.sum(0)
    return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))
