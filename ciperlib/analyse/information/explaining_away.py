"""Explaining-away: what does the class add to knowing the transformation? I(A;C|Z), by cross-fitted conditional
V-information (Wang et al. 2024, arXiv 2411.06508; Xu et al. 2020, arXiv 2002.10689), with bounds and controls.

    I_A = mean of log q1(a | z, c) - log q0(a | z),    I_C = mean of log q1(c | z, a) - log q0(c | z)

Both estimate the same quantity. Each is a difference of two upper bounds on entropies: it is a bound on neither side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.information.canonical_variates import assign_folds, fit_canonical_variates
from ciperlib.analyse.information.entropy_models import direct_nll
from ciperlib.analyse.information.readings import FAMILIES, FOLDS, SIDES, Reading, growing, measure
from ciperlib.analyse.information.vinformation import estimate
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.orbits import LEVEL, as_orbits
from ciperlib.analyse.results import one_row_table
from ciperlib.analyse.solvers.threads import single_where_small

TAILS, HEAVY = 6.0, 0.002  # spreads from the median, and the share of numbers beyond them that is too much
PERFECT, LOW = 0.1, 0.4  # shares of log m: less is a perfect training, more a test that shows little of it
SMALL_NATS = 0.02  # the margin: below it there is nothing worth a sentence


class InformationError(ValueError):
    """Data from which the synergy cannot be estimated; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class ExplainingAway:
    """What a class adds to knowing the transformation, and what could be wrong with it. All in nats.

    Attributes:
        target: the class's factor. n: images. levels: m. classes: K.
        value: the smaller of forward and backward, each by the better of its two families, capped by the bound.
        low, high: from the lower end of forward to the upper end of backward, or the other way round, whichever is
            wider; ends as in `Reading`.
        readings: "forward" and "backward" (I_A and I_C) by linear maps, and "forward_mlp", "backward_mlp" by networks.
        bound: the smaller of the two entropies.
        level_entropy, class_entropy: H(A|Z) and H(C|Z), the smallest cross-entropy of q0, of a logistic regression on
            the representations themselves and of a network.
        shuffled: I_A for classes dealt out to other images, or I_C for levels dealt out within each image, the larger
            (N1): what capacity alone gives.
        p_value: of I_A among draws of the class from q(c|z) (N2).
        series: (images, value) for a growing number of images, the last being all.
        clipped: share of the representations' numbers that lay so far out that they were drawn in.
        verdict: "present", "absent", "unresolved" or "not converged"; reason: why.
        unseen: whether the encoder was trained on none of the images.
    """

    target: str
    n: int
    levels: int
    classes: int
    value: float
    low: float
    high: float
    readings: dict[str, Reading]
    bound: float
    level_entropy: float
    class_entropy: float
    shuffled: float
    p_value: float
    series: tuple[tuple[int, float], ...]
    clipped: float
    verdict: str
    reason: str
    unseen: str = "unknown"

    def _raw(self, name: str) -> float:
        return self.readings[name].value if name in self.readings else math.nan

    forward = property(lambda self: self._raw("forward"), doc="I_A by linear maps, raw.")
    backward = property(lambda self: self._raw("backward"), doc="I_C by linear maps, raw.")
    forward_mlp = property(lambda self: self._raw("forward_mlp"), doc="I_A by networks, raw; NaN without them.")
    backward_mlp = property(lambda self: self._raw("backward_mlp"), doc="I_C by networks, raw; NaN without them.")

    @property
    def gain(self) -> float:
        """By how much the last doubling of the images moved the value; NaN where there was none."""
        return self.series[-1][1] - self.series[-2][1] if len(self.series) > 1 else math.nan

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table; nats are said in the names."""
        row = {name: getattr(self, name) for name in ("target", "n", "levels", "classes", "unseen")}
        nats = ("value", "low", "high", "bound", "level_entropy", "class_entropy", "shuffled", "gain")
        row |= {f"{name}_nats": getattr(self, name) for name in nats}
        for name, reading in self.readings.items():
            row |= {f"{name}_nats": reading.value, f"{name}_low_nats": reading.low, f"{name}_high_nats": reading.high}
        return row | {name: getattr(self, name) for name in ("p_value", "clipped", "verdict", "reason")}

    def _repr_html_(self) -> str:
        shown = {name: f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for name, one in self.readings.items()}
        cells = {
            "I(A;C|Z), nats": f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]",
            "in bits": f"{self.value / math.log(2):.3f}",
            "verdict": f"{self.verdict}: {self.reason}",
            "H(A|Z)": f"{self.level_entropy:.3f} of {math.log(self.levels):.3f}",
            "H(C|Z)": f"{self.class_entropy:.3f} of {math.log(self.classes):.3f}",
            **{name.replace("_mlp", ", networks"): text for name, text in shown.items()},
            "shuffled": f"{self.shuffled:.3f}",
            "p": f"{self.p_value:.3f}",
            "with more images": ", ".join(f"{n}: {value:.3f}" for n, value in self.series),
            "images": f"{self.n}, unseen: {self.unseen}",
        }
        return one_row_table(cells)


@single_where_small
@recipe(2)
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

    What a model has not learned yet counts as unknown, so the value moves with the number of images: it is measured
    with a quarter, a half and all of them.

    Args:
        orbits: of `extract_orbits`; images that the encoder has not seen.
        target: a categorical factor, constant along an image's orbit: the class C.
        resamples: of the bootstrap.
        null_samples: draws of the class from q(c|z), for the p-value; 0 for none (the verdict is then never "present").
        networks: also by small neural networks, twice as long; without them the verdict is never "absent".
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
    tame, clipped = _draw_in(rows.matrix)
    rows = replace(rows, matrix=tame, factors={LEVEL: rows.factors[LEVEL], target: category})
    *fewer, every = growing(rows, m, category[::m], seed)
    parts = [measure(rows, part, m, target, classes, networks, seed) for part in fewer]
    whole = measure(rows, every, m, target, classes, networks, seed, directly=True)
    parts.append(whole)
    readings = {name: whole.read(parts, *FAMILIES[name], seed, resamples) for name in whole.families}
    best = [whole.read(parts, side, None, seed, resamples) for side in SIDES]  # each side by the better of its models
    low, high, value = min(one.low for one in best), max(one.high for one in best), min(one.value for one in best)
    series = tuple((one.n, one.value()) for one in parts)
    entropies, spread = whole.entropies(), max(one.spread for one in best)
    numbers = dict(
        value=value, low=low, high=high, bound=min(entropies), level_entropy=entropies[0], class_entropy=entropies[1],
        shuffled=whole.shuffled(seed), p_value=whole.p_value(null_samples, seed), series=series, clipped=clipped,
    )  # fmt: skip
    verdict, reason = verdict_of(readings, networks, spread, **numbers)
    return ExplainingAway(
        target, n, m, classes, readings=readings, verdict=verdict, reason=reason, unseen=orbits.unseen, **numbers
    )


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


def learned_by_heart(training: float, held_out: float, levels: int) -> bool:
    """Training perfect, test low: whether an encoder learned its training images' levels by heart, and not what tells
    levels. What it keeps of the class then says nothing about the transformation.

    Args:
        training: cross-entropy in nats with which it tells the level of the images that it was trained on, by its own
            head at the end of the training.
        held_out: H(A|Z) of others.
        levels: m.
    """
    return training < PERFECT * math.log(levels) and held_out > LOW * math.log(levels)


def verdict_of(
    readings: Mapping[str, Reading], networks: bool, spread: float, *, value: float, shuffled: float, p_value: float,
    series: Sequence[tuple[int, float]], clipped: float, bound: float, **_: Any,
) -> tuple[str, str]:  # fmt: skip
    """The verdict and its reason.

    - unresolved: heavy tails, or too few images for a series.
    - absent: the upper end of every family, networks too, lies below SMALL_NATS.
    - not converged: the last doubling of the images moved the value by more than the bootstrap's interval is
      wide (`spread`), and by more than SMALL_NATS.
    - present: the lower end of every family lies above SMALL_NATS and above what shuffling gives, and the p-value is at
      most 0.05.
    - unresolved: anything else.
    """
    if clipped > HEAVY:
        return "unresolved", f"heavy tails: {clipped:.0%} of the representations' numbers had to be drawn in"
    ends = {name: (one.low, one.high) for name, one in readings.items()}
    highest, lowest = max(ends, key=lambda name: ends[name][1]), min(ends, key=lambda name: ends[name][0])
    if len(series) < 2:
        return "unresolved", f"{series[-1][0]} images are too few to see what more of them would change"
    if ends[highest][1] < SMALL_NATS and networks:
        return "absent", f"at most {ends[highest][1]:.3f} nats, with the bound min(H(A|Z), H(C|Z)) = {bound:.3f}"
    if ends[highest][1] < SMALL_NATS:
        return "unresolved", f"linear maps find at most {ends[highest][1]:.3f} nats; networks were not asked"
    if abs(series[-1][1] - series[-2][1]) > max(spread, SMALL_NATS):
        return "not converged", f"{series[-2][0]} images gave {series[-2][1]:.3f}, and {series[-1][0]} {value:.3f}"
    said = {name: name.replace("_mlp", " by networks") for name in ends}
    least = max(SMALL_NATS, shuffled)
    if not ends[lowest][0] > least:
        return "unresolved", (
            f"{said[lowest]} may be {ends[lowest][0]:.3f}, {said[highest]} {ends[highest][1]:.3f}; present is above "
            f"{least:.3f} for each"
        )
    if not p_value <= 0.05:
        return "unresolved", f"classes drawn from q(c|z) do as well (p = {p_value:.2f})"
    alone = "" if networks else "; networks were not asked"
    return "present", f"at least {ends[lowest][0]:.3f} nats by {said[lowest]}, and drawn classes do not reach it{alone}"


def _draw_in(z: Tensor) -> tuple[Tensor, float]:
    """Each column's numbers drawn in to at most TAILS spreads from its median, and the share that was: so that a few
    outliers, however far out, change nothing. The spread is that of a normal column with as much between its 0.5% and
    99.5% quantiles: of normal numbers nothing is drawn in, of Cauchy's one in 250."""
    ends = torch.tensor([0.005, 0.5, 0.995], dtype=torch.float64)
    low, middle, high = torch.quantile(z[:: max(1, len(z) // 50_000)].double(), ends, dim=0)
    reach = TAILS * (high - low) / 5.15
    reach = torch.where(reach > 0, reach, TAILS * z.double().std(0))  # a column that is mostly one number: a dead unit
    inside = z.double().clamp(middle - reach, middle + reach).float()
    return inside, float((inside != z).double().mean())


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
