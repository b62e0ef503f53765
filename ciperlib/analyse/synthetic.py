"""Known worlds: representations of which I(A;C|Z) is known, in nats. A transformation A of m levels is put on every
image, so A and the class C are independent exactly; Z is made from both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.orbits import LEVEL, SOURCE
from ciperlib.data.imageset import ImageSet

CLASS = "category"


@dataclass(frozen=True)
class World:
    """Orbits whose synergy is known.

    Attributes:
        orbits: long form, with the factors category, source and level.
        truth_nats: I(A;C|Z).
    """

    orbits: Features
    truth_nats: float


def make_world(name: str, images: int = 5000, *, seed: int = 0, **options: float) -> World:
    """One of `WORLDS` by name, with its options; ValueError for another name."""
    if name not in WORLDS:
        raise ValueError(f"there is no world {name!r}; choose one of {', '.join(WORLDS)}")
    return WORLDS[name](images, torch.Generator().manual_seed(seed), **options)


def xor(images: int, generator: torch.Generator, flip: float = 0.1) -> World:
    """Z is A xor C, flipped with probability `flip`: neither alone says anything. Truth: log 2 - h(flip)."""
    category, level = _design(images, 2, 2, generator)
    z = (category + level + (torch.rand(len(level), generator=generator) < flip)) % 2
    entropy = -sum(p * math.log(p) for p in (flip, 1 - flip) if p > 0)
    return World(_orbits(2.0 * z[:, None] - 1, category, level, 2), math.log(2) - entropy)


def modular(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, noise: float = 0.1) -> World:
    """Z is (A + g(C) + N) mod m in one-hot form: the class is where the pose counts from. g is C mod m, N is 0 with
    probability 1 - `noise`, else any other value. Truth: H(g(C) + N) - H(N)."""
    category, level, value, truth = _pose(images, generator, m, classes, noise)
    return World(_orbits(F.one_hot(value, m), category, level, m), truth)


def modular_plain(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, noise: float = 0.1) -> World:
    """The modular world where the class moves nothing (g constant), beside a trace of the class itself. Truth: 0."""
    world = modular(images, generator, m, classes, noise)
    category, level = world.orbits.factors[CLASS], world.orbits.factors[LEVEL]
    jump = torch.randint(1, m, (len(level),), generator=generator) * (
        torch.rand(len(level), generator=generator) < noise
    )
    trace = category[:, None] / classes + torch.randn(len(level), 1, generator=generator)
    matrix = torch.cat([F.one_hot((level + jump) % m, m).float(), trace], 1)
    return World(replace(world.orbits, matrix=matrix), 0.0)


def mixture(images: int, generator: torch.Generator, a: float = 1.0, c: float = 1.0, sigma: float = 1.0) -> World:
    """Z = a A + c C + sigma N with A and C in {-1, +1}. Truth by quadrature."""
    category, level = _design(images, 2, 2, generator)
    z = a * (2 * level - 1) + c * (2 * category - 1) + sigma * torch.randn(len(level), generator=generator)
    grid = np.linspace(-abs(a) - abs(c) - 10 * sigma, abs(a) + abs(c) + 10 * sigma, 20001)
    density = {
        (s, t): np.exp(-((grid - a * s - c * t) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        for s in (-1, 1)
        for t in (-1, 1)
    }
    joint = np.stack([[density[s, t] / 4 for t in (-1, 1)] for s in (-1, 1)])  # p(z, a, c)
    both, total = joint, joint.sum((0, 1))
    of_a, of_c = joint.sum(1), joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = both * np.log(both * total / (of_a[:, None] * of_c[None]))
    truth = float(np.nan_to_num(terms).sum((0, 1)) @ np.gradient(grid))
    return World(_orbits(z[:, None].float(), category, level, 2), truth)


def copy(images: int, generator: torch.Generator, m: int = 4, classes: int = 10) -> World:
    """Z shows both A and C (with a little blur): all is known already. Truth: 0."""
    category, level = _design(images, m, classes, generator)
    z = torch.cat([F.one_hot(level, m), F.one_hot(category, classes)], 1).float()
    return World(_orbits(z + 0.05 * torch.randn(z.shape, generator=generator), category, level, m), 0.0)


def noise(images: int, generator: torch.Generator, m: int = 4, classes: int = 10) -> World:
    """Z shows C and nothing of A. Truth: 0."""
    category, level = _design(images, m, classes, generator)
    z = torch.cat([F.one_hot(category, classes), torch.randn(len(level), 4, generator=generator)], 1)
    return World(_orbits(z, category, level, m), 0.0)


def quadrant(images: int, generator: torch.Generator) -> World:
    """The trap: Z = (u, v) normal, A = 1[uv > 0], C = 1[u > 0]. Z determines both, so the truth is 0, but to a linear
    probe A looks unknowable until the class tells which half-plane it is in."""
    category, level = _design(images, 2, 2, generator)
    u, v = torch.randn(2, len(level), generator=generator).abs()
    u = u * (2 * category - 1)
    v = v * u.sign() * (2 * level - 1)
    return World(_orbits(torch.stack([u, v], 1), category, level, 2), 0.0)


# the linear family cannot express these, at least not all of them: their truth is the same seen through any map that
# can be undone, and what a linear map of Z can use is not


def cells(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, spread: float = 1.0) -> World:
    """Normal clouds in six dimensions, one for each level and class: a centre of the level's, one of the class's and
    one of the pair's own, each number normal. Truth by 100,000 draws, to 0.003."""
    category, level = _design(images, m, classes, generator)
    centres = _centres(m, classes)
    z = centres[level, category] + spread * torch.randn(len(level), centres.shape[2], generator=generator)
    return World(_orbits(z, category, level, m), _truth_of(m, classes, spread))


