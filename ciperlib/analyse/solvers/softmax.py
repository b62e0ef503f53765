"""Many small softmax regressions at once, exact and deterministic: Newton's method on a batch of problems where their
Hessians are small, L-BFGS where they are not."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

LARGE = 24  # parameters from which a Hessian costs more than the iterations that it saves
MEMORY, RENEWED = 12, 20  # steps that L-BFGS remembers, and after which its preconditioner is made anew
WORTH = 0.4  # a Hessian is kept as long as its step takes the gradient below this share of what it was
# from this tolerance on, and where no input is larger, L-BFGS goes most of the way in single precision
SINGLE, MODERATE = 1e-5, 30
# added to the Hessian, since shifting all classes together changes nothing; by what a value may rise by rounding
TINY = {torch.float64: 1e-9, torch.float32: 1e-5}
SLACK = {torch.float64: 1e-12, torch.float32: 1e-6}


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
        tolerance: of the largest entry of the gradient. limit: of iterations of Newton's method, and of ten of L-BFGS.

    Returns:
        theta float64 [B, p, classes].
    """
    b, n, p = x.shape
    weight = x.new_ones(b, n) if weight is None else weight
    weight = (weight / weight.sum(1, keepdim=True).clamp_min(1))[:, None]
    penalty = ridge.to(x).view(b, 1, 1).expand(b, classes, p).clone()
    if not penalise_bias:
        penalty[:, :, -1] = 0
    # inside, classes come before rows: softmax over the last of few dimensions is slow
    hit = torch.nn.functional.one_hot(y, classes).to(x).mT.contiguous()
    problem = _Problem(x, hit, weight, None if offset is None else offset.mT.contiguous(), penalty)
    theta = x.new_zeros(b, classes, p)
    if classes * p >= LARGE:
        if tolerance >= SINGLE and float(x.abs().max()) < MODERATE:
            theta = _lbfgs(problem.single(), theta.float(), tolerance, 3 * limit).double()
        return _lbfgs(problem, theta, tolerance, 10 * limit).mT
    value, probability = problem.value(theta)
    factor, before = None, float("inf")
    for _ in range(limit):
        gradient = problem.gradient(theta, probability)
        steepest = float(gradient.abs().max())
        if steepest < tolerance:
            break
        if factor is None or steepest > WORTH * before:
            factor = _factor(problem.hessian(probability))
        before = steepest
        step = torch.cholesky_solve(gradient.reshape(b, -1, 1), factor).view_as(theta)
        theta, value, probability = _descend(problem, theta, step, value, probability)
    return theta.mT


def log_softmax(x: Tensor, theta: Tensor, offset: Tensor | None = None) -> Tensor:
    """Log-probabilities [B, n, classes] of the regressions."""
    logits = x @ theta
    return (logits if offset is None else logits + offset).log_softmax(-1)


@dataclass(frozen=True)
class _Problem:
    """x [B, n, p], hit and offset [B, k, n], weight [B, 1, n], penalty [B, k, p]."""

    x: Tensor
    hit: Tensor
    weight: Tensor
    offset: Tensor | None
    penalty: Tensor

    def single(self) -> _Problem:
        """In single precision: half of the bytes to move."""
        numbers = (self.x, self.hit, self.weight, self.offset, self.penalty)
        return _Problem(*(None if one is None else one.float() for one in numbers))

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The objective [B] at theta [B, k, p], and the probabilities [B, k, n]."""
        logits = theta @ self.x.mT
        if self.offset is not None:
            logits += self.offset
        log_probability = logits.log_softmax(1)
        loss = -((self.hit * log_probability).sum(1) * self.weight[:, 0]).sum(1)
        return loss + 0.5 * (self.penalty * theta.square()).sum((1, 2)), log_probability.exp_()

    def gradient(self, theta: Tensor, probability: Tensor) -> Tensor:
        """Of the objective, [B, k, p]."""
        return (self.weight * (probability - self.hit)) @ self.x + self.penalty * theta

    def blocks(self, probability: Tensor) -> Tensor:
        """The Hessian's blocks on the diagonal, [B, k, p, p]."""
        curvature = self.weight * probability * (1 - probability)
        own = [self.x.mT @ (curvature[:, i, :, None] * self.x) for i in range(probability.shape[1])]
        return torch.stack(own, 1) + torch.diag_embed(self.penalty + TINY[self.x.dtype])

    def hessian(self, probability: Tensor) -> Tensor:
        """[B, k p, k p]: blocks x' diag(w p_k (1[k = l] - p_l)) x."""
        b, _, p = self.x.shape
        k = probability.shape[1]
        hessian = self.x.new_empty(b, k, p, k, p)
        weighted = self.weight * probability
        for i in range(k):
            for j in range(i + 1):
                curvature = weighted[:, i] * (float(i == j) - probability[:, j])
                block = self.x.mT @ (curvature[:, :, None] * self.x)
                hessian[:, i, :, j], hessian[:, j, :, i] = block, block
        return hessian.view(b, k * p, k * p) + torch.diag_embed(self.penalty.reshape(b, -1) + TINY[self.x.dtype])


