"""Lost, or only re-encoded? What a transformation does to a representation: the battery, for any encoder.

Every image stands at every level of a transformation (`orbits`); level 0 is where it starts. Whatever is fitted is
fitted on half of the images and scored on the others. The encoder's trained heads are never needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ciperlib.analyse.equivariance.actions import chance_mrr, distances, fit_action, reciprocal_ranks
from ciperlib.analyse.equivariance.level_probes import fit_level_probes
from ciperlib.analyse.features import Features, split_features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.layout.metrics import alignment, rankme, uniformity
from ciperlib.analyse.orbits import as_orbits, extract_orbits
from ciperlib.analyse.results import one_row_table
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment.transformations import Transformation
from ciperlib.learn.seeds import derived_seed

# level 1 as often as this (for the azimuth: as often as there are levels) is once around, and nothing has happened
CYCLIC = {"rotation": 4, "horizontal_flip": 2, "vertical_flip": 2, "inversion": 2, "azimuth": None}
INVARIANT, DECODABLE, KEPT, LEFT = 0.1, 0.1, 0.5, 0.1  # where the verdict draws its lines; see `verdict_of`
FEWEST, ENOUGH = 16, 30  # images to measure on, and scored images from which a verdict is given
FITTED = 1.5  # fitted images for each dimension from which "lost" is believed: fewer cannot fit a map that is there


class EquivarianceError(ValueError):
    """Orbits from which nothing can be said; the message says why and what to do."""


class Interval(NamedTuple):
    """A number and its 95% bootstrap interval over test groups, what was fitted held fixed."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Equivariance:
    """What a transformation does to a representation.

    Attributes:
        transformation, levels: its name, and m.
        n, fitted, d: images scored, images fitted on, dimensions of h. With few images for each dimension `r2` and
            `r2_gain` err low, and their intervals, which hold the fitted maps fixed, do not say so.
        invariance_error: E|h(tx) - h(x)|^2 / E|h(x) - h(x')|^2: 0 invariant, 1 as far as another image.
        whitened_error: the same after whitening (by the fitting half's h0): every direction in use counts alike.
        remaining: variance between images at the other levels, as a share of that at level 0: 0 where a level sends all
            images to one point.
        content, shift, interaction: shares of the orbits' variance, which sum to 1: what an image has at all levels,
            what a level does to all images alike, and the rest. An additive encoder has no interaction.
        decodable: level probe -> I(level; what is read) as a share of what there is to know, by V-information. The
            probes: logistic regression on h1 ("view"), h0 - h1 ("difference"), [h0, h1] ("pair"), and "action": which
            level's map takes h0 to h1? The last three tell levels 1 to m - 1 apart, since at level 0 h1 is h0, which
            needs no encoder; of two levels they can tell nothing, and are left out.
        r2: EQ(M), the share of the variance of h at a level that the level's affine map predicts from h0.
        r2_gain: EQ(M) - EQ(identity): what knowing the map adds.
        r2_beyond: the same against h0 drawn towards the level's mean by the factor that is best for it, which predicts
            better than the identity wherever h moves at all: what the map knows of how.
        mrr, hits_at_1: retrieval of h1 among its orbit without h0, from M h0: mean reciprocal rank, and share ranked
            first.
        mrr_chance: of the mean reciprocal rank.
        rotation_error: for the azimuth, mean of 1 - <q, q'>^2 between the true turn and the retrieved one (PRE), else
            NaN.
        cycle_error: |M^k h - h| / |h - mean| for transformations of which k in a row come around, M the map of level 1
            (of the azimuth: fitted on the first part of the circle, used on all), else NaN.
        rankme, alignment, uniformity: representation metrics of h at level 0 (RankMe is NaN for no more than d images).
        verdict: "invariant", "re-encoded", "lost" or "unresolved"; reason: why. A verdict that half of the images do
            not give is "unresolved".
        curve: (images, EQ(M), decodability by the best probe) for a quarter, a half and all of the images; shorter
            where there are too few.
        unseen: as for `Features`.
    """

    transformation: str
    levels: int
    n: int
    fitted: int
    d: int
    invariance_error: Interval
    whitened_error: Interval
    remaining: Interval
    content: Interval
    shift: Interval
    interaction: Interval
    decodable: dict[str, Interval]
    r2: Interval
    r2_gain: Interval
    r2_beyond: Interval
    mrr: Interval
    hits_at_1: Interval
    mrr_chance: float
    rotation_error: float
    cycle_error: float
    rankme: float
    alignment: float
    uniformity: float
    unseen: str = "unknown"
    verdict: str = field(default="unresolved")
    reason: str = ""
    curve: tuple[tuple[int, float, float], ...] = ()

    @property
    def best_probe(self) -> Interval:
        """The decodability by the level probe that knows most."""
        return max(self.decodable.values(), key=lambda measure: measure.value)

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table; intervals as name_low and name_high."""
        row: dict[str, Any] = {}
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("decodable", "curve")}
        for name, value in {**named, **{f"decodable_{reader}": m for reader, m in self.decodable.items()}}.items():
            row |= {name: value} if not isinstance(value, Interval) else {name: value.value}
            row |= {f"{name}_low": value.low, f"{name}_high": value.high} if isinstance(value, Interval) else {}
        return {
            **row,
            "decodable": self.best_probe.value,
            "decodable_low": self.best_probe.low,
            "decodable_high": self.best_probe.high,
        }

    def _repr_html_(self) -> str:
        shown = {
            "invariance error": self.invariance_error,
            "decodable": self.best_probe,
            "EQ(M)": self.r2,
            "gain": self.r2_gain,
        }
        cells = {name: f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]" for name, m in shown.items()}
        cells |= {"MRR": f"{self.mrr.value:.3f} (chance {self.mrr_chance:.3f})", "test images": str(self.n)}
        verdict = f"{self.verdict}: {self.reason}"
        return one_row_table({"transformation": self.transformation, "verdict": verdict, **cells})


@recipe(3)
def evaluate_equivariance(
    encoder: nn.Module, images: ImageSet | Sequence[ImageSet], transformation: Transformation, *,
    part: slice = slice(None), seed: int = 0, resamples: int = 500, **options: Any,
) -> Equivariance:  # fmt: skip
    """The battery for one encoder and one transformation.

    Args:
        encoder, options: as for `extract_features`.
        images: as they are, or `transformation.orbit` of them, made once for several encoders.
        part: which dimensions of h are looked at; all of them.
        seed, resamples: of the division in two and of the bootstrap.

    Raises:
        EquivarianceError: fewer than two levels, too few images, a transformation that changes no pixel of any, an
            empty part of h, or representations that are all alike.
        FeaturesError: an encoder whose output is not [N, d].

    Example:
        >>> from ciperlib.config import Config
        >>> from ciperlib.data import load_images
        >>> from ciperlib.learn.augment.transformations import make_transformation
        >>> from ciperlib.learn.encoders import make_encoder
        >>> test = load_images("turntable", "test", size=100)
        >>> found = evaluate_equivariance(make_encoder(Config(width=4)).eval(), test, make_transformation("brightness"))
        >>> found.transformation, found.n, found.invariance_error.value > 0
        ('brightness', 50, True)
    """
    levels = transformation.orbit(images) if isinstance(images, ImageSet) else images
    if len(levels) > 1 and all(torch.equal(level.images, levels[0].images) for level in levels[1:]):
        raise EquivarianceError(f"{transformation.name} changes no pixel of these images: there is nothing to measure")
    orbits = extract_orbits(encoder, levels, transformation, **options)
    return measure_equivariance(take(orbits, part), transformation.name, seed=seed, resamples=resamples)


def take(orbits: Features, part: slice) -> Features:
    """Some dimensions of the representations; EquivarianceError where there are none."""
    matrix = orbits.matrix[:, part]
    if not matrix.shape[1]:
        raise EquivarianceError(f"{part} leaves none of the {orbits.matrix.shape[1]} dimensions")
    return replace(orbits, matrix=matrix.contiguous())


@recipe(3)
def measure_equivariance(
    orbits: Features, transformation: str = "", *, seed: int = 0, resamples: int = 500
) -> Equivariance:
    """The battery for representations that are there already: the long form of `extract_orbits`.

    Measured three times: with a quarter, a half and all of the images. The verdict is that of all of them, if half of
    them give the same.

    Args:
        transformation: its name; those in `CYCLIC` have a cycle error, the azimuth a rotation error.

    Raises:
        EquivarianceError: as `evaluate_equivariance`. FeaturesError: no orbits, or levels that are missing.
    """
    block, ordered = as_orbits(orbits)
    n, m, _ = block.shape
    if m < 2:
        raise EquivarianceError("an orbit of one member: a transformation needs at least two levels")
    if n < FEWEST:
        raise EquivarianceError(f"{n} images are too few to fit on one half and score on the other: {FEWEST} at least")
    if float(block[:, 0].double().var(0).sum()) == 0:
        raise EquivarianceError("all images have the same representation: there is nothing that could change")
    firsts = ordered.subset(slice(0, None, m))
    found = _measure(block, firsts, transformation, ordered.unseen, seed, resamples)
    verdict, reason = verdict_of(found)
    curve = [(n, found.r2.value, found.best_probe.value)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(seed, "fewer images")))
    for count in (n // 2, n // 4):
        if count < FEWEST:
            break
        part = order[:count].sort().values
        draws = resamples if count == n // 2 else 0  # a quarter is looked at, and gives no verdict
        fewer = _measure(block[part], firsts.subset(part), transformation, ordered.unseen, seed, draws)
        curve.append((count, fewer.r2.value, fewer.best_probe.value))
        if count == n // 2 and verdict != "unresolved" and verdict_of(fewer)[0] != verdict:
            reason = f"{verdict} with {n} images, with {count} of them not: {verdict_of(fewer)[1]}"
            verdict = "unresolved"
    return replace(found, verdict=verdict, reason=reason, curve=tuple(reversed(curve)))


def _measure(
    block: Tensor, firsts: Features, transformation: str, unseen: str, seed: int, resamples: int
) -> Equivariance:
    """All numbers, without a verdict; `firsts` are the features at level 0."""
    _, m, d = block.shape
    parts = split_features(firsts, test_share=0.5, seed=seed)
    place = {int(value): i for i, value in enumerate(firsts.ids.tolist())}
    fitted, scored = (torch.tensor([place[int(value)] for value in part.ids.tolist()]) for part in parts)
    fit, test, groups = block[fitted].double(), block[scored].double(), firsts.groups[scored]
    action = fit_action(fit, firsts.groups[fitted], seed=seed)

    def over(terms: Tensor, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
        value = float(statistic(terms.sum(0, keepdim=True).numpy())[0])
        return Interval(
            value, *bootstrap_interval(groups, terms, statistic, derived_seed(seed, "bootstrap"), resamples)
        )

    gaps = distances(action(test[:, 0]), test)[:, 1:, 1:]
    reciprocal, first = reciprocal_ranks(gaps)
    readers = fit_level_probes(fit, test, action, firsts.groups[fitted], seed)
    return Equivariance(
        transformation, m, len(test), len(fit), d,
        invariance_error=over(_movement(test, test[:, 0]), _ratio),
        whitened_error=over(_movement(*_whitened(test, fit[:, 0])), _ratio),
        remaining=over(_remaining(test), _ratio),
        **{name: over(terms, _ratio) for name, terms in _variances(test).items()},
        decodable={name: over(_per_image(left), _information(left.shape[1])) for name, left in readers.items()},
        r2=over(_explained(test, action(test[:, 0])), _one_less),
        r2_gain=over(_gained(test, action(test[:, 0]), test[:, :1].expand_as(test)), _ratio),
        r2_beyond=over(_gained(test, action(test[:, 0]), _drawn_to_the_mean(fit, test[:, 0])), _ratio),
        mrr=over(_per_image(reciprocal), _ratio), hits_at_1=over(_per_image(first), _ratio),
        mrr_chance=chance_mrr(m - 1),
        rotation_error=_rotation_error(gaps) if transformation == "azimuth" else math.nan,
        cycle_error=action.cycle_error(test[:, 0]) if CYCLIC.get(transformation, 0) in (None, m) else math.nan,
        rankme=rankme(test[:, 0]) if len(test) > d else math.nan,
        alignment=float(np.mean([alignment(test[:, 0], test[:, a]) for a in range(1, m)])),
        uniformity=uniformity(test[:2000, 0]), unseen=unseen,
    )  # fmt: skip


def verdict_of(found: Equivariance) -> tuple[str, str]:
    """The verdict and its reason, from the ends of the intervals that make it hardest.

    - invariant: the invariance error is below a tenth of the distance between images.
    - re-encoded: it is above; some probe knows more than a tenth of what there is to know of the level, and the level's
      map predicts more than the identity does. (Of two levels, where only h1 alone is read, it is enough that the map
      predicts half of h, and more than h0 drawn to the mean does, or a tenth more than that.)
    - lost: it is above; the maps predict less than half of h, and not a tenth more than h0 drawn to the mean, fitted on
      images enough; and no probe knows a tenth. Or the images become alike: less than a tenth of the variance between
      them is left at the other levels.
    - unresolved: anything else, small samples among it.
    """
    error, known = found.invariance_error, found.decodable.values()
    low, high = (max(getattr(measure, end) for measure in known) for end in ("low", "high"))
    if found.n < ENOUGH:
        return "unresolved", f"{found.n} images scored, {ENOUGH} at least are wanted"
    if not all(math.isfinite(value) for value in (*error, *found.r2_gain, *found.r2)):
        return "unresolved", "not all numbers are finite"
    if error.high < INVARIANT:
        return "invariant", f"h moves by at most {error.high:.2f} of the distance between images"
    if not error.low > INVARIANT:
        return "unresolved", f"the invariance error may be {error.low:.2f} or {error.high:.2f}"
    if found.remaining.high < LEFT:
        return "lost", f"images become alike: at most {found.remaining.high:.2f} of the variance between them is left"
    if low > DECODABLE and found.r2_gain.low > 0:
        return "re-encoded", f"{low:.0%} of the level is told at least, and the map predicts more than the identity"
    by_map = found.r2.low > KEPT or found.r2_beyond.low > DECODABLE
    if found.levels == 2 and by_map and found.r2_beyond.low > 0:
        return "re-encoded", f"the map predicts {found.r2.low:.2f} of h at least, and more than h drawn to its mean"
    if high < DECODABLE and found.r2.high < KEPT and found.r2_beyond.high < DECODABLE:
        if found.fitted >= FITTED * found.d:
            return "lost", f"at most {high:.0%} of the level is told, and at most {found.r2.high:.2f} of h predicted"
        return "unresolved", f"{found.fitted} images are too few to fit maps of {found.d} dimensions"
    return (
        "unresolved",
        f"{low:.0%} to {high:.0%} of the level are told, {found.r2.low:.2f} to {found.r2.high:.2f} of h",
    )


def shuffle_levels(orbits: Features, seed: int = 0) -> Features:
    """The baseline: every image's levels dealt out anew, each image by itself. What is left is not the
    transformation."""
    block, ordered = as_orbits(orbits)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(block.shape[:2], generator=generator).argsort(1)
    mixed = block.gather(1, order[:, :, None].expand_as(block))
    return replace(ordered, matrix=mixed.flatten(0, 1))


def _movement(block: Tensor, start: Tensor) -> Tensor:
    """Per image: mean over the other levels of |h_a - h_0|^2, and what |h - h'|^2 is on average, [N, 2]."""
    moved = (block[:, 1:] - start[:, None]).square().sum(2).mean(1)
    apart = 2 * (start - start.mean(0)).square().sum(1) * len(start) / (len(start) - 1)
    return torch.stack((moved, apart), 1)


