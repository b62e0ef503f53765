"""The second family of `information`: small neural networks, which see what is not linear in the summary."""

from __future__ import annotations

import torch
from torch import Tensor

from ciperlib.analyse.summary import Summaries
from ciperlib.learn.encoders import derived_seed

HIDDEN, BATCH, STEPS, EVERY = 64, 1024, 400, 20


def information_by_networks(summaries: Summaries, y: Tensor, k: int, given: Tensor, g: int, *, seed: int = 0) -> float:
    """The mean of log q1 - log q0, as in `vinformation.estimate`, by networks with one hidden layer of 64 units; all
    folds are trained together.

    q0 sees the summary, q1 also onehot(given). Both stop at the step that is best on one of the training folds.
    """
    alone = summaries.values.float()
    alone = (alone - alone.mean(1, keepdim=True)) / alone.std(1, keepdim=True).clamp_min(1e-6)
    code = torch.nn.functional.one_hot(given, g).float().expand(len(alone), -1, -1)
    logs = [_train(x, summaries.folds, y, k, seed) for x in (alone, torch.cat([alone, code], 2))]
    return float((logs[1] - logs[0]).gather(1, y[:, None]).mean())


def _train(x: Tensor, folds: Tensor, y: Tensor, k: int, seed: int) -> Tensor:
    """Held-out log-probabilities [R, k]."""
    count, _, p = x.shape
    generator = torch.Generator().manual_seed(derived_seed(seed, "networks", p, k))
    weights = [
        torch.randn(count, p, HIDDEN, generator=generator) / p**0.5, torch.zeros(count, 1, HIDDEN),
        torch.randn(count, HIDDEN, k, generator=generator) / HIDDEN**0.5, torch.zeros(count, 1, k),
    ]  # fmt: skip
    weights = [weight.requires_grad_() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=5e-3, weight_decay=1e-2)
    held = (torch.arange(count) + 1) % count
    training = [torch.nonzero((folds != f) & (folds != held[f])).flatten() for f in range(count)]
    each = torch.arange(count)[:, None]
    best = torch.full((count,), torch.inf)
    kept = torch.zeros(len(y), k)
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                log = _forward(x, weights).log_softmax(2)
            for f in range(count):
                loss = -log[f, folds == held[f]].gather(1, y[folds == held[f], None]).mean()
                if loss < best[f]:
                    best[f], kept[folds == f] = loss, log[f, folds == f]
        rows = torch.stack([t[torch.randint(len(t), (BATCH,), generator=generator)] for t in training])
        logits = _forward(x[each, rows], weights)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[rows].flatten()) * count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return kept.double()


def _forward(x: Tensor, weights: list[Tensor]) -> Tensor:
    first, bias, second, shift = weights
    return (x @ first + bias).relu() @ second + shift
