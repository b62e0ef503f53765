"""Cross-fitted predictions of y from a summary s, without (q0) and with (q1) a second variable: the engine of
`information`. q1 adds to q0's logits a linear map of s for each value of that variable, drawn towards 0: an additive
term, [s, onehot(c)], could not express XOR."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ciperlib.analyse.information.canonical_variates import CanonicalVariates
from ciperlib.analyse.solvers.softmax import fit_softmax

RANKS = (2, 4, 8, 16)
BASE_RIDGES = (1e-4, 1e-2)
PIVOT = 1e-2  # at which the ranks are compared
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 1e3)  # the last one leaves q0 as it is
TEMPERATURES = tuple(10 ** (i / 20) for i in range(-8, 9))
DRAWS_AT_ONCE = 10
PLAIN = 29.0  # spreads within cells: columns that reach farther are drawn in, and the solver has it easier
TRIED, KEPT = 1e-3, 1e-5  # tolerances of the gradient: while choosing, whose losses do not feel more, and in the end
Choice: TypeAlias = tuple[int, float]  # rank and ridge


@dataclass(frozen=True, eq=False)
class Estimate:
    """Held-out log-probabilities of every row.

    Attributes:
        base: log q0, [R, k]. truth0, truth1: log q0 and log q1 of the true y, [R].
        gain: what the terms gained as the training part grew from 3 to 4 folds (F - 2 to F - 1), [R].
        offset: [F, R, k], q0's logits as seen from each outer fold.
        inner: the same of q0 and of q1, fitted without the fold's own rows and without those that it chooses on.
        chosen: (rank, ridge) of q1, temperatures: of q1; one for each outer fold.
    """

    base: Tensor
    truth0: Tensor
    truth1: Tensor
    gain: Tensor
    offset: Tensor
    inner: tuple[Tensor, Tensor]
    chosen: tuple[Choice, ...]
    temperatures: tuple[float, ...]

    def terms(self) -> Tensor:
        """log q1 - log q0 of each row; the mean is the V-information."""
        return self.truth1 - self.truth0

    def extrapolated(self) -> Tensor:
        """The terms of an endless training part, if what is still to be learned falls as 1 / rows: with 5 folds, three
        times the last gain is missing."""
        return self.terms() + (self.offset.shape[0] - 2) * self.gain

    def nll(self) -> Tensor:
        """-log q0 of each row; the mean is the cross-entropy."""
        return -self.truth0

    def information(self) -> float:
        """I, in nats: the mean of `terms`."""
        return float(self.terms().mean())

    def entropy(self) -> float:
        """H(y|z), in nats: the mean of `nll`."""
        return float(self.nll().mean())

    def base_probabilities(self) -> Tensor:
        """q0(y|z) of each row, [R, k]."""
        return self.base.exp()


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be predicted from what: x float64 [F, R, p] (the last column 1), folds and y int64 [R], k classes."""

    x: Tensor
    folds: Tensor
    y: Tensor
    k: int

    @property
    def count(self) -> int:
        return len(self.x)

    def held(self, f: int) -> Tensor:
        """Rows that fold f chooses on: those of the next fold, one of its training folds."""
        return self.folds == (f + 1) % self.count

    def training(self, f: int, choosing: bool) -> Tensor:
        """Rows that fold f may fit on: not its own, and while it chooses not those it chooses on."""
        rows = self.folds != f
        return rows & ~self.held(f) if choosing else rows

    def loss(self, logits: Tensor, f: int) -> float:
        """Cross-entropy of [R, k] where fold f chooses."""
        return float(torch.nn.functional.cross_entropy(logits[self.held(f)], self.y[self.held(f)]))

    def choose(self, ridges: tuple[float, ...], fit: Callable[[list[Choice]], Tensor]) -> list[Choice]:
        """For each fold the (rank, ridge) with which the logits [F, R, k] of `fit` are best where it chooses: the rank
        at the ridge of `PIVOT`, then the ridge."""
        ranks = sorted({min(rank, self.x.shape[2] - 1) for rank in RANKS})
        best = self._best([[(rank, PIVOT)] * self.count for rank in ranks], fit)
        return self._best([[(rank, ridge) for rank, _ in best] for ridge in ridges], fit)

    def _best(self, tried: list[list[Choice]], fit: Callable[[list[Choice]], Tensor]) -> list[Choice]:
        best: list[tuple[float, Choice]] = [(float("inf"), (0, 0.0))] * self.count
        for choices in tried:
            logits = fit(choices)
            best = [min(old, (self.loss(logits[f], f), choices[f])) for f, old in enumerate(best)]
        return [choice for _, choice in best]


def estimate(summaries: CanonicalVariates, y: Tensor, k: int, given: Tensor, g: int) -> Estimate:
    """Predicts y (int64 [R], k classes) from the summary, and from the summary and `given` (int64 [R], g values).

    Ranks, regularisation and temperatures are chosen for each outer fold on one of its training folds.
    """
    task = _make_task(summaries, y, k)
    base = task.choose(BASE_RIDGES, lambda choices: _base(task, choices, choosing=True))
    inner, outer = (_base(task, base, choosing, KEPT) for choosing in (True, False))
    chosen = task.choose(RIDGES, lambda c: _interaction(task, given[None], g, inner, c, choosing=True)[0])
    inner1, outer1 = (
        _interaction(task, given[None], g, offset, chosen, choosing, KEPT)[0]
        for offset, choosing in ((inner, True), (outer, False))
    )
    cool0, cool1 = (_temperatures(task, logits) for logits in (inner, inner1))
    log0 = _held_out(task, outer, cool0)
    logs = (log0, _held_out(task, outer1, cool1), _held_out(task, inner, cool0), _held_out(task, inner1, cool1))
    truth0, truth1, less0, less1 = (log.gather(1, y[:, None])[:, 0] for log in logs)
    gain = truth1 - truth0 - (less1 - less0)
    return Estimate(log0, truth0, truth1, gain, outer, (inner, inner1), tuple(chosen), tuple(cool1))


