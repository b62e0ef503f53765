"""What a transformation does to representations, as one affine map a level, and what can be told with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ciperlib.analyse.probing.checks import inner_split
from ciperlib.analyse.solvers.linear import fit_ridge

REGULARISATION = (1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4)
SHARPNESS = tuple(2.0**k for k in range(-6, 9))  # of the softmax over distances, in units of their mean
TIE = 1e-6  # distances that differ by less, as a share of the mean, are the same


@dataclass(frozen=True, eq=False)
class Action:
    """The maps h -> h + W_a h + b_a of every level a.

    Attributes:
        weight: float64 [m, d, d], W. shift: float64 [m, d], b.
        strength: of the ridge that pulls W to 0 (so M = I + W to the identity), as chosen on held-out images.
        sharpness: how the level is told from distances, see `nll`; chosen there, too.
    """

    weight: Tensor
    shift: Tensor
    strength: float
    sharpness: float

    def __call__(self, h: Tensor) -> Tensor:
        """float64 [N, d] -> where each level's map takes it, [N, m, d]."""
        return h[:, None] + torch.einsum("nd,aed->nae", h, self.weight) + self.shift

    def nll(self, block: Tensor) -> Tensor:
        """-log q(level | h0, h1) in nats, [N, m - 1], of a reader who asks which map takes h0 nearest to h1: q is a
        softmax over minus the squared distances times the sharpness. block: [N, m, d]; level 0, where h1 is h0 itself,
        is left out."""
        return _nll(distances(self(block[:, 0]), block), self.sharpness)

    def cycle_error(self, h: Tensor, level: int = 1) -> float:
        """How far the map of one level, m times in a row, is from coming around: |M^m h - h| / |h - mean| over all
        rows; 0 where it is a cycle of m. h: float64 [N, d]."""
        moved = h
        for _ in range(len(self.shift)):
            moved = moved + moved @ self.weight[level].T + self.shift[level]
        return math.sqrt(float((moved - h).square().sum() / (h - h.mean(0)).square().sum()))


def fit_action(
    block: Tensor, groups: Tensor, regularisation: tuple[float, ...] = REGULARISATION, seed: int = 0
) -> Action:
    """Least squares from an image's first level to each other one, pulled towards the identity.

    M_a = argmin mean |h_ia - M h_i0 - b|^2 / s^2 + strength * |M - I|^2, with s^2 the mean variance of a column of h0.

    Args:
        block: float64 [N, m, d]. groups: int64 [N].
        regularisation: to choose from on held-out groups.
    """
    _, m, d = block.shape
    start, change = block[:, 0], (block - block[:, :1]).flatten(1)
    scale = float(start.var(0, correction=0).mean().sqrt().clamp_min(1e-12))
    fitted, held = inner_split(groups, seed)
    fits = fit_ridge(start[fitted] / scale, change[fitted], regularisation)
    errors = [float((fit(start[held] / scale) - change[held]).square().sum()) for fit in fits]
    best = min(range(len(regularisation)), key=errors.__getitem__)
    inner = _as_action(fits[best], scale, m, d, regularisation[best], 1.0)
    gaps = distances(inner(start[held]), block[held])
    size = float(gaps.mean().clamp_min(1e-300))
    sharpness = (
        1.0 if m < 3 else min((value / size for value in SHARPNESS), key=lambda value: float(_nll(gaps, value).mean()))
    )
    fit = fit_ridge(start / scale, change, (regularisation[best],))[0]
    return _as_action(fit, scale, m, d, regularisation[best], sharpness)


def distances(guess: Tensor, block: Tensor) -> Tensor:
    """Squared distances [N, a, b] from where map a takes h0 (guess [N, m, d]) to the image at level b (block)."""
    return torch.cdist(guess, block, compute_mode="donot_use_mm_for_euclid_dist").square()


def reciprocal_ranks(gaps: Tensor) -> tuple[Tensor, Tensor]:
    """How well each map finds its image among the image's orbit: 1 / rank, and whether it is first; float64 [N, a].

    Among equals the rank is drawn: what is given is the expectation. So where all are alike both are what chance gives.

    Args:
        gaps: squared distances [N, a, b]; the true one of map a is b = a.
    """
    true = gaps.diagonal(dim1=1, dim2=2)[:, :, None]
    tie = TIE * gaps.mean().clamp_min(1e-300)
    nearer, same = (gaps < true - tie).sum(2), ((gaps - true).abs() <= tie).sum(2)
    harmonic = torch.cat((torch.zeros(1).double(), (1 / torch.arange(1, gaps.shape[2] + 1).double()).cumsum(0)))
    return (harmonic[nearer + same] - harmonic[nearer]) / same, (nearer == 0) / same.double()


def chance_mrr(m: int) -> float:
    """The mean reciprocal rank of a guess among m: (1/m) sum of 1/k."""
    return sum(1 / k for k in range(1, m + 1)) / m


def _as_action(fit, scale: float, m: int, d: int, strength: float, sharpness: float) -> Action:
    return Action(fit.weight.view(m, d, d) / scale, fit.bias.view(m, d), strength, sharpness)


def _nll(gaps: Tensor, sharpness: float) -> Tensor:
    """[N, a, b] -> -log of the softmax over a at a = b, [N, m - 1], without level 0."""
    return -(-sharpness * gaps[:, 1:, 1:]).log_softmax(1).diagonal(dim1=1, dim2=2)
