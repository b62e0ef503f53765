"""Explaining-away: what does the class add to knowing the transformation? I(A;C|Z), by cross-fitted conditional
V-information (Wang et al. 2024, arXiv 2411.06508; Xu et al. 2020, arXiv 2002.10689), with bounds and controls.

    I_A = mean of log q1(a | z, c) - log q0(a | z),    I_C = mean of log q1(c | z, a) - log q0(c | z)

Both estimate the same quantity. Each is a difference of two upper bounds on entropies: it is a bound on neither side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.information.canonical_variates import CanonicalVariates, assign_folds, fit_canonical_variates
from ciperlib.analyse.information.entropy_models import direct_nll, network_nll
from ciperlib.analyse.information.vinformation import Estimate, estimate, interaction_statistic
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.orbits import LEVEL, as_orbits
from ciperlib.analyse.results import one_row_table
from ciperlib.analyse.solvers.threads import single_where_small
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.learn.seeds import derived_seed

Question: TypeAlias = tuple[Tensor, int, Tensor, int]  # y, its number of values, what is given, its number of values
FOLDS = 5
NULL_CHOICE = (8, 0.1)  # rank and ridge of the statistic of N2
AGREEMENT_NATS = 0.03  # how far two estimates of the same quantity may lie apart, beside sampling
SMALL_NATS = 0.02  # below it there is nothing worth a sentence


class InformationError(ValueError):
    """Data from which the synergy cannot be estimated; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class ExplainingAway:
    """What a class adds to knowing the transformation, and what could be wrong with it. All in nats.

    Attributes:
        target: the class's factor. n: images. levels: m. classes: K.
        value: the smaller of forward and backward, capped by the bound.
        low, high: 95% bootstrap over groups, from the lower end of the smaller to the upper end of the larger, capped.
            Both err low by what the regressions have not learned yet; high leaves room for it, as far as their gain
            from one more fold tells (I(n) = I - b / n).
        forward, backward: I_A and I_C, raw. bound: the smaller of the two entropies.
        level_entropy, class_entropy: H(A|Z) and H(C|Z), the smallest cross-entropy of q0, of a logistic regression on
            the representations themselves and of a network.
        forward_mlp, backward_mlp: the same by small neural networks on top of the linear maps.
        shuffled: I_A for classes dealt out to other images (N1): what capacity alone gives.
        p_value: of I_A among draws of the class from q(c|z) (N2).
        verdict: "present", "absent" or "unresolved"; reason: why.
        unseen: whether the encoder was trained on none of the images.
    """

    target: str
    n: int
    levels: int
    classes: int
    value: float
    low: float
    high: float
    forward: float
    backward: float
    bound: float
    level_entropy: float
    class_entropy: float
    forward_mlp: float
    backward_mlp: float
    shuffled: float
    p_value: float
    verdict: str
    reason: str
    unseen: str = "unknown"

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table; nats are said in the names."""
        nats = (
            "value", "low", "high", "forward", "backward", "bound", "level_entropy", "class_entropy", "forward_mlp",
            "backward_mlp", "shuffled",
        )  # fmt: skip
        row = {name: getattr(self, name) for name in ("target", "n", "levels", "classes", "unseen")}
        row |= {f"{name}_nats": getattr(self, name) for name in nats}
        return row | {"p_value": self.p_value, "verdict": self.verdict, "reason": self.reason}

    def _repr_html_(self) -> str:
        cells = {
            "I(A;C|Z), nats": f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]",
            "in bits": f"{self.value / math.log(2):.3f}",
            "verdict": f"{self.verdict}: {self.reason}",
            "H(A|Z)": f"{self.level_entropy:.3f} of {math.log(self.levels):.3f}",
            "H(C|Z)": f"{self.class_entropy:.3f} of {math.log(self.classes):.3f}",
            "forward, backward": f"{self.forward:.3f}, {self.backward:.3f}",
            "by networks": f"{self.forward_mlp:.3f}, {self.backward_mlp:.3f}",
            "shuffled classes": f"{self.shuffled:.3f}",
            "p": f"{self.p_value:.3f}",
            "images": f"{self.n}, unseen: {self.unseen}",
        }
        return one_row_table(cells)


@single_where_small
@recipe(1)
def explaining_away(
    orbits: Features,
    target: str,
    *,
    resamples: int = 200,
    null_samples: int = 100,
    networks: bool = True,
    seed: int = 0,
) -> ExplainingAway:
    """Estimates I(A;C|Z) from representations of images at all levels of a transformation.

    Args:
        orbits: of `extract_orbits`; images that the encoder has not seen.
        target: a categorical factor, constant along an image's orbit: the class C.
        resamples: of the bootstrap.
        null_samples: draws of the class from q(c|z), for the p-value; 0 for none (the verdict is then never "present").
        networks: also by small neural networks, as a check on the linear family.
        seed: of folds, draws and networks.

    Raises:
        InformationError: a target that is missing, continuous, the transformation itself, constant, or too rare for the
            folds; one level only; representations that are constant or not finite.
        FeaturesError: orbits with gaps.

    Example:
        >>> from ciperlib.analyse.synthetic import make_world
        >>> world = make_world("xor", 600)  # the class alone says nothing of the level, and with z all of it
        >>> found = explaining_away(world.orbits, "category", null_samples=19, networks=False)
        >>> found.verdict, found.low < world.truth_nats < found.high
        ('present', True)
    """
    block, rows = as_orbits(orbits)
    n, m, _ = block.shape
    classes, category = _classes(rows, target, m)
    z, level, groups = rows.matrix, rows.factors[LEVEL], rows.groups[::m]
    folds = assign_folds(rows.groups, FOLDS, seed)
    summaries = fit_canonical_variates(z, level * classes + category, m * classes, folds)
    questions = ((level, m, category, classes), (category, classes, level, m))  # of A, and with the roles exchanged
    linear = forward, backward = tuple(estimate(summaries, *question) for question in questions)
    limits = [[one.nll(), direct_nll(z, y, k, rows.groups, seed)] for one, (y, k, *_) in zip(linear, questions)]
    by_network = [math.nan, math.nan]
    if networks:
        extended = _with_components(z, summaries)
        for i, (one, question) in enumerate(zip(linear, questions)):
            without, given = network_nll(extended, one, *question, seed=seed)
            by_network[i] = float((without - given).mean())
            limits[i].append(without)
    entropies = [min(float(nll.mean()) for nll in nlls) for nlls in limits]
    value, low, high = _interval(forward, backward, [*limits[0], *limits[1]], groups, m, seed, resamples)
    numbers = dict(
        value=value, low=low, high=high, forward=forward.information(), backward=backward.information(),
        bound=min(entropies), level_entropy=entropies[0], class_entropy=entropies[1], forward_mlp=by_network[0],
        backward_mlp=by_network[1], shuffled=_shuffled(summaries, forward, questions[0], n, seed),
        p_value=_p_value(summaries, forward, questions[0], backward.base_probabilities(), null_samples, seed),
    )  # fmt: skip
    error = (forward.terms() - backward.terms()).view(n, m).mean(1).std() / math.sqrt(n)
    verdict, reason = verdict_of(numbers, float(error))
    return ExplainingAway(target, n, m, classes, **numbers, verdict=verdict, reason=reason, unseen=orbits.unseen)


@single_where_small
def conditional_entropy(orbits: Features, target: str = LEVEL, *, seed: int = 0) -> float:
    """H(A|Z) in nats (or H(C|Z), for a categorical target): the smaller cross-fitted cross-entropy of two linear
    models, one of the low-rank summary and one of the representations.

    An upper bound, as every cross-entropy is. Errors as `explaining_away`.
    """
    block, rows = as_orbits(orbits)
    m = block.shape[1]
    k, y = (m, rows.factors[LEVEL]) if target == LEVEL else _classes(rows, target, m)
    summaries = fit_canonical_variates(rows.matrix, y, k, assign_folds(rows.groups, FOLDS, seed))
    known = direct_nll(rows.matrix, y, k, rows.groups, seed)
    return min(estimate(summaries, y, k, torch.zeros_like(y), 1).entropy(), float(known.mean()))


def verdict_of(numbers: dict[str, float], error: float) -> tuple[str, str]:
    """The verdict and its reason; `error` is the standard error of forward minus backward.

    "absent" where the interval of the capped value ends below SMALL_NATS. "present" where it lies above 0, the p-value
    is at most 0.05, forward and backward agree, and so do the linear family and the networks. Else "unresolved".
    """
    forward, backward, high = numbers["forward"], numbers["backward"], numbers["high"]
    if high < SMALL_NATS:
        return "absent", f"at most {high:.3f} nats, with the bound min(H(A|Z), H(C|Z)) = {numbers['bound']:.3f}"
    allowed = max(AGREEMENT_NATS, 3 * error, 0.25 * max(abs(forward), abs(backward)))
    if abs(forward - backward) > allowed:
        return "unresolved", f"forward ({forward:.3f}) and backward ({backward:.3f}) disagree"
    for name, linear in (("forward_mlp", forward), ("backward_mlp", backward)):
        if math.isfinite(numbers[name]) and abs(numbers[name] - linear) > max(allowed, 0.4 * abs(linear)):
            return "unresolved", f"networks say {numbers[name]:.3f} where the linear family says {linear:.3f}"
    if not numbers["low"] > 0:
        return "unresolved", f"the interval [{numbers['low']:.3f}, {high:.3f}] holds 0 and more than {SMALL_NATS}"
    if not numbers["p_value"] <= 0.05:
        return "unresolved", f"classes drawn from q(c|z) do as well (p = {numbers['p_value']:.2f})"
    return "present", "forward and backward, linear and networks agree, and drawn classes do not reach it"


def _interval(
    forward: Estimate, backward: Estimate, limits: list[Tensor], groups: Tensor, m: int, seed: int, resamples: int
) -> tuple[float, float, float]:
    """The smaller of I_A and I_C, and the interval around both; each at most every estimate of H(A|Z) and H(C|Z), the
    means of `limits` [R]. What is smaller, larger or a limit is decided anew in every draw."""

    def bootstrapped(estimates: list[Tensor], choose: Callable) -> tuple[float, float, float]:
        terms = torch.stack([column.view(-1, m).mean(1) for column in (*estimates, *limits)], 1)
        terms = torch.cat([terms, torch.ones(len(terms), 1, dtype=torch.float64)], 1)

        def statistic(sums: np.ndarray) -> np.ndarray:
            means = sums[:, :-1] / sums[:, -1:]
            return np.minimum(choose(means[:, :2], axis=1), means[:, 2:].min(1))

        value = float(statistic(terms.sum(0, keepdim=True).numpy())[0])
        return value, *bootstrap_interval(groups, terms, statistic, seed, resamples)

    value, low, high = bootstrapped([forward.terms(), backward.terms()], np.min)
    *_, learned = bootstrapped([forward.extrapolated(), backward.extrapolated()], np.max)
    return value, low, max(high, learned)


def _shuffled(summaries: CanonicalVariates, forward: Estimate, question: Question, n: int, seed: int) -> float:
    """N1: I_A for the classes of other images."""
    y, k, category, classes = question
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    dealt = category.view(n, -1)[order].flatten()
    return float(interaction_statistic(summaries, forward, y, k, dealt[None], classes))


def _p_value(
    summaries: CanonicalVariates, forward: Estimate, question: Question, chance: Tensor, null_samples: int, seed: int
) -> float:
    """N2: the rank of the statistic among classes drawn from q(c|z), `chance` [R, K]; NaN without draws.

    Nothing is chosen for the statistic: what suits the observed classes would not suit drawn ones as well.
    """
    if null_samples < 1:
        return math.nan
    y, k, category, classes = question
    folds = len(forward.chosen)
    fixed = replace(forward, chosen=(NULL_CHOICE,) * folds, temperatures=(1.0,) * folds)
    generator = torch.Generator().manual_seed(derived_seed(seed, "null_samples"))
    drawn = torch.multinomial(chance, null_samples, replacement=True, generator=generator).T
    versions = torch.cat([category[None], drawn])
    observed, *statistics = interaction_statistic(summaries, fixed, y, k, versions, classes).tolist()
    return (1 + sum(statistic >= observed for statistic in statistics)) / (null_samples + 1)


def _with_components(z: Tensor, summaries: CanonicalVariates, components: int = 16) -> CanonicalVariates:
    """The summary and the leading principal components, for what is not linear in z."""
    centred = (z - z.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(z))
    values, vectors = values[-components:], vectors[:, -components:]
    real = values > 1e-6 * values[-1]
    parts = (centred @ (vectors[:, real] / values[real].sqrt())).expand(len(summaries.values), -1, -1)
    return CanonicalVariates(torch.cat([summaries.values, parts], 2), summaries.folds)


def _classes(rows: Features, target: str, m: int) -> tuple[int, Tensor]:
    """Number of classes, and each row's as a position 0 ... K - 1."""
    if m < 2:
        raise InformationError("the transformation has one level only: there is nothing to know about it")
    if target == LEVEL:
        raise InformationError("the target is the transformation itself; ask for a factor of the images")
    if target not in rows.factors:
        raise InformationError(f"these images have no factor {target!r}; they have: {', '.join(rows.factors)}")
    column = rows.factors[target]
    if column.is_floating_point():
        raise InformationError(f"{target} is continuous; classes are needed: bin it first")
    if (column.view(-1, m) != column[::m, None]).any():
        raise InformationError(f"{target} changes along the orbit of an image: it is not a class of the image")
    if not rows.matrix.isfinite().all():
        raise InformationError("the representations hold values that are not finite: extract them again")
    if not (rows.matrix - rows.matrix[0]).any():
        raise InformationError("all representations are the same: nothing can be known from them")
    values, y = torch.unique(column, return_inverse=True)
    if len(values) < 2:
        raise InformationError(f"all images have the same {target}: there is nothing to know about it")
    for k, value in enumerate(values.tolist()):
        members = len(torch.unique(rows.groups[y == k]))
        if members < FOLDS:
            name = dict(enumerate(rows.labels.get(target, ()))).get(value, value)
            raise InformationError(
                f"{target} {name} has {members} images (or groups), fewer than the {FOLDS} folds: leave rare "
                "classes out, or take more images"
            )
    return len(values), y
