"""Many small softmax regressions at once: Newton's method on a batch of problems, exact and deterministic."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-9  # added to the Hessian: shifting all classes together changes nothing


def fit_softmax(
    x: Tensor, y: Tensor, classes: int, ridge: Tensor, *, weight: Tensor | None = None, offset: Tensor | None = None,
    penalise_bias: bool = False, tolerance: float = 1e-7, limit: int = 40,
) -> Tensor:  # fmt: skip
    """Multinomial logistic regressions: for each b, the minimum of sum(weight * cross-entropy) / sum(weight) +
    ridge / 2 |theta|^2, with logits x theta + offset.

    Args:
        x: float64 [B, n, p]; its last column is a constant 1, whose weights are the biases.
        y: int64 [B, n] in 0 ... classes - 1.
        ridge: [B], not negative.
        weight: float64 [B, n], for instance 0 for rows that only fill up; 1 without it.
        offset: float64 [B, n, classes], fixed logits to which those of x are added.
        penalise_bias: whether the biases are drawn to 0 too.
        tolerance: of the largest entry of the gradient. limit: of iterations.

    Returns:
        theta float64 [B, p, classes].
    """
    b, n, p = x.shape
    weight = x.new_ones(b, n) if weight is None else weight
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1)
    penalty = ridge.to(x).view(b, 1, 1).expand(b, p, classes).clone()
    if not penalise_bias:
        penalty[:, -1] = 0
    hit = torch.nn.functional.one_hot(y, classes).to(x)
    theta = x.new_zeros(b, p, classes)
    value, probability = _value(x, hit, weight, offset, theta, penalty)
    for _ in range(limit):
        gradient = x.mT @ (weight[:, :, None] * (probability - hit)) + penalty * theta
        if float(gradient.abs().max()) < tolerance:
            break
        hessian = _hessian(x, weight, probability) + torch.diag_embed(penalty.mT.reshape(b, -1) + TINY)
        step = _solve(hessian, gradient.mT.reshape(b, -1, 1)).view(b, classes, p).mT
        theta, value, probability = _descend(x, hit, weight, offset, theta, step, penalty, value, probability)
    return theta


def log_softmax(x: Tensor, theta: Tensor, offset: Tensor | None = None) -> Tensor:
    """Log-probabilities [B, n, classes] of the regressions."""
    logits = x @ theta
    return (logits if offset is None else logits + offset).log_softmax(-1)


def _value(x, hit, weight, offset, theta, penalty) -> tuple[Tensor, Tensor]:
    """The objective [B], and the probabilities."""
    log_probability = log_softmax(x, theta, offset)
    value = -(weight[:, :, None] * hit * log_probability).sum((1, 2)) + 0.5 * (penalty * theta.square()).sum((1, 2))
    return value, log_probability.exp()


def _hessian(x: Tensor, weight: Tensor, probability: Tensor) -> Tensor:
    """[B, classes p, classes p]: blocks x' diag(w p_k (1[k = l] - p_l)) x."""
    b, _, p = x.shape
    classes = probability.shape[2]
    hessian = x.new_empty(b, classes, p, classes, p)
    for k in range(classes):
        for j in range(k + 1):
            curvature = weight * probability[:, :, k] * (float(k == j) - probability[:, :, j])
            block = x.mT @ (curvature[:, :, None] * x)
            hessian[:, k, :, j], hessian[:, j, :, k] = block, block
    return hessian.view(b, classes * p, classes * p)


def _solve(hessian: Tensor, right: Tensor) -> Tensor:
    """By Cholesky's factors: LU with MKL's batched pivots has failed on such matrices. A curvature that rounding has
    made negative is raised; the step is then shorter, and as good."""
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed.any():
        raised = 1e-6 * hessian.diagonal(dim1=1, dim2=2).mean(1) * (failed > 0)
        factor = torch.linalg.cholesky(hessian + raised[:, None, None] * torch.eye(hessian.shape[1]).to(hessian))
    return torch.cholesky_solve(right, factor)


def _descend(x, hit, weight, offset, theta, step, penalty, value, probability):
    """A Newton step, halved for those problems that it would make worse."""
    size = torch.ones_like(value)
    for _ in range(12):
        trial = theta - size[:, None, None] * step
        new, chance = _value(x, hit, weight, offset, trial, penalty)
        worse = ~(new <= value + 1e-12)
        if not worse.any():
            return trial, new, chance
        size = torch.where(worse, size / 2, size)
    keep = worse[:, None, None]
    return torch.where(keep, theta, trial), torch.where(worse, value, new), torch.where(keep, probability, chance)
