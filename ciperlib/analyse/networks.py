"""The second family of `information`: small neural networks on top of the linear maps, which see what is not linear in
the summary."""

from __future__ import annotations

import torch
from torch import Tensor

from ciperlib.analyse.summary import Summaries
from ciperlib.analyse.vinformation import Estimate
from ciperlib.learn.seeds import derived_seed

HIDDEN, BATCH, STEPS, EVERY = 64, 256, 400, 20
PATIENCE = 6  # looks without a better one in any fold, after which training ends


def surprise_by_networks(
    summaries: Summaries, linear: Estimate, y: Tensor, k: int, given: Tensor, g: int, *, seed: int = 0
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
