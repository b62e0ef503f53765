"""Explaining-away: what does the class add to knowing the transformation? I(A;C|Z), by cross-fitted conditional
V-information (Wang et al. 2024, arXiv 2411.06508; Xu et al. 2020, arXiv 2002.10689), with bounds and controls.

    I_A = mean of log q1(a | z, c) - log q0(a | z),    I_C = mean of log q1(c | z, a) - log q0(c | z)

Both estimate the same quantity. Each is a difference of two upper bounds on entropies: it is a bound on neither side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.orbits import LEVEL, as_orbits
from ciperlib.analyse.solvers import bootstrap_interval
from ciperlib.analyse.summary import Summaries, deal_folds, summarise
from ciperlib.analyse.vinformation import Estimate, estimate, interaction_statistic

FOLDS = 5
AGREEMENT_NATS = 0.03  # how far two estimates of the same quantity may lie apart, beside sampling
SMALL_NATS = 0.02  # below it there is nothing worth a sentence


class InformationError(ValueError):
    """Data from which the synergy cannot be estimated; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class ExplainingAway:
    """What a class adds to knowing the transformation, and what could be wrong with it. All in nats.

    Attributes:
        target: the class's factor. n: images. levels: m. classes: K.
        value, low, high: the smaller of forward and backward, capped by the bound; 95% bootstrap over groups.
        forward, backward: I_A and I_C, raw. bound: the smaller of the two entropies.
        level_entropy, class_entropy: H(A|Z) and H(C|Z), cross-entropies of q0.
        forward_mlp, backward_mlp: the same by small neural networks instead of linear maps.
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
    details: dict[str, Any] = field(default_factory=dict, repr=False)

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
        head = "".join(f"<th>{escape(name)}</th>" for name in cells)
        return (
            f"<table><tr>{head}</tr><tr>{''.join(f'<td>{escape(text)}</td>' for text in cells.values())}</tr></table>"
        )


def explaining_away(
    orbits: Features, target: str, *, draws: int = 200, nulls: int = 100, networks: bool = True, seed: int = 0
) -> ExplainingAway:
    """Estimates I(A;C|Z) from representations of images at all levels of a transformation.

    Args:
        orbits: of `extract_orbits`; images that the encoder has not seen.
        target: a categorical factor, constant along an image's orbit: the class C.
        draws: of the bootstrap. nulls: draws of the class from q(c|z), for the p-value; 0 for none (the verdict is then
            never "present").
        networks: also by small neural networks, as a check on the linear family.
        seed: of folds, draws and networks.

    Raises:
        InformationError: a target that is missing, continuous, the transformation itself, constant, or too rare for the
            folds; one level only; representations that are constant or not finite.
        FeaturesError: orbits with gaps.
    """
    block, images = as_orbits(orbits)
    n, m, _ = block.shape
    classes, y = _classes(images, orbits, target, m)
    z, level = block.flatten(0, 1), torch.arange(m).repeat(n)
    category, groups = y.repeat_interleave(m), images.groups.repeat_interleave(m)
    folds = deal_folds(groups, FOLDS, seed)
    _check_members(y, classes, target, images)
    summaries = summarise(z, level * classes + category, m * classes, folds)
    forward = estimate(summaries, level, m, category, classes)
    backward = estimate(summaries, category, classes, level, m)
    by_network = (math.nan, math.nan)
    if networks:
        from ciperlib.analyse.networks import estimate_by_networks

        extended = _with_components(z, summaries)
        pairs = ((level, m, category, classes), (category, classes, level, m))
        by_network = tuple(estimate_by_networks(extended, *pair, seed=seed).information() for pair in pairs)
    shuffled, p_value = _controls(summaries, forward, backward, level, m, category, classes, n, nulls, seed)
    value, low, high, bound = _capped(forward, backward, images.groups, m, seed, draws)
    numbers = dict(
        value=value, low=low, high=high, forward=forward.information(), backward=backward.information(), bound=bound,
        level_entropy=forward.entropy(), class_entropy=backward.entropy(), forward_mlp=by_network[0],
        backward_mlp=by_network[1], shuffled=shuffled, p_value=p_value,
    )  # fmt: skip
    error = (forward.terms() - backward.terms()).view(n, m).mean(1).std() / math.sqrt(n)
    verdict, reason = judge(numbers, float(error))
    return ExplainingAway(
        target, n, m, classes, **numbers, verdict=verdict, reason=reason, unseen=orbits.unseen
    )  # fmt: skip


def conditional_entropy(orbits: Features, target: str = LEVEL, *, seed: int = 0) -> float:
    """H(A|Z) in nats (or H(C|Z), for a categorical target): the cross-fitted cross-entropy of a linear model.

    An upper bound, as every cross-entropy is. Errors as `explaining_away`.
    """
    block, images = as_orbits(orbits)
    n, m, _ = block.shape
    level, groups = torch.arange(m).repeat(n), images.groups.repeat_interleave(m)
    if target == LEVEL:
        y, k = level, m
    else:
        k, y = _classes(images, orbits, target, m)
        y = y.repeat_interleave(m)
    summaries = summarise(block.flatten(0, 1), y, k, deal_folds(groups, FOLDS, seed))
    return estimate(summaries, y, k, torch.zeros_like(y), 1).entropy()


def judge(numbers: dict[str, float], error: float) -> tuple[str, str]:
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


def _capped(forward: Estimate, backward: Estimate, groups: Tensor, m: int, seed: int, draws: int):
    """min(I_A, I_C), capped by min(H(A|Z), H(C|Z)), and its bootstrap interval, the choice made anew in every draw."""
    columns = [forward.terms(), backward.terms(), forward.surprise(), backward.surprise()]
    terms = torch.stack([column.view(-1, m).mean(1) for column in columns], 1)
    terms = torch.cat([terms, torch.ones(len(terms), 1, dtype=torch.float64)], 1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        return (sums[:, :4] / sums[:, 4:]).min(1)

    value = float(statistic(terms.sum(0, keepdim=True).numpy())[0])
    low, high = bootstrap_interval(groups, terms, statistic, seed, draws)
    bound = min(forward.entropy(), backward.entropy())
    return value, low, high, bound


def _controls(summaries: Summaries, forward, backward, level, m, category, classes, n, nulls, seed):
    """N1: I_A for shuffled classes. N2: the rank of the statistic among classes drawn from q(c|z)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    shuffled = category.view(n, m)[order].flatten()
    observed, dealt = interaction_statistic(summaries, forward, level, m, torch.stack([category, shuffled]), classes)
    if nulls < 1:
        return float(dealt), math.nan
    chance = backward.base_probabilities()
    drawn = torch.multinomial(chance, nulls, replacement=True, generator=generator).T
    statistics = interaction_statistic(summaries, forward, level, m, drawn, classes)
    return float(dealt), (1 + int((statistics >= observed).sum())) / (nulls + 1)