def _lbfgs(problem: _Problem, theta: Tensor, tolerance: float, limit: int) -> Tensor:
    """The minimum by L-BFGS from `theta`, preconditioned by the Hessian's diagonal blocks, which are renewed now and
    then; each problem has its own step."""

    def precondition(g: Tensor) -> Tensor:
        return torch.cholesky_solve(g.reshape(-1, g.shape[2], 1), factor).view_as(g)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    value, probability = problem.value(theta)
    gradient, pairs = problem.gradient(theta, probability), deque(maxlen=MEMORY)
    for i in range(limit):
        if float(gradient.abs().max()) < tolerance:
            break
        if i % RENEWED == 0:
            factor = _factor(problem.blocks(probability).flatten(0, 1))
        step, kept = gradient.clone(), []
        for change, bend, curvature in reversed(pairs):
            kept.append(dot(change, step) / curvature)
            step -= kept[-1] * bend
        step = precondition(step)
        for (change, bend, curvature), share in zip(pairs, reversed(kept)):
            step += change * (share - dot(bend, step) / curvature)
        uphill = ~(dot(step, gradient) > 0)  # rounding, at the end
        step = torch.where(uphill, precondition(gradient), step)
        moved, value, probability = _descend(problem, theta, step, value, probability)
        after = problem.gradient(moved, probability)
        change, bend = moved - theta, after - gradient
        curvature = dot(change, bend)
        # a problem that is done, or did not move, remembers nothing of this step
        length = (dot(change, change) * dot(bend, bend)).sqrt()
        sound = curvature > torch.finfo(length.dtype).eps * length
        pairs.append((change * sound, bend * sound, torch.where(sound, curvature, 1.0)))
        theta, gradient = moved, after
    return theta


def _factor(hessian: Tensor) -> Tensor:
    """Cholesky's factors: LU with MKL's batched pivots has failed on such matrices. A curvature that rounding has made
    negative is raised; the step is then shorter, and as good."""
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed.any():
        raised = 1e-5 * hessian.diagonal(dim1=1, dim2=2).amax(1) * (failed > 0)
        factor = torch.linalg.cholesky(hessian + raised[:, None, None] * torch.eye(hessian.shape[1]).to(hessian))
    return factor


def _descend(problem: _Problem, theta: Tensor, step: Tensor, value: Tensor, probability: Tensor):
    """A Newton step, halved for those problems that it would make worse."""
    size = torch.ones_like(value)
    for _ in range(12):
        trial = theta - size[:, None, None] * step
        new, chance = problem.value(trial)
        worse = ~(new <= value + SLACK[value.dtype])
        if not worse.any():
            return trial, new, chance
        size = torch.where(worse, size / 2, size)
    keep = worse[:, None, None]
    return torch.where(keep, theta, trial), torch.where(worse, value, new), torch.where(keep, probability, chance)
