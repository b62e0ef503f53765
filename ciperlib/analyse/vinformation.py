"""Cross-fitted predictions of y from a summary s, without (q0) and with (q1) a second variable: the engine of
`information`. q1 adds to q0's logits a linear map of s for each value of that variable, drawn towards 0: an additive
term, [s, onehot(c)], could not express XOR."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ciperlib.analyse.softmax import fit_softmax
from ciperlib.analyse.summary import Summaries

RANKS = (2, 4, 8, 16)
BASE_RIDGES = (1e-4, 1e-2)
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 1e3)  # the last one leaves q0 as it is
TEMPERATURES = torch.logspace(-0.4, 0.4, 17, dtype=torch.float64)
DRAWS_AT_ONCE = 10


@dataclass(frozen=True, eq=False)
class Estimate:
    """Held-out log-probabilities of every row.

    Attributes:
        base: log q0, [R, k]. truth0, truth1: log q0 and log q1 of the true y, [R].
        offset: [F, R, k], q0's logits as seen from each outer fold.
        ranks: columns of the summary, ridges: strengths, of q1, temperatures: of q1; one for each outer fold.
    """

    base: Tensor
    truth0: Tensor
    truth1: Tensor
    offset: Tensor
    ranks: tuple[int, ...]
    ridges: tuple[float, ...]
    temperatures: tuple[float, ...]

    def terms(self) -> Tensor:
        """log q1 - log q0 of each row; the mean is the V-information."""
        return self.truth1 - self.truth0

    def surprise(self) -> Tensor:
        """-log q0 of each row; the mean is the cross-entropy."""
        return -self.truth0

    def information(self) -> float:
        return float(self.terms().mean())

    def entropy(self) -> float:
        return float(self.surprise().mean())

    def base_probabilities(self) -> Tensor:
        return self.base.exp()


def estimate(summaries: Summaries, y: Tensor, k: int, given: Tensor, g: int) -> Estimate:
    """Predicts y (int64 [R], k classes) from the summary, and from the summary and `given` (int64 [R], g values).

    Ranks, strengths and temperatures are chosen for each outer fold on one of its training folds.
    """
    count = int(summaries.folds.max()) + 1
    held = (torch.arange(count) + 1) % count  # the training fold that each outer fold chooses on
    x = _with_constant(summaries.values)
    base = _choose_base(x, summaries.folds, held, y, k)
    inner, outer = _base_logits(x, summaries.folds, held, y, k, base)
    ranks, ridges = _choose_interaction(x, summaries.folds, held, y, k, given, g, inner)
    inner1 = _interaction(x, summaries.folds, held, y, k, given[None], g, inner, ranks, ridges)[0]
    outer1 = _interaction(x, summaries.folds, None, y, k, given[None], g, outer, ranks, ridges)[0]
    t0 = [_temperature(inner[f], y, summaries.folds == held[f]) for f in range(count)]
    t1 = [_temperature(inner1[f], y, summaries.folds == held[f]) for f in range(count)]
    log0, log1 = (_held_out(logits, t, summaries.folds) for logits, t in ((outer, t0), (outer1, t1)))
    truths = [log.gather(1, y[:, None])[:, 0] for log in (log0, log1)]
    return Estimate(log0, *truths, outer, tuple(ranks), tuple(ridges), tuple(t1))


def interaction_statistic(summaries: Summaries, fitted: Estimate, y: Tensor, k: int, given: Tensor, g: int) -> Tensor:
    """I for several versions of the second variable, int64 [B, R]: only the interaction is fitted again, at the ranks,
    strengths and temperatures of `fitted`. Float64 [B]."""
    x, results = _with_constant(summaries.values), []
    for part in given.split(DRAWS_AT_ONCE):
        logits = _interaction(
            x, summaries.folds, None, y, k, part, g, fitted.offset, fitted.ranks, fitted.ridges
        )  # fmt: skip
        for one in logits:
            log1 = _held_out(one, fitted.temperatures, summaries.folds).gather(1, y[:, None])[:, 0]
            results.append((log1 - fitted.truth0).mean())
    return torch.stack(results)


def _with_constant(values: Tensor) -> Tensor:
    return torch.cat([values, values.new_ones(*values.shape[:2], 1)], 2)


def _cut(x: Tensor, ranks: tuple[int, ...] | list[int]) -> Tensor:
    """Columns beyond each fold's rank set to 0; the constant stays."""
    columns = torch.arange(x.shape[2] - 1)
    kept = torch.stack([columns < rank for rank in ranks])
    return x * torch.cat([kept, kept.new_ones(len(kept), 1)], 1)[:, None]


