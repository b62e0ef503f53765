"""Who can tell what was done to an image? Readers of a transformation's level, fitted on some images for others."""

from __future__ import annotations

import torch
from torch import Tensor

from ciperlib.analyse.equivariance.actions import Action
from ciperlib.analyse.probing.checks import inner_split
from ciperlib.analyse.solvers.linear import Linear, LogisticProblem, moments

REGULARISATION = (1e-1, 1e-2, 1e-3)  # of the logistic regressions
LEVEL_PROBES = {  # what is read of an image's h0 and its view's h1, each [..., d]
    "view": lambda h0, h1: h1,
    "difference": lambda h0, h1: h0 - h1,
    "pair": lambda h0, h1: torch.cat((h0.expand_as(h1), h1), -1),
}


def fit_level_probes(fit: Tensor, test: Tensor, action: Action, groups: Tensor, seed: int) -> dict[str, Tensor]:
    """What each level probe does not know of the level of each test image: -log q in nats, [N, levels told apart].

    The probes are those of `Equivariance.decodable`.

    Args:
        fit, test: float64 [N, m, d], of different images; level 0 is where each starts.
        action: fitted on `fit`. groups: int64 [N], of the fitted images. seed: of the division that
            chooses the regularisation.
    """
    found = {"view": _logistic_nll(fit, test, groups, seed)}
    if fit.shape[1] < 3:
        return found
    for name in ("difference", "pair"):
        rows = (LEVEL_PROBES[name](block[:, :1], block[:, 1:]) for block in (fit, test))
        found[name] = _logistic_nll(*rows, groups, seed)
    return {**found, "action": action.nll(test)}


def _logistic_nll(fit: Tensor, test: Tensor, groups: Tensor, seed: int) -> Tensor:
    """-log q of a logistic regression of the level, its strength chosen on held-out groups: [N, m, k] to [N, m]."""
    m = fit.shape[1]
    mean, scale = moments(fit.flatten(0, 1))
    inner, held = inner_split(groups, seed)

    def rows(block: Tensor) -> tuple[Tensor, Tensor]:
        return ((block.flatten(0, 1) - mean) / scale).float(), torch.arange(m).repeat(len(block))

    def nll(model: Linear, block: Tensor) -> Tensor:
        x, level = rows(block)
        return -model(x).double().log_softmax(1).gather(1, level[:, None]).view(len(block), m)

    problem = LogisticProblem(*rows(fit[inner]), m)
    model, fits = None, {}
    for strength in REGULARISATION:  # from strong to weak, each from the last
        model, _ = problem.solve(strength, model, tolerance=1e-4)
        fits[strength] = model, float(nll(model, fit[held]).mean())
    best = min(fits, key=lambda strength: fits[strength][1])
    whole = LogisticProblem(*rows(fit), m, like=problem)
    model, _ = whole.solve(best, fits[best][0], tolerance=1e-4)
    return nll(model, test)