def warped(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, spread: float = 1.0) -> World:
    """`cells` through two layers of a network that can be undone: turned, and what is negative a fifth as long."""
    world = cells(images, generator, m, classes, spread)
    z, fixed = world.orbits.matrix.double(), torch.Generator().manual_seed(0)
    for _ in range(2):
        turn = torch.linalg.qr(torch.randn(z.shape[1], z.shape[1], generator=fixed, dtype=torch.float64))[0]
        z = F.leaky_relu(z @ turn, 0.2)
    return World(replace(world.orbits, matrix=z.float()), world.truth_nats)


def checkers(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, noise: float = 0.1) -> World:
    """What `modular` shows, as one of three fields of a board of m times three that belong to it: Z is somewhere in the
    field."""
    category, level, value, truth = _pose(images, generator, m, classes, noise)
    fields = torch.randperm(3 * m, generator=torch.Generator().manual_seed(5)).view(m, 3)
    field = fields[value, torch.randint(3, (len(value),), generator=generator)]
    corner = torch.stack([field // 3, field % 3], 1)
    return World(_orbits(corner + 0.8 * torch.rand(len(value), 2, generator=generator), category, level, m), truth)


def products(images: int, generator: torch.Generator, classes: int = 10, noise: float = 0.1) -> World:
    """What `modular` shows of four levels, bit by bit: each is the sign of the product of two normal numbers, of which
    no linear map knows anything."""
    category, level, value, truth = _pose(images, generator, 4, classes, noise)
    return World(_orbits(_hidden_bits(value, generator), category, level, 4), truth)


def half_products(images: int, generator: torch.Generator, classes: int = 10, noise: float = 0.1) -> World:
    """The same, the first bit as the sign of a single number: half of it can be read by a linear map."""
    category, level, value, truth = _pose(images, generator, 4, classes, noise)
    z = _hidden_bits(value, generator)
    return World(_orbits(torch.cat([z[:, :1] * z[:, 1:2], z[:, 2:]], 1), category, level, 4), truth)


def quadrants(images: int, generator: torch.Generator, classes: int = 10) -> World:
    """`quadrant` with four levels, and the class in plain sight beside it: all is known, and to a linear probe the
    level looks unknowable until the class is told. Truth: 0."""
    category, level = _design(images, 4, classes, generator)
    sizes = torch.randn(len(level), 4, generator=generator).abs()
    side = 2 * torch.stack([category % 2, category // 2 % 2], 1) - 1
    bits = 2 * torch.stack([level // 2, level % 2], 1) - 1
    plain = 2 * F.one_hot(category, classes)
    z = torch.cat([plain, sizes[:, :2] * side, sizes[:, 2:] * side * bits], 1)
    return World(_orbits(z, category, level, 4), 0.0)


def lift(world: World, d: int, scale: float = 0.5, seed: int = 0) -> World:
    """The same world seen through a random rotation into d dimensions, the others normal noise of spread `scale`: the
    truth does not change."""
    generator = torch.Generator().manual_seed(seed)
    z = world.orbits.matrix
    full = torch.cat([z, scale * torch.randn(len(z), d - z.shape[1], generator=generator)], 1)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return World(replace(world.orbits, matrix=full @ rotation), world.truth_nats)


def six_and_nine(digits: ImageSet, *, nine_is_turned_six: bool) -> World | Features:
    """Images of 6 and 9 as they are and turned by 180 degrees; Z is the image, at most
    16 pixels a side. Where the 9 *is* the turned 6 the truth
    is log 2 (one bit), with I(A;Z) = 0; for real digits nobody knows it, and the features alone are given.

    Args:
        digits: sixes and nines (factor category, 6 and 9).
    """
    label = digits.factors[CLASS]
    sixes = digits.images[label == 6].float().mean(1) / 255
    nines = sixes.flip(1, 2) if nine_is_turned_six else digits.images[label == 9].float().mean(1) / 255
    # few pixels are enough to read a digit, and turning commutes with taking means of whole blocks
    both = F.avg_pool2d(torch.cat([sixes, nines]), max(1, sixes.shape[-1] // 16))
    category = torch.tensor([0] * len(sixes) + [1] * len(nines)).repeat_interleave(2)
    level = torch.arange(2).repeat(len(both))
    z = torch.stack([both, both.flip(1, 2)], 1).flatten(0, 1).flatten(1)
    orbits = _orbits(z, category, level, 2)
    if not nine_is_turned_six:
        return orbits
    # a six and the nine made of it are one source: they must not be divided
    group = torch.arange(len(sixes)).repeat(2).repeat_interleave(2)
    return World(replace(orbits, groups=group), math.log(2))


def make_orbits(
    kind: str, images: int = 1000, *, m: int = 4, d: int = 8, noise: float = 0.05, seed: int = 0
) -> Features:
    """Orbits of which it is known what the transformation does to them: one of `ORBITS`.

    - invariant: nothing. additive: each level adds its own vector. turned: each level turns h further, by one random
      orthogonal map. affine: each level has a map of its own, which also stretches, and a shift. destroyed: another h,
      that has nothing to do with the first.

    Args:
        m: levels. d: dimensions. noise: spread of what is added to every number, against 1 between images.

    Raises:
        ValueError: another kind.
    """
    if kind not in ORBITS:
        raise ValueError(f"there are no {kind!r} orbits; choose one of {', '.join(ORBITS)}")
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    h = draw(images, d)
    if kind == "invariant":
        block = h[:, None].expand(images, m, d)
    elif kind == "additive":
        shift = draw(m, d)
        block = h[:, None] + shift - shift[0]
    elif kind == "turned":
        turn = torch.linalg.qr(draw(d, d))[0]
        block = torch.stack([h @ torch.linalg.matrix_power(turn, level).T for level in range(m)], 1)
    elif kind == "affine":
        maps, shift = torch.eye(d, dtype=h.dtype) + draw(m - 1, d, d) / (2 * d**0.5), draw(m - 1, 1, d)
        block = torch.cat([h[:, None], (h @ maps.mT + shift).transpose(0, 1)], 1)
    else:
        block = draw(images, m, d)
    level = torch.arange(m).repeat(images)
    return _orbits((block + noise * draw(images, m, d)).flatten(0, 1), torch.zeros_like(level), level, m)


KINDS = {"invariant": "invariant", "additive": "re-encoded", "turned": "re-encoded", "destroyed": "lost"}  # verdicts
ORBITS = {**KINDS, "affine": "re-encoded"}  # all that can be made
LINEAR: dict[str, Callable[..., World]] = {
    "xor": xor, "modular": modular, "modular_plain": modular_plain, "mixture": mixture, "copy": copy, "noise": noise,
}  # fmt: skip
CURVED: dict[str, Callable[..., World]] = {
    "quadrant": quadrant, "quadrants": quadrants, "cells": cells, "warped": warped, "checkers": checkers,
    "products": products, "half_products": half_products,
}  # fmt: skip
WORLDS = LINEAR | CURVED  # in each, what the linear family can express, or cannot


def _design(images: int, m: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes drawn for each image and repeated, and all m levels of each: int64 [images * m] twice."""
    category = torch.randint(0, classes, (images,), generator=generator).repeat_interleave(m)
    return category, torch.arange(m).repeat(images)


def _pose(
    images: int, generator: torch.Generator, m: int, classes: int, noise: float
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Class, level, and the (A + g(C) + N) mod m that is all that is shown of them; and what A and C then share."""
    category, level = _design(images, m, classes, generator)
    jump = torch.randint(1, int(m), (len(level),), generator=generator)
    jump = jump * (torch.rand(len(level), generator=generator) < noise)
    law = np.full(m, noise / (m - 1))
    law[0] = 1 - noise
    offsets = np.bincount(np.arange(classes) % m, minlength=m) / classes
    mixed = np.array([sum(offsets[g] * law[(v - g) % m] for g in range(m)) for v in range(m)])
    return category, level, (level + category % m + jump) % m, _entropy(mixed) - _entropy(law)


def _hidden_bits(value: Tensor, generator: torch.Generator) -> Tensor:
    """Four normal numbers: the product of the first two has the sign of the upper bit, of the others of the lower."""
    sizes = torch.randn(len(value), 4, generator=generator).abs()
    signs = 2 * torch.randint(2, (len(value), 2), generator=generator) - 1
    bits = 2 * torch.stack([value // 2, value % 2], 1) - 1
    return sizes * torch.stack([signs, signs * bits], 2).flatten(1)


def _centres(m: int, classes: int, d: int = 6) -> Tensor:
    """The centres of `cells`, [m, classes, d]."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    return draw(m, 1, d) + draw(1, classes, d) + draw(m, classes, d)


@cache
def _truth_of(m: int, classes: int, spread: float, draws: int = 100_000) -> float:
    """Mean of log p(z|a,c) p(z) / p(z|a) p(z|c) over draws of `cells`."""
    generator, centres = torch.Generator().manual_seed(0), _centres(m, classes).double()
    level, category = (torch.randint(top, (draws,), generator=generator) for top in (m, classes))
    z = centres[level, category] + spread * torch.randn(draws, 6, generator=generator, dtype=torch.float64)
    log = -torch.cdist(z, centres.flatten(0, 1)).square().view(draws, m, classes) / (2 * spread**2)
    row = torch.arange(draws)
    alone = log.logsumexp(2)[row, level] - math.log(classes), log.logsumexp(1)[row, category] - math.log(m)
    both, none = log[row, level, category], log.logsumexp((1, 2)) - math.log(m * classes)
    return float((both + none - sum(alone)).mean())


def _orbits(matrix: Tensor, category: Tensor, level: Tensor, m: int) -> Features:
    source = torch.arange(len(level)) // m
    factors = {CLASS: category, SOURCE: source, LEVEL: level}
    return Features(
        matrix.float(), factors, torch.arange(len(level)), source, name="made", split="test", encoder_fingerprint="made"
    )


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