def _with_components(z: Tensor, summaries: Summaries, components: int = 16) -> Summaries:
    """The summary and the leading principal components, for what is not linear in z."""
    centred = (z - z.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(z))
    values, vectors = values[-components:], vectors[:, -components:]
    real = values > 1e-6 * values[-1]
    parts = (centred @ (vectors[:, real] / values[real].sqrt())).expand(len(summaries.values), -1, -1)
    return Summaries(torch.cat([summaries.values, parts], 2), summaries.folds)


def _classes(images: Features, orbits: Features, target: str, m: int) -> tuple[int, Tensor]:
    """Number of classes, and each image's as a position 0 ... K - 1."""
    if m < 2:
        raise InformationError("the transformation has one level only: there is nothing to know about it")
    if target == LEVEL:
        raise InformationError("the target is the transformation itself; ask for a factor of the images")
    if target not in images.factors:
        raise InformationError(f"these images have no factor {target!r}; they have: {', '.join(images.factors)}")
    column = images.factors[target]
    if column.is_floating_point():
        raise InformationError(f"{target} is continuous; classes are needed: bin it first")
    by_row = orbits.factors[target][torch.argsort(orbits.factors["source"] * m + orbits.factors[LEVEL], stable=True)]
    if not torch.equal(by_row, column.repeat_interleave(m)):
        raise InformationError(f"{target} changes along the orbit of an image: it is not a class of the image")
    matrix = orbits.matrix
    if not matrix.isfinite().all():
        raise InformationError("the representations hold values that are not finite: extract them again")
    if not (matrix - matrix[0]).any():
        raise InformationError("all representations are the same: nothing can be known from them")
    values, y = torch.unique(column, return_inverse=True)
    if len(values) < 2:
        raise InformationError(f"all images have the same {target}: there is nothing to know about it")
    return len(values), y


def _check_members(y: Tensor, classes: int, target: str, images: Features) -> None:
    names = images.labels.get(target, ())
    for k in range(classes):
        members = len(torch.unique(images.groups[y == k]))
        if members < FOLDS:
            value = int(images.factors[target][y == k][0])
            name = names[value] if value < len(names) else value
            raise InformationError(
                f"{target} {name} has {members} images (or groups), fewer than the {FOLDS} folds: leave rare "
                "classes out, or take more images"
            )
