"""Held-out cross-entropies by models that see what a low-rank summary may lose: logistic regression on the
representations themselves, and small neural networks on top of the linear maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ciperlib.analyse.information.canonical_variates import CanonicalVariates, assign_folds
from ciperlib.analyse.information.vinformation import Estimate
from ciperlib.analyse.solvers.linear import Linear, LogisticProblem
from ciperlib.learn.seeds import derived_seed

FOLDS, MANY, FEWER = 10, 20_000, 5  # in many dimensions a tenth more images is felt, if there are not many
REGULARISATION = tuple(10 ** (-i / 2) for i in range(2, 11))  # the penalties tried, strong to weak
SOLVER_TOLERANCE, LIMIT = 1e-4, 200  # held-out cross-entropy does not feel more


def direct_nll(z: Tensor, y: Tensor, k: int, groups: Tensor, seed: int) -> Tensor:
    """-log q(y | z) of each row in nats, float64 [R], q being fitted without the row's group.

    Ten folds, five of many rows; the strength of the penalty is chosen for each on the next one, the last before it
    gets worse.

    Args:
        z: float32 [R, d]. y: int64 [R] in 0 ... k - 1. groups: int64 [R].
    """
    folds = assign_folds(groups, FOLDS if len(y) < MANY else FEWER, seed)
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

LEADING = 16  # components of which the products are taken
HIDDEN, BATCH, STEPS, EVERY = 64, 512, 2000, 50
FEW_ROWS, OFTEN = 5000, 10  # of few rows, a look after so many steps
PATIENCE = 8  # looks without a better one in any fold, after which training ends
RATE, DECAY = 3e-3, 1e-2
WORTH = 1e-4  # nats: by less nothing is better


def quadratic(z: Tensor) -> tuple[Tensor, Tensor]:
    """The `LEADING` first principal components of representations [R, d], in spreads of the first one, [R, at most
    LEADING], and z beside their standardised products, [R, d + products]: what a curved boundary needs."""
    centred = (z - z.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(z))
    lead = (centred @ vectors.flip(1)[:, :LEADING] / values[-1].sqrt().clamp_min(1e-12)).float()
    i, j = torch.triu_indices(lead.shape[1], lead.shape[1])
    even = lead / lead.std(0).clamp_min(1e-6)
    products = even[:, i] * even[:, j]
    products = (products - products.mean(0)) / products.std(0).clamp_min(1e-6)
    return lead, torch.cat([z.float(), products], 1)


def network_nll(
    lead: Tensor, summaries: Sequence[CanonicalVariates], estimates: Sequence[Estimate], y: Tensor, k: int,
    given: Tensor, g: int, *, seed: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-log q0 and -log q1 of each row, float64 [R] twice, as in `vinformation.estimate`, by networks with one hidden
    layer of 64 units, whose outputs are added to the logits of the better of the estimates; all folds are trained
    together.

    q0 sees the leading components and the summaries, q1 also onehot(given). Both start as the estimate that is better
    on one of the training folds and stop at the step that is best there: a network that finds nothing leaves that
    estimate as it is, and does not contradict it.

    Args:
        lead: float [R, p] of `quadratic`.
        summaries, estimates: of the representations, and of their products; the estimates of y, k, given and g.
    """
    folds, count = summaries[0].folds, len(summaries[0].values)
    seen = torch.cat([lead.expand(count, *lead.shape), *(one.values.float() / 4 for one in summaries)], 2)
    code = torch.nn.functional.one_hot(given, g).float().expand(count, -1, -1)
    without = given.new_zeros(len(given))
    asked = ((seen, without, 1), (torch.cat([seen, code], 2), given, g))
    bases = zip(*(one.inner for one in estimates))  # of q0, and of q1
    logs = [_train(*part, _better(base, folds, y), folds, y, k, seed) for part, base in zip(asked, bases)]
    first, second = (-log.gather(1, y[:, None])[:, 0] for log in logs)
    return first, second


def _better(logits: Sequence[Tensor], folds: Tensor, y: Tensor) -> Tensor:
    """For each fold the logits [F, R, k] that do better on the fold that it chooses on."""
    count, kept = len(logits[0]), []
    for f in range(count):
        held = folds == (f + 1) % count
        kept.append(min((one[f] for one in logits), key=lambda own: float(cross_entropy(own[held], y[held]))))
    return torch.stack(kept).float()


def _train(x: Tensor, given: Tensor, g: int, base: Tensor, folds: Tensor, y: Tensor, k: int, seed: int) -> Tensor:
    """Held-out log-probabilities [R, k] of base + network; x [F, R, p], base [F, R, k]. The network sees the base, too:
    a boundary that is sharper, or bent, is most of what there is to find."""
    centred = base - base.mean(2, keepdim=True)
    x = torch.cat([x, centred / centred.std().clamp_min(1e-6)], 2)
    count, _, p = x.shape
    generator = torch.Generator().manual_seed(derived_seed(seed, "networks", p, k))
    weights = [
        torch.randn(count, p, HIDDEN, generator=generator) / p**0.5, torch.zeros(count, 1, HIDDEN),
        torch.zeros(count, HIDDEN, (g + 1) * k), torch.zeros(count, 1, (g + 1) * k),
    ]  # fmt: skip
    weights = [weight.requires_grad_() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    own = [torch.nonzero(folds == f).flatten() for f in range(count)]
    held = [own[(f + 1) % count] for f in range(count)]
    training = [torch.nonzero((folds != f) & (folds != (f + 1) % count)).flatten() for f in range(count)]
    each, every = torch.arange(count)[:, None], EVERY if len(y) >= FEW_ROWS else OFTEN
    batch = min(BATCH, *map(len, training))
    best, latest = torch.full((count,), torch.inf), 0
    kept = torch.zeros(len(y), k)

    def logits(f, rows: Tensor, of: Sequence[Tensor]) -> Tensor:
        return base[f, rows] + _forward(x[f, rows], given[rows], of, k)

    for step in range(STEPS + 1):
        if step % every == 0:
            with torch.no_grad():
                for f in range(count):
                    of_fold = [weight[f] for weight in weights]
                    loss = cross_entropy(logits(f, held[f], of_fold), y[held[f]])
                    if loss < best[f] - WORTH:
                        best[f], latest = loss, step
                        kept[own[f]] = logits(f, own[f], of_fold).log_softmax(1)
            if step - latest >= PATIENCE * every:
                break
        rows = torch.stack([t[torch.randint(len(t), (batch,), generator=generator)] for t in training])
        loss = cross_entropy(logits(each, rows, weights).flatten(0, 1), y[rows].flatten()) * count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return kept.double()


def _forward(x: Tensor, given: Tensor, weights: Sequence[Tensor], k: int) -> Tensor:
    """Outputs [..., n, k]: of a last layer for all, and of each value's own."""
    first, bias, second, shift = weights
    every = ((x @ first + bias).relu() @ second + shift).unflatten(-1, (-1, k))
    own = every.gather(-2, given[..., None, None].expand(*given.shape, 1, k) + 1)
    return every[..., 0, :] + own.squeeze(-2)
