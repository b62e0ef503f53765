"""Known worlds: representations of which I(A;C|Z) is known, in nats. A transformation A of m levels is put on every
image, so A and the class C are independent exactly; Z is made from both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

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
    category, level = _design(images, m, classes, generator)
    jump = torch.randint(1, int(m), (len(level),), generator=generator)
    jump = jump * (torch.rand(len(level), generator=generator) < noise)
    value = (level + category % m + jump) % m
    law = np.full(m, noise / (m - 1))
    law[0] = 1 - noise
    offsets = np.bincount(np.arange(classes) % m, minlength=m) / classes
    mixed = np.array([sum(offsets[g] * law[(v - g) % m] for g in range(m)) for v in range(m)])
    one_hot = torch.nn.functional.one_hot(value, m).float()
    return World(_orbits(one_hot, category, level, m), _entropy(mixed) - _entropy(law))


def modular_plain(images: int, generator: torch.Generator, m: int = 4, classes: int = 10, noise: float = 0.1) -> World:
    """The modular world where the class moves nothing (g constant), beside a trace of the class itself. Truth: 0."""
    world = modular(images, generator, m, classes, noise)
    category, level = world.orbits.factors[CLASS], world.orbits.factors[LEVEL]
    jump = torch.randint(1, m, (len(level),), generator=generator) * (
        torch.rand(len(level), generator=generator) < noise
    )
    trace = category[:, None] / classes + torch.randn(len(level), 1, generator=generator)
    matrix = torch.cat([torch.nn.functional.one_hot((level + jump) % m, m).float(), trace], 1)
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
    z = torch.cat([torch.nn.functional.one_hot(level, m), torch.nn.functional.one_hot(category, classes)], 1).float()
    return World(_orbits(z + 0.05 * torch.randn(z.shape, generator=generator), category, level, m), 0.0)


def noise(images: int, generator: torch.Generator, m: int = 4, classes: int = 10) -> World:
    """Z shows C and nothing of A. Truth: 0."""
    category, level = _design(images, m, classes, generator)
    z = torch.cat([torch.nn.functional.one_hot(category, classes), torch.randn(len(level), 4, generator=generator)], 1)
    return World(_orbits(z, category, level, m), 0.0)


def quadrant(images: int, generator: torch.Generator) -> World:
    """The trap: Z = (u, v) normal, A = 1[uv > 0], C = 1[u > 0]. Z determines both, so the truth is 0, but to a linear
    probe A looks unknowable until the class tells which half-plane it is in."""
    category, level = _design(images, 2, 2, generator)
    u, v = torch.randn(2, len(level), generator=generator).abs()
    u = u * (2 * category - 1)
    v = v * u.sign() * (2 * level - 1)
    return World(_orbits(torch.stack([u, v], 1), category, level, 2), 0.0)


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
    """Orbits of which it is known what the transformation does to them: one of `KINDS`.

    - invariant: nothing. additive: each level adds its own vector. turned: each level turns h further, by one random
      orthogonal map. destroyed: another h, that has nothing to do with the first.

    Args:
        m: levels. d: dimensions. noise: spread of what is added to every number, against 1 between images.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there are no {kind!r} orbits; choose one of {', '.join(KINDS)}")
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
    else:
        block = draw(images, m, d)
    level = torch.arange(m).repeat(images)
    return _orbits((block + noise * draw(images, m, d)).flatten(0, 1), torch.zeros_like(level), level, m)


KINDS = {"invariant": "invariant", "additive": "re-encoded", "turned": "re-encoded", "destroyed": "lost"}  # verdicts
WORLDS: dict[str, Callable[..., World]] = {
    "xor": xor, "modular": modular, "modular_plain": modular_plain, "mixture": mixture, "copy": copy, "noise": noise,
    "quadrant": quadrant,
}  # fmt: skip


def _design(images: int, m: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes drawn for each image and repeated, and all m levels of each: int64 [images * m] twice."""
    category = torch.randint(0, classes, (images,), generator=generator).repeat_interleave(m)
    return category, torch.arange(m).repeat(images)


def _orbits(matrix: Tensor, category: Tensor, level: Tensor, m: int) -> Features:
    source = torch.arange(len(level)) // m
    factors = {CLASS: category, SOURCE: source, LEVEL: level}
    return Features(
        matrix.float(), factors, torch.arange(len(level)), source, name="made", split="test", encoder_fingerprint="made"
    )


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
