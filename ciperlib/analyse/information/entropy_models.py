"""Held-out cross-entropies by models that see what a low-rank summary may lose: logistic regression on the
representations themselves, and small neural networks on top of the linear maps."""

from __future__ import annotations

import torch
from torch import Tensor

from ciperlib.analyse.information.canonical_variates import CanonicalVariates, assign_folds
from ciperlib.analyse.information.vinformation import Estimate
from ciperlib.analyse.solvers.linear import Linear, LogisticProblem
from ciperlib.learn.seeds import derived_seed

FOLDS = 10  # in many dimensions a tenth more images is felt
REGULARISATION = tuple(10 ** (-i / 2) for i in range(2, 11))  # the penalties tried, strong to weak
SOLVER_TOLERANCE, LIMIT = 1e-4, 200  # held-out cross-entropy does not feel more


def direct_nll(z: Tensor, y: Tensor, k: int, groups: Tensor, seed: int) -> Tensor:
    """-log q(y | z) of each row in nats, float64 [R], q being fitted without the row's group.

    Ten folds; the strength of the penalty is chosen for each on the next one, the last before it gets worse.

    Args:
        z: float32 [R, d]. y: int64 [R] in 0 ... k - 1. groups: int64 [R].
    """
    folds = assign_folds(groups, FOLDS, seed)
    x = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    count, like = int(folds.max()) + 1, LogisticProblem(x, y, k)
    nll = torch.empty(len(y), dtype=torch.float64)
    for f in range(count):
        own, next_one = folds == f, folds == (f + 1) % count
        inner = LogisticProblem(x[~own & ~next_one], y[~own & ~next_one], k, like)
        strength, start = _choose(inner, x[next_one], y[next_one])
        fitted, _ = LogisticProblem(x[~own], y[~own], k, like).solve(strength, start, SOLVER_TOLERANCE, LIMIT)
        nll[own] = _nll(fitted, x[own], y[own])
    return nll


def _choose(problem: LogisticProblem, x: Tensor, y: Tensor) -> tuple[float, Linear]:
    best, start = (float("inf"), REGULARISATION[0], None), None
    for strength in REGULARISATION:
        start, _ = problem.solve(strength, start, SOLVER_TOLERANCE, LIMIT)
        loss = float(_nll(start, x, y).mean())
        if loss > best[0]:
            break
        best = (loss, strength, start)
    return best[1:]


def _nll(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    return -model(x).double().log_softmax(1).gather(1, y[:, None])[:, 0]


# --- networks ------------------------------------------------------------------------------------------------------

HIDDEN, BATCH, STEPS, EVERY = 64, 256, 400, 20
PATIENCE = 6  # looks without a better one in any fold, after which training ends


def network_nll(
    summaries: CanonicalVariates, linear: Estimate, y: Tensor, k: int, given: Tensor, g: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """-log q0 and -log q1 of each row, float64 [R] twice, as in `vinformation.estimate`, by networks with one hidden
    layer of 64 units whose outputs are added to the linear family's logits; all folds are trained together.

    q0 sees the summary, q1 also onehot(given). Both start as the linear family and stop at the step that is best on one
    of the training folds: a network that finds nothing leaves the linear estimate as it is, and does not contradict it.

    Args:
        linear: `vinformation.estimate` of the same y, k, given and g.
    """
    alone = summaries.values.float()
    alone = (alone - alone.mean(1, keepdim=True)) / alone.std(1, keepdim=True).clamp_min(1e-6)
    code = torch.nn.functional.one_hot(given, g).float().expand(len(alone), -1, -1)
    inputs = alone, torch.cat([alone, code], 2)
    logs = [_train(x, base.float(), summaries.folds, y, k, seed) for x, base in zip(inputs, linear.inner)]
    first, second = (-log.gather(1, y[:, None])[:, 0] for log in logs)
    return first, second


def _train(x: Tensor, base: Tensor, folds: Tensor, y: Tensor, k: int, seed: int) -> Tensor:
    """Held-out log-probabilities [R, k] of base + network, both [F, R, k]."""
    count, _, p = x.shape
    generator = torch.Generator().manual_seed(derived_seed(seed, "networks", p, k))
    weights = [
        torch.randn(count, p, HIDDEN, generator=generator) / p**0.5, torch.zeros(count, 1, HIDDEN),
        torch.zeros(count, HIDDEN, k), torch.zeros(count, 1, k),
    ]  # fmt: skip
    weights = [weight.requires_grad_() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=5e-3, weight_decay=1e-2)
    held = (torch.arange(count) + 1) % count
    training = [torch.nonzero((folds != f) & (folds != held[f])).flatten() for f in range(count)]
    each = torch.arange(count)[:, None]
    best, latest = torch.full((count,), torch.inf), 0
    kept = torch.zeros(len(y), k)
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                log = (base + _forward(x, weights)).log_softmax(2)
            for f in range(count):
                loss = -log[f, folds == held[f]].gather(1, y[folds == held[f], None]).mean()
                if loss < best[f]:
                    best[f], kept[folds == f], latest = loss, log[f, folds == f], step
            if step - latest >= PATIENCE * EVERY:
                break
        rows = torch.stack([t[torch.randint(len(t), (BATCH,), generator=generator)] for t in training])
        logits = base[each, rows] + _forward(x[each, rows], weights)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[rows].flatten()) * count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return kept.double()


def _forward(x: Tensor, weights: list[Tensor]) -> Tensor:
    first, bias, second, shift = weights
    return (x @ first + bias).relu() @ second + shift