def _remaining(block: Tensor) -> Tensor:
    """Per image: mean over the other levels of its squared distance from the level's mean, and that at level 0."""
    spread = (block - block.mean(0)).square().sum(2)
    return torch.stack((spread[:, 1:].mean(1), spread[:, 0]), 1)


def _whitened(block: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The block and its first level in coordinates in which `reference` [N, d] has variance 1 in every direction that
    it uses (more than a ten-thousandth of the largest variance)."""
    spectrum, basis = torch.linalg.eigh(torch.cov(reference.T).reshape(reference.shape[1], -1))
    used = spectrum > 1e-4 * spectrum[-1]
    white = block @ (basis[:, used] / spectrum[used].sqrt())
    return white, white[:, 0]


def _variances(block: Tensor) -> dict[str, Tensor]:
    """The parts of the orbits' variance, per image: [N, 2], the part and the whole."""
    n, m, _ = block.shape
    centred = block - block.mean((0, 1))
    content, shift = centred.mean(1), centred.mean(0)
    rest = centred - content[:, None] - shift
    whole = centred.square().sum((1, 2))
    parts = {
        "content": m * content.square().sum(1),
        "shift": shift.square().sum().expand(n),
        "interaction": rest.square().sum((1, 2)),
    }
    # the three sum to the whole over all images, and not image by image: the cross terms cancel in the sum alone
    return {name: torch.stack((part, whole), 1) for name, part in parts.items()}


def _explained(block: Tensor, guess: Tensor) -> Tensor:
    """Per image and over the other levels: squared error of the guess, and squared distance from the level's mean."""
    error = (block - guess)[:, 1:].square().sum((1, 2))
    return torch.stack((error, (block - block.mean(0))[:, 1:].square().sum((1, 2))), 1)


def _gained(block: Tensor, guess: Tensor, other: Tensor) -> Tensor:
    """Per image: by how much less the guess errs than another one, and squared distance from the level's mean."""
    guessed, before = (_explained(block, g) for g in (guess, other))
    return torch.stack((before[:, 0] - guessed[:, 0], before[:, 1]), 1)


def _drawn_to_the_mean(fit: Tensor, start: Tensor) -> Tensor:
    """h0 [N, d] -> [N, m, d]: the level's mean and so much of h0's distance from its own as is best, on `fit`."""
    mean = fit.mean(0)
    away = fit - mean
    share = (away * away[:, :1]).sum((0, 2)) / away[:, 0].square().sum()
    return mean + share[:, None] * (start - mean[0])[:, None]


def _rotation_error(gaps: Tensor) -> float:
    """PRE: 1 - <q, q'>^2 of turns about one axis is sin^2 of half the angle between them; of levels 1 to m - 1."""
    off = gaps.argmin(2) - torch.arange(gaps.shape[1])
    return float((math.pi * off / (gaps.shape[1] + 1)).sin().square().mean())


def _per_image(values: Tensor) -> Tensor:
    """[N, m] -> [N, 2]: their sum, and m."""
    return torch.stack((values.sum(1), torch.full((len(values),), float(values.shape[1]), dtype=torch.float64)), 1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / np.maximum(sums[:, 1], 1e-300)


def _one_less(sums: np.ndarray) -> np.ndarray:
    return 1 - _ratio(sums)


def _information(m: int) -> Callable[[np.ndarray], np.ndarray]:
    """From sums of nlls to the share of log m that is known."""
    return lambda sums: 1 - _ratio(sums) / math.log(m)