def interaction_statistic(
    summaries: CanonicalVariates, fitted: Estimate, y: Tensor, k: int, given: Tensor, g: int
) -> Tensor:
    """I for several versions of the second variable, int64 [B, R]: only the interaction is fitted again, with what
    `fitted` chose. Float64 [B]."""
    task, results = _make_task(summaries, y, k), []
    for part in given.split(DRAWS_AT_ONCE):
        for logits in _interaction(task, part, g, fitted.offset, fitted.chosen, choosing=False):
            log1 = _held_out(task, logits, fitted.temperatures).gather(1, y[:, None])[:, 0]
            results.append((log1 - fitted.truth0).mean())
    return torch.stack(results)


def _make_task(summaries: CanonicalVariates, y: Tensor, k: int) -> _Task:
    far = summaries.values.abs().amax((0, 1)) / PLAIN  # what is told in plain sight needs no more than small weights
    values = summaries.values / far.clamp_min(1)
    return _Task(torch.cat([values, values.new_ones(*values.shape[:2], 1)], 2), summaries.folds, y, k)


def _cut(x: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Columns beyond each fold's rank set to 0, and left out where no fold has them; the constant stays."""
    columns, most = torch.arange(x.shape[2] - 1), max(rank for rank, _ in choices)
    kept = torch.stack([columns < rank for rank, _ in choices])
    cut = x * torch.cat([kept, kept.new_ones(len(kept), 1)], 1)[:, None]
    return cut[:, :, [*range(min(most, len(columns))), -1]]


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Index [P, n] and weight [P, n] of ragged lists of rows."""
    n = max(max(len(row) for row in rows), 1)
    index, weight = torch.zeros(len(rows), n, dtype=torch.int64), torch.zeros(len(rows), n, dtype=torch.float64)
    for p, row in enumerate(rows):
        index[p, : len(row)] = row
        weight[p, : len(row)] = 1
    return index, weight


def _base(task: _Task, choices: Sequence[Choice], choosing: bool, tolerance: float = TRIED) -> Tensor:
    """q0's logits [F, R, k] at each fold's (rank, ridge)."""
    cut = _cut(task.x, choices)
    index, weight = _pad([torch.nonzero(task.training(f, choosing)).flatten() for f in range(task.count)])
    each = torch.arange(task.count)[:, None]
    ridge = torch.tensor([ridge for _, ridge in choices], dtype=torch.float64)
    return cut @ fit_softmax(cut[each, index], task.y[index], task.k, ridge, weight=weight, tolerance=tolerance)


def _interaction(
    task: _Task, given: Tensor, g: int, offset: Tensor, choices: Sequence[Choice], choosing: bool,
    tolerance: float = TRIED,
) -> Tensor:  # fmt: skip
    """q1's logits [B, F, R, k] for given [B, R]: one regression for each version, fold and value of `given`."""
    cut, folds = _cut(task.x, choices), range(task.count)
    training = [task.training(f, choosing) for f in folds]
    cases = itertools.product(given, folds, range(g))
    index, weight = _pad([torch.nonzero(training[f] & (version == value)).flatten() for version, f, value in cases])
    fold = torch.arange(task.count).repeat_interleave(g).repeat(len(given))
    ridge = torch.tensor([ridge for _, ridge in choices], dtype=torch.float64)[fold]
    theta = fit_softmax(
        cut[fold[:, None], index], task.y[index], task.k, ridge, weight=weight, offset=offset[fold[:, None], index],
        penalise_bias=True, tolerance=tolerance,
    )  # fmt: skip
    theta = theta.view(len(given), task.count, g, *theta.shape[1:])
    logits = [[offset[f] + _by_value(cut[f], own[f], version) for f in folds] for own, version in zip(theta, given)]
    return torch.stack([torch.stack(each) for each in logits])


def _by_value(x: Tensor, theta: Tensor, given: Tensor) -> Tensor:
    """x [R, p] times the map of each row's value: theta [g, p, k], given [R] -> [R, k]."""
    result = x.new_empty(len(x), theta.shape[2])
    for value, own in enumerate(theta):
        rows = given == value
        result[rows] = x[rows] @ own
    return result


def _temperatures(task: _Task, logits: Tensor) -> list[float]:
    """What each fold's logits [F, R, k] should be divided by, where it chooses."""
    return [min(TEMPERATURES, key=lambda t: task.loss(logits[f] / t, f)) for f in range(task.count)]


def _held_out(task: _Task, logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Each row's log-probabilities from the fold that did not fit on it: [F, R, k] -> [R, k]."""
    own = logits[task.folds, torch.arange(len(task.folds))]
    return (own / torch.tensor(temperatures, dtype=torch.float64)[task.folds, None]).log_softmax(1)
