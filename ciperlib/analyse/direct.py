"""Held-out cross-entropy of logistic regression on the representations themselves: for the bounds of `information`,
which its low-rank summary need not lose."""

from __future__ import annotations

import torch
from torch import Tensor

from ciperlib.analyse.solvers import Linear, LogisticProblem
from ciperlib.analyse.summary import deal_folds

FOLDS = 10  # in many dimensions a tenth more images is felt
STRENGTHS = tuple(10 ** (-i / 2) for i in range(2, 11))  # the penalties tried, strong to weak
TOLERANCE, LIMIT = 1e-4, 200  # held-out cross-entropy does not feel more


def direct_surprise(z: Tensor, y: Tensor, k: int, groups: Tensor, seed: int) -> Tensor:
    """-log q(y | z) of each row in nats, float64 [R], q being fitted without the row's group.

    Ten folds; the strength of the penalty is chosen for each on the next one, the last before it gets worse.

    Args:
        z: float32 [R, d]. y: int64 [R] in 0 ... k - 1. groups: int64 [R].
    """
    folds = deal_folds(groups, FOLDS, seed)
    x = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    count, like = int(folds.max()) + 1, LogisticProblem(x, y, k)
    surprise = torch.empty(len(y), dtype=torch.float64)
    for f in range(count):
        own, next_one = folds == f, folds == (f + 1) % count
        inner = LogisticProblem(x[~own & ~next_one], y[~own & ~next_one], k, like)
        strength, start = _choose(inner, x[next_one], y[next_one])
        fitted, _ = LogisticProblem(x[~own], y[~own], k, like).solve(strength, start, TOLERANCE, LIMIT)
        surprise[own] = _surprise(fitted, x[own], y[own])
    return surprise


def _choose(problem: LogisticProblem, x: Tensor, y: Tensor) -> tuple[float, Linear]:
    best, start = (float("inf"), STRENGTHS[0], None), None
    for strength in STRENGTHS:
        start, _ = problem.solve(strength, start, TOLERANCE, LIMIT)
        loss = float(_surprise(start, x, y).mean())
        if loss > best[0]:
            break
        best = (loss, strength, start)
    return best[1:]


def _surprise(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    return -model(x).double().log_softmax(1).gather(1, y[:, None])[:, 0]