def _training(folds: Tensor, held: Tensor | None, f: int) -> Tensor:
    """Rows that fold f may fit on: not its own, and not those it chooses on while it chooses."""
    rows = folds != f
    return rows if held is None else rows & (folds != held[f])


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Index [P, n] and weight [P, n] of ragged lists of rows."""
    n = max(max(len(row) for row in rows), 1)
    index, weight = torch.zeros(len(rows), n, dtype=torch.int64), torch.zeros(len(rows), n, dtype=torch.float64)
    for p, row in enumerate(rows):
        index[p, : len(row)] = row
        weight[p, : len(row)] = 1
    return index, weight


def _base_fit(
    x: Tensor, folds: Tensor, held: Tensor | None, y: Tensor, k: int, choices: list[tuple[int, float]]
) -> Tensor:
    """q0's logits [F, R, k] at each fold's (rank, ridge)."""
    cut = _cut(x, [rank for rank, _ in choices])
    index, weight = _pad([torch.nonzero(_training(folds, held, f)).flatten() for f in range(len(x))])
    each = torch.arange(len(x))[:, None]
    ridge = torch.tensor([ridge for _, ridge in choices], dtype=torch.float64)
    theta = fit_softmax(cut[each, index], y[index], k, ridge, weight=weight)
    return cut @ theta


def _choose_base(x: Tensor, folds: Tensor, held: Tensor, y: Tensor, k: int) -> list[tuple[int, float]]:
    best: list[tuple[float, tuple[int, float]]] = [(float("inf"), (RANKS[0], BASE_RIDGES[0]))] * len(x)
    for choice in itertools.product(_ranks(x), BASE_RIDGES):
        logits = _base_fit(x, folds, held, y, k, [choice] * len(x))
        best = [min(old, (_loss(logits[f], y, folds == held[f]), choice)) for f, old in enumerate(best)]
    return [choice for _, choice in best]


def _base_logits(x, folds, held, y, k, choices) -> tuple[Tensor, Tensor]:
    """q0 as fitted while choosing, and as fitted on all training rows."""
    return _base_fit(x, folds, held, y, k, choices), _base_fit(x, folds, None, y, k, choices)


def _choose_interaction(x, folds, held, y, k, given, g, offset) -> tuple[list[int], list[float]]:
    best = [(float("inf"), RANKS[0], RIDGES[-1])] * len(x)
    for rank, ridge in itertools.product(_ranks(x), RIDGES):
        logits = _interaction(
            x, folds, held, y, k, given[None], g, offset, [rank] * len(x), [ridge] * len(x)
        )[0]  # fmt: skip
        best = [min(old, (_loss(logits[f], y, folds == held[f]), rank, ridge)) for f, old in enumerate(best)]
    return [rank for _, rank, _ in best], [ridge for *_, ridge in best]


def _interaction(x, folds, held, y, k, given, g, offset, ranks, ridges) -> Tensor:
    """q1's logits [B, F, R, k] for given [B, R]: one regression for each version, fold and value of `given`."""
    count, cut = len(x), _cut(x, ranks)
    cut = cut[:, :, [*range(max(ranks)), -1]] if max(ranks) < x.shape[2] - 1 else cut
    training = [_training(folds, held, f) for f in range(count)]
    rows = [
        torch.nonzero(training[f] & (version == v)).flatten()
        for version in given
        for f in range(count)
        for v in range(g)
    ]
    index, weight = _pad(rows)
    fold = torch.arange(count).repeat_interleave(g).repeat(len(given))
    ridge = torch.tensor(ridges, dtype=torch.float64)[fold]
    theta = fit_softmax(
        cut[fold[:, None], index], y[index], k, ridge, weight=weight, offset=offset[fold[:, None], index],
        penalise_bias=True,
    )  # fmt: skip
    theta = theta.view(len(given), count, g, *theta.shape[1:])
    return torch.stack([
        torch.stack([offset[f] + _by_value(cut[f], theta[b, f], version) for f in range(count)])
        for b, version in enumerate(given)
    ])  # fmt: skip


def _by_value(x: Tensor, theta: Tensor, given: Tensor) -> Tensor:
    """x [R, p] times the map of each row's value: theta [g, p, k], given [R] -> [R, k]."""
    result = x.new_empty(len(x), theta.shape[2])
    for value, own in enumerate(theta):
        rows = given == value
        result[rows] = x[rows] @ own
    return result


def _ranks(x: Tensor) -> list[int]:
    most = x.shape[2] - 1
    return sorted({min(rank, most) for rank in RANKS})


def _loss(logits: Tensor, y: Tensor, rows: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[rows], y[rows]))


def _temperature(logits: Tensor, y: Tensor, rows: Tensor) -> float:
    """What the logits should be divided by, as the chosen fold has it."""
    losses = [_loss(logits[rows] / t, y[rows], slice(None)) for t in TEMPERATURES]
    return float(TEMPERATURES[min(range(len(losses)), key=losses.__getitem__)])


def _held_out(logits: Tensor, temperatures, folds: Tensor) -> Tensor:
    """Each row's log-probabilities from the fold that did not fit on it: [F, R, k] -> [R, k]."""
    scaled = logits / torch.tensor(temperatures, dtype=torch.float64)[:, None, None]
    return scaled[folds, torch.arange(len(folds))].log_softmax(1)
